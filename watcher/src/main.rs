//! `lb-watcher`: see the crate's documentation.

use clap::Parser;
use lb_watcher::{args::Args, logging, run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    logging::init(args.log_format, &args.log_filter)?;
    run::run(args).await
}
