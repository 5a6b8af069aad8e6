//! The client of lb-allocator: one connection, a deadline on every call, refusals
//! read once.

use std::{future::Future, net::IpAddr, time::Duration};

use lb_proto::v1::{
    self, allocator_service_client::AllocatorServiceClient, pool_service_client::PoolServiceClient,
};
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    grant::Grant,
    key::Key,
    metrics::{Metrics, RpcCall},
    reason::Refusal,
    wish::{Wish, parse_address},
};

const DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A dead peer is noticed after twice this.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Asks the allocator in the name of one cluster.
#[derive(Clone)]
pub struct Allocator {
    allocations: AllocatorServiceClient<Channel>,
    pools: PoolServiceClient<Channel>,
    cluster: String,
    metrics: Metrics,
}

impl Allocator {
    /// Connects when the first call is made, and again whenever it has to.
    pub fn new(endpoint: &Endpoint, cluster: String, metrics: Metrics) -> Self {
        let channel = with_deadlines(endpoint).connect_lazy();
        Self::over(channel, cluster, metrics)
    }

    /// Asks through this channel.
    pub fn over(channel: Channel, cluster: String, metrics: Metrics) -> Self {
        Self {
            allocations: AllocatorServiceClient::new(channel.clone()),
            pools: PoolServiceClient::new(channel),
            cluster,
            metrics,
        }
    }

    /// Makes sure that a Service holds what it wishes for.
    pub async fn acquire(
        &self,
        key: &Key,
        uid: &str,
        wish: &Wish,
        shown: &[IpAddr],
    ) -> Result<Grant, Refusal> {
        let request = v1::AcquireRequest {
            service: Some(self.service_key(key)),
            uid: uid.to_owned(),
            wish: Some(wish.message(shown)),
        };
        let mut client = self.allocations.clone();
        let answer = self.call("Acquire", client.acquire(timed(request))).await?;
        Grant::read(answer)
    }

    /// Takes back what this uid of a Service holds, and returns what that was.
    pub async fn release(&self, key: &Key, uid: &str) -> Result<Vec<IpAddr>, Refusal> {
        let request = v1::ReleaseRequest {
            service: Some(self.service_key(key)),
            uid: uid.to_owned(),
        };
        let mut client = self.allocations.clone();
        let answer = self.call("Release", client.release(timed(request))).await?;
        let released = answer.released.iter();
        Ok(released.filter_map(|h| parse_address(&h.address)).collect())
    }

    /// One page of what this cluster's Services hold, and where the next one
    /// starts.
    pub async fn allocations(&self, page: &str) -> Result<(Vec<v1::Allocation>, String), Refusal> {
        let request = v1::ListAllocationsRequest {
            cluster: self.cluster.clone(),
            page_size: 1000,
            page_token: page.to_owned(),
            ..v1::ListAllocationsRequest::default()
        };
        let mut client = self.pools.clone();
        let call = client.list_allocations(timed(request));
        let answer = self.call("ListAllocations", call).await?;
        Ok((answer.allocations, answer.next_page_token))
    }

    /// The stream that tells when it is worth asking again.
    pub async fn watch(&self) -> Result<Streaming<v1::WatchResponse>, Refusal> {
        let request = v1::WatchRequest {
            cluster: self.cluster.clone(),
            resume_revision: 0,
        };
        let mut client = self.allocations.clone();
        self.call("Watch", client.watch(request)).await
    }

    fn service_key(&self, key: &Key) -> v1::ServiceKey {
        v1::ServiceKey {
            cluster: self.cluster.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        }
    }

    async fn call<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Refusal> {
        let result = tokio::time::timeout(DEADLINE, call)
            .await
            .unwrap_or_else(|_| {
                let seconds = DEADLINE.as_secs();
                Err(Status::deadline_exceeded(format!(
                    "no answer within {seconds} s"
                )))
            });
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        self.metrics.rpc(RpcCall::new(method, code));
        result
            .map(Response::into_inner)
            .map_err(|status| Refusal::from(&status))
    }
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
