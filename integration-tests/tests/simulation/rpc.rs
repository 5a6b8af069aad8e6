//! What happens to a call between the wire and the allocator: it comes late, or
//! twice, or not at all, or its answer is lost. Notes what was acknowledged.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, request::Parts};
use http_body_util::{BodyExt, Full};
use lb_proto::v1::{self, sync_request::Part};
use parking_lot::Mutex;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, service::Routes};
use tower::{Layer, Service, ServiceExt, util::BoxCloneService};

use crate::{
    chaos::{Chaos, random_up_to},
    showing::{Place, Showing},
};

/// Within this time a request comes again that comes twice.
pub const REPEATED: Duration = Duration::from_secs(30);

/// An answer that a watcher may rely on.
#[derive(Clone, Debug)]
pub struct Grant {
    pub service: v1::ServiceKey,
    pub uid: String,
    pub addresses: Vec<String>,
    pub revision: i64,
}

/// Everything that was acknowledged by one database and those that it was copied
/// to.
pub type Grants = Arc<Mutex<Vec<Grant>>>;

/// Puts faults before the services of one allocator process.
#[derive(Clone)]
pub struct Wire {
    pub chaos: Chaos,
    pub grants: Grants,
    pub showing: Showing,
    /// Cancelled when the process is killed.
    pub killed: CancellationToken,
}

impl Layer<Routes> for Wire {
    type Service = Faulty;

    fn layer(&self, routes: Routes) -> Faulty {
        Faulty {
            wire: self.clone(),
            inner: BoxCloneService::new(routes),
        }
    }
}

type Inner = BoxCloneService<Request<Body>, Response<Body>, std::convert::Infallible>;

/// The services behind faults.
pub struct Faulty {
    wire: Wire,
    inner: Inner,
}

impl Clone for Faulty {
    fn clone(&self) -> Self {
        Self {
            wire: self.wire.clone(),
            inner: self.inner.clone(),
        }
    }
}

impl Service<Request<Body>> for Faulty {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { wire, inner } = self.clone();
        Box::pin(async move {
            let killed = wire.killed.clone();
            let answer = killed.run_until_cancelled(wire.deliver(inner, request));
            match answer.await {
                Some(answer) => Ok(answer),
                // The connection is cut as well.
                None => std::future::pending().await,
            }
        })
    }
}

impl Wire {
    async fn deliver(&self, inner: Inner, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let Ok(body) = body.collect().await else {
            return Status::cancelled("the request broke off").into_http();
        };
        let mut body = body.to_bytes();
        self.chaos.travel().await;
        if path.ends_with("/Sync") && self.chaos.strikes("Sync cut short", |rates| rates.sync_cut) {
            body.truncate(fastrand::usize(..body.len().max(1)));
        }
        if self
            .chaos
            .strikes("request lost", |rates| rates.request_lost)
        {
            return lost().await;
        }
        if path.ends_with("/Watch") {
            return call(inner, &parts, body.into()).await;
        }
        self.is_said(&path, &body);
        if self
            .chaos
            .strikes("request doubled", |rates| rates.duplicated)
        {
            let again = self
                .clone()
                .repeat(inner.clone(), parts.clone(), body.clone());
            tokio::spawn(self.killed.clone().run_until_cancelled_owned(again));
        }
        let answer = call(inner, &parts, body.clone().into()).await;
        let answer = self.noted(&path, &body, answer).await;
        self.chaos.travel().await;
        if self.chaos.strikes("answer lost", |rates| rates.answer_lost) {
            return lost().await;
        }
        answer
    }

    /// The same request again, whenever.
    async fn repeat(self, inner: Inner, parts: Parts, body: bytes::Bytes) {
        tokio::time::sleep(random_up_to(REPEATED)).await;
        let answer = call(inner, &parts, body.clone().into()).await;
        self.noted(parts.uri.path(), &body, answer).await;
    }

    async fn noted(&self, path: &str, request: &[u8], answer: Response<Body>) -> Response<Body> {
        let method = path.rsplit('/').next().unwrap_or(path);
        let (parts, body) = answer.into_parts();
        let Ok(collected) = body.collect().await else {
            return Status::cancelled("the answer broke off").into_http();
        };
        let trailers = collected.trailers().cloned();
        let bytes = collected.to_bytes();
        let code = parts.headers.get("grpc-status");
        let at_the_end = trailers.as_ref().and_then(|last| last.get("grpc-status"));
        let code = code.or(at_the_end);
        let code = code.and_then(|code| code.to_str().ok()).unwrap_or("0");
        match method {
            "Acquire" => {
                let asked: v1::AcquireRequest = message(request);
                let wish = asked.wish.unwrap_or_default();
                let (shown, version) = (wish.current_addresses, asked.resource_version);
                let asks = format!("{:?} as of {version}", wish.addresses);
                let service = asked.service.unwrap_or_default();
                let name = name(&service);
                if code == "0" {
                    let answer: v1::AcquireResponse = message(&bytes);
                    let addresses: Vec<_> = answer
                        .addresses
                        .into_iter()
                        .map(|held| held.address)
                        .collect();
                    self.chaos.note(format_args!(
                        "allocator: {name} {} shows {shown:?}, asks for {asks} and has \
                         {addresses:?} at {}",
                        asked.uid, answer.revision
                    ));
                    self.grants.lock().push(Grant {
                        service,
                        uid: asked.uid,
                        addresses,
                        revision: answer.revision,
                    });
                } else {
                    let words = parts.headers.get("grpc-message");
                    let words = words.and_then(|words| words.to_str().ok());
                    let words = words.unwrap_or_default();
                    self.chaos.note(format_args!(
                        "allocator: {name} {} shows {shown:?}, asks for {asks} and is refused: \
                         {words}",
                        asked.uid
                    ));
                }
            }
            "Release" => {
                let asked: v1::ReleaseRequest = message(request);
                let name = name(&asked.service.unwrap_or_default());
                let uid = asked.uid;
                self.chaos
                    .note(format_args!("allocator: {name} {uid} released: {code}"));
            }
            "Sync" => {
                self.chaos.note(format_args!("allocator: Sync: {code}"));
                if code == "0" {
                    self.told(request);
                }
            }
            _ => self.chaos.note(format_args!("allocator: {method}: {code}")),
        }
        let body = Full::new(bytes).with_trailers(async move { trailers.map(Ok) });
        Response::from_parts(parts, Body::new(body))
    }

    /// What somebody asks for and says that it shows.
    fn is_said(&self, path: &str, request: &[u8]) {
        let said = match path.rsplit('/').next() {
            Some("Acquire") => messages(request),
            Some("Sync") => synced(request).1,
            _ => Vec::new(),
        };
        for acquire in said {
            let (place, _, shown) = shows(acquire);
            self.showing.is_said(&place, &shown);
        }
    }

    /// What a cluster said that it shows is known from now on.
    fn told(&self, request: &[u8]) {
        let (cluster, services) = synced(request);
        if let Some(cluster) = cluster {
            self.showing.heard(&cluster);
        }
        for acquire in services {
            let (place, uid, shown) = shows(acquire);
            self.showing.told(&place, &uid, &shown);
        }
    }
}

/// The cluster and the Services of a Sync.
fn synced(request: &[u8]) -> (Option<String>, Vec<v1::AcquireRequest>) {
    let (mut cluster, mut all) = (None, Vec::new());
    for part in messages::<v1::SyncRequest>(request) {
        match part.part {
            Some(Part::Begin(begin)) => cluster = Some(begin.cluster),
            Some(Part::Services(services)) => all.extend(services.services),
            Some(Part::End(_)) | None => {}
        }
    }
    (cluster, all)
}

/// A Service, its uid, and what it shows.
fn shows(acquire: v1::AcquireRequest) -> (Place, String, BTreeSet<IpAddr>) {
    let key = acquire.service.unwrap_or_default();
    let shown = acquire.wish.unwrap_or_default().current_addresses;
    let shown = shown.iter().filter_map(|text| text.parse().ok());
    let place = (key.cluster, key.namespace, key.name);
    (place, acquire.uid, shown.collect())
}

async fn call(inner: Inner, parts: &Parts, body: Full<bytes::Bytes>) -> Response<Body> {
    let mut request = Request::new(Body::new(body));
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.headers_mut() = parts.headers.clone();
    match inner.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Nobody answers; the caller gives up by itself.
async fn lost() -> Response<Body> {
    std::future::pending().await
}

/// A gRPC message behind its five bytes of frame.
fn message<M: Message + Default>(bytes: &[u8]) -> M {
    bytes
        .get(5..)
        .and_then(|bytes| M::decode(bytes).ok())
        .unwrap_or_default()
}

/// All of a stream of them.
fn messages<M: Message + Default>(mut bytes: &[u8]) -> Vec<M> {
    let mut messages = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(5) {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let Some((message, rest)) = rest.split_at_checked(length as usize) else {
            break;
        };
        messages.extend(M::decode(message).ok());
        bytes = rest;
    }
    messages
}

fn name(service: &v1::ServiceKey) -> String {
    let v1::ServiceKey {
        cluster,
        namespace,
        name,
    } = service;
    format!("{cluster}/{namespace}/{name}")
}
