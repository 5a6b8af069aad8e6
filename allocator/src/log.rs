//! Structured logs, and where decisions are written.

use std::io;

use jiff::tz::TimeZone;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::fmt;

use crate::{args::LogFormat, decision_log::DecisionLog};

/// Starts logging. The guard writes what is still buffered when it is dropped.
///
/// Standard output is never waited for: who reads it slowly loses lines, but
/// holds nothing up.
pub fn start(format: LogFormat, zone: TimeZone) -> (DecisionLog, WorkerGuard) {
    let (out, guard) = tracing_appender::non_blocking(io::stdout());
    let decisions = match format {
        LogFormat::Classic => {
            subscribe_plain();
            DecisionLog::classic(out, zone)
        }
        LogFormat::Pretty => {
            let builder = fmt().with_max_level(LevelFilter::INFO);
            builder.with_writer(out).with_ansi(false).init();
            DecisionLog::structured()
        }
        LogFormat::Json => {
            subscribe_json(out);
            DecisionLog::structured()
        }
    };
    (decisions, guard)
}

fn subscribe_plain() {
    let builder = fmt().with_max_level(LevelFilter::INFO);
    builder.with_writer(io::stderr).with_ansi(false).init();
}

fn subscribe_json(out: NonBlocking) {
    let builder = fmt().with_max_level(LevelFilter::INFO);
    builder.json().flatten_event(true).with_writer(out).init();
}
