//! The allocator's database: a real SQLite file, used by the real code, behind a
//! disk that may refuse, be slow, or fail after it wrote.
//!
//! sqlx works on a thread of its own. Here each step waits for it without letting
//! go of the one thread that everything else runs on, so that no other task
//! can see how long it takes.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::executor::block_on;
use lb_allocator::{
    engine::{Change, ChangeKind, Engine, Pools, Retention, Revision, Timestamp},
    store::{Pruned, Store, StoreError},
    writer::Storage,
};

use crate::{chaos::Chaos, showing::Showing};

/// The disk and the database on it.
pub struct Disk {
    store: Store,
    path: PathBuf,
    chaos: Chaos,
    showing: Showing,
    full: Arc<AtomicBool>,
}

impl Disk {
    /// Opens the database; `full` tells while there is no room.
    pub fn open(
        path: &Path,
        chaos: Chaos,
        showing: Showing,
        full: Arc<AtomicBool>,
    ) -> Result<Self, StoreError> {
        let url = format!("sqlite://{}", path.display());
        Ok(Self {
            store: block_on(Store::open(&url))?,
            path: path.to_owned(),
            chaos,
            showing,
            full,
        })
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    fn error(&self) -> StoreError {
        StoreError::Write {
            path: self.path.clone(),
            source: sqlx::Error::Io(io::Error::other("the simulated disk fails")),
        }
    }

    fn check_room(&self) -> Result<(), StoreError> {
        let full = self.full.load(Ordering::Relaxed);
        if full || self.chaos.strikes("disk failed", |rates| rates.disk_fails) {
            return Err(self.error());
        }
        Ok(())
    }
}

impl Storage for Disk {
    async fn load(&mut self, pools: Arc<Pools>) -> Result<Engine, StoreError> {
        block_on(self.store.load(pools))
    }

    async fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.chaos.travel().await;
        if !changes.is_empty() {
            self.check_room()?;
        }
        block_on(self.store.commit(changes))?;
        for change in changes {
            self.chaos.note(Committed(change));
        }
        for problem in self.showing.committed(changes) {
            self.chaos.violated(problem);
        }
        self.chaos.travel().await;
        if self
            .chaos
            .strikes("disk failed after writing", |rates| rates.disk_lies)
        {
            return Err(self.error());
        }
        Ok(())
    }

    async fn record_pools(
        &mut self,
        revision: Revision,
        at: Timestamp,
        pools: &str,
    ) -> Result<(), StoreError> {
        self.check_room()?;
        block_on(self.store.record_pools(revision, at, pools))
    }

    async fn probe(&mut self) -> Result<(), StoreError> {
        self.check_room()?;
        block_on(self.store.probe())
    }

    fn check(&self) -> Result<(), StoreError> {
        self.store.check()
    }

    async fn last_time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        block_on(self.store.last_time())
    }

    async fn note_time(&mut self, now: Timestamp) -> Result<(), StoreError> {
        self.check_room()?;
        block_on(self.store.note_time(now))
    }

    async fn prune(
        &mut self,
        after: Revision,
        now: Timestamp,
        retention: &Retention,
    ) -> Result<Pruned, StoreError> {
        self.check_room()?;
        block_on(self.store.prune(after, now, retention))
    }

    async fn close(self) -> Result<(), StoreError> {
        block_on(self.store.close())
    }
}

/// A database as it is on the disk this moment, which is what a killed process
/// leaves behind and what a backup holds.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let with = |path: &Path, suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    std::fs::copy(from, to)?;
    let log = with(from, "-wal");
    if log.exists() {
        std::fs::copy(log, with(to, "-wal"))?;
    }
    Ok(())
}

/// A change, in a line of the record.
struct Committed<'a>(&'a Change);

impl fmt::Display for Committed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change { revision, kind, .. } = self.0;
        write!(f, "database: {} {} ", revision.0, kind.name())?;
        match kind {
            ChangeKind::Allocated(of) | ChangeKind::Released(of) | ChangeKind::Updated(of) => {
                let end = of.holder.transition.release_at();
                write!(f, "{} of {}, ends: {end:?}", of.address, of.key)
            }
            ChangeKind::Reserved(of) | ChangeKind::Unreserved(of) => {
                write!(f, "{} for {:?}", of.address, of.key)
            }
            ChangeKind::Conflicted(of) | ChangeKind::ConflictEnded(of) => {
                write!(
                    f,
                    "{} of {}, {:?}, ends: {:?}",
                    of.address,
                    of.key,
                    of.kind,
                    of.release_at()
                )
            }
            ChangeKind::Cluster(of) => write!(f, "{} {:?}", of.name, of.state),
            ChangeKind::Opened => Ok(()),
        }
    }
}
