//! Folders for data that nobody wants to keep, in memory where the machine has
//! `/dev/shm`.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

use anyhow::{Context, Result, anyhow};

/// A folder that is removed with this value, or when the process ends, however
/// it ends.
#[derive(Debug)]
pub struct Scratch(PathBuf);

/// One folder a process, with a shell that waits for the end of the process,
/// seen by the end of its input, and then unmounts and removes what is there.
static ROOT: LazyLock<Result<PathBuf, String>> =
    LazyLock::new(|| make_root().map_err(|error| format!("{error:#}")));

const JANITOR: &str = r#"
trap "" HUP INT TERM
cat
while read -r _ mount _; do
  case $mount in "$0"/*) umount -l "$mount" ;; esac
done </proc/mounts
for _ in 1 2 3 4 5 6 7 8 9 10; do
  rm -rf "$0" && break
  sleep 0.2
done
"#;

fn make_root() -> Result<PathBuf> {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        env::temp_dir()
    };
    let root = tempfile::Builder::new()
        .prefix("lb-integration-")
        .tempdir_in(&parent)
        .with_context(|| format!("cannot make a folder in {}", parent.display()))?
        .keep();
    let janitor = Command::new("sh")
        .args(["-c", JANITOR])
        .arg(&root)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start sh")?;
    // Its input stays open for as long as this process lives.
    std::mem::forget(janitor);
    Ok(root)
}

impl Scratch {
    /// An empty folder, its name beginning with `name`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let root = ROOT.as_ref().map_err(|error| anyhow!("{error}"))?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(root)?;
        Ok(Self(folder.keep()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the process ends.
        let _ = fs::remove_dir_all(&self.0);
    }
}
