//! Databases on the disk that the build is on: in memory, a commit would cost
//! nothing.

use std::path::{Path, PathBuf};

use anyhow::Result;
use integration_tests::binaries::profile_folder;

/// The path of a database, which is removed with this value.
pub struct OnDisk(PathBuf);

impl OnDisk {
    /// # Errors
    /// When nobody knows where the build is.
    pub fn new(name: &str) -> Result<Self> {
        let file = format!("lb-bench-{}-{name}.db", std::process::id());
        let this = Self(profile_folder()?.join(file));
        this.remove();
        Ok(this)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn remove(&self) {
        for suffix in ["", "-wal", "-shm", "-journal", ".lock"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.0.display()));
        }
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        self.remove();
    }
}
