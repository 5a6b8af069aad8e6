//! Spans that wait to be sent: so many, and what is more is dropped and counted.
//! The SDK's own queue drops too, but tells nobody how much.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// A span is about 1 kB.
const LIMIT: usize = 2048;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// What became of spans.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    spans: Family<Outcome, Counter>,
    waiting: Arc<AtomicUsize>,
}

impl Counts {
    pub fn register(&self, registry: &mut Registry) {
        for outcome in ["sent", "failed", "dropped"] {
            self.add(outcome, 0);
        }
        registry.register(
            "trace_spans",
            "Spans that were sent to the collector, could not be sent, or were dropped because too many waited",
            self.spans.clone(),
        );
    }

    fn add(&self, outcome: &'static str, count: usize) {
        // A lossless conversion on every machine that this runs on.
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.spans.get_or_create(&Outcome { outcome }).inc_by(count);
    }

    /// Whether there is room for one more, which is taken then.
    fn enter(&self) -> bool {
        let more = |waiting| (waiting < LIMIT).then_some(waiting + 1);
        let entered = self
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        entered.is_ok()
    }

    fn leave(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::AcqRel);
    }
}

/// The SDK's queue, with a count before it and one behind it.
#[derive(Debug)]
pub struct Queue {
    batches: BatchSpanProcessor,
    counts: Counts,
}

impl Queue {
    pub fn new(exporter: impl SpanExporter + 'static, counts: Counts) -> Self {
        let exporter = Counted {
            exporter,
            counts: counts.clone(),
            away: AtomicBool::new(false),
        };
        // Not full before ours is: what ours lets in always fits.
        let config = BatchConfigBuilder::default().with_max_queue_size(LIMIT);
        let batches = BatchSpanProcessor::new(exporter, config.build());
        Self { batches, counts }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.counts.enter() {
            self.batches.on_end(span);
        } else {
            self.counts.add("dropped", 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    counts: Counts,
    away: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        self.counts.leave(count);
        let result = self.exporter.export(batch).await;
        let outcome = if result.is_ok() { "sent" } else { "failed" };
        self.counts.add(outcome, count);
        let was_away = self.away.swap(result.is_err(), Ordering::AcqRel);
        match &result {
            Err(error) if !was_away => tracing::warn!(
                error = error as &dyn std::error::Error,
                "traces cannot be sent; they are lost until they can"
            ),
            Ok(()) if was_away => tracing::info!("traces can be sent again"),
            Ok(()) | Err(_) => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    /// What the SDK sends at a time.
    const BATCH: u64 = 512;

    #[derive(Debug)]
    struct Stuck;

    impl SpanExporter for Stuck {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            std::future::pending().await
        }
    }

    #[test]
    fn so_many_spans_wait_and_what_is_more_is_dropped_and_counted() {
        let counts = Counts::default();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Queue::new(Stuck, counts.clone()))
            .build();
        let tracer = provider.tracer("test");
        for _ in 0..LIMIT + 1000 {
            drop(tracer.start("span"));
        }
        let outcome = "dropped";
        let dropped = counts.spans.get_or_create(&Outcome { outcome }).get();
        assert!((1000 - BATCH..=1000).contains(&dropped), "{dropped}");
        assert!(provider.shutdown_with_timeout(Duration::ZERO).is_err());
    }
}
