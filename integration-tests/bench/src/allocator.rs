//! The allocator: acquires on an empty database, beside a million allocations, over
//! mTLS and in a pool that is nearly full; releases; reads beside writes; a Sync;
//! start-up and memory with a million.
//!
//! Round by round, what is compared is measured one after the other:
//!
//! ```text
//!   each round, each number in flight:  echo, (a), bare SQLite, (b), (d), naive
//!   then, each round:                   reads and writes; a Sync and bare SQLite
//!   then, each round, each number:      (a) in short bursts, (c)
//! ```
//!
//! A pool that is nearly full has room for a burst only, and what was taken is
//! released between two bursts; so it is compared with equal bursts on an empty
//! database.

use std::time::Duration;

use anyhow::Result;
use integration_tests::allocator::{Allocator, Options};

use crate::{
    bare_sqlite,
    figures::Figures,
    load::{Callers, Seen, Until},
    machine::{Disturbance, resident},
    million,
    on_disk::OnDisk,
    reading,
    report::Report,
    running::{Empty, Running, WARM_UP},
    stand_in, sync,
    table::{Round, Table},
};

pub const IN_FLIGHT: [usize; 4] = [1, 16, 64, 256];

pub const ACQUIRE: &str = "Acquire, each durable before it is answered";
pub const RELEASE: &str = "Release, durable likewise";
pub const BURSTS: &str = "Acquire in bursts of 1,000, released in between";

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

    pub const fn for_its_time(self) -> Until {
        Until {
            time: self.time,
            requests: u64::MAX / 2,
        }
    }
}

/// A stretch as long as the /12 has room beside its million.
pub const ROOM: u64 = 40_000;

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
    let mut table = Table::default();

    let large = OnDisk::new("million")?;
    eprintln!("making a database of a million allocations");
    million::make(large.path()).await?;
    let options = Options::config(million::ROOMY).database(large.path());
    let mut allocator = Allocator::start(options.without_routes_file()).await;
    let start = start_up(&mut allocator, extent).await?;

    let (_echo, channel) = stand_in::start("echo", &[]).await?;
    let echo = Callers::new(channel);
    echo.acquire(64, WARM_UP).await?;
    let full = Running::of(allocator).await?;
    for round in 1..=extent.rounds {
        eprintln!("round {round} of {}", extent.rounds);
        for in_flight in IN_FLIGHT {
            disturbance.look().await?;
            acquires(&mut table, extent, in_flight, &echo, &full).await?;
        }
        reading::measure(&mut table, extent, &full).await?;
        sync::measure(&mut table, extent).await?;
    }
    drop(full);

    let options = Options::config(million::NARROW).database(large.path());
    let narrow = Allocator::start(options.without_routes_file()).await;
    let narrow = Running::of(narrow).await?;
    for round in 1..=extent.rounds {
        eprintln!("round {round} of {}, in bursts", extent.rounds);
        for in_flight in IN_FLIGHT {
            disturbance.look().await?;
            let empty = Empty::start("bursts").await?;
            let (seen, batch) = empty.running.bursts(in_flight, extent.time).await?;
            let beside = seen.rate();
            table.add(BURSTS, in_flight, ("(a) empty", ""), round_of(seen, batch));
            let (seen, batch) = narrow.bursts(in_flight, extent.time).await?;
            let full = round_of(seen, batch).of(beside);
            table.add(BURSTS, in_flight, ("(c) 99.9 % full", "(a)"), full);
        }
    }
    Ok(Report {
        extent,
        table,
        start,
        disturbance,
    })
}

async fn acquires(
    table: &mut Table,
    extent: Extent,
    in_flight: usize,
    echo: &Callers,
    full: &Running,
) -> Result<()> {
    let until = extent.for_its_time();
    let echoed = round_of(echo.acquire(in_flight, until).await?, f64::NAN);
    table.add(ACQUIRE, in_flight, ("tonic echo", ""), echoed);

    let empty = Empty::start("empty").await?;
    let first = empty.running.callers.next();
    let (seen, batch) = empty.running.stretch_kept(in_flight, until).await?;
    let released = empty
        .running
        .callers
        .release_since(first, in_flight)
        .await?;
    drop(empty);
    let time = extent.time;
    let rows = tokio::task::spawn_blocking(move || {
        bare_sqlite::rows_per_second(batch.round().max(1.0) as u64, time)
    });
    let rows = rows.await??;
    let limit = 1.0 / (1.0 / echoed.rate + 1.0 / rows);
    let alone = round_of(seen, batch).of(limit);
    let bare = Round {
        batch,
        ..Round::rate(rows)
    };
    table.add(ACQUIRE, in_flight, ("bare SQLite", ""), bare);
    table.add(ACQUIRE, in_flight, ("H", ""), Round::rate(limit));
    table.add(ACQUIRE, in_flight, ("(a) empty", "H"), alone);
    let released = round_of(released, f64::NAN).of(alone.rate);
    table.add(RELEASE, in_flight, ("of what (a) got", "(a)"), released);

    let (seen, batch) = full
        .stretch(
            in_flight,
            Until {
                requests: ROOM,
                ..until
            },
        )
        .await?;
    let beside = round_of(seen, batch).of(alone.rate);
    table.add(ACQUIRE, in_flight, ("(b) a million held", "(a)"), beside);

    let secure = Empty::start_secure("secure").await?;
    let (seen, batch) = secure.running.stretch_kept(in_flight, until).await?;
    let over_tls = round_of(seen, batch).of(alone.rate);
    table.add(ACQUIRE, in_flight, ("(d) mTLS", "(a)"), over_tls);
    drop(secure);

    let database = OnDisk::new("naive")?;
    let path = database.path().display().to_string();
    let (_naive, channel) = stand_in::start("naive", &[path]).await?;
    let naive = Callers::new(channel).acquire(in_flight, until).await?;
    let naive = round_of(naive, 1.0).of(alone.rate);
    table.add(ACQUIRE, in_flight, ("the naive design", "(a)"), naive);
    Ok(())
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

pub fn round_of(mut seen: Seen, batch: f64) -> Round {
    Round {
        rate: seen.rate(),
        p50: seen.percentile(50),
        p99: seen.percentile(99),
        batch,
        ratio: f64::NAN,
    }
}
