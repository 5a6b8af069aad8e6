//! What every RPC goes through: it is counted, timed, refused when too many are
//! being worked on, and its caller is asked for.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use http::{Request, Response};
use parking_lot::Mutex;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument, Span, debug_span, field::Empty};

use super::{
    MAX_BYTES, MAX_IN_FLIGHT, MAX_PAGE,
    body::{Answered, Asked, Taken},
    deadline, fault,
    gate::Gate,
    shares::Shares,
};
use crate::{
    auth::{Rpc, Target},
    connections::Peer,
    metrics::RpcMetrics,
};

/// Makes [`RpcService`]s that share one limit.
#[derive(Clone)]
pub struct RpcLayer {
    places: Shares,
    bytes: Shares,
    metrics: RpcMetrics,
    gate: Gate,
}

impl RpcLayer {
    pub fn new(metrics: RpcMetrics, gate: Gate) -> Self {
        Self {
            places: Shares::new(MAX_IN_FLIGHT),
            bytes: Shares::new(MAX_BYTES),
            metrics,
            gate,
        }
    }

    /// Room for one more RPC.
    fn take(&self, request: &Request<Body>, rpc: Option<Rpc>) -> Option<Arc<Taken>> {
        let peer = request.extensions().get::<Peer>();
        let sharer = peer.map_or_else(Arc::default, |peer| Arc::clone(&peer.sharer));
        let known = peer.is_some_and(|peer| peer.known);
        let mut place = self.places.of(Arc::clone(&sharer), known);
        let mut bytes = self.bytes.of(sharer, known);
        if place.take(1) && bytes.take(rpc.map_or(0, answer_size)) {
            return Some(Arc::new(Taken {
                _place: place,
                bytes: Mutex::new(bytes),
            }));
        }
        if let Some(peer) = peer {
            peer.brake.refused();
        }
        None
    }
}

impl<S> Layer<S> for RpcLayer {
    type Service = RpcService<S>;

    fn layer(&self, inner: S) -> RpcService<S> {
        RpcService {
            inner,
            layer: self.clone(),
        }
    }
}

/// See [`RpcLayer`].
#[derive(Clone)]
pub struct RpcService<S> {
    inner: S,
    layer: RpcLayer,
}

impl<S> Service<Request<Body>> for RpcService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let metrics = self.layer.metrics.clone();
        let rpc = Rpc::of_path(request.uri().path());
        // A label of few values: whatever else somebody calls is one of them.
        let method = rpc.map_or("other", Rpc::name);
        let Some(taken) = self.layer.take(&request, rpc) else {
            metrics.answered(method, code_text(Code::ResourceExhausted));
            return Box::pin(async { Ok(fault::overloaded().into_http()) });
        };
        let gate = &self.layer.gate;
        if let Some(rpc) = rpc
            && let Err(status) = gate.admit(&gate.caller(request.extensions()), rpc, Target::Unread)
        {
            metrics.answered(method, code_text(status.code()));
            return Box::pin(async move { Ok(status.into_http()) });
        }
        metrics.started();
        let guard = InFlight {
            metrics,
            method,
            code: Code::Cancelled,
            start: Instant::now(),
        };
        let span = rpc.map_or_else(Span::none, |_| span_of(&request));
        let deadline = tokio::time::sleep(deadline::of(request.headers(), rpc));
        let asked = Arc::clone(&taken);
        let request = request.map(|body| Body::new(Asked::new(body, asked)));
        let answer = self.inner.call(request).instrument(span.clone());
        Box::pin(async move {
            let mut guard = guard;
            let answer = tokio::select! {
                biased;
                answer = answer => answer,
                () = deadline => {
                    guard.code = Code::DeadlineExceeded;
                    return Ok(fault::deadline_exceeded().into_http());
                }
            };
            let mut response = answer.inspect_err(|_| guard.code = Code::Internal)?;
            // A refusal is in the headers; what comes in trailers is OK, or
            // the end of a stream that has been counted as begun.
            guard.code = Status::from_header_map(response.headers())
                .map_or(Code::Ok, |status| status.code());
            // So tonic says that a message is too large, and nobody else says it.
            if guard.code == Code::OutOfRange {
                guard.code = Code::ResourceExhausted;
                response = fault::too_large().into_http();
            }
            span.record("rpc.grpc.status_code", guard.code as i32);
            if rpc == Some(Rpc::Watch) {
                return Ok(response);
            }
            Ok(response.map(|body| Body::new(Answered::new(body, taken))))
        })
    }
}

/// What an answer may have beyond the size of its request.
const fn answer_size(rpc: Rpc) -> usize {
    if matches!(rpc, Rpc::Acquire | Rpc::Release | Rpc::Sync | Rpc::Watch) {
        0
    } else {
        MAX_PAGE
    }
}

/// Caused by the span that the caller names, if it does.
fn span_of(request: &Request<Body>) -> Span {
    let name = request.uri().path().trim_start_matches('/');
    let span = debug_span!(
        parent: None,
        "rpc",
        otel.name = name,
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.grpc.status_code = Empty,
    );
    lb_trace::context::follow(&span, request.headers());
    span
}

/// Counts the RPC when it is answered, or when its caller went away.
struct InFlight {
    metrics: RpcMetrics,
    method: &'static str,
    code: Code,
    start: Instant,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let code = code_text(self.code);
        self.metrics.ended(self.method, code, self.start.elapsed());
    }
}

const fn code_text(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
