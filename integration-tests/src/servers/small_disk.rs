//! A file system that can be filled.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::scratch::Scratch;

/// A file system of its own, in memory, gone with this value.
#[derive(Debug)]
pub struct SmallDisk(Scratch);

impl SmallDisk {
    /// One of this size.
    ///
    /// # Errors
    /// When it cannot be mounted: that takes root.
    pub fn mount(kilobytes: u32) -> Result<Self> {
        let scratch = Scratch::new("disk")?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kilobytes}k"), "tmpfs"])
            .arg(scratch.path())
            .status()
            .context("cannot start mount")?;
        ensure!(
            mounted.success(),
            "cannot mount a small tmpfs: that takes root; run this as root"
        );
        Ok(Self(scratch))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left, with a file that can be removed.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn fill(&self) -> Result<PathBuf> {
        let ballast = self.path().join("ballast");
        let mut file = File::options().create(true).append(true).open(&ballast)?;
        for size in [65_536, 4096, 1] {
            let block = vec![0; size];
            while file.write_all(&block).is_ok() {}
        }
        Ok(ballast)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
