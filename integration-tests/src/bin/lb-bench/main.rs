//! Measures the real binaries. Prints, and asserts nothing about time: the
//! machine it runs on decides that. Every figure stands beside its own limit,
//! measured in the same run.
//!
//! Start reading at [`allocator`] and [`cluster`].

mod allocator;
mod bare_sqlite;
mod cluster;
mod echo;
mod figures;
mod load;
mod machine;
mod million;
mod on_disk;
mod report;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    about = "Measures lb-allocator and lb-watcher; run it in release: cargo build --release --workspace --bins && target/release/lb-bench allocator"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Durable acquires per second over one connection, start-up, memory
    Allocator {
        /// Fewer and shorter rounds, within two minutes
        #[arg(long)]
        quick: bool,
        /// Also write every round to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// A watcher and an allocator with a real API server: fresh Services, restart,
    /// freed addresses
    Cluster {
        /// Fewer Services, one round, within two minutes
        #[arg(long)]
        quick: bool,
        /// Also write every round to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Answers every Acquire at once: the limit of the transport
    #[command(hide = true)]
    Echo { port: u16 },
}

#[tokio::main]
async fn main() -> Result<()> {
    match Args::parse().command {
        Command::Allocator { quick, json } => {
            let report = allocator::measure(quick).await?;
            if let Some(file) = json {
                std::fs::write(file, report.json())?;
            }
            print!("{}", report.text());
            Ok(())
        }
        Command::Cluster { quick, json } => {
            let report = cluster::measure(quick).await?;
            if let Some(file) = json {
                std::fs::write(file, report.json())?;
            }
            print!("{}", report.text());
            Ok(())
        }
        Command::Echo { port } => echo::serve(port).await,
    }
}
