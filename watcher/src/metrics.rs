//! What can be counted about the watcher. Names carry the prefix `lb_watcher_`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use tonic::Code;

use crate::ledger::{Census, Obstacle};

/// Handles to all metrics; a clone counts into the same ones.
#[derive(Clone)]
pub struct Metrics {
    syncs: Family<Outcome, Counter>,
    sync_seconds: Histogram,
    api_calls: Family<ApiCall, Counter>,
    api_call_seconds: Family<ApiCallKind, Histogram, fn() -> Histogram>,
    rpcs: Family<RpcCall, Counter>,
    rpc_seconds: Family<RpcMethod, Histogram, fn() -> Histogram>,
    watch_errors: Family<Stream, Counter>,
    events_dropped: Counter,
    queue_depth: Gauge,
    held: Gauge,
    pending: Gauge,
    oldest_pending: Gauge,
    not_written: Family<Cause, Gauge>,
    allocator_up: Gauge,
    refused: Gauge,
    last_sync: Gauge,
    acting: Gauge,
}

/// How a sync ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `done`, `waiting`, `again` or `retry`.
    pub outcome: &'static str,
}

/// Why a status cannot say what it should.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

/// A call to the API server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiCall {
    /// `patch_status` or `create_event`.
    pub kind: &'static str,
    /// The HTTP status; 0 where there was no answer.
    pub code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ApiCallKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcMethod {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Version {
    version: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcCall {
    method: &'static str,
    code: String,
}

/// A long-lived stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Stream {
    /// `services`, `namespaces` or `allocator`.
    pub stream: &'static str,
}

impl RpcCall {
    /// With the code's gRPC name.
    fn new(method: &'static str, code: Code) -> Self {
        let code = format!("{code:?}");
        Self { method, code }
    }
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 16))
}

impl Metrics {
    /// All metrics, registered.
    pub fn new() -> (Self, Registry) {
        let metrics = Self {
            syncs: Family::default(),
            sync_seconds: seconds(),
            api_calls: Family::default(),
            api_call_seconds: Family::new_with_constructor(seconds),
            rpcs: Family::default(),
            rpc_seconds: Family::new_with_constructor(seconds),
            watch_errors: Family::default(),
            events_dropped: Counter::default(),
            queue_depth: Gauge::default(),
            held: Gauge::default(),
            pending: Gauge::default(),
            oldest_pending: Gauge::default(),
            not_written: Family::default(),
            allocator_up: Gauge::default(),
            refused: Gauge::default(),
            last_sync: Gauge::default(),
            acting: Gauge::default(),
        };
        let mut registry = Registry::with_prefix("lb_watcher");
        metrics.register(&mut registry);
        // From zero on: what appears with its first error has no increase.
        for stream in ["services", "namespaces", "allocator"] {
            metrics
                .watch_errors
                .get_or_create(&Stream { stream })
                .inc_by(0);
        }
        let build = Family::<Version, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        build.get_or_create(&Version { version }).set(1);
        registry.register("build_info", "1, with the version that runs", build);
        (metrics, registry)
    }

    fn register(&self, registry: &mut Registry) {
        let Self {
            syncs,
            sync_seconds,
            api_calls,
            api_call_seconds,
            rpcs,
            rpc_seconds,
            watch_errors,
            events_dropped,
            queue_depth,
            held,
            pending,
            oldest_pending,
            not_written,
            allocator_up,
            refused,
            last_sync,
            acting,
        } = self.clone();
        registry.register("syncs", "Services looked at, by how it ended", syncs);
        registry.register_with_unit(
            "sync_duration",
            "Time to look at one Service",
            Unit::Seconds,
            sync_seconds,
        );
        registry.register(
            "api_calls",
            "Calls to the API server, by HTTP status (0: no answer)",
            api_calls,
        );
        registry.register(
            "api_call_seconds",
            "How long a call to the API server took",
            api_call_seconds,
        );
        registry.register(
            "allocator_rpcs",
            "Calls to lb-allocator, by gRPC code",
            rpcs,
        );
        registry.register(
            "allocator_rpc_seconds",
            "How long a call to lb-allocator took; of a stream, until it began",
            rpc_seconds,
        );
        registry.register(
            "stream_errors",
            "Long-lived streams that broke or could not be had",
            watch_errors,
        );
        registry.register(
            "events_dropped",
            "Events that were not sent",
            events_dropped,
        );
        registry.register(
            "queue_depth",
            "Services that wait for a worker",
            queue_depth,
        );
        registry.register("services_held", "Services that hold an address", held);
        registry.register("services_pending", "Services without an address", pending);
        registry.register_with_unit(
            "oldest_pending",
            "How long the first of the Services without an address has been waiting",
            Unit::Seconds,
            oldest_pending,
        );
        registry.register(
            "services_not_written",
            "Services whose status cannot say what it should, by what is in the way",
            not_written,
        );
        registry.register(
            "allocator_stream_up",
            "1 while there is a session with lb-allocator, which a standby has too",
            allocator_up,
        );
        registry.register(
            "refused",
            "1 while lb-allocator refuses to serve this watcher: for its cluster's name or uid, its certificate, or what it tells",
            refused,
        );
        registry.register(
            "last_sync_timestamp_seconds",
            "When this process last told lb-allocator what its cluster has, in seconds since 1970; 0: never",
            last_sync,
        );
        registry.register(
            "acting",
            "1 while this replica acts, or did when its session ended; 0 while it stands by",
            acting,
        );
    }

    /// A sync ended.
    pub fn sync(&self, outcome: &'static str, took: Duration) {
        self.syncs.get_or_create(&Outcome { outcome }).inc();
        self.sync_seconds.observe(took.as_secs_f64());
    }

    /// The API server was called.
    pub fn api_call(&self, call: ApiCall, took: Duration) {
        let kind = ApiCallKind { kind: call.kind };
        self.api_calls.get_or_create(&call).inc();
        let seconds = self.api_call_seconds.get_or_create(&kind);
        seconds.observe(took.as_secs_f64());
    }

    /// The allocator was called.
    pub fn rpc(&self, method: &'static str, code: Code, took: Duration) {
        self.rpcs.get_or_create(&RpcCall::new(method, code)).inc();
        let seconds = self.rpc_seconds.get_or_create(&RpcMethod { method });
        seconds.observe(took.as_secs_f64());
    }

    /// The allocator was told what the cluster has.
    pub fn synced(&self) {
        self.last_sync.set(now());
    }

    /// A stream broke.
    pub fn stream_error(&self, stream: &'static str) {
        self.watch_errors.get_or_create(&Stream { stream }).inc();
    }

    /// An Event was lost.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// Whether there is a session.
    pub fn allocator_up(&self, up: bool) {
        self.allocator_up.set(i64::from(up));
    }

    /// Whether the allocator refuses to serve this watcher.
    pub fn refused(&self, refused: bool) {
        self.refused.set(i64::from(refused));
    }

    /// The text of a scrape.
    pub fn scrape(&self, registry: &Registry, depth: usize, census: &Census, acts: bool) -> String {
        self.acting.set(i64::from(acts));
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.queue_depth.set(count(depth));
        self.held.set(count(census.held));
        self.pending.set(count(census.pending));
        let age = census.oldest.map_or(0, |since| (now() - since).max(0));
        self.oldest_pending.set(age);
        for obstacle in Obstacle::ALL {
            let cause = obstacle.as_str();
            let services = census.hindered.get(&obstacle).copied();
            let gauge = self.not_written.get_or_create(&Cause { cause });
            gauge.set(count(services.unwrap_or_default()));
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, registry);
        text
    }
}

/// In seconds since 1970.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs().cast_signed())
}
