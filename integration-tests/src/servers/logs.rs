//! What the started processes print, kept in files:
//! `target/integration-logs/<test binary>/<test>/<process>.{out,err}`, and for programs
//! `target/integration-logs/<program>-<process id>/…`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::LazyLock,
    thread,
};

use anyhow::{Context, Result};

use crate::binaries::profile_folder;

/// Lines shown of each file when a test fails.
const TAIL: usize = 40;

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = profile_folder()
        .ok()
        .and_then(|profile| profile.parent().map(Path::to_owned));
    let me = env::current_exe().unwrap_or_default();
    let name = me.file_name().unwrap_or_default().to_string_lossy();
    let logs = target
        .unwrap_or_else(env::temp_dir)
        .join("integration-logs");
    // Without the hash that Cargo puts behind a test's name.
    match name.rsplit_once('-').filter(|(_, hash)| hash.len() == 16) {
        Some((test, _)) => {
            let root = logs.join(test);
            // What an earlier run left would only mislead.
            let _ = fs::remove_dir_all(&root);
            root
        }
        // A program may run more than once at a time.
        None => logs.join(format!("{name}-{}", std::process::id())),
    }
});

/// The folder for the logs of the current test: libtest names threads by tests.
///
/// # Errors
/// When it cannot be made.
pub fn folder() -> Result<PathBuf> {
    let test = thread::current()
        .name()
        .unwrap_or("main")
        .replace("::", ".");
    let folder = ROOT.join(test);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// The last lines of a log, under a heading.
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL)..];
    format!(
        "--- {} ({} of {} lines)\n{}\n",
        log.display(),
        last.len(),
        lines.len(),
        last.join("\n")
    )
}
