//! What the kernel tells of this machine and of a process.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// A share of the processors, in use by others before a round, that disturbs it.
const BUSY: f64 = 0.1;

/// What Linux counts processor time in, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// How busy the machine was with other things, at the worst.
#[derive(Debug, Default)]
pub struct Disturbance(f64);

impl Disturbance {
    /// Looks for a moment, while nothing is measured.
    ///
    /// # Errors
    /// Without `/proc`.
    pub async fn look(&mut self) -> Result<()> {
        let before = ticks()?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let after = ticks()?;
        let all = (after.all - before.all).max(1.0);
        self.0 = self.0.max(1.0 - (after.idle - before.idle) / all);
        Ok(())
    }

    pub fn share(&self) -> f64 {
        self.0
    }

    pub fn warning(&self) -> Option<String> {
        (self.0 > BUSY).then(|| {
            let percent = self.0 * 100.0;
            format!(
                "WARNING: other processes used up to {percent:.0} % of this machine between the \
                 rounds; trust the ratios, not the rates"
            )
        })
    }
}

struct Ticks {
    all: f64,
    idle: f64,
}

fn ticks() -> Result<Ticks> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let numbers: Vec<f64> = line
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; then guest, which is in user.
    let all = numbers.iter().take(8).sum();
    let idle = numbers.iter().skip(3).take(2).sum();
    Ok(Ticks { all, idle })
}

/// Resident memory of a process, in bytes.
///
/// # Errors
/// When it has ended.
pub fn resident(process: u32) -> Result<f64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: f64 = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("{path} has no VmRSS"))?;
    Ok(kilobytes * 1024.0)
}

/// User and system time that a process has used, in seconds.
///
/// # Errors
/// When it has ended.
pub fn processor_seconds(process: u32) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // After the name, which may hold anything: state is the first, utime the 12th.
    let numbers = text.rsplit_once(')').map(|(_, rest)| rest);
    let numbers = numbers.unwrap_or_default().split_whitespace();
    let ticks = numbers.skip(11).take(2);
    let ticks = ticks.filter_map(|word| word.parse::<f64>().ok());
    Ok(ticks.sum::<f64>() / TICKS_PER_SECOND)
}
