//! Keys and certificates of a control plane, of lb-allocator and its callers.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    pub key: String,
}

/// Signs identities.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The authority's own certificate, as PEM.
    pub certificate: String,
}

impl Authority {
    /// A fresh one.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    /// A server on loopback.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn server(&self) -> Result<Identity> {
        self.sign(&server()?)
    }

    /// A user of the API server: the common name is the user, the organisation
    /// its group.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn user(&self, name: &str, group: &str) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    /// A caller of lb-allocator with this URI, such as
    /// `spiffe://test/cluster/NAME/role/watcher`.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn caller(&self, uri: &str) -> Result<Identity> {
        self.sign(&caller(uri)?)
    }

    /// As [`Self::caller`], from now until then, which may be in the past.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn caller_until(&self, uri: &str, end: Duration) -> Result<Identity> {
        let mut params = caller(uri)?;
        params.not_before = OffsetDateTime::now_utc() - Duration::days(2);
        params.not_after = OffsetDateTime::now_utc() + end;
        self.sign(&params)
    }

    /// As [`Self::server`], until then.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn server_until(&self, end: Duration) -> Result<Identity> {
        let mut params = server()?;
        params.not_after = OffsetDateTime::now_utc() + end;
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity {
            certificate,
            key: key.serialize_pem(),
        })
    }
}

fn server() -> Result<CertificateParams> {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    params
        .subject_alt_names
        .push(SanType::IpAddress(IpAddr::from([127, 0, 0, 1])));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn caller(uri: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "somebody");
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// Writes into `folder` what kube-apiserver is started with, and returns the
/// serving authority's certificate and the administrator's identity.
///
/// # Errors
/// When a file cannot be written.
pub fn write_all(folder: &Path) -> Result<(String, Identity)> {
    let serving = Authority::new("serving")?;
    let clients = Authority::new("clients")?;
    let server = serving.server()?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("server.crt", &server.certificate)?;
    write("server.key", &server.key)?;
    write("clients.crt", &clients.certificate)?;
    let service_accounts = KeyPair::generate()?;
    write("service-accounts.key", &service_accounts.serialize_pem())?;
    write("service-accounts.pub", &service_accounts.public_key_pem())?;
    Ok((
        serving.certificate,
        clients.user("admin", "system:masters")?,
    ))
}
