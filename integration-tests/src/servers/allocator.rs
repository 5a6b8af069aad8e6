//! The real lb-allocator, on free ports.

mod asking;
mod secured;

use std::{fs, path::PathBuf, process::ExitStatus, time::Duration};

use anyhow::Result;
use lb_tls::files::Files;
use rustix::process::Signal;

use crate::{
    admin::Admin,
    binaries::workspace_binary,
    logs,
    namespace::random_name,
    ports::free_port,
    process::Process,
    scratch::Scratch,
    settings::{Given, Settings},
};

pub use self::{
    asking::{allocations, connect, connect_with},
    secured::Secured,
};

/// How one is started; what is not set is left to its defaults.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The environment variable `IP_LIST`.
    pub ip_list: Option<String>,
    /// The pools file's text.
    pub config: Option<String>,
    /// Where the database is instead of a folder of its own.
    pub database: Option<PathBuf>,
    /// What `--listen` says instead of a free port on loopback.
    pub listen: Option<String>,
    /// The certificate files of its port, where it serves TLS.
    pub tls: Option<Files>,
    /// How it is told all this.
    pub given: Given,
    /// Whether it writes no routes file.
    pub no_routes_file: bool,
    /// Whether a new database waits as long as it does by default. Otherwise it gives
    /// addresses at once, which saves the time in all tests that are about something else.
    pub waits_for_clusters: bool,
    /// More arguments of `serve`.
    pub args: Vec<String>,
    /// More environment variables.
    pub envs: Vec<(String, String)>,
}

impl Options {
    /// Pools from `IP_LIST`.
    #[must_use]
    pub fn ip_list(list: impl Into<String>) -> Self {
        Self {
            ip_list: Some(list.into()),
            ..Self::default()
        }
    }

    /// Pools from a file.
    #[must_use]
    pub fn config(text: impl Into<String>) -> Self {
        Self {
            config: Some(text.into()),
            ..Self::default()
        }
    }

    /// With its database there.
    #[must_use]
    pub fn database(mut self, path: impl Into<PathBuf>) -> Self {
        self.database = Some(path.into());
        self
    }

    /// Listening there.
    #[must_use]
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = Some(address.to_owned());
        self
    }

    /// With one more environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With these certificates.
    #[must_use]
    pub fn tls(mut self, files: Files) -> Self {
        self.tls = Some(files);
        self
    }

    /// Without a routes file.
    #[must_use]
    pub fn without_routes_file(mut self) -> Self {
        self.no_routes_file = true;
        self
    }

    /// With a new database that waits as long as it does by default.
    #[must_use]
    pub fn waits_for_clusters(mut self) -> Self {
        self.waits_for_clusters = true;
        self
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }
}

/// A running, or for the moment ended, lb-allocator. Always on the same ports
/// and the same database.
#[derive(Debug)]
pub struct Allocator {
    options: Options,
    folder: Scratch,
    logs: PathBuf,
    name: String,
    port: u16,
    admin: Admin,
    process: Option<Process>,
}

impl Allocator {
    /// Starts one and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn start(options: Options) -> Self {
        let mut this = match Self::prepare(options) {
            Ok(this) => this,
            Err(error) => panic!("lb-allocator cannot be prepared: {error:#}"),
        };
        this.start_again().await;
        this
    }

    /// Starts one that should not start, and returns how it ended and what it
    /// printed to standard error.
    ///
    /// # Panics
    /// When it does not end by itself.
    pub async fn start_refused(options: Options) -> (ExitStatus, String) {
        let ended = async {
            let this = Self::prepare(options)?;
            let mut process = this.spawn()?;
            let status = process.ends(Duration::from_secs(20)).await?;
            anyhow::Ok((status, process.errors()))
        };
        match ended.await {
            Ok(ended) => ended,
            Err(error) => panic!("lb-allocator should have refused to start: {error:#}"),
        }
    }

    /// Writes another pools file over the one it was started with.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_config(&self, text: &str) {
        let file = self.pools_file();
        if let Err(error) = fs::write(&file, text) {
            panic!("cannot write {}: {error}", file.display());
        }
    }

    fn prepare(options: Options) -> Result<Self> {
        let folder = Scratch::new("allocator")?;
        if let Some(config) = &options.config {
            fs::write(folder.path().join("pools.yaml"), config)?;
        }
        let admin = Admin { port: free_port()? };
        let name = random_name("lb-allocator");
        Ok(Self {
            options,
            folder,
            logs: logs::folder()?,
            name,
            port: free_port()?,
            admin,
            process: None,
        })
    }

    fn spawn(&self) -> Result<Process> {
        let options = &self.options;
        let listen = options.listen.clone().unwrap_or_else(|| self.address());
        let mut settings: Settings = vec![
            ("listen", Some(listen)),
            (
                "admin-listen",
                Some(format!("127.0.0.1:{}", self.admin.port)),
            ),
            (
                "database",
                Some(format!("sqlite://{}", self.database().display())),
            ),
        ];
        if !options.no_routes_file {
            let file = self.routes_file().display().to_string();
            settings.push(("routes-file", Some(file)));
        }
        if !options.waits_for_clusters {
            settings.push(("adoption-window", Some("0s".to_owned())));
        }
        if options.config.is_some() {
            settings.push(("config", Some(self.pools_file().display().to_string())));
        }
        if let Some(Files { cert, key, ca }) = &options.tls {
            settings.push(("tls-cert", Some(cert.display().to_string())));
            settings.push(("tls-key", Some(key.display().to_string())));
            settings.push(("client-ca", Some(ca.display().to_string())));
        }
        let (flags, mut envs) = options.given.place("LB_ALLOCATOR", settings);
        let ip_list = options.ip_list.iter();
        envs.extend(ip_list.map(|list| ("IP_LIST".to_owned(), list.clone())));
        envs.extend(options.envs.iter().cloned());
        let args = [vec!["serve".to_owned()], flags, options.args.clone()].concat();
        let binary = workspace_binary("lb-allocator")?;
        Process::start(&self.name, &binary, &args, &envs, &self.logs)
    }

    /// Starts it again after it has ended, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn start_again(&mut self) {
        if let Err(error) = self.try_start_again().await {
            panic!("lb-allocator does not start: {error:#}");
        }
    }

    /// As [`Self::start_again`], without a panic.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn try_start_again(&mut self) -> Result<()> {
        let mut process = self.spawn()?;
        self.admin.ready(&mut process).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
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

    /// Sends SIGTERM and waits until it has ended.
    ///
    /// # Panics
    /// When it still runs after the deadline.
    pub async fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.process().signal(Signal::TERM);
        match self.process().ends(deadline).await {
            Ok(status) => status,
            Err(error) => panic!("after SIGTERM: {error:#}"),
        }
    }

    /// `http://127.0.0.1:PORT`, with TLS `https://`.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = self.options.tls.as_ref().map_or("http", |_| "https");
        format!("{scheme}://{}", self.address())
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The admin port.
    #[must_use]
    pub fn admin(&self) -> Admin {
        self.admin
    }

    /// The database file.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.options
            .database
            .clone()
            .unwrap_or_else(|| self.folder.path().join("allocator.db"))
    }

    /// The pools file.
    #[must_use]
    pub fn pools_file(&self) -> PathBuf {
        self.folder.path().join("pools.yaml")
    }

    /// The routes file.
    #[must_use]
    pub fn routes_file(&self) -> PathBuf {
        self.folder.path().join("routes")
    }
}

/// Runs a subcommand of lb-allocator to its end: status, standard output and
/// standard error.
///
/// # Panics
/// When it does not end.
pub async fn run(args: &[&str], envs: &[(&str, String)]) -> (ExitStatus, String, String) {
    let ended = async {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let envs: Vec<_> = envs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        let binary = workspace_binary("lb-allocator")?;
        let mut process = Process::start(
            &random_name("command"),
            &binary,
            &args,
            &envs,
            &logs::folder()?,
        )?;
        let status = process.ends(Duration::from_secs(20)).await?;
        anyhow::Ok((status, process.output(), process.errors()))
    };
    match ended.await {
        Ok(ended) => ended,
        Err(error) => panic!("lb-allocator {args:?}: {error:#}"),
    }
}
