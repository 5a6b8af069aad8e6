//! Measures the real binaries. Prints, and asserts nothing about time: the
//! machine it runs on decides that.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use integration_tests::{
    allocator::{Allocator, Options},
    binaries::profile_folder,
};
use lb_proto::v1::{
    AcquireRequest, IpFamily, ServiceKey, Wish, allocator_service_client::AllocatorServiceClient,
};
use tonic::transport::Channel;

/// Long enough for thousands of commits at one in flight.
const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;

const POOLS: &str = "pools: [{name: bench, addresses: [10.0.0.0/8]}]\n";

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
    /// Durable acquires per second over one connection
    Allocator,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Args {
        command: Command::Allocator,
    } = Args::parse();
    let mut rows = Vec::new();
    for in_flight in [1, 16, 64] {
        rows.push((in_flight, measure(in_flight).await?));
    }
    println!(
        "Acquire, each durable before it is answered; one connection; median of {ROUNDS} rounds of {ROUND:?}"
    );
    println!(
        "{:>9}  {:>22}  {:>8}  {:>8}",
        "in flight", "acquires/s [min..max]", "p50 ms", "p99 ms"
    );
    for (in_flight, mut rounds) in rows {
        rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        let (least, middle, most) = (
            &rounds[0],
            &rounds[rounds.len() / 2],
            &rounds[rounds.len() - 1],
        );
        let rate = format!("{:.0} [{:.0}..{:.0}]", middle.rate, least.rate, most.rate);
        println!(
            "{in_flight:>9}  {rate:>22}  {:>8.2}  {:>8.2}",
            middle.p50, middle.p99
        );
    }
    Ok(())
}

struct Round {
    rate: f64,
    /// In milliseconds, as is `p99`.
    p50: f64,
    p99: f64,
}

/// A fresh allocator, so that no row pays for the allocations of another one.
async fn measure(in_flight: usize) -> Result<Vec<Round>> {
    let database = OnDisk::new(in_flight)?;
    let allocator = Allocator::start(Options::config(POOLS).database(&database.0)).await;
    let client = allocator.client().await;
    let next = Arc::new(AtomicU64::new(0));
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(round(&client, &next, in_flight).await?);
    }
    Ok(rounds)
}

async fn round(
    client: &AllocatorServiceClient<Channel>,
    next: &Arc<AtomicU64>,
    in_flight: usize,
) -> Result<Round> {
    let begun = Instant::now();
    let callers = (0..in_flight).map(|_| {
        let (mut client, next) = (client.clone(), Arc::clone(next));
        tokio::spawn(async move {
            let mut took = Vec::new();
            while begun.elapsed() < ROUND {
                let request = request(next.fetch_add(1, Ordering::Relaxed));
                let sent = Instant::now();
                client.acquire(request).await?;
                took.push(sent.elapsed());
            }
            Ok::<_, tonic::Status>(took)
        })
    });
    let mut took = Vec::new();
    for caller in callers.collect::<Vec<_>>() {
        took.extend(caller.await??);
    }
    let elapsed = begun.elapsed();
    if took.is_empty() {
        bail!("nothing was answered within {ROUND:?}");
    }
    took.sort_unstable();
    let percentile = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    Ok(Round {
        rate: took.len() as f64 / elapsed.as_secs_f64(),
        p50: percentile(50),
        p99: percentile(99),
    })
}

fn request(number: u64) -> AcquireRequest {
    let service = ServiceKey {
        cluster: "bench".to_owned(),
        namespace: format!("team-{}", number % 100),
        name: format!("service-{number}"),
    };
    let wish = Wish {
        families: vec![IpFamily::Ipv4.into()],
        cluster_ip: "10.96.0.1".to_owned(),
        ..Wish::default()
    };
    AcquireRequest {
        created_at: None,
        service: Some(service),
        uid: format!("{number:036}"),
        wish: Some(wish),
    }
}

/// A database on the disk that the build is on: in memory, a commit would cost nothing.
struct OnDisk(PathBuf);

impl OnDisk {
    fn new(in_flight: usize) -> Result<Self> {
        let name = format!("lb-bench-{}-{in_flight}.db", std::process::id());
        Ok(Self(profile_folder()?.join(name)))
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm", "-journal", ".lock"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.0.display()));
        }
    }
}
