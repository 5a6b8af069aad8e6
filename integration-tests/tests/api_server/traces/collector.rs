//! A collector of OTLP by gRPC that keeps the spans it is sent, or takes them and
//! never answers. Not a real one: it forgets all but the spans, and checks nothing.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::Span,
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// A span, and the name of the service that it is of.
#[derive(Clone, Debug)]
pub struct Seen {
    pub service: String,
    pub span: Span,
}

impl Seen {
    /// As text.
    pub fn attributes(&self) -> BTreeMap<String, String> {
        texts(&self.span.attributes)
    }
}

/// Ends when it is dropped.
pub struct Collector {
    endpoint: String,
    state: Arc<State>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    hangs: bool,
    calls: AtomicUsize,
    spans: Mutex<Vec<Seen>>,
}

struct Service(Arc<State>);

impl Collector {
    pub async fn start() -> Self {
        Self::with(State::default()).await
    }

    /// One that takes requests and never answers.
    pub async fn hanging() -> Self {
        Self::with(State {
            hangs: true,
            ..State::default()
        })
        .await
    }

    async fn with(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(state);
        let service = TraceServiceServer::new(Service(Arc::clone(&state)));
        let server = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async { server.await.unwrap() });
        Self {
            endpoint,
            state,
            server,
        }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn spans(&self) -> Vec<Seen> {
        self.state.spans.lock().clone()
    }

    pub fn calls(&self) -> usize {
        self.state.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let Self(state) = self;
        state.calls.fetch_add(1, Ordering::Relaxed);
        if state.hangs {
            std::future::pending::<()>().await;
        }
        for of_resource in request.into_inner().resource_spans {
            let resource = of_resource.resource.unwrap_or_default();
            let service = texts(&resource.attributes).remove("service.name");
            let service = service.unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter();
            let seen = spans.flat_map(|scope| scope.spans).map(|span| Seen {
                service: service.clone(),
                span,
            });
            state.spans.lock().extend(seen);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let texts = attributes.iter().map(|KeyValue { key, value, .. }| {
        let value = match value {
            Some(AnyValue {
                value: Some(Value::StringValue(text)),
            }) => text.clone(),
            Some(AnyValue {
                value: Some(Value::IntValue(number)),
            }) => number.to_string(),
            other => format!("{other:?}"),
        };
        (key.clone(), value)
    });
    texts.collect()
}
