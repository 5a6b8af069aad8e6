//! What every RPC goes through: it is counted, timed, refused when too many are
//! being worked on, and its caller is asked for.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument, Span, debug_span, field::Empty};

use super::{MAX_RPCS, deadline, fault, gate::Gate};
use crate::{
    auth::{Rpc, Target},
    connections::Peer,
    metrics::RpcMetrics,
};

/// Makes [`RpcService`]s that share one limit.
#[derive(Clone)]
pub struct RpcLayer {
    places: Arc<Semaphore>,
    metrics: RpcMetrics,
    gate: Gate,
}

impl RpcLayer {
    pub fn new(metrics: RpcMetrics, gate: Gate) -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_RPCS)),
            metrics,
            gate,
        }
    }

    /// The service's answer, or why it is not asked.
    async fn pass<S>(
        self,
        mut inner: S,
        request: Request<Body>,
        rpc: Option<Rpc>,
        counted: &mut Counted,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
    {
        let peer = request.extensions().get::<Option<Peer>>().cloned();
        let Some(place) = self.place(peer.flatten()).await else {
            return Ok(fault::overloaded().into_http());
        };
        if let Some(rpc) = rpc {
            let caller = self.gate.caller(request.extensions());
            if let Err(status) = self.gate.admit(&caller, rpc, Target::Unread) {
                return Ok(status.into_http());
            }
        }
        counted.begin();
        let answer = inner.call(request).await?;
        if rpc == Some(Rpc::Watch) {
            return Ok(answer);
        }
        // The place is taken until the answer is sent: whoever does not read answers
        // fills only its own part of the memory.
        Ok(answer.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _taken = &place;
                frame
            }))
        }))
    }

    /// Room for one more RPC.
    async fn place(&self, peer: Option<Peer>) -> Option<Place> {
        match peer {
            Some(Peer { budget, .. }) => {
                let [own, of_all] = budget.rpc(&self.places).await?;
                Some(Place(of_all, Some(own)))
            }
            None => {
                let of_all = Arc::clone(&self.places).try_acquire_owned().ok()?;
                Some(Place(of_all, None))
            }
        }
    }
}

/// Of all RPCs, and of those of the caller's certificate.
struct Place(
    #[expect(dead_code, reason = "given back when dropped")] OwnedSemaphorePermit,
    #[expect(dead_code, reason = "given back when dropped")] Option<OwnedSemaphorePermit>,
);

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
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let rpc = Rpc::of_path(request.uri().path());
        let mut counted = Counted {
            metrics: self.layer.metrics.clone(),
            // A label of few values: whatever else somebody calls is one of them.
            method: rpc.map_or("other", Rpc::name),
            code: Code::Cancelled,
            came: Instant::now(),
            begun: false,
        };
        let span = rpc.map_or_else(Span::none, |_| span_of(&request));
        let deadline = tokio::time::sleep(deadline::of(request.headers(), rpc));
        let (ready, layer) = (self.inner.clone(), self.layer.clone());
        let inner = mem::replace(&mut self.inner, ready);
        Box::pin(async move {
            let answer = layer.pass(inner, request, rpc, &mut counted);
            let answer = tokio::select! {
                biased;
                answer = answer.instrument(span.clone()) => answer,
                () = deadline => Ok(fault::deadline_exceeded().into_http()),
            };
            let mut response = answer.inspect_err(|_| counted.code = Code::Internal)?;
            // A refusal is in the headers; what comes in trailers is OK, or
            // the end of a stream that has been counted as begun.
            counted.code = Status::from_header_map(response.headers())
                .map_or(Code::Ok, |status| status.code());
            // So tonic says that a message is too large, and nobody else says it.
            if counted.code == Code::OutOfRange {
                counted.code = Code::ResourceExhausted;
                response = fault::too_large().into_http();
            }
            span.record("rpc.grpc.status_code", counted.code as i32);
            Ok(response)
        })
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
struct Counted {
    metrics: RpcMetrics,
    method: &'static str,
    code: Code,
    came: Instant,
    begun: bool,
}

impl Counted {
    fn begin(&mut self) {
        self.metrics.started();
        self.begun = true;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let code = code_text(self.code);
        if self.begun {
            self.metrics.ended(self.method, code, self.came.elapsed());
        } else {
            self.metrics.answered(self.method, code);
        }
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
