//! What an operator sees at `/metrics`. Every name begins with `lb_allocator_`;
//! labels are bounded: pool, family, cluster, kind, reason, method, code.

use std::{fmt, sync::Arc, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
    metrics::{
        MetricType,
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::{
    engine::{ChangeKind, Outcome, Reply},
    published::Published,
    writer::wall_clock,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
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

/// Counted by the writer.
#[derive(Clone, Debug)]
pub struct WriterMetrics {
    changes: Family<KindLabel, Counter>,
    refusals: Family<ReasonLabel, Counter>,
    batch_size: Histogram,
    commit_seconds: Histogram,
    commit_failures: Counter,
}

impl WriterMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            changes: Family::default(),
            refusals: Family::default(),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            commit_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            commit_failures: Counter::default(),
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
        metrics
    }

    pub fn planned(&self, reply: &Reply, outcome: &Outcome) {
        for change in &outcome.changes {
            let kind = match change.kind {
                ChangeKind::Allocated(_) => "allocated",
                ChangeKind::Released(_) => "released",
                ChangeKind::Updated(_) => "updated",
                ChangeKind::Reserved(_) => "reserved",
                ChangeKind::Unreserved(_) => "unreserved",
                ChangeKind::Conflicted(_) => "conflicted",
                ChangeKind::ConflictEnded(_) => "conflict_ended",
                ChangeKind::Cluster(_) => "cluster",
            };
            self.changes.get_or_create(&KindLabel { kind }).inc();
        }
        let refused = |reason| {
            self.refusals.get_or_create(&ReasonLabel { reason }).inc();
        };
        match reply {
            Reply::Refused(refusal) => refused(refusal.reason()),
            Reply::Acquired(acquired) => {
                for unmet in &acquired.unmet {
                    refused(unmet.refusal.reason());
                }
            }
            Reply::Released(_)
            | Reply::Reserved(_)
            | Reply::Unreserved(_)
            | Reply::Synced(_)
            | Reply::Resolved(_)
            | Reply::Decommissioned(_)
            | Reply::Recommissioned => {}
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

/// Read off the published state at each scrape.
pub struct StateCollector(Arc<Published>);

impl StateCollector {
    pub fn register(registry: &mut Registry, published: Arc<Published>) {
        registry.register_collector(Box::new(Self(published)));
    }
}

impl StateCollector {
    /// Clusters are few: each has a watcher that operators started.
    fn encode_clusters(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let now = wall_clock();
        let clusters = self.0.clusters();
        let mut held = encoder.encode_descriptor(
            "cluster_allocations",
            "Addresses that Services of the cluster hold",
            None,
            MetricType::Gauge,
        )?;
        for (cluster, _, allocations) in &clusters {
            let labels = [("cluster", cluster.as_str())];
            held.encode_family(&labels)?.encode_gauge(allocations)?;
        }
        let mut silent = encoder.encode_descriptor(
            "cluster_silent",
            "1 if the cluster has not told what it has for longer than clusterSilence",
            None,
            MetricType::Gauge,
        )?;
        for (cluster, _, _) in &clusters {
            let labels = [("cluster", cluster.as_str())];
            let is_silent = u64::from(self.0.is_silent(cluster, now));
            silent.encode_family(&labels)?.encode_gauge(&is_silent)?;
        }
        let mut last = encoder.encode_descriptor(
            "cluster_last_sync_timestamp_seconds",
            "When the cluster last told what it has",
            None,
            MetricType::Gauge,
        )?;
        for (cluster, _, _) in &clusters {
            if let Some(at) = self.0.last_heard(cluster) {
                let labels = [("cluster", cluster.as_str())];
                // Exact until the year 287396.
                let seconds = at.0 as f64 / 1000.0;
                last.encode_family(&labels)?.encode_gauge(&seconds)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for StateCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StateCollector")
    }
}

impl Collector for StateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let (revision, stranded, conflicts, rows) = {
            let state = self.0.read();
            let mut rows = Vec::new();
            for index in state.pools().indexes() {
                let name = state.pools().spec(index).name.clone();
                for (family, usable) in state.pools().usable(index).iter() {
                    if !usable.is_empty() {
                        // A gauge is a float; a /64 loses its last digits.
                        let size = usable.len() as f64;
                        rows.push((name.clone(), family, size, state.used(index, family)));
                    }
                }
            }
            // Few.
            let conflicts = state.conflicts().len() as u64;
            (state.revision().0, state.stranded(), conflicts, rows)
        };
        encoder
            .encode_descriptor(
                "revision",
                "The last committed revision",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&revision)?;
        encoder
            .encode_descriptor(
                "stranded_addresses",
                "Held addresses whose holders would not get them today",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&stranded)?;
        encoder
            .encode_descriptor(
                "conflicts",
                "Addresses that Services show while others hold them",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&conflicts)?;
        self.encode_clusters(&mut encoder)?;
        let mut sizes = encoder.encode_descriptor(
            "pool_addresses",
            "Addresses of the pool, without excluded ones",
            None,
            MetricType::Gauge,
        )?;
        for (pool, family, size, _) in &rows {
            let labels = [("pool", pool.as_str()), ("family", family.as_str())];
            sizes.encode_family(&labels)?.encode_gauge(size)?;
        }
        let mut used = encoder.encode_descriptor(
            "pool_addresses_used",
            "Addresses of the pool that are held or reserved",
            None,
            MetricType::Gauge,
        )?;
        for (pool, family, _, count) in &rows {
            let labels = [("pool", pool.as_str()), ("family", family.as_str())];
            used.encode_family(&labels)?.encode_gauge(count)?;
        }
        Ok(())
    }
}
