//! `lb-allocator`: see the library.

use clap::Parser;
use lb_allocator::{args::Cli, run::run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    run(Cli::parse()).await
}
