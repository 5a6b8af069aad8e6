//! PEM files and what is in them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;
use tokio_rustls::rustls::{
    self, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem, pem::PemObject},
    server::{
        NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
};

use crate::{facts::facts, provider};

/// What is wrong with the files. Every message names the one.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not PEM", path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{} has no certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} has no private key", path.display())]
    NoKey { path: PathBuf },
    #[error("a certificate in {} cannot be read", path.display())]
    Certificate { path: PathBuf },
    #[error("the certificate in {} has expired", path.display())]
    Expired { path: PathBuf },
    #[error("{} has no authority that can be used", path.display())]
    Authority {
        path: PathBuf,
        source: rustls::Error,
    },
    #[error("{} has no authority that can be used", path.display())]
    Verifier {
        path: PathBuf,
        source: VerifierBuilderError,
    },
    #[error("the certificate in {} and the key in {} do not work", cert.display(), key.display())]
    Pair {
        cert: PathBuf,
        key: PathBuf,
        source: rustls::Error,
    },
}

/// The three files of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate of this side, and those between it and its authority.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// The authorities that certificates of the other side come from.
    pub ca: PathBuf,
}

/// The files as they are.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

/// What is in the files.
#[derive(Debug)]
pub struct Material {
    files: Files,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: Arc<RootCertStore>,
    /// When the certificate of this side ends, in seconds since 1970.
    pub certificate_ends: i64,
    /// When the first of the authorities ends.
    pub authority_ends: i64,
}

/// The server's side of a connection.
#[derive(Debug)]
pub struct Server {
    /// For its handshakes.
    pub config: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Server {
    /// Whether it would take a client with this certificate, and those between it and
    /// its authority, now.
    pub fn vouches_for(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((certificate, between)) = chain.split_first() else {
            return false;
        };
        let verified = self
            .verifier
            .verify_client_cert(certificate, between, UnixTime::now());
        verified.is_ok()
    }
}

impl Files {
    /// # Errors
    /// If one of them cannot be read.
    pub fn read(&self) -> Result<Contents, TlsError> {
        let read = |path: &PathBuf| {
            fs::read(path).map_err(|source| TlsError::Read {
                path: path.clone(),
                source,
            })
        };
        Ok(Contents {
            cert: read(&self.cert)?,
            key: read(&self.key)?,
            ca: read(&self.ca)?,
        })
    }

    /// # Errors
    /// If one of them is not what it should be.
    pub fn parse(&self, contents: &Contents) -> Result<Material, TlsError> {
        let chain = certificates(&self.cert, &contents.cert)?;
        let certificate_ends = ends(&self.cert, chain.iter().take(1))?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|source| {
            let path = self.key.clone();
            if matches!(source, pem::Error::NoItemsFound) {
                TlsError::NoKey { path }
            } else {
                TlsError::Pem { path, source }
            }
        })?;
        let trusted = certificates(&self.ca, &contents.ca)?;
        let authority_ends = ends(&self.ca, trusted.iter())?;
        let mut authorities = RootCertStore::empty();
        for authority in trusted {
            authorities
                .add(authority)
                .map_err(|source| TlsError::Authority {
                    path: self.ca.clone(),
                    source,
                })?;
        }
        Ok(Material {
            files: self.clone(),
            chain,
            key,
            authorities: Arc::new(authorities),
            certificate_ends,
            authority_ends,
        })
    }
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|source| TlsError::Pem {
        path: path.to_owned(),
        source,
    })?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(found)
}

fn ends<'a>(
    path: &Path,
    certificates: impl Iterator<Item = &'a CertificateDer<'static>>,
) -> Result<i64, TlsError> {
    let mut first = i64::MAX;
    for certificate in certificates {
        let facts = facts(certificate).ok_or_else(|| TlsError::Certificate {
            path: path.to_owned(),
        })?;
        first = first.min(facts.not_after);
    }
    Ok(first)
}

impl Material {
    fn pair(files: &Files) -> impl FnOnce(rustls::Error) -> TlsError {
        let (cert, key) = (files.cert.clone(), files.key.clone());
        |source| TlsError::Pair { cert, key, source }
    }

    /// A server that takes nobody without a certificate of its authorities.
    ///
    /// # Errors
    /// If the files do not go together.
    pub fn server(self) -> Result<Server, TlsError> {
        let Self {
            files,
            chain,
            key,
            authorities,
            ..
        } = self;
        let verifier = WebPkiClientVerifier::builder_with_provider(authorities, provider())
            .build()
            .map_err(|source| TlsError::Verifier {
                path: files.ca.clone(),
                source,
            })?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(Self::pair(&files))?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(chain, key)
            .map_err(Self::pair(&files))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would pass with a certificate that has expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Server {
            config: Arc::new(config),
            verifier,
        })
    }

    /// A client that shows its certificate.
    ///
    /// # Errors
    /// If the files do not go together.
    pub fn client(self) -> Result<rustls::ClientConfig, TlsError> {
        let Self {
            files,
            chain,
            key,
            authorities,
            ..
        } = self;
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(Self::pair(&files))?
            .with_root_certificates(authorities)
            .with_client_auth_cert(chain, key)
            .map_err(Self::pair(&files))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}
