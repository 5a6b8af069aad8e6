//! What a certificate says, as text.

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

/// What others look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The subject, for people.
    pub subject: String,
    /// Every common name of the subject.
    pub common_names: Vec<String>,
    /// Every URI among the subject's alternative names.
    pub uris: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
}

/// `None` if it cannot be read.
pub fn facts(certificate: &CertificateDer<'_>) -> Option<Facts> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let names = certificate.subject_alternative_name().ok()?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let uris = names.filter_map(|name| {
        if let GeneralName::URI(uri) = name {
            Some((*uri).to_owned())
        } else {
            None
        }
    });
    let common_names = subject.iter_common_name();
    Some(Facts {
        subject: subject.to_string(),
        common_names: common_names
            .filter_map(|name| name.as_str().ok().map(ToOwned::to_owned))
            .collect(),
        uris: uris.collect(),
        not_after: certificate.validity().not_after.timestamp(),
    })
}
