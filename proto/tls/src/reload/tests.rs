use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

use super::*;
use crate::files::Server;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// A certificate that ends in this year, and its key.
    fn issue(&self, year: i32) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn files(folder: &Path) -> Files {
    Files {
        cert: folder.join("tls.crt"),
        key: folder.join("tls.key"),
        ca: folder.join("ca.crt"),
    }
}

fn write(files: &Files, (cert, key): &(String, String), ca: &str) {
    fs::write(&files.cert, cert).unwrap();
    fs::write(&files.key, key).unwrap();
    fs::write(&files.ca, ca).unwrap();
}

/// As if it was looked until the files rest.
fn look(reloading: &mut Reloading<Server>) {
    assert_eq!(reloading.look(), SETTLE);
    assert_eq!(reloading.look(), POLL);
}

fn problem(reloading: &Reloading<Server>) -> Option<String> {
    reloading.problem.borrow().clone()
}

#[test]
fn files_that_changed_are_put_in_force_and_bad_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let authority = Authority::new();
    let first = authority.issue(2100);
    write(&files, &first, &authority.pem);
    let metrics = TlsMetrics::default();
    let mut reloading = Reloading::load(files.clone(), Material::server, metrics).unwrap();
    let mut current = reloading.current();
    current.mark_unchanged();
    reloading.look();
    assert!(!current.has_changed().unwrap(), "nothing changed");

    let second = authority.issue(2101);
    let expired = authority.issue(2020);
    let other = Authority::new();
    type Spoil<'a> = Box<dyn Fn() + 'a>;
    let bad: [(&str, Spoil, &str); 6] = [
        (
            "a key of another certificate",
            Box::new(|| fs::write(&files.key, &second.1).unwrap()),
            "do not work",
        ),
        (
            "no certificate",
            Box::new(|| fs::write(&files.cert, "").unwrap()),
            "no certificate",
        ),
        (
            "no key",
            Box::new(|| fs::write(&files.key, &first.0).unwrap()),
            "no private key",
        ),
        (
            "no file",
            Box::new(|| fs::remove_file(&files.ca).unwrap()),
            "cannot read",
        ),
        (
            "nonsense",
            Box::new(|| {
                let text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
                fs::write(&files.ca, text).unwrap();
            }),
            "cannot be read",
        ),
        (
            "one that has expired",
            Box::new(|| write(&files, &expired, &other.pem)),
            "has expired",
        ),
    ];
    for (what, spoil, words) in &bad {
        spoil();
        look(&mut reloading);
        let told = problem(&reloading).unwrap_or_default();
        assert!(told.contains(words), "{what}: {told}");
        assert!(!current.has_changed().unwrap(), "{what}");
        write(&files, &first, &authority.pem);
        reloading.look();
        assert_eq!(problem(&reloading), None, "{what} was made good");
        assert!(!current.has_changed().unwrap(), "{what}: nothing new");
    }

    write(&files, &second, &authority.pem);
    look(&mut reloading);
    assert!(current.has_changed().unwrap());
    assert_eq!(reloading.ends.certificate, 4_133_980_800);
}

#[test]
fn a_certificate_is_warned_of_fourteen_days_before_its_end() {
    const DAY: i64 = 24 * 60 * 60;
    for (left, warned) in [
        (365 * DAY, false),
        (14 * DAY, false),
        (14 * DAY - 1, true),
        (1, true),
        (0, true),
        (-DAY, true),
    ] {
        let told = left_to_warn_of(1_000_000_000 + left, 1_000_000_000);
        assert_eq!(told.is_some(), warned, "{left}");
        let expired = left <= 0;
        assert_eq!(told == Some(Duration::ZERO), expired, "{left}");
    }
}
