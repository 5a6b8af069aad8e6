//! Which span another one belongs to, also across processes.

use http::HeaderMap;
use opentelemetry::{
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{SpanContext, TraceContextExt},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::{
    Request, Status,
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
};
use tracing::{Level, Span, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The span that this happens in, if anybody takes it.
pub fn current() -> Span {
    if LevelFilter::current() < Level::DEBUG {
        return Span::none();
    }
    Span::current()
}

/// An interceptor: the request names the span that it is sent in.
///
/// # Errors
/// Never: an interceptor may.
#[allow(
    clippy::result_large_err,
    reason = "an interceptor's signature is tonic's"
)]
pub fn inject(mut request: Request<()>) -> Result<Request<()>, Status> {
    let span = current();
    if !span.is_disabled() {
        let mut metadata = Metadata(request.metadata_mut());
        TraceContextPropagator::new().inject_context(&span.context(), &mut metadata);
    }
    Ok(request)
}

/// The span was caused by the one that the headers name.
pub fn follow(span: &Span, headers: &HeaderMap) {
    if !span.is_disabled() {
        let parent = TraceContextPropagator::new().extract(&Headers(headers));
        // Fails when nobody takes traces: a DEBUG log alone does not.
        let _ = span.set_parent(parent);
    }
}

/// Links one span with each of the others, both ways.
pub fn link<'a>(one: &Span, others: impl IntoIterator<Item = &'a Span>) {
    if one.is_disabled() {
        return;
    }
    let context = context_of(one);
    for other in others {
        one.add_link(context_of(other));
        other.add_link(context.clone());
    }
}

/// Says something of the current span in the trace alone, not in logs.
pub fn note(key: &'static str, value: impl FnOnce() -> String) {
    let span = current();
    if !span.is_disabled() {
        span.set_attribute(key, value());
    }
}

fn context_of(span: &Span) -> SpanContext {
    span.context().span().span_context().clone()
}

struct Metadata<'a>(&'a mut MetadataMap);

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        let key = AsciiMetadataKey::from_bytes(key.as_bytes());
        if let (Ok(key), Ok(value)) = (key, AsciiMetadataValue::try_from(value)) {
            self.0.insert(key, value);
        }
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
