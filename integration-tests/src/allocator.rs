//! The real lb-allocator, on free ports.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result};
use lb_proto::v1::{
    Allocation, ListAllocationsRequest, ListPoolsRequest, Pool,
    allocator_service_client::AllocatorServiceClient, pool_service_client::PoolServiceClient,
};
use rustix::process::Signal;
use tonic::transport::{Channel, Endpoint};

use crate::{
    admin::Admin, binaries::workspace_binary, logs, namespace::random_name, ports::free_port,
    process::Process, scratch::Scratch,
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
    /// More arguments of `serve`.
    pub args: Vec<String>,
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
        let mut args: Vec<String> = ["serve".to_owned()].into();
        let mut flag = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        flag(
            "listen",
            self.options
                .listen
                .clone()
                .unwrap_or_else(|| self.address()),
        );
        flag("admin-listen", format!("127.0.0.1:{}", self.admin.port));
        flag(
            "database",
            format!("sqlite://{}", self.database().display()),
        );
        flag("routes-file", self.routes_file().display().to_string());
        if self.options.config.is_some() {
            flag(
                "config",
                self.folder.path().join("pools.yaml").display().to_string(),
            );
        }
        args.extend(self.options.args.iter().cloned());
        let envs: Vec<_> = self
            .options
            .ip_list
            .iter()
            .map(|list| ("IP_LIST", list.clone()))
            .collect();
        Process::start(
            &self.name,
            &workspace_binary("lb-allocator")?,
            &args,
            &envs,
            &self.logs,
        )
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

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
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

    /// The routes file.
    #[must_use]
    pub fn routes_file(&self) -> PathBuf {
        self.folder.path().join("routes")
    }

    /// A new connection.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn channel(&self) -> Channel {
        match connect(&self.url()).await {
            Ok(channel) => channel,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// A client of its own connection.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn client(&self) -> AllocatorServiceClient<Channel> {
        AllocatorServiceClient::new(self.channel().await)
    }

    /// A client of its own connection.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn pool_client(&self) -> PoolServiceClient<Channel> {
        PoolServiceClient::new(self.channel().await)
    }

    /// All pools.
    ///
    /// # Panics
    /// When they cannot be listed.
    pub async fn pools(&self) -> Vec<Pool> {
        match self
            .pool_client()
            .await
            .list_pools(ListPoolsRequest {})
            .await
        {
            Ok(answer) => answer.into_inner().pools,
            Err(error) => panic!("cannot list the pools: {error}"),
        }
    }

    /// All allocations, in the order of addresses.
    ///
    /// # Panics
    /// When they cannot be listed.
    pub async fn allocations(&self) -> Vec<Allocation> {
        let mut client = self.pool_client().await;
        let mut all = Vec::new();
        let mut request = ListAllocationsRequest {
            page_size: 1000,
            ..Default::default()
        };
        loop {
            match client.list_allocations(request.clone()).await {
                Ok(page) => {
                    let page = page.into_inner();
                    all.extend(page.allocations);
                    if page.next_page_token.is_empty() {
                        return all;
                    }
                    request.page_token = page.next_page_token;
                }
                Err(error) => panic!("cannot list the allocations: {error}"),
            }
        }
    }
}

/// A connection to an allocator.
///
/// # Errors
/// When it cannot be made.
pub async fn connect(url: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.connect_timeout(Duration::from_secs(5));
    endpoint
        .connect()
        .await
        .with_context(|| format!("cannot connect to {url}"))
}

/// Runs a subcommand of lb-allocator to its end: status, standard output and
/// standard error.
///
/// # Panics
/// When it does not end.
pub async fn run(args: &[&str], envs: &[(&str, String)]) -> (ExitStatus, String, String) {
    let ended = async {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let binary = workspace_binary("lb-allocator")?;
        let mut process = Process::start(
            &random_name("command"),
            &binary,
            &args,
            envs,
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

/// Whether a file is there and holds something.
#[must_use]
pub fn is_written(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.len() > 0)
}
