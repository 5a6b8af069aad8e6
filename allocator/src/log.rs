//! Structured logs, where decisions are written, and spans for whoever takes traces.

use std::io;

use jiff::tz::TimeZone;
use lb_trace::export::Traces;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{Layer, Registry, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{args::LogFormat, decision_log::DecisionLog, run::PROGRAM};

/// Starts logging. The guard writes what is still buffered when it is dropped.
///
/// Standard output is never waited for: who reads it slowly loses lines, but
/// holds nothing up.
pub fn start(
    format: LogFormat,
    zone: TimeZone,
    traces: Option<&Traces>,
) -> (DecisionLog, WorkerGuard) {
    let (out, guard) = tracing_appender::non_blocking(io::stdout());
    let plain = fmt::layer().with_ansi(false);
    let (logs, decisions): (Box<dyn Layer<Registry> + Send + Sync>, _) = match format {
        LogFormat::Classic => (
            plain.with_writer(io::stderr).boxed(),
            DecisionLog::classic(out, zone),
        ),
        LogFormat::Pretty => (plain.with_writer(out).boxed(), DecisionLog::structured()),
        LogFormat::Json => (
            plain.json().flatten_event(true).with_writer(out).boxed(),
            DecisionLog::structured(),
        ),
    };
    tracing_subscriber::registry()
        .with(logs.with_filter(LevelFilter::INFO))
        .with(traces.map(|traces| traces.layer(PROGRAM)))
        .init();
    (decisions, guard)
}
