//! Memory and processor time of the allocator.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result};

use crate::machine::resident;

/// Ticks of `/proc/PID/stat` in a second; the same on every Linux.
const TICKS: f64 = 100.0;

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
            busy: seconds(process)?,
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
            allocator: (seconds(self.process)? - self.busy) / passed,
            abuser: abuser / passed,
        })
    }
}

/// Processor time that a process has used.
///
/// # Errors
/// When it has ended.
pub fn seconds(process: u32) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // What follows the name, which may have any characters.
    let fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks = fields.split(' ').skip(11).take(2);
    Ok(ticks
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / TICKS)
}
