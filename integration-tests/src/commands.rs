//! Commands that end by themselves, given as a person would give them: what they
//! print, or why they failed.

use std::{ffi::OsStr, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// A command that has not been run yet.
#[derive(Debug)]
pub struct Run {
    command: Command,
    input: String,
    deadline: Duration,
}

/// A command without arguments, with two minutes to end in.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Run {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    Run {
        command,
        input: String::new(),
        deadline: Duration::from_secs(120),
    }
}

/// A script of this repository, with an hour to end in: it may build things. It says
/// on standard error what it does.
#[must_use]
pub fn script(path: &str) -> Run {
    let mut run = command(repository().join(path)).within(Duration::from_secs(3600));
    run.command.stderr(Stdio::inherit());
    run
}

/// The folder that this repository is in.
#[must_use]
pub fn repository() -> PathBuf {
    let mut folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    folder.pop();
    folder
}

impl Run {
    /// With these arguments after those that it has.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// With this variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// With this on standard input.
    #[must_use]
    pub fn input(mut self, input: &str) -> Self {
        input.clone_into(&mut self.input);
        self
    }

    /// With this long to end in.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What it prints to standard output.
    ///
    /// # Errors
    /// When it cannot be started, does not end in time or fails; what it printed to
    /// standard error is part of the error.
    pub async fn output(self) -> Result<String> {
        let Self {
            mut command,
            input,
            deadline,
        } = self;
        let words = [command.as_std().get_program()]
            .into_iter()
            .chain(command.as_std().get_args());
        let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
        let line = words.join(" ");
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {line}"))?;
        let stdin = child.stdin.take();
        let write = async {
            // Who does not read all of it says in its status whether it failed.
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let both = async { tokio::join!(write, child.wait_with_output()).1 };
        let output = timeout(deadline, both)
            .await
            .with_context(|| format!("{line} has not ended in {deadline:?}"))??;
        ensure!(
            output.status.success(),
            "{line}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout),
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// As [`Self::output`], without the last end of line.
    ///
    /// # Panics
    /// When it fails.
    pub async fn gives(self) -> String {
        match self.output().await {
            Ok(output) => output.trim_end().to_owned(),
            Err(error) => panic!("{error:#}"),
        }
    }
}
