//! `lb-watcher`: see the library.

use std::process::ExitCode;

use clap::Parser;
use lb_process::in_one_line;
use lb_watcher::{args::Args, run::run};
use mimalloc::MiMalloc;

#[global_allocator]
static MEMORY: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    lb_tls::install_provider();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb-watcher: {}", in_one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
