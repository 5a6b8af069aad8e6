//! Every flag and environment variable; no other file reads the environment.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::tz::TimeZone;
use lb_tls::files::Files;

use crate::{auth::Scheme, engine::ClusterName};

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
    Serve(Serve),
    /// Print the routes table of a running allocator
    Routes(Routes),
    /// Check a pools file, together with IP_LIST if it is set, and explain it
    CheckConfig(CheckConfig),
    /// Make a CA and certificates, where nobody else does
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

    /// Serve without TLS where others than this machine may connect. Whoever
    /// reaches the port may do everything
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

    /// Where to answer /metrics, /healthz and /readyz: IP:PORT
    #[arg(
        long,
        env = "LB_ALLOCATOR_ADMIN_LISTEN",
        default_value = "127.0.0.1:7374"
    )]
    pub admin_listen: SocketAddr,

    /// Keep the routes table in this file
    #[arg(long, env = "LB_ALLOCATOR_ROUTES_FILE", value_name = "PATH")]
    pub routes_file: Option<PathBuf>,

    /// classic: one line for each decision on standard output, all else on
    /// standard error; pretty and json: everything on standard output
    #[arg(long, env = "LB_ALLOCATOR_LOG_FORMAT", value_enum, default_value_t = LogFormat::Classic)]
    pub log_format: LogFormat,

    #[command(flatten)]
    pub zone: Zone,
}

/// Certificates of the gRPC port; all three files or none.
#[derive(Debug, Args)]
pub struct ServerTls {
    /// Serve TLS with this certificate, a PEM file, and ask for those of clients
    #[arg(long, env = "LB_ALLOCATOR_TLS_CERT", value_name = "FILE", requires_all = ["tls_key", "client_ca"])]
    tls_cert: Option<PathBuf>,

    /// The key of the certificate, a PEM file
    #[arg(long, env = "LB_ALLOCATOR_TLS_KEY", value_name = "FILE", requires_all = ["tls_cert", "client_ca"])]
    tls_key: Option<PathBuf>,

    /// The CA, or CAs, that the certificates of clients come from, a PEM file
    #[arg(long, env = "LB_ALLOCATOR_CLIENT_CA", value_name = "FILE", requires_all = ["tls_cert", "tls_key"])]
    client_ca: Option<PathBuf>,

    /// What in a client's certificate gives its cluster and role
    #[arg(
        long,
        env = "LB_ALLOCATOR_CLIENT_IDENTITY",
        value_enum,
        default_value_t = ClientIdentity::Uri
    )]
    pub client_identity: ClientIdentity,
}

impl ServerTls {
    pub fn files(&self) -> Option<Files> {
        let (cert, key, ca) = (&self.tls_cert, &self.tls_key, &self.client_ca);
        Some(Files {
            cert: cert.clone()?,
            key: key.clone()?,
            ca: ca.clone()?,
        })
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ClientIdentity {
    /// The URI spiffe://TRUSTDOMAIN/.../cluster/NAME/role/ROLE
    Uri,
    /// The common name cluster/NAME/role/ROLE
    CommonName,
}

impl From<ClientIdentity> for Scheme {
    fn from(identity: ClientIdentity) -> Self {
        match identity {
            ClientIdentity::Uri => Self::Uri,
            ClientIdentity::CommonName => Self::CommonName,
        }
    }
}

/// For an https:// URL; all three files or none.
#[derive(Debug, Args)]
pub struct ClientTls {
    /// The certificate to show to an https:// allocator, a PEM file
    #[arg(long, env = "LB_ALLOCATOR_TLS_CERT", value_name = "FILE", requires_all = ["tls_key", "server_ca"])]
    tls_cert: Option<PathBuf>,

    /// The key of the certificate, a PEM file
    #[arg(long, env = "LB_ALLOCATOR_TLS_KEY", value_name = "FILE", requires_all = ["tls_cert", "server_ca"])]
    tls_key: Option<PathBuf>,

    /// The CA that the allocator's certificate comes from, a PEM file
    #[arg(
        long,
        alias = "client-ca",
        env = "LB_ALLOCATOR_SERVER_CA",
        value_name = "FILE",
        requires_all = ["tls_cert", "tls_key"]
    )]
    server_ca: Option<PathBuf>,
}

impl ClientTls {
    pub fn files(self) -> Option<Files> {
        Some(Files {
            cert: self.tls_cert?,
            key: self.tls_key?,
            ca: self.server_ca?,
        })
    }
}

#[derive(Debug, Args)]
pub struct Routes {
    /// The allocator: http://HOST:PORT, https://HOST:PORT or unix:///path
    #[arg(
        long,
        env = "LB_ALLOCATOR_ALLOCATOR",
        value_name = "URL",
        default_value = "http://127.0.0.1:7373"
    )]
    pub allocator: String,

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

    /// Ask a running allocator what the file would change there, and change
    /// nothing: http://HOST:PORT, https://HOST:PORT or unix:///path
    #[arg(long, env = "LB_ALLOCATOR_AGAINST", value_name = "URL")]
    pub against: Option<String>,

    #[command(flatten)]
    pub tls: ClientTls,

    #[command(flatten)]
    pub ip_list: IpList,
}

#[derive(Debug, Subcommand)]
pub enum Certs {
    /// Make a CA: ca.crt and ca.key
    Init(CertsInit),
    /// Make the allocator's certificate: server.crt and server.key
    Server(CertsServer),
    /// Make the certificate of a watcher or a person: ROLE-CLUSTER.crt and .key
    Client(CertsClient),
}

#[derive(Debug, Args)]
pub struct CertsInit {
    #[command(flatten)]
    pub folder: CertsFolder,

    /// For how many days it is good
    #[arg(long, env = "LB_ALLOCATOR_CERTS_DAYS", value_name = "N", default_value_t = 3650,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub days: u16,
}

#[derive(Debug, Args)]
pub struct CertsServer {
    #[command(flatten)]
    pub folder: CertsFolder,

    #[command(flatten)]
    pub days: LeafDays,

    /// A name that clients reach it by, besides localhost; may be repeated
    #[arg(
        long,
        env = "LB_ALLOCATOR_CERTS_DNS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub dns: Vec<String>,

    /// An address that clients reach it by, besides 127.0.0.1 and ::1; may be
    /// repeated
    #[arg(
        long,
        env = "LB_ALLOCATOR_CERTS_IP",
        value_name = "IP",
        value_delimiter = ','
    )]
    pub ip: Vec<IpAddr>,
}

#[derive(Debug, Args)]
pub struct CertsClient {
    #[command(flatten)]
    pub folder: CertsFolder,

    #[command(flatten)]
    pub days: LeafDays,

    /// The cluster that it is for, a DNS subdomain; a watcher needs one
    #[arg(
        long,
        env = "LB_ALLOCATOR_CERTS_CLUSTER",
        value_name = "NAME",
        value_parser = |text: &str| ClusterName::parse(text)
    )]
    pub cluster: Option<ClusterName>,

    /// What it allows
    #[arg(long, env = "LB_ALLOCATOR_CERTS_ROLE", value_enum, default_value_t = CertsRole::Watcher)]
    pub role: CertsRole,
}

#[derive(Debug, Args)]
pub struct CertsFolder {
    /// Where the files are, made if it is missing
    #[arg(
        id = "folder",
        long = "folder",
        env = "LB_ALLOCATOR_CERTS_FOLDER",
        value_name = "PATH",
        default_value = "certs"
    )]
    pub path: PathBuf,
}

#[derive(Debug, Args)]
pub struct LeafDays {
    /// For how many days it is good
    #[arg(id = "days", long = "days", env = "LB_ALLOCATOR_CERTS_DAYS", value_name = "N",
          default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..))]
    pub number: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CertsRole {
    /// Everything for its cluster
    Watcher,
    /// Look at everything
    Viewer,
    /// Everything
    Admin,
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
    /// The time zone of what people read
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
