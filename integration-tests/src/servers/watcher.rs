//! The real lb-watcher.

use std::{path::PathBuf, process::ExitStatus, time::Duration};

use anyhow::Result;
use lb_tls::files::Files;
use rustix::process::Signal;

use crate::{
    admin::Admin,
    binaries::workspace_binary,
    control_plane::ControlPlane,
    logs,
    namespace::random_name,
    ports::free_port,
    process::Process,
    settings::{Given, Settings},
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
    /// `--kubeconfig`; without one, that of the control plane's administrator.
    pub kubeconfig: Option<PathBuf>,
    /// `--annotation-aliases`.
    pub annotation_aliases: Option<String>,
    /// The certificate files that it shows to an https:// allocator.
    pub tls: Option<Files>,
    /// How it is told all this.
    pub given: Given,
    /// More environment variables.
    pub envs: Vec<(String, String)>,
}

impl Options {
    /// Without a class.
    #[must_use]
    pub fn cluster(name: &str) -> Self {
        Self {
            cluster: name.to_owned(),
            class: None,
            handle_unclassed: false,
            kubeconfig: None,
            annotation_aliases: None,
            tls: None,
            given: Given::default(),
            envs: Vec::new(),
        }
    }

    /// With a class.
    #[must_use]
    pub fn class(mut self, class: &str) -> Self {
        self.class = Some(class.to_owned());
        self
    }

    /// With a kubeconfig of its own.
    #[must_use]
    pub fn kubeconfig(mut self, file: PathBuf) -> Self {
        self.kubeconfig = Some(file);
        self
    }

    /// With these certificates.
    #[must_use]
    pub fn tls(mut self, files: Files) -> Self {
        self.tls = Some(files);
        self
    }

    /// With one more environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With `--handle-unclassed`.
    #[must_use]
    pub fn handle_unclassed(mut self) -> Self {
        self.handle_unclassed = true;
        self
    }

    /// With `--annotation-aliases`.
    #[must_use]
    pub fn annotation_aliases(mut self, peers: &str) -> Self {
        self.annotation_aliases = Some(peers.to_owned());
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
        let mut this = Self::prepare(control_plane, allocator, options);
        this.start_again().await;
        this
    }

    /// One that does not run yet.
    ///
    /// # Panics
    /// When there is no port or no folder for it.
    #[must_use]
    pub fn prepare(control_plane: &ControlPlane, allocator: &str, options: Options) -> Self {
        match Self::try_prepare(control_plane, allocator, options) {
            Ok(this) => this,
            Err(error) => panic!("lb-watcher cannot be prepared: {error:#}"),
        }
    }

    fn try_prepare(
        control_plane: &ControlPlane,
        allocator: &str,
        options: Options,
    ) -> Result<Self> {
        let kubeconfig = options.kubeconfig.clone();
        Ok(Self {
            kubeconfig: kubeconfig.unwrap_or_else(|| control_plane.kubeconfig()),
            options,
            allocator: allocator.to_owned(),
            logs: logs::folder()?,
            name: random_name("lb-watcher"),
            admin: Admin { port: free_port()? },
            process: None,
        })
    }

    fn spawn(&self) -> Result<Process> {
        let options = &self.options;
        let mut settings: Settings = vec![
            ("allocator", Some(self.allocator.clone())),
            ("cluster", Some(options.cluster.clone())),
            ("kubeconfig", Some(self.kubeconfig.display().to_string())),
            (
                "admin-listen",
                Some(format!("127.0.0.1:{}", self.admin.port)),
            ),
        ];
        if let Some(class) = &options.class {
            settings.push(("load-balancer-class", Some(class.clone())));
        }
        if options.handle_unclassed {
            settings.push(("handle-unclassed", None));
        }
        if let Some(peers) = &options.annotation_aliases {
            settings.push(("annotation-aliases", Some(peers.clone())));
        }
        if let Some(Files { cert, key, ca }) = &options.tls {
            settings.push(("tls-cert", Some(cert.display().to_string())));
            settings.push(("tls-key", Some(key.display().to_string())));
            settings.push(("server-ca", Some(ca.display().to_string())));
        }
        let (args, mut envs) = options.given.place("LB_WATCHER", settings);
        envs.extend(options.envs.iter().cloned());
        let binary = workspace_binary("lb-watcher")?;
        Process::start(&self.name, &binary, &args, &envs, &self.logs)
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
