//! Allocators that are measured, and the callers of one connection to each.

use std::time::Duration;

use anyhow::Result;
use integration_tests::{
    allocator::{Allocator, Options, connect_with},
    certificates::Authority,
    secret::Secret,
};

use crate::{
    load::{Callers, RELEASES, Seen, Until},
    million,
    on_disk::OnDisk,
};

/// Requests before the first that is measured, in each of two bursts: connections,
/// caches and the WAL are as they stay from then on. More does not fit in a pool that
/// is nearly full.
pub const WARM_UP: Until = Until {
    time: Duration::from_secs(1),
    requests: BURST,
};

/// A burst as large as the nearly full pool has room.
const BURST: u64 = million::FREE - 1;

/// An allocator and the callers of one connection to it.
pub struct Running {
    pub allocator: Allocator,
    pub callers: Callers,
    pub process: u32,
}

impl Running {
    pub async fn of(allocator: Allocator) -> Result<Self> {
        let callers = Callers::new(allocator.channel().await);
        Self::with(allocator, callers).await
    }

    async fn with(mut allocator: Allocator, callers: Callers) -> Result<Self> {
        let process = allocator.process().id();
        let this = Self {
            allocator,
            callers,
            process,
        };
        for _ in 0..2 {
            let first = this.callers.next();
            this.callers.acquire(64, WARM_UP).await?;
            this.callers.release_since(first, RELEASES).await?;
        }
        Ok(this)
    }

    /// One stretch, and how many requests shared a transaction; what was acquired is
    /// released after it.
    pub async fn stretch(&self, in_flight: usize, until: Until) -> Result<(Seen, f64)> {
        let first = self.callers.next();
        let seen = self.stretch_kept(in_flight, until).await?;
        self.callers.release_since(first, RELEASES).await?;
        Ok(seen)
    }

    /// The same, and nothing is released.
    pub async fn stretch_kept(&self, in_flight: usize, until: Until) -> Result<(Seen, f64)> {
        let before = self.batches().await?;
        let seen = self.callers.acquire(in_flight, until).await?;
        let after = self.batches().await?;
        Ok((seen, (after.0 - before.0) / (after.1 - before.1)))
    }

    /// Bursts that take `time` together.
    pub async fn bursts(&self, in_flight: usize, time: Duration) -> Result<(Seen, f64)> {
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
pub struct Empty {
    pub running: Running,
    _database: OnDisk,
    _secrets: Vec<Secret>,
}

impl Empty {
    pub async fn start(name: &str) -> Result<Self> {
        let (database, allocator) = begin(name, |options| options).await?;
        Ok(Self {
            running: Running::of(allocator).await?,
            _database: database,
            _secrets: Vec::new(),
        })
    }

    /// One that asks its callers for certificates.
    pub async fn start_secure(name: &str) -> Result<Self> {
        let authority = Authority::new("bench")?;
        let server = Secret::new(&authority.server()?, &authority.certificate);
        let watcher = authority.caller("spiffe://bench/cluster/bench/role/watcher")?;
        let watcher = Secret::new(&watcher, &authority.certificate);
        let (database, allocator) = begin(name, |options| options.tls(server.files())).await?;
        let channel = connect_with(&allocator.url(), watcher.files()).await?;
        Ok(Self {
            running: Running::with(allocator, Callers::new(channel)).await?,
            _database: database,
            _secrets: vec![server, watcher],
        })
    }
}

async fn begin(name: &str, change: impl FnOnce(Options) -> Options) -> Result<(OnDisk, Allocator)> {
    let database = OnDisk::new(name)?;
    let options = Options::config(million::ROOMY).database(database.path());
    let allocator = Allocator::start(change(options.without_routes_file())).await;
    Ok((database, allocator))
}
