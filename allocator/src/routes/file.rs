//! The routes file: rewritten after every change, whole or not at all.

use std::{
    fs::Permissions,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{ZonedDateTime, tz::TimeZone};
use tempfile::NamedTempFile;
use tokio::sync::watch;

use super::table;
use crate::{engine::Revision, published::Published, service};

/// Of the time, writing the table takes one part in this many: with many addresses,
/// one file shows several changes.
const SHARE: u32 = 50;
/// The longest pause between two writes, in which the file does not show what changes.
const LONGEST_REST: Duration = Duration::from_secs(30);

pub struct RoutesFile {
    path: PathBuf,
    published: Arc<Published>,
    zone: TimeZone,
    revisions: watch::Receiver<Revision>,
    failed: bool,
}

impl RoutesFile {
    pub fn new(path: PathBuf, published: Arc<Published>, zone: TimeZone) -> Self {
        Self {
            revisions: published.revisions(),
            path,
            published,
            zone,
            failed: false,
        }
    }

    /// Writes the table again after every change, until the state is gone.
    pub async fn keep(mut self) {
        while self.revisions.changed().await.is_ok() {
            let start = Instant::now();
            self.write().await;
            let rest: Duration = start.elapsed() * (SHARE - 1);
            tokio::time::sleep(rest.min(LONGEST_REST)).await;
        }
    }

    /// Writes the table. A file that cannot be written is told once, and tried
    /// again with the next change.
    pub async fn write(&mut self) {
        let path = self.path.clone();
        let published = Arc::clone(&self.published);
        let zone = self.zone.clone();
        // Rendering a large table would hold up requests.
        let written = tokio::task::spawn_blocking(move || {
            // The writer waits for whoever reads: no more than pointers are copied.
            let (pools, usage, allocations, reservations) = {
                let state = published.read();
                let allocations: Vec<_> = state.allocations_from(None).cloned().collect();
                let reservations: Vec<_> = state.reservations_from(None).cloned().collect();
                let pools = Arc::clone(state.pools());
                (pools, service::pools(&state), allocations, reservations)
            };
            let allocations: Vec<_> = allocations
                .iter()
                .map(|held| service::allocation(&pools, held))
                .collect();
            let reservations: Vec<_> = reservations
                .iter()
                .map(|kept| service::reservation(kept))
                .collect();
            let time = ZonedDateTime::now().with_time_zone(zone);
            let table = table::render(&usage, &allocations, &reservations, &time);
            replace(&path, &table)
        });
        let result = written.await.map_err(io::Error::other).flatten();
        if let Err(error) = &result
            && !self.failed
        {
            tracing::error!(
                error = error as &dyn std::error::Error,
                path = %self.path.display(),
                "cannot write the routes file"
            );
        }
        self.failed = result.is_err();
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut file = NamedTempFile::new_in(directory.unwrap_or_else(|| Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    // Anybody may read it, as a file made without a temporary one.
    file.as_file()
        .set_permissions(Permissions::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}
