//! Measures the real binaries. Prints, and asserts nothing about time: the
//! machine it runs on decides that. Every figure stands beside its own limit,
//! measured in the same run, and for their ratios there are [`floors`].
//!
//! Start reading at [`allocator`] and [`cluster`].

mod allocator;
mod bare_sqlite;
mod cluster;
mod figures;
mod floors;
mod load;
mod machine;
mod million;
mod naive;
mod on_disk;
mod overload;
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
    about = "Measures lb-allocator and lb-watcher; run it in release: cargo build --release --workspace --bins && target/release/lb-bench allocator"
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
        /// Fail where a ratio is below its floor
        #[arg(long)]
        floors: bool,
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
    /// What 10,000 connections, 100,000 requests in flight, half-open streams and the
    /// like cost those who behave
    Overload {
        /// Seconds of each instead of half a minute
        #[arg(long)]
        quick: bool,
        /// Also write the table to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Only these; without it all
        #[arg(value_enum)]
        only: Vec<overload::Kind>,
    },
    /// The abuser
    #[command(hide = true)]
    Abuse {
        kind: overload::Kind,
        #[command(flatten)]
        target: overload::Target,
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
        Command::Allocator {
            quick,
            floors,
            json,
        } => {
            let report = allocator::measure(quick).await?;
            show(json, &report.json(), &report.text())?;
            if floors {
                floors::check(&report.table)?;
            }
            Ok(())
        }
        Command::Overload { quick, json, only } => {
            let table = overload::measure(quick, &only).await?;
            show(json, &table.json(), &table.text())
        }
        Command::Abuse { kind, target } => overload::abuse(kind, &target).await,
        Command::Soak {
            minutes,
            seed,
            json,
        } => {
            let seed = seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
            let account = soak::run(minutes, seed).await?;
            show(json, &account.json(), &account.text())?;
            ensure!(
                account.verdict.is_good(),
                "a promise was broken; the logs are in target/integration-logs"
            );
            Ok(())
        }
        Command::Cluster { quick, json } => {
            let report = cluster::measure(quick).await?;
            show(json, &report.json(), &report.text())
        }
        Command::Echo { port } => stand_in::serve(port, stand_in::Echo).await,
        Command::Naive { port, database } => {
            let naive = naive::Naive::open(&database).await?;
            stand_in::serve(port, naive).await
        }
    }
}

/// Tells programs, where that is asked for, and people.
fn show(file: Option<PathBuf>, json: &str, text: &str) -> Result<()> {
    if let Some(file) = file {
        std::fs::write(file, json)?;
    }
    print!("{text}");
    Ok(())
}
