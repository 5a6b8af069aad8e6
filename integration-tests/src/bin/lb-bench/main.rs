//! Measures the real binaries. Prints, and asserts nothing about time: the
//! machine it runs on decides that. Every figure stands beside its own limit,
//! measured in the same run.
//!
//! Start reading at [`allocator`].

mod allocator;
mod bare_sqlite;
mod echo;
mod figures;
mod load;
mod machine;
mod million;
mod on_disk;
mod overload;
mod report;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Result;
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
    /// Durable acquires per second over one connection, start-up, memory
    Allocator {
        /// Fewer and shorter rounds, within two minutes
        #[arg(long)]
        quick: bool,
        /// Also write every round to this file
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
        address: SocketAddr,
        seconds: u64,
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
        Command::Overload { quick, json, only } => {
            let table = overload::measure(quick, &only).await?;
            if let Some(file) = json {
                std::fs::write(file, table.json())?;
            }
            print!("{}", table.text());
            Ok(())
        }
        Command::Abuse {
            kind,
            address,
            seconds,
        } => overload::abuse(kind, address, Duration::from_secs(seconds)).await,
        Command::Echo { port } => echo::serve(port).await,
    }
}
