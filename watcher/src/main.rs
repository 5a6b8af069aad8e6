//! `lb-watcher`: see the library.

use std::process::ExitCode;

use clap::Parser;
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
            eprintln!("lb-watcher: {}", in_one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes; some libraries repeat a cause in their own text.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !line.ends_with(&cause) {
            let separator = if line.is_empty() { "" } else { ": " };
            line += &format!("{separator}{cause}");
        }
    }
    line
}
