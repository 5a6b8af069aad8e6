//! The certificate files of the gRPC port, and of commands that connect to one.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lb_tls::files::Files;

use crate::auth::Scheme;

/// Certificates of the gRPC port; all three files or none.
#[derive(Debug, Args)]
pub struct ServerTls {
    /// Serve TLS with this certificate, a PEM file, and ask clients for theirs
    #[arg(long, env = "LB_ALLOCATOR_TLS_CERT", value_name = "FILE", requires_all = ["tls_key", "client_ca"])]
    tls_cert: Option<PathBuf>,

    /// The key of the certificate, a PEM file
    #[arg(long, env = "LB_ALLOCATOR_TLS_KEY", value_name = "FILE", requires_all = ["tls_cert", "client_ca"])]
    tls_key: Option<PathBuf>,

    /// The CA, or CAs, that sign the certificates of clients, a PEM file
    #[arg(long, env = "LB_ALLOCATOR_CLIENT_CA", value_name = "FILE", requires_all = ["tls_cert", "tls_key"])]
    client_ca: Option<PathBuf>,

    /// Which part of a client's certificate has its cluster and role
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

/// For an https:// URL, which takes all three. One of them alone is no mistake: in the
/// environment of an allocator are the files of its own port.
#[derive(Debug, Args)]
pub struct ClientTls {
    /// The certificate to show to an https:// allocator, a PEM file
    #[arg(long, env = "LB_ALLOCATOR_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The key of the certificate, a PEM file
    #[arg(long, env = "LB_ALLOCATOR_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// The CA that signs the allocator's certificate, a PEM file
    #[arg(
        long,
        alias = "client-ca",
        env = "LB_ALLOCATOR_SERVER_CA",
        value_name = "FILE"
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
