//! `lb-allocator`: see the library.

use std::process::ExitCode;

use clap::Parser;
use lb_allocator::{args::Cli, cat, run::run};
use lb_process::in_one_line;
use mimalloc::MiMalloc;

#[global_allocator]
static MEMORY: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    if cat::is_called() {
        return cat::run();
    }
    lb_tls::install_provider();
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb-allocator: {}", in_one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
