//! Child processes that never outlive the process that started them.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    eventually::{DEADLINE, eventually, within},
    logs,
};

/// A running process and its logs.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts all children: the kernel's parent-death signal is sent when the
/// *thread* ends that started a child, and the threads of tests end early.
static STARTER: LazyLock<mpsc::Sender<Job>> = LazyLock::new(|| {
    let (jobs, queue) = mpsc::channel::<Job>();
    thread::spawn(move || {
        for (mut command, answer) in queue {
            // Nobody waits for the answer once the caller has panicked.
            let _ = answer.send(command.spawn());
        }
    });
    jobs
});

impl Process {
    /// Starts `program` with a clean environment plus `envs`. Its output is
    /// appended to `name.out` and `name.err` in the folder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        name: &str,
        program: &Path,
        args: &[String],
        envs: &[(String, String)],
        folder: &Path,
    ) -> Result<Self> {
        let out = folder.join(format!("{name}.out"));
        let err = folder.join(format!("{name}.err"));
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(envs.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(append(&out)?)
            .stderr(append(&err)?);
        let (answer, child) = mpsc::channel();
        STARTER
            .send((command, answer))
            .map_err(|_| anyhow!("the starting thread has ended"))?;
        let child = child.recv()?.with_context(|| {
            format!(
                "cannot start {} through setpriv (util-linux)",
                program.display()
            )
        })?;
        Ok(Self {
            name: name.to_owned(),
            child,
            out,
            err,
        })
    }

    /// Sends a signal; one that has ended already is left alone.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Stops it, and waits until each of its threads has stopped: until then they go
    /// on with what they do.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn stop(&self) {
        self.signal(Signal::STOP);
        let what = format!("{} has stopped", self.name);
        eventually(DEADLINE, what, async || {
            let threads = fs::read_dir(format!("/proc/{}/task", self.id()));
            let threads = threads.map_err(|error| error.to_string())?;
            for thread in threads.flatten() {
                let stat = fs::read_to_string(thread.path().join("stat"));
                // A thread that is gone does nothing any more.
                let state = stat.unwrap_or_default();
                let state = state.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
                if state.as_ref().is_some_and(|rest| !rest.starts_with('T')) {
                    return Err(format!("a thread is {state:?}"));
                }
            }
            Ok(())
        })
        .await;
    }

    /// Ends it as a crash would, and waits until it has ended.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Its status when it has ended.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Its status, once it ends by itself.
    ///
    /// # Errors
    /// When it still runs after the deadline.
    pub async fn ends(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let ended = within(deadline, || {
            let status = self.status();
            async move { status.ok().flatten().ok_or(()) }
        });
        ended
            .await
            .map_err(|()| anyhow!("{} still runs after {deadline:?}", self.name))
    }

    /// What it printed to standard output so far.
    #[must_use]
    pub fn output(&self) -> String {
        read(&self.out)
    }

    /// What it printed to standard error so far.
    #[must_use]
    pub fn errors(&self) -> String {
        read(&self.err)
    }

    /// The last lines of both.
    #[must_use]
    pub fn tail(&self) -> String {
        format!("{}{}", logs::tail(&self.out), logs::tail(&self.err))
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprint!("{}", self.tail());
        }
    }
}
