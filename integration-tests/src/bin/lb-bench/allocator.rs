//! The allocator: acquires on an empty database, beside a million allocations and
//! in a pool that is nearly full; start-up and memory with a million.
//!
//! Round by round, what is compared is measured one after the other:
//!
//! ```text
//!   each round, each number in flight:  echo, empty, bare SQLite, million
//!   then, each round, …:                empty in short bursts, nearly full
//! ```
//!
//! A pool that is nearly full has room for a burst only, and what was taken is
//! released between two bursts; so it is compared with equal bursts on an empty
//! database.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use integration_tests::allocator::{Allocator, Options};

use crate::{
    bare_sqlite, echo,
    figures::Figures,
    load::{Callers, Seen, Until},
    machine::{Disturbance, resident},
    million,
    on_disk::OnDisk,
    report::Report,
};

pub const IN_FLIGHT: [usize; 4] = [1, 16, 64, 256];

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub rounds: usize,
    /// Of one figure of one round.
    pub time: Duration,
    pub starts: usize,
}

impl Extent {
    const QUICK: Self = Self {
        rounds: 3,
        time: Duration::from_millis(400),
        starts: 2,
    };
    const FULL: Self = Self {
        rounds: 7,
        time: Duration::from_secs(2),
        starts: 5,
    };
}

/// Requests before the first that is measured, in each of two bursts: connections,
/// caches and the WAL are as they stay from then on. More does not fit in a pool that
/// is nearly full.
const WARM_UP: Until = Until {
    time: Duration::from_secs(1),
    requests: BURST,
};

/// A stretch as long as the /12 has room beside its million.
const ROOM: u64 = 40_000;
/// A burst as large as the nearly full pool has room.
const BURST: u64 = million::FREE - 1;

/// What is measured at one number in flight.
#[derive(Debug, Default)]
pub struct Row {
    pub rate: Figures,
    pub p50: Figures,
    pub p99: Figures,
    /// Requests in a transaction.
    pub batch: Figures,
}

impl Row {
    fn push(&mut self, mut seen: Seen, batch: f64) {
        self.rate.push(seen.rate());
        self.p50.push(seen.percentile(50));
        self.p99.push(seen.percentile(99));
        self.batch.push(batch);
    }
}

/// All rounds at one number in flight.
#[derive(Debug, Default)]
pub struct Measured {
    pub echo: Row,
    /// Rows per second of bare SQLite, as many a transaction as `empty` had.
    pub bare: Figures,
    pub empty: Row,
    pub million: Row,
    pub empty_bursts: Row,
    pub full_bursts: Row,
}

/// With a million allocations.
#[derive(Debug, Default)]
pub struct Start {
    /// Seconds until it is ready.
    pub seconds: Figures,
    /// Seconds that bare SQLite takes to read the same rows.
    pub bare: Figures,
    /// Bytes of memory for each allocation, beyond those of an empty allocator.
    pub bytes: Figures,
}

/// # Errors
/// When something cannot be started, or a request is refused.
pub async fn measure(quick: bool) -> Result<Report> {
    let extent = if quick { Extent::QUICK } else { Extent::FULL };
    let mut disturbance = Disturbance::default();
    disturbance.look().await?;

    let mut measured: BTreeMap<usize, Measured> = BTreeMap::new();
    let large = OnDisk::new("million")?;
    eprintln!("making a database of a million allocations");
    million::make(large.path()).await?;
    let options = Options::config(million::ROOMY).database(large.path());
    let mut allocator = Allocator::start(options.without_routes_file()).await;
    let start = start_up(&mut allocator, extent).await?;

    let (_process, channel) = echo::start().await?;
    let echo = Callers::new(channel);
    echo.acquire(64, WARM_UP).await?;
    let full = Running::of(allocator).await?;
    for round in 1..=extent.rounds {
        eprintln!("round {round} of {}", extent.rounds);
        for in_flight in IN_FLIGHT {
            disturbance.look().await?;
            let row = measured.entry(in_flight).or_default();
            let until = Until {
                time: extent.time,
                requests: u64::MAX / 2,
            };
            row.echo
                .push(echo.acquire(in_flight, until).await?, f64::NAN);
            let (seen, batch) = Empty::start("empty")
                .await?
                .running
                .stretch(in_flight, until)
                .await?;
            row.empty.push(seen, batch);
            let rows = tokio::task::spawn_blocking(move || {
                bare_sqlite::rows_per_second(batch.round().max(1.0) as u64, extent.time)
            });
            row.bare.push(rows.await??);
            let until = Until {
                requests: ROOM,
                ..until
            };
            let (seen, batch) = full.stretch(in_flight, until).await?;
            row.million.push(seen, batch);
        }
    }
    drop(full);

    let options = Options::config(million::NARROW).database(large.path());
    let narrow = Allocator::start(options.without_routes_file()).await;
    let narrow = Running::of(narrow).await?;
    for round in 1..=extent.rounds {
        eprintln!("round {round} of {}, in bursts", extent.rounds);
        for in_flight in IN_FLIGHT {
            disturbance.look().await?;
            let row = measured.entry(in_flight).or_default();
            let empty = Empty::start("bursts").await?;
            let (seen, batch) = empty.running.bursts(in_flight, extent.time).await?;
            row.empty_bursts.push(seen, batch);
            let (seen, batch) = narrow.bursts(in_flight, extent.time).await?;
            row.full_bursts.push(seen, batch);
        }
    }
    Ok(Report {
        extent,
        measured,
        start,
        disturbance,
    })
}

async fn start_up(allocator: &mut Allocator, extent: Extent) -> Result<Start> {
    let mut start = Start::default();
    let empty = Empty::start("memory").await?;
    let alone = resident(empty.running.process)?;
    drop(empty);
    for _ in 0..extent.starts {
        allocator.kill();
        let database = allocator.database();
        let bare = tokio::task::spawn_blocking(move || bare_sqlite::read_all(&database));
        start.bare.push(bare.await??);
        let begun = std::time::Instant::now();
        allocator.try_start_again().await?;
        start.seconds.push(begun.elapsed().as_secs_f64());
        let bytes = resident(allocator.process().id())? - alone;
        start.bytes.push(bytes / million::ALLOCATIONS as f64);
    }
    Ok(start)
}

/// An allocator and the callers of one connection to it.
struct Running {
    allocator: Allocator,
    callers: Callers,
    process: u32,
}

impl Running {
    async fn of(mut allocator: Allocator) -> Result<Self> {
        let callers = Callers::new(allocator.channel().await);
        let process = allocator.process().id();
        let this = Self {
            allocator,
            callers,
            process,
        };
        for _ in 0..2 {
            let first = this.callers.next();
            this.callers.acquire(64, WARM_UP).await?;
            this.callers.release_since(first).await?;
        }
        Ok(this)
    }

    /// One stretch, and how many requests shared a transaction.
    async fn stretch(&self, in_flight: usize, until: Until) -> Result<(Seen, f64)> {
        let first = self.callers.next();
        let before = self.batches().await?;
        let seen = self.callers.acquire(in_flight, until).await?;
        let after = self.batches().await?;
        self.callers.release_since(first).await?;
        Ok((seen, (after.0 - before.0) / (after.1 - before.1)))
    }

    /// Bursts that take `time` together.
    async fn bursts(&self, in_flight: usize, time: Duration) -> Result<(Seen, f64)> {
        let until = Until {
            time,
            requests: BURST,
        };
        let (mut all, mut batch) = self.stretch(in_flight, until).await?;
        while all.elapsed() < time {
            let (seen, of_this) = self.stretch(in_flight, until).await?;
            all = all.and(seen);
            batch = f64::midpoint(batch, of_this);
        }
        Ok((all, batch))
    }

    /// Requests and transactions so far.
    async fn batches(&self) -> Result<(f64, f64)> {
        let admin = self.allocator.admin();
        let requests = admin
            .metric("lb_allocator_commit_batch_size_sum", &[])
            .await?;
        let transactions = admin
            .metric("lb_allocator_commit_batch_size_count", &[])
            .await?;
        Ok((requests, transactions))
    }
}

/// An allocator with nothing in its database.
struct Empty {
    running: Running,
    _database: OnDisk,
}

impl Empty {
    async fn start(name: &str) -> Result<Self> {
        let database = OnDisk::new(name)?;
        let options = Options::config(million::ROOMY).database(database.path());
        let allocator = Allocator::start(options.without_routes_file()).await;
        Ok(Self {
            running: Running::of(allocator).await?,
            _database: database,
        })
    }
}
