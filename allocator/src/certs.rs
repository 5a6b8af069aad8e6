//! `lb-allocator certs`: a CA and certificates for those who have no cert-manager.
//! Nothing is ever overwritten, and keys are readable by their owner only.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use thiserror::Error;
use time::{Duration, OffsetDateTime};

use crate::{
    args::{Certs, CertsClient, CertsInit, CertsRole, CertsServer},
    engine::ClusterName,
};

/// The trust domain of the URIs. The CA is what is trusted; this is a name.
const TRUST_DOMAIN: &str = "lb-allocator";
/// Clocks of two machines differ.
const BACKDATED: Duration = Duration::hours(1);

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum CertsError {
    #[error("{} exists and is not overwritten; remove it, or choose another --folder", path.display())]
    Exists { path: PathBuf },
    #[error("there is no CA in {}; create one with: lb-allocator certs init --folder {}", folder.display(), folder.display())]
    NoAuthority { folder: PathBuf },
    #[error("a watcher's certificate is for one cluster; name it with --cluster NAME")]
    NoCluster,
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is not a usable CA", path.display())]
    Authority { path: PathBuf, source: rcgen::Error },
    #[error("cannot make the certificate")]
    Make(#[from] rcgen::Error),
}

/// Makes files and tells which.
///
/// # Errors
/// Why not; then no file was made.
pub fn run(command: Certs) -> Result<String, CertsError> {
    match command {
        Certs::Init(args) => init(&args),
        Certs::Server(args) => server(args),
        Certs::Client(args) => client(args),
    }
}

fn init(args: &CertsInit) -> Result<String, CertsError> {
    let CertsInit { folder, days } = args;
    let mut params = params("lb-allocator CA", *days);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    write_pair(&folder.path, "ca", &certificate.pem(), &key)
}

fn server(args: CertsServer) -> Result<String, CertsError> {
    let CertsServer {
        folder,
        days,
        dns,
        ip,
    } = args;
    let mut params = params("lb-allocator", days.number);
    for name in ["localhost".to_owned()].into_iter().chain(dns) {
        let name = SanType::DnsName(name.try_into()?);
        params.subject_alt_names.push(name);
    }
    let loopback = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
    ];
    let addresses = loopback.into_iter().chain(ip);
    params
        .subject_alt_names
        .extend(addresses.map(SanType::IpAddress));
    sign(
        &folder.path,
        "server",
        params,
        ExtendedKeyUsagePurpose::ServerAuth,
    )
}

fn client(args: CertsClient) -> Result<String, CertsError> {
    let CertsClient {
        folder,
        days,
        cluster,
        role,
    } = args;
    let role = match role {
        CertsRole::Watcher if cluster.is_none() => return Err(CertsError::NoCluster),
        CertsRole::Watcher => "watcher",
        CertsRole::Viewer => "viewer",
        CertsRole::Admin => "admin",
    };
    let (path, file) = match cluster.as_ref().map(ClusterName::as_str) {
        Some(name) => (
            format!("cluster/{name}/role/{role}"),
            format!("{role}-{name}"),
        ),
        None => (format!("role/{role}"), role.to_owned()),
    };
    // In both places where an allocator may be told to look.
    let mut params = params(&path, days.number);
    let uri = format!("spiffe://{TRUST_DOMAIN}/{path}");
    params.subject_alt_names.push(SanType::URI(uri.try_into()?));
    sign(
        &folder.path,
        &file,
        params,
        ExtendedKeyUsagePurpose::ClientAuth,
    )
}

fn params(common_name: &str, days: u16) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now + Duration::days(i64::from(days));
    params
}

fn sign(
    folder: &Path,
    name: &str,
    mut params: CertificateParams,
    purpose: ExtendedKeyUsagePurpose,
) -> Result<String, CertsError> {
    let issuer = authority(folder)?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    write_pair(folder, name, &certificate.pem(), &key)
}

fn authority(folder: &Path) -> Result<Issuer<'static, KeyPair>, CertsError> {
    let (certificate, key) = (folder.join("ca.crt"), folder.join("ca.key"));
    if !certificate.exists() || !key.exists() {
        return Err(CertsError::NoAuthority {
            folder: folder.to_owned(),
        });
    }
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|source| CertsError::Read {
            path: path.to_owned(),
            source,
        })
    };
    let pair = KeyPair::from_pem(&read(&key)?).map_err(|source| CertsError::Authority {
        path: key.clone(),
        source,
    })?;
    let issuer = Issuer::from_ca_cert_pem(&read(&certificate)?, pair);
    issuer.map_err(|source| CertsError::Authority {
        path: certificate,
        source,
    })
}

fn write_pair(
    folder: &Path,
    name: &str,
    certificate: &str,
    key: &KeyPair,
) -> Result<String, CertsError> {
    let write = |path: &Path| {
        let path = path.to_owned();
        |source| CertsError::Write { path, source }
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(write(folder))?;
    let certificate_file = folder.join(format!("{name}.crt"));
    let key_file = folder.join(format!("{name}.key"));
    if certificate_file.exists() {
        return Err(CertsError::Exists {
            path: certificate_file,
        });
    }
    create(&key_file, 0o600, &key.serialize_pem())?;
    create(&certificate_file, 0o644, certificate).inspect_err(|_| {
        // A key without its certificate is of no use.
        let _ = fs::remove_file(&key_file);
    })?;
    Ok(format!(
        "{}\n{}\n",
        certificate_file.display(),
        key_file.display()
    ))
}

fn create(path: &Path, mode: u32, text: &str) -> Result<(), CertsError> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    let path = path.to_owned();
    written.map_err(|source| {
        if source.kind() == io::ErrorKind::AlreadyExists {
            CertsError::Exists { path }
        } else {
            CertsError::Write { path, source }
        }
    })
}
