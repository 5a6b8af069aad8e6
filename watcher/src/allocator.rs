//! The client of lb-allocator: one connection, a deadline on every call, denials
//! read once. With other certificates a new connection is made; calls that are
//! under way end on the old one.

use std::{
    future::Future,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use kube::ResourceExt;
use lb_proto::v1::{self, allocator_service_client::AllocatorServiceClient};
use lb_tls::{client::Connector, rustls::ClientConfig};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::{
    Code, Request, Response, Status, Streaming,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};
use tracing::{Instrument, debug_span, field::Empty};

use crate::{
    denial::Denial,
    kube::{
        key::Key,
        service::{Service, created},
    },
    metrics::Metrics,
    request::{AddressRequest, current_addresses, parse_address},
    status::{self, grant::Grant},
};

const DEADLINE: Duration = Duration::from_secs(10);
/// A Sync says a lot, and may take as long as it needs while anything of it passes.
const SYNC_IDLE: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A dead peer is noticed after twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Each request names the span that it is sent in.
type Traced = InterceptedService<Channel, fn(Request<()>) -> Result<Request<()>, Status>>;

/// A process among those that serve the same Services of the cluster.
#[derive(Clone, Debug)]
pub struct Replica {
    /// No other process has it.
    pub name: String,
    /// Which Services.
    pub serves: String,
}

/// Asks the allocator in the name of one cluster.
#[derive(Clone)]
pub struct Allocator {
    channel: watch::Receiver<Channel>,
    cluster: Arc<str>,
    metrics: Metrics,
    /// The newest revision that this process was ever told.
    seen: Arc<AtomicI64>,
    /// Of the namespace `kube-system`; empty while it is not known.
    cluster_uid: Arc<watch::Sender<String>>,
    newest: Arc<Mutex<Mark>>,
}

/// Of the marks of the last Sync and since, the one with the highest revision.
#[derive(Debug, Default)]
struct Mark {
    text: String,
    revision: i64,
}

/// Tells of other connections.
pub struct Connections(watch::Receiver<Channel>);

impl Connections {
    /// Returns once there is another one; never, where there are no certificates.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Makes the connection anew whenever the certificates change.
pub struct Reconnect {
    endpoint: Endpoint,
    certificates: watch::Receiver<Arc<ClientConfig>>,
    channel: watch::Sender<Channel>,
}

impl Reconnect {
    /// For ever.
    pub async fn run(mut self) {
        while self.certificates.changed().await.is_ok() {
            tracing::info!("connecting to lb-allocator with other certificates");
            let connector = Connector::new(self.certificates.clone());
            let channel = self.endpoint.connect_with_connector_lazy(connector);
            self.channel.send_replace(channel);
        }
        // Whoever looks after the certificates has ended, and it is told of that.
        std::future::pending().await
    }
}

impl Allocator {
    /// Connects when the first call is made, and again whenever it has to; with
    /// certificates where there are some.
    pub fn new(
        endpoint: &Endpoint,
        certificates: Option<watch::Receiver<Arc<ClientConfig>>>,
        cluster: String,
        metrics: Metrics,
    ) -> (Self, Option<Reconnect>) {
        let endpoint = with_deadlines(endpoint);
        let channel = match &certificates {
            None => endpoint.connect_lazy(),
            Some(certificates) => {
                let connector = Connector::new(certificates.clone());
                endpoint.connect_with_connector_lazy(connector)
            }
        };
        let (sender, channel) = watch::channel(channel);
        let reconnect = certificates.map(|certificates| Reconnect {
            endpoint,
            certificates,
            channel: sender,
        });
        (Self::through(channel, cluster, metrics), reconnect)
    }

    /// Asks through this channel.
    pub fn over(channel: Channel, cluster: String, metrics: Metrics) -> Self {
        let (_, channel) = watch::channel(channel);
        Self::through(channel, cluster, metrics)
    }

    fn through(channel: watch::Receiver<Channel>, cluster: String, metrics: Metrics) -> Self {
        Self {
            channel,
            cluster: cluster.into(),
            metrics,
            seen: Arc::default(),
            cluster_uid: Arc::default(),
            newest: Arc::default(),
        }
    }

    /// The connection, and word of every other one from now on.
    pub fn connections(&self) -> Connections {
        let mut channel = self.channel.clone();
        channel.mark_unchanged();
        Connections(channel)
    }

    fn channel(&self) -> Channel {
        self.channel.borrow().clone()
    }

    fn allocations_client(&self) -> AllocatorServiceClient<Traced> {
        AllocatorServiceClient::with_interceptor(self.channel(), lb_trace::context::inject)
    }

    /// The cluster in whose name it asks.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The newest revision that this process was ever told; 0 if none.
    pub fn seen(&self) -> i64 {
        self.seen.load(Ordering::Acquire)
    }

    /// A revision was told.
    pub fn saw(&self, revision: i64) {
        self.seen.fetch_max(revision, Ordering::AcqRel);
    }

    /// The uid of the cluster's namespace `kube-system`; empty while it is not known.
    pub fn cluster_uid(&self) -> String {
        self.cluster_uid.borrow().clone()
    }

    /// Ends once the uid is another one.
    pub async fn is_another_than(&self, cluster_uid: &str) {
        let mut known = self.cluster_uid.subscribe();
        if known.wait_for(|uid| uid != cluster_uid).await.is_err() {
            std::future::pending().await
        }
    }

    /// The API server says which cluster this is.
    pub fn is_of(&self, cluster_uid: String) {
        self.cluster_uid.send_if_modified(|known| {
            let is_other = *known != cluster_uid;
            *known = cluster_uid;
            is_other
        });
    }

    /// The database has come so far, which is proved by this mark.
    pub fn marked(&self, revision: i64, mark: String) {
        let mut newest = self.newest.lock();
        if !mark.is_empty() && revision >= newest.revision {
            *newest = Mark {
                text: mark,
                revision,
            };
        }
    }

    /// The first message of a Sync of what was seen until this revision.
    pub fn begin(&self, seen: i64) -> v1::sync_request::Begin {
        v1::sync_request::Begin {
            cluster: self.cluster.to_string(),
            seen_revision: seen,
            cluster_uid: self.cluster_uid(),
            mark: self.newest.lock().text.clone(),
        }
    }

    /// In the form of the contract. Without a `wish` it says no more than that the Service
    /// exists.
    pub fn acquire_request(
        &self,
        key: &Key,
        service: &Service,
        wish: Option<v1::Wish>,
    ) -> v1::AcquireRequest {
        let created = created(service);
        v1::AcquireRequest {
            service: Some(self.service_key(key)),
            uid: service.uid().unwrap_or_default(),
            wish,
            created_at: (created > 0).then_some(prost_types::Timestamp {
                seconds: created,
                nanos: 0,
            }),
            cluster_uid: String::new(),
            was_allocated: status::says_satisfied(service),
            shown_by_others: status::other_owners(service).is_some()
                && !status::owns_addresses(service),
            resource_version: String::new(),
        }
    }

    /// Makes sure that a Service holds what it asks for.
    pub async fn acquire(
        &self,
        key: &Key,
        service: &Service,
        asked: &AddressRequest,
        shown: &[IpAddr],
    ) -> Result<Grant, Denial> {
        let mut request = self.acquire_request(key, service, Some(asked.message(shown)));
        request.cluster_uid = self.cluster_uid();
        request.resource_version = service.resource_version().unwrap_or_default();
        let mut client = self.allocations_client();
        let answer = self.call("Acquire", client.acquire(timed(request))).await?;
        self.saw(answer.revision);
        Grant::read(answer)
    }

    /// Takes back what this uid of a Service holds, and returns what that was. What the
    /// Service still shows is kept from others.
    pub async fn release(
        &self,
        key: &Key,
        uid: &str,
        shown: &[IpAddr],
    ) -> Result<Vec<IpAddr>, Denial> {
        let request = v1::ReleaseRequest {
            service: Some(self.service_key(key)),
            uid: uid.to_owned(),
            cluster_uid: self.cluster_uid(),
            current_addresses: current_addresses(shown),
        };
        let mut client = self.allocations_client();
        let answer = self.call("Release", client.release(timed(request))).await?;
        self.saw(answer.revision);
        let released = answer.released.iter();
        Ok(released.filter_map(|h| parse_address(&h.address)).collect())
    }

    /// Tells what this cluster has. Returns what the allocator made of it.
    pub async fn sync(
        &self,
        messages: Vec<v1::SyncRequest>,
    ) -> Result<Vec<v1::SyncedService>, Denial> {
        let mut client = self.allocations_client();
        let (moves, moved) = watch::channel(());
        let sent = {
            let moves = moves.clone();
            futures::stream::iter(messages).inspect(move |_| moves.send_replace(()))
        };
        let told = async {
            let answer = client.sync(sent).await?;
            let mut pages = answer.into_inner();
            let mut services = Vec::new();
            let mut last = (0, String::new());
            while let Some(page) = pages.message().await? {
                moves.send_replace(());
                last = (page.revision, page.mark);
                services.extend(page.services);
            }
            Ok(Response::new((services, last)))
        };
        let (services, (revision, mark)) = self
            .measured("Sync", while_it_moves(told, moved, SYNC_IDLE))
            .await?;
        // Also when it is lower: a restored database is what counts from now on.
        self.seen.store(revision, Ordering::Release);
        *self.newest.lock() = Mark {
            text: mark,
            revision,
        };
        self.metrics.synced();
        Ok(services)
    }

    /// The stream that tells whether this replica acts, and when it is worth asking
    /// again.
    pub async fn watch(&self, replica: &Replica) -> Result<Streaming<v1::WatchResponse>, Denial> {
        let request = v1::WatchRequest {
            cluster: self.cluster.to_string(),
            replica: replica.name.clone(),
            cluster_uid: self.cluster_uid(),
            serves: replica.serves.clone(),
        };
        let mut client = self.allocations_client();
        self.call("Watch", client.watch(request)).await
    }

    fn service_key(&self, key: &Key) -> v1::ServiceKey {
        v1::ServiceKey {
            cluster: self.cluster.to_string(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }

    async fn call<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Denial> {
        let call = async {
            let answer = tokio::time::timeout(DEADLINE, call).await;
            answer.unwrap_or_else(|_| Err(no_answer(DEADLINE)))
        };
        self.measured(method, call).await
    }

    async fn measured<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Denial> {
        let start = Instant::now();
        let span = debug_span!(
            "rpc",
            otel.name = method,
            otel.kind = "client",
            rpc.system = "grpc",
            rpc.service = "lballocator.v1.AllocatorService",
            rpc.grpc.status_code = Empty,
        );
        let result = call.instrument(span.clone()).await;
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        span.record("rpc.grpc.status_code", code as i32);
        self.metrics.rpc(method, code, start.elapsed());
        result
            .map(Response::into_inner)
            .map_err(|status| Denial::from(&status))
    }
}

/// A call that is given up when nothing has moved for so long.
async fn while_it_moves<T>(
    call: impl Future<Output = Result<T, Status>>,
    mut moved: watch::Receiver<()>,
    idle: Duration,
) -> Result<T, Status> {
    let mut call = pin!(call);
    loop {
        tokio::select! {
            biased;
            done = &mut call => return done,
            Ok(()) = moved.changed() => {}
            () = tokio::time::sleep(idle) => return Err(no_answer(idle)),
        }
    }
}

fn no_answer(within: Duration) -> Status {
    Status::deadline_exceeded(format!("no answer within {} s", within.as_secs()))
}

/// A peer that is gone is noticed.
pub fn with_deadlines(endpoint: &Endpoint) -> Endpoint {
    endpoint
        .clone()
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
}

/// The deadline is told to the allocator too, so that it does not work for nobody.
fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}
