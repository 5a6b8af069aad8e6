//! Measures the real binaries. Prints, and asserts nothing about time: the
//! machine it runs on decides that. Every figure stands beside its own limit,
//! measured in the same run.
//!
//! Start reading at [`allocator`].

mod allocator;
mod bare_sqlite;
mod figures;
mod load;
mod machine;
mod million;
mod naive;
mod on_disk;
mod reading;
mod report;
mod running;
mod soak;
mod stand_in;
mod sync;
mod table;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    about = "Measures lb-allocator; run it in release: cargo run --release -p integration-tests --bin lb-bench -- allocator"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Durable acquires and releases per second over one connection, reads, Sync,
    /// start-up, memory
    Allocator {
        /// Fewer and shorter rounds, within two minutes
        #[arg(long)]
        quick: bool,
        /// Also write every round to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Faults and load on real clusters, and an account of which promises were kept
    Soak {
        /// For how long there are faults; each comes at least once
        #[arg(long)]
        minutes: u32,
        /// All choices come from it [default: a new one]
        #[arg(long)]
        seed: Option<u64>,
        /// Also write the account to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Answers every Acquire at once: the limit of the transport
    #[command(hide = true)]
    Echo { port: u16 },
    /// A row for each address and a transaction for each request
    #[command(hide = true)]
    Naive { port: u16, database: String },
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
        Command::Soak {
            minutes,
            seed,
            json,
        } => {
            let seed = seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
            let account = soak::run(minutes, seed).await?;
            if let Some(file) = json {
                std::fs::write(file, account.json())?;
            }
            print!("{}", account.text());
            ensure!(
                account.verdict.is_good(),
                "a promise was broken; the logs are in target/integration-logs"
            );
            Ok(())
        }
        Command::Echo { port } => stand_in::serve(port, stand_in::Echo).await,
        Command::Naive { port, database } => {
            let naive = naive::Naive::open(&database).await?;
            stand_in::serve(port, naive).await
        }
    }
}
