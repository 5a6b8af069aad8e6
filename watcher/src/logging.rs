//! The structured logs, and where decisions are written.

use std::io;

use anyhow::Context;
use jiff::tz::TimeZone;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{EnvFilter, fmt};

use crate::{args::LogFormat, decision_log::DecisionLog};

/// Logs from now on. In the classic format stdout is left to the decisions. The
/// guard writes what is still buffered when it is dropped.
///
/// Stdout is never waited for: who reads it slowly loses lines, but holds nothing
/// up.
pub fn start(
    format: LogFormat,
    filter: &str,
    zone: TimeZone,
) -> anyhow::Result<(DecisionLog, WorkerGuard)> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("--log-filter {filter:?} is not a tracing filter"))?;
    let (out, guard) = tracing_appender::non_blocking(io::stdout());
    let logs = fmt().with_env_filter(filter).with_ansi(false);
    let (started, decisions) = match format {
        LogFormat::Classic => (
            logs.with_writer(io::stderr).try_init(),
            DecisionLog::Classic { out, zone },
        ),
        LogFormat::Pretty => (logs.with_writer(out).try_init(), DecisionLog::Structured),
        LogFormat::Json => (
            logs.json()
                .flatten_event(true)
                .with_span_list(false)
                .with_writer(out)
                .try_init(),
            DecisionLog::Structured,
        ),
    };
    started.map_err(|error| anyhow::anyhow!("cannot begin to log: {error}"))?;
    Ok((decisions, guard))
}
