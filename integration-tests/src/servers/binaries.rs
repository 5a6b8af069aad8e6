//! Where the binaries are that the harness starts.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// A binary of this workspace, built in the same profile as the caller.
///
/// # Errors
/// When it was not built.
pub fn workspace_binary(name: &str) -> Result<PathBuf> {
    let folder = profile_folder()?;
    let binary = folder.join(name);
    let release = if folder.ends_with("release") {
        " --release"
    } else {
        ""
    };
    ensure!(
        binary.exists(),
        "{} does not exist; build it with: cargo build{release} --workspace --bins",
        binary.display()
    );
    Ok(binary)
}

/// `target/debug` or `target/release`, where the caller was built.
///
/// # Errors
/// When the path of the running executable is unknown.
pub fn profile_folder() -> Result<PathBuf> {
    let me = env::current_exe().context("the running executable has no path")?;
    let folder = me
        .parent()
        .context("the running executable is in no folder")?;
    // Tests are one level deeper, in `deps`.
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    Ok(folder.to_owned())
}

/// Servers and tools of the control plane, in the order of `names`; built when
/// they are not there yet, which takes minutes.
///
/// # Errors
/// When the build fails.
pub fn control_plane_binaries<const N: usize>(names: [&str; N]) -> Result<[PathBuf; N]> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("control-plane/build");
    let output = Command::new(&script)
        .args(names)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", script.display()))?;
    ensure!(
        output.status.success(),
        "{} {}: {}",
        script.display(),
        names.join(" "),
        output.status
    );
    let paths: Vec<PathBuf> = String::from_utf8(output.stdout)?
        .lines()
        .map(PathBuf::from)
        .collect();
    paths
        .try_into()
        .map_err(|paths| anyhow::anyhow!("{} gave {paths:?} for {names:?}", script.display()))
}
