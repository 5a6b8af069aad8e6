//! Where spans go.

use std::time::Duration;

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use prometheus_client::registry::Registry;
use tracing::{Level, Subscriber};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use crate::queue::{Counts, Queue};

/// How long the last spans may take at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Spans on their way to a collector.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    counts: Counts,
}

/// Who makes the spans.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Also the name of the service, unless the environment says otherwise.
    pub name: &'static str,
    pub version: &'static str,
    /// The crate whose spans they are.
    pub target: &'static str,
}

impl Traces {
    /// Sends spans to the collector at `endpoint` from now on, if there is to be one.
    /// It need not be there. To be called within a tokio runtime.
    ///
    /// What cannot be understood is no reason to do without the program: it goes on
    /// without traces, and should tell why.
    pub fn start(
        program: Program,
        endpoint: Option<String>,
    ) -> (Option<Self>, Option<ExporterBuildError>) {
        let traces = endpoint.map(|endpoint| Self::to(program, endpoint));
        match traces.transpose() {
            Ok(traces) => (traces, None),
            Err(error) => (None, Some(error)),
        }
    }

    fn to(program: Program, endpoint: String) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()?;
        let counts = Counts::default();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(program))
            .with_span_processor(Queue::new(exporter, counts.clone()))
            .build();
        Ok(Self { provider, counts })
    }

    /// Takes the spans of the program.
    pub fn layer<S>(&self, program: Program) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(program.name))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(Targets::new().with_target(program.target, Level::DEBUG))
    }

    /// Counts under the registry's own prefix.
    pub fn register(&self, registry: &mut Registry) {
        self.counts.register(registry);
    }

    /// Sends what is left, for a moment.
    pub async fn stop(self) {
        let Self { provider, .. } = self;
        let flush = move || provider.shutdown_with_timeout(FAREWELL);
        // A collector that does not answer costs the last spans, and only these.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(flush).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the last traces are lost"
            );
        }
    }
}

/// What the environment says of this process, and what it leaves out.
fn resource(program: Program) -> Resource {
    let told = Resource::builder().build();
    let name = told
        .get(&"service.name".into())
        .map(|name| name.to_string());
    let named = name.is_some_and(|name| !name.starts_with("unknown_service"));
    let mut builder = Resource::builder();
    if !named {
        builder = builder.with_service_name(program.name);
    }
    let version = KeyValue::new("service.version", program.version);
    builder.with_attribute(version).build()
}
