//! A slow disk and a clock that is set, for one process: see `shim.c`, which is
//! built here and preloaded into it.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration_tests::scratch::Scratch;

const SOURCE: &str = include_str!("shim.c");

/// Where the numbers of `struct control` are in the file.
const CLOCK_SECONDS: u64 = 0;
const SYNC_MILLIS: u64 = 8;
const DELAYED: u64 = 16;
const SIZE: u64 = 24;

pub struct Shim {
    folder: Scratch,
    control: File,
}

impl Shim {
    /// # Errors
    /// When the C compiler is missing.
    pub fn build() -> Result<Self> {
        let folder = Scratch::new("shim")?;
        let source = folder.path().join("shim.c");
        fs::write(&source, SOURCE)?;
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .arg(folder.path().join("shim.so"))
            .arg(&source)
            .status()
            .context("cannot start cc; install it with: sudo apt-get install build-essential")?;
        ensure!(built.success(), "cc cannot build shim.c: {built}");
        let control = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(folder.path().join("control"))?;
        control.set_len(SIZE)?;
        Ok(Self { folder, control })
    }

    /// The environment that loads it.
    pub fn envs(&self) -> [(&'static str, String); 2] {
        let file = |name| self.file(name).display().to_string();
        [
            ("LD_PRELOAD", file("shim.so")),
            ("SOAK_CONTROL", file("control")),
        ]
    }

    /// # Errors
    /// When a process has not loaded it, because it is static.
    pub fn is_in(&self, process: u32) -> Result<()> {
        let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
        ensure!(
            maps.contains(&self.file("control").display().to_string()),
            "lb-allocator cannot be given a slow disk: it is a static binary; \
             run one that was built with: cargo build --workspace --bins"
        );
        Ok(())
    }

    /// Sets the clock of the process that far from the true time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_clock(&self, seconds: i64) -> Result<()> {
        self.set(CLOCK_SECONDS, seconds)
    }

    /// Every sync takes that much longer from now on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn slow_down(&self, by: Duration) -> Result<()> {
        self.set(SYNC_MILLIS, i64::try_from(by.as_millis())?)
    }

    /// How many syncs took longer so far.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn delayed(&self) -> Result<i64> {
        let mut number = [0; 8];
        self.control.read_exact_at(&mut number, DELAYED)?;
        Ok(i64::from_ne_bytes(number))
    }

    fn set(&self, at: u64, number: i64) -> Result<()> {
        Ok(self.control.write_all_at(&number.to_ne_bytes(), at)?)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
