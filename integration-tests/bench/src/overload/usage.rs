//! Memory and processor time of the allocator.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result};

use crate::machine::{processor_seconds, resident};

/// What the allocator used while it was abused.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Resident memory in bytes.
    pub before: f64,
    pub peak: f64,
    pub after: f64,
    /// Processors' time, of all the time that passed.
    pub allocator: f64,
    pub abuser: f64,
}

/// A process whose use is looked at.
pub struct Watched {
    process: u32,
    before: f64,
    peak: Arc<AtomicU64>,
    busy: f64,
    since: Instant,
}

impl Watched {
    /// # Errors
    /// When it has ended.
    pub fn begin(process: u32) -> Result<Self> {
        let before = resident(process)?;
        Ok(Self {
            process,
            before,
            peak: Arc::new(AtomicU64::new(before as u64)),
            busy: processor_seconds(process)?,
            since: Instant::now(),
        })
    }

    /// Takes note of how much memory it has at the moment.
    ///
    /// # Errors
    /// When it has ended.
    pub fn look(&self) -> Result<()> {
        let now = resident(self.process).context("the allocator has ended")?;
        self.peak.fetch_max(now as u64, Ordering::Relaxed);
        Ok(())
    }

    /// # Errors
    /// When it has ended.
    pub fn end(self, abuser: f64) -> Result<Usage> {
        self.look()?;
        let passed = self.since.elapsed().as_secs_f64();
        Ok(Usage {
            before: self.before,
            peak: self.peak.load(Ordering::Relaxed) as f64,
            after: resident(self.process)?,
            allocator: (processor_seconds(self.process)? - self.busy) / passed,
            abuser: abuser / passed,
        })
    }
}
