//! The structured logs.

use anyhow::Context;
use tracing_subscriber::{EnvFilter, fmt};

use crate::args::LogFormat;

/// Logs from now on. In the classic format stdout is left to the decisions.
pub fn init(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("--log-filter {filter:?} is not a tracing filter"))?;
    let logs = fmt().with_env_filter(filter);
    let init = match format {
        LogFormat::Classic => logs
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .try_init(),
        LogFormat::Pretty => logs.try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    init.map_err(|error| anyhow::anyhow!("cannot begin to log: {error}"))
}
