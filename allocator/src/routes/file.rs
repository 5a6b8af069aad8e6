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

use super::table;
use crate::{published::Published, service};

/// Of its time, writing the table takes at most one part in this many: with
/// many addresses, one file shows several changes.
const SHARE: u32 = 10;

/// Writes the table to `path` now and after every change, until the state is
/// gone. A file that cannot be written is told once, and tried again with the
/// next change.
pub async fn keep(path: PathBuf, published: Arc<Published>, zone: TimeZone) {
    let mut revisions = published.revisions();
    let mut failed = false;
    loop {
        revisions.mark_unchanged();
        let start = Instant::now();
        let result = write(&path, &published, &zone).await;
        match &result {
            Err(error) if !failed => tracing::error!(
                error = error as &dyn std::error::Error,
                path = %path.display(),
                "cannot write the routes file"
            ),
            Err(_) | Ok(()) => {}
        }
        failed = result.is_err();
        let rest: Duration = start.elapsed() * (SHARE - 1);
        tokio::time::sleep(rest).await;
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

async fn write(path: &Path, published: &Arc<Published>, zone: &TimeZone) -> io::Result<()> {
    let path = path.to_owned();
    let published = Arc::clone(published);
    let zone = zone.clone();
    // Rendering a large table would hold up requests.
    tokio::task::spawn_blocking(move || {
        let (pools, allocations) = {
            let state = published.read();
            let allocations = state.allocations_from(None);
            let allocations: Vec<_> = allocations.map(|held| service::allocation(held)).collect();
            (service::pools(&state), allocations)
        };
        let time = ZonedDateTime::now().with_time_zone(zone);
        replace(&path, &table::render(&pools, &allocations, &time))
    })
    .await
    .map_err(io::Error::other)?
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
