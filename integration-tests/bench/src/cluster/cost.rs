//! Processor time of processes, as the kernel accounts for it.

use anyhow::Result;
use integration_tests::{allocator::Allocator, control_plane::ControlPlane, watcher::Watcher};

use super::sheet::Sheet;
use crate::machine::processor_seconds;

/// Seconds since the processes began.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    watcher: f64,
    allocator: f64,
    apiserver: f64,
    etcd: f64,
}

impl Spent {
    /// Until now. A watcher that does not run yet has spent nothing.
    ///
    /// # Errors
    /// When a process has ended.
    pub fn now(
        control_plane: &ControlPlane,
        allocator: &mut Allocator,
        watcher: Option<&mut Watcher>,
    ) -> Result<Self> {
        let [etcd, apiserver] = control_plane.process_ids()?;
        Ok(Self {
            watcher: watcher
                .map_or(Ok(0.0), |watcher| processor_seconds(watcher.process().id()))?,
            allocator: processor_seconds(allocator.process().id())?,
            apiserver: processor_seconds(apiserver)?,
            etcd: processor_seconds(etcd)?,
        })
    }

    /// Since then, of as many Services.
    pub fn put(&self, before: &Self, sheet: &mut Sheet, part: &'static str, services: usize) {
        for (process, now, before) in [
            ("lb-watcher", self.watcher, before.watcher),
            ("lb-allocator", self.allocator, before.allocator),
            ("kube-apiserver", self.apiserver, before.apiserver),
            ("etcd", self.etcd, before.etcd),
        ] {
            let millis = (now - before) * 1e3;
            let what = format!("CPU ms a Service, {process}");
            sheet.put(part, what, millis / services as f64);
        }
    }
}

/// What the servers and this process, which watches, have spent; and these processes
/// besides.
///
/// # Errors
/// When a process has ended.
pub fn of_all(control_plane: &ControlPlane, besides: &[u32]) -> Result<f64> {
    let servers = control_plane.process_ids()?;
    let me = [std::process::id()];
    let all = servers.iter().chain(besides).chain(&me);
    all.map(|process| processor_seconds(*process)).sum()
}
