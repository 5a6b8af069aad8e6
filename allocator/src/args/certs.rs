//! What `lb-allocator certs` takes.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use crate::engine::ClusterName;

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

    /// For how many days the certificate is valid
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

    /// A DNS name of the allocator, besides localhost; may be repeated
    #[arg(
        long,
        env = "LB_ALLOCATOR_CERTS_DNS",
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub dns: Vec<String>,

    /// An address of the allocator, besides 127.0.0.1 and ::1; may be repeated
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

    /// The cluster of the certificate, a DNS subdomain; a watcher needs one
    #[arg(
        long,
        env = "LB_ALLOCATOR_CERTS_CLUSTER",
        value_name = "NAME",
        value_parser = |text: &str| ClusterName::parse(text)
    )]
    pub cluster: Option<ClusterName>,

    /// What the certificate allows
    #[arg(long, env = "LB_ALLOCATOR_CERTS_ROLE", value_enum, default_value_t = CertsRole::Watcher)]
    pub role: CertsRole,
}

#[derive(Debug, Args)]
pub struct CertsFolder {
    /// The folder of the files, created if it is missing
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
    /// For how many days the certificate is valid
    #[arg(id = "days", long = "days", env = "LB_ALLOCATOR_CERTS_DAYS", value_name = "N",
          default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..))]
    pub number: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CertsRole {
    /// Everything for its cluster
    Watcher,
    /// Read everything
    Viewer,
    /// Everything
    Admin,
}
