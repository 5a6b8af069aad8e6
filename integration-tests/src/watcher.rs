//! The real lb-watcher.

use std::{path::PathBuf, process::ExitStatus, time::Duration};

use anyhow::Result;
use rustix::process::Signal;

use crate::{
    admin::Admin, binaries::workspace_binary, control_plane::ControlPlane, logs,
    namespace::random_name, ports::free_port, process::Process,
};

/// How one is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--cluster`.
    pub cluster: String,
    /// `--load-balancer-class`.
    pub class: Option<String>,
    /// `--handle-unclassed`.
    pub handle_unclassed: bool,
    /// More arguments.
    pub args: Vec<String>,
}

impl Options {
    /// Without a class.
    #[must_use]
    pub fn cluster(name: &str) -> Self {
        Self {
            cluster: name.to_owned(),
            class: None,
            handle_unclassed: false,
            args: Vec::new(),
        }
    }

    /// With a class.
    #[must_use]
    pub fn class(mut self, class: &str) -> Self {
        self.class = Some(class.to_owned());
        self
    }

    /// With `--handle-unclassed`.
    #[must_use]
    pub fn handle_unclassed(mut self) -> Self {
        self.handle_unclassed = true;
        self
    }
}

/// A running, or for the moment ended, lb-watcher.
#[derive(Debug)]
pub struct Watcher {
    options: Options,
    kubeconfig: PathBuf,
    allocator: String,
    logs: PathBuf,
    name: String,
    admin: Admin,
    process: Option<Process>,
}

impl Watcher {
    /// Starts one and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn start(control_plane: &ControlPlane, allocator: &str, options: Options) -> Self {
        let mut this = match Self::prepare(control_plane, allocator, options) {
            Ok(this) => this,
            Err(error) => panic!("lb-watcher cannot be prepared: {error:#}"),
        };
        this.start_again().await;
        this
    }

    fn prepare(control_plane: &ControlPlane, allocator: &str, options: Options) -> Result<Self> {
        Ok(Self {
            options,
            kubeconfig: control_plane.kubeconfig(),
            allocator: allocator.to_owned(),
            logs: logs::folder()?,
            name: random_name("lb-watcher"),
            admin: Admin { port: free_port()? },
            process: None,
        })
    }

    fn spawn(&self) -> Result<Process> {
        let mut args = Vec::new();
        let mut flag = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        flag("allocator", self.allocator.clone());
        flag("cluster", self.options.cluster.clone());
        flag("kubeconfig", self.kubeconfig.display().to_string());
        flag("admin-listen", format!("127.0.0.1:{}", self.admin.port));
        if let Some(class) = &self.options.class {
            flag("load-balancer-class", class.clone());
        }
        if self.options.handle_unclassed {
            args.push("--handle-unclassed".to_owned());
        }
        args.extend(self.options.args.iter().cloned());
        Process::start(
            &self.name,
            &workspace_binary("lb-watcher")?,
            &args,
            &[],
            &self.logs,
        )
    }

    /// Starts it again after it has ended, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn start_again(&mut self) {
        let started = async {
            let mut process = self.spawn()?;
            self.admin.ready(&mut process).await?;
            self.process = Some(process);
            anyhow::Ok(())
        };
        if let Err(error) = started.await {
            panic!("lb-watcher does not start: {error:#}");
        }
    }

    /// Starts it again without waiting: where the allocator is away, it may not
    /// call itself ready.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_unready(&mut self) {
        match self.spawn() {
            Ok(process) => self.process = Some(process),
            Err(error) => panic!("lb-watcher does not start: {error:#}"),
        }
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Sends SIGTERM and waits until it has ended.
    ///
    /// # Panics
    /// When it was ended already, or still runs after the deadline.
    pub async fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.process().signal(Signal::TERM);
        match self.process().ends(deadline).await {
            Ok(status) => status,
            Err(error) => panic!("after SIGTERM: {error:#}"),
        }
    }

    /// The running process.
    ///
    /// # Panics
    /// When it was ended.
    pub fn process(&mut self) -> &mut Process {
        match &mut self.process {
            Some(process) => process,
            None => panic!("{} was ended", self.name),
        }
    }

    /// The admin port.
    #[must_use]
    pub fn admin(&self) -> Admin {
        self.admin
    }
}
