//! The structured logs, where decisions are written, and spans for whoever takes
//! traces.

use std::io;

use anyhow::Context;
use jiff::tz::TimeZone;
use lb_trace::export::{Program, Traces};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::{args::LogFormat, decision_log::DecisionLog};

/// Whose spans the traces show.
pub const PROGRAM: Program = Program {
    name: "lb-watcher",
    version: env!("CARGO_PKG_VERSION"),
    target: "lb_watcher",
};

/// Logs from now on. In the classic format stdout is left to the decisions. The
/// guard writes what is still buffered when it is dropped.
///
/// Stdout is never waited for: who reads it slowly loses lines, but holds nothing
/// up.
pub fn start(
    format: LogFormat,
    filter: &str,
    zone: TimeZone,
    traces: Option<&Traces>,
) -> anyhow::Result<(DecisionLog, WorkerGuard)> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("--log-filter {filter:?} is not a tracing filter"))?;
    let (out, guard) = tracing_appender::non_blocking(io::stdout());
    let plain = fmt::layer().with_ansi(false);
    let (logs, decisions): (Box<dyn Layer<Registry> + Send + Sync>, _) = match format {
        LogFormat::Classic => (
            plain.with_writer(io::stderr).boxed(),
            DecisionLog::Classic { out, zone },
        ),
        LogFormat::Pretty => (plain.with_writer(out).boxed(), DecisionLog::Structured),
        LogFormat::Json => (
            plain
                .json()
                .flatten_event(true)
                .with_span_list(false)
                .with_writer(out)
                .boxed(),
            DecisionLog::Structured,
        ),
    };
    let started = tracing_subscriber::registry()
        .with(logs.with_filter(filter))
        .with(traces.map(|traces| traces.layer(PROGRAM)))
        .try_init();
    started.map_err(|error| anyhow::anyhow!("cannot begin to log: {error}"))?;
    Ok((decisions, guard))
}
