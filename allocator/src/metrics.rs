//! What an operator sees at `/metrics`. Every name begins with `lb_allocator_`;
//! labels are bounded: pool, family, cluster, kind, reason, method, code.

mod census;
mod state;

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

pub use self::{
    census::{Census, Counted},
    state::StateCollector,
};
use crate::engine::{Outcome, Reply};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabel {
    version: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabel {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcLabels {
    method: &'static str,
    code: &'static str,
}

/// Everything of this process, under one prefix.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("lb_allocator");
    let build = Family::<VersionLabel, Gauge>::default();
    let version = env!("CARGO_PKG_VERSION");
    build.get_or_create(&VersionLabel { version }).set(1);
    registry.register("build_info", "1, with the version that runs", build);
    registry
}

/// Counted by the writer.
#[derive(Clone, Debug)]
pub struct WriterMetrics {
    changes: Family<KindLabel, Counter>,
    refusals: Family<ReasonLabel, Counter>,
    batch_size: Histogram,
    commit_seconds: Histogram,
    commit_failures: Counter,
    history_pruned: Counter,
    waiters_dropped: Counter,
}

impl WriterMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            changes: Family::default(),
            refusals: Family::default(),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            commit_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            commit_failures: Counter::default(),
            history_pruned: Counter::default(),
            waiters_dropped: Counter::default(),
        };
        registry.register("changes", "Committed changes", metrics.changes.clone());
        registry.register("refusals", "Refused wishes", metrics.refusals.clone());
        registry.register(
            "commit_batch_size",
            "Requests that shared a transaction",
            metrics.batch_size.clone(),
        );
        registry.register(
            "commit_seconds",
            "How long a transaction took",
            metrics.commit_seconds.clone(),
        );
        registry.register(
            "commit_failures",
            "Transactions that failed",
            metrics.commit_failures.clone(),
        );
        registry.register(
            "history_pruned",
            "Changes that were removed from history because of their age or number",
            metrics.history_pruned.clone(),
        );
        registry.register(
            "waiting_services_dropped",
            "Services that wait and are not notified of free addresses, because too many Services of their cluster wait",
            metrics.waiters_dropped.clone(),
        );
        metrics
    }

    pub fn planned(&self, reply: &Reply, outcome: &Outcome) {
        for change in &outcome.changes {
            let kind = change.kind.name();
            self.changes.get_or_create(&KindLabel { kind }).inc();
        }
        for refusal in reply.refusals() {
            let reason = refusal.reason();
            self.refusals.get_or_create(&ReasonLabel { reason }).inc();
        }
    }

    pub fn committed(&self, requests: usize, took: Duration) {
        // At most a few hundred, exact as f64.
        self.batch_size.observe(requests as f64);
        self.commit_seconds.observe(took.as_secs_f64());
    }

    pub fn commit_failed(&self) {
        self.commit_failures.inc();
    }

    pub fn pruned(&self, rows: u64) {
        self.history_pruned.inc_by(rows);
    }

    pub fn waiter_dropped(&self) {
        self.waiters_dropped.inc();
    }
}

/// Counted for every RPC.
#[derive(Clone, Debug)]
pub struct RpcMetrics {
    requests: Family<RpcLabels, Counter>,
    seconds: Family<MethodLabel, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
}

impl RpcMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let buckets: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_1, 2.0, 16));
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(buckets),
            in_flight: Gauge::default(),
        };
        registry.register(
            "rpc_requests",
            "Answered RPCs by method and gRPC code",
            metrics.requests.clone(),
        );
        registry.register(
            "rpc_seconds",
            "How long an RPC took; of a stream, until it began",
            metrics.seconds.clone(),
        );
        registry.register(
            "rpc_in_flight",
            "RPCs that are being worked on",
            metrics.in_flight.clone(),
        );
        metrics
    }

    pub fn started(&self) {
        self.in_flight.inc();
    }

    pub fn ended(&self, method: &'static str, code: &'static str, took: Duration) {
        self.in_flight.dec();
        self.answered(method, code);
        let method = MethodLabel { method };
        self.seconds
            .get_or_create(&method)
            .observe(took.as_secs_f64());
    }

    pub fn answered(&self, method: &'static str, code: &'static str) {
        self.requests
            .get_or_create(&RpcLabels { method, code })
            .inc();
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DenialLabels {
    method: &'static str,
    role: &'static str,
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhyLabel {
    why: &'static str,
}

/// Counted for every caller that is turned away.
#[derive(Clone, Debug)]
pub struct AuthMetrics {
    denials: Family<DenialLabels, Counter>,
    failed_handshakes: Family<WhyLabel, Counter>,
}

impl AuthMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            denials: Family::default(),
            failed_handshakes: Family::default(),
        };
        // From zero on: what appears with its first failure has no increase.
        for why in ["refused", "timeout", "crowded_out"] {
            let failed = metrics.failed_handshakes.get_or_create(&WhyLabel { why });
            failed.inc_by(0);
        }
        registry.register(
            "denials",
            "Calls that were refused because of who called",
            metrics.denials.clone(),
        );
        registry.register(
            "tls_failed_handshakes",
            "Connections that ended before their handshake did",
            metrics.failed_handshakes.clone(),
        );
        metrics
    }

    pub fn denied(&self, method: &'static str, role: &'static str, why: &'static str) {
        self.denials
            .get_or_create(&DenialLabels { method, role, why })
            .inc();
    }

    pub fn handshake_failed(&self, why: &'static str) {
        self.failed_handshakes
            .get_or_create(&WhyLabel { why })
            .inc();
    }
}

/// Counted for every connection to the gRPC port.
#[derive(Clone, Debug)]
pub struct ConnectionMetrics {
    open: Gauge,
    refused: Counter,
}

impl ConnectionMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            open: Gauge::default(),
            refused: Counter::default(),
        };
        registry.register(
            "connections",
            "Connections to the gRPC port",
            metrics.open.clone(),
        );
        registry.register(
            "refused_connections",
            "Connections that were closed because there were too many",
            metrics.refused.clone(),
        );
        metrics
    }

    pub fn opened(&self) {
        self.open.inc();
    }

    pub fn closed(&self) {
        self.open.dec();
    }

    pub fn refused(&self) {
        self.refused.inc();
    }
}

/// Set by whoever reads the configuration.
#[derive(Clone, Debug)]
pub struct ConfigMetrics {
    last_reload_successful: Gauge,
}

impl ConfigMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let last_reload_successful = Gauge::default();
        last_reload_successful.set(1);
        registry.register(
            "config_last_reload_successful",
            "1 if the pools file as it is now is in force, 0 if it was refused",
            last_reload_successful.clone(),
        );
        Self {
            last_reload_successful,
        }
    }

    pub fn read(&self, good: bool) {
        self.last_reload_successful.set(i64::from(good));
    }
}
