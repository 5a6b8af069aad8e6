//! Every flag and environment variable; no other file reads the environment.

mod certs;
mod tls;

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::{SignedDuration, tz::TimeZone};

pub use self::{
    certs::{Certs, CertsClient, CertsInit, CertsRole, CertsServer},
    tls::{ClientIdentity, ClientTls, ServerTls},
};
use crate::engine::{ClusterName, InvalidName};

/// The allocator of commands that name none.
pub const HERE: &str = "http://127.0.0.1:7373";

/// Gives Services of many Kubernetes clusters their external addresses out of
/// one pool.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Own the pools and answer watchers
    Serve(Box<Serve>),
    /// Print the routes table of a running allocator
    Routes(Routes),
    /// Check a pools file, together with IP_LIST if it is set, and explain it
    CheckConfig(CheckConfig),
    /// Copy the database, while its allocator runs or not
    Backup(Backup),
    /// Make a CA and certificates, if nothing else issues them
    #[command(subcommand)]
    Certs(Certs),
}

#[derive(Debug, Args)]
pub struct Serve {
    /// Where to answer gRPC: IP:PORT or unix:///path
    #[arg(long, env = "LB_ALLOCATOR_LISTEN", default_value = "127.0.0.1:7373")]
    pub listen: Listen,

    #[command(flatten)]
    pub tls: ServerTls,

    /// Serve without TLS to other machines too. Any client that reaches the port
    /// has full access
    #[arg(long, env = "LB_ALLOCATOR_INSECURE_PLAINTEXT")]
    pub insecure_plaintext: bool,

    /// The SQLite file, made if it is missing: sqlite://PATH
    #[arg(long, env = "LB_ALLOCATOR_DATABASE", value_name = "URL")]
    pub database: String,

    /// The pools file
    #[arg(long, env = "LB_ALLOCATOR_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Addresses reserved for namespaces, besides those of the pools file
    #[command(flatten)]
    pub ip_list: IpList,

    /// Clusters that a new or restored database does not wait for, although the
    /// pools file names them, because they no longer exist
    #[arg(
        long,
        env = "LB_ALLOCATOR_ASSUME_ABSENT",
        value_name = "CLUSTER",
        value_delimiter = ','
    )]
    pub assume_absent: Vec<Cluster>,

    /// How long a new database waits for the Sync of clusters before it assigns
    /// addresses; adoptionWindow of the pools file wins over this
    #[arg(
        long,
        env = "LB_ALLOCATOR_ADOPTION_WINDOW",
        value_name = "DURATION",
        default_value = "2s"
    )]
    pub adoption_window: Window,

    /// Where to answer /metrics, /healthz and /readyz: IP:PORT
    #[arg(
        long,
        env = "LB_ALLOCATOR_ADMIN_LISTEN",
        default_value = "127.0.0.1:7374"
    )]
    pub admin_listen: SocketAddr,

    /// Write the routes table to this file after each change
    #[arg(long, env = "LB_ALLOCATOR_ROUTES_FILE", value_name = "PATH")]
    pub routes_file: Option<PathBuf>,

    /// classic: one line for each decision on standard output, all else on
    /// standard error; pretty and json: everything on standard output
    #[arg(long, env = "LB_ALLOCATOR_LOG_FORMAT", value_enum, default_value_t = LogFormat::Classic)]
    pub log_format: LogFormat,

    #[command(flatten)]
    pub zone: Zone,

    #[command(flatten)]
    pub traces: TracesTo,
}

/// Where traces go. The OpenTelemetry SDK reads the other `OTEL_` variables.
#[derive(Debug, Args)]
pub struct TracesTo {
    /// The collector, which takes OTLP by gRPC: http://HOST:PORT
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        value_name = "URL",
        hide = true
    )]
    otlp_endpoint: Option<String>,

    /// The collector of traces, if it is another one
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        value_name = "URL",
        hide = true
    )]
    otlp_traces_endpoint: Option<String>,
}

impl TracesTo {
    /// None, unless a variable names one.
    pub fn endpoint(self) -> Option<String> {
        let endpoint = self.otlp_traces_endpoint.or(self.otlp_endpoint);
        endpoint.filter(|endpoint| !endpoint.is_empty())
    }
}

/// The name of a cluster.
#[derive(Clone, Debug)]
pub struct Cluster(pub ClusterName);

impl FromStr for Cluster {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        ClusterName::parse(text).map(Self)
    }
}

/// A time such as 2s or 1m.
#[derive(Clone, Copy, Debug)]
pub struct Window(pub Duration);

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.parse::<SignedDuration>().ok();
        let parsed = parsed.and_then(|window| Duration::try_from(window).ok());
        let parsed = parsed.map(Self);
        parsed.ok_or_else(|| format!("{text:?} is not a duration such as 2s or 1m"))
    }
}

#[derive(Debug, Args)]
pub struct Routes {
    /// The allocator: http://HOST:PORT, https://HOST:PORT or unix:///path
    /// [default: the routes file, else http://127.0.0.1:7373]
    #[arg(long, env = "LB_ALLOCATOR_ALLOCATOR", value_name = "URL")]
    pub allocator: Option<String>,

    /// The routes file of an allocator on this machine; it is shown if no allocator
    /// is named
    #[arg(long, env = "LB_ALLOCATOR_ROUTES_FILE", value_name = "PATH")]
    pub routes_file: Option<PathBuf>,

    #[command(flatten)]
    pub tls: ClientTls,

    #[command(flatten)]
    pub zone: Zone,
}

#[derive(Debug, Args)]
pub struct CheckConfig {
    /// The pools file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Ask a running allocator what the file would change, without a change: http://HOST:PORT, https://HOST:PORT or unix:///path
    #[arg(long, env = "LB_ALLOCATOR_AGAINST", value_name = "URL")]
    pub against: Option<String>,

    #[command(flatten)]
    pub tls: ClientTls,

    #[command(flatten)]
    pub ip_list: IpList,
}

#[derive(Debug, Args)]
pub struct Backup {
    /// The file to write, which must not exist; -: standard output
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// The SQLite file: sqlite://PATH
    #[arg(long, env = "LB_ALLOCATOR_DATABASE", value_name = "URL")]
    pub database: String,
}

#[derive(Debug, Args)]
pub struct IpList {
    /// Addresses reserved for namespaces: whitespace-separated namespace:IP items
    #[arg(
        id = "ip_list",
        long = "ip-list",
        env = "IP_LIST",
        value_name = "ITEMS",
        hide = true
    )]
    pub items: Option<String>,
}

#[derive(Debug, Args)]
pub struct Zone {
    /// The time zone of classic logs and of the routes table
    #[arg(id = "tz", long = "tz", env = "TZ", value_name = "ZONE", hide = true)]
    name: Option<String>,
}

impl Zone {
    /// UTC unless `TZ` says otherwise.
    pub fn time_zone(&self) -> TimeZone {
        let named = self.name.as_deref().filter(|name| !name.is_empty());
        let zone = named.map(|name| TimeZone::get(name).or_else(|_| TimeZone::posix(name)));
        zone.and_then(Result::ok).unwrap_or(TimeZone::UTC)
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    Classic,
    Pretty,
    Json,
}

/// Where to answer gRPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix://") {
            Some("") => Err("the path is missing; write unix:///path".to_owned()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text
                .parse()
                .map(Self::Tcp)
                .map_err(|_| "neither IP:PORT nor unix:///path".to_owned()),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}
