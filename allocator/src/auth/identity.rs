//! From what a certificate says to the role of its owner.

use lb_tls::facts::Facts;
use thiserror::Error;

use crate::engine::{ClusterName, InvalidName, Timestamp};

/// What its owner may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything for one cluster.
    Watcher(ClusterName),
    /// Reads everything.
    Viewer,
    /// Everything.
    Admin,
}

impl Role {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Watcher(_) => "watcher",
            Self::Viewer => "viewer",
            Self::Admin => "admin",
        }
    }
}

/// What in a certificate gives cluster and role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Its one URI `spiffe://TRUSTDOMAIN/…/cluster/NAME/role/ROLE`.
    Uri,
    /// Its common name `cluster/NAME/role/ROLE`.
    CommonName,
}

/// Why a certificate gives no role.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NoIdentity {
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error(
        "the certificate has no URI among its subject alternative names; it needs \
         spiffe://TRUSTDOMAIN/cluster/NAME/role/watcher, or /role/viewer, or /role/admin"
    )]
    NoUri,
    #[error("the certificate has more than one spiffe:// URI; it needs exactly one")]
    SeveralUris,
    #[error(
        "the certificate has no common name of its own; it needs \
         cluster/NAME/role/watcher, or role/viewer, or role/admin"
    )]
    NoCommonName,
    #[error("the trust domain is missing in the certificate's {text:?}")]
    NoTrustDomain { text: String },
    #[error("the role is missing in the certificate's {text:?}; it has to end in /role/ROLE")]
    NoRole { text: String },
    #[error("the certificate's role {role:?} is none of watcher, viewer and admin")]
    UnknownRole { role: String },
    #[error(
        "the cluster is missing in the certificate's {text:?}; a watcher's has to end in \
         /cluster/NAME/role/watcher"
    )]
    NoCluster { text: String },
    #[error("the certificate's {error}")]
    BadCluster { error: InvalidName },
}

/// A certificate that the handshake found to be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub role: Result<Role, NoIdentity>,
    /// For people: the text that gives the role, or the subject.
    pub name: String,
    pub ends: Timestamp,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Somebody on a port that asks for no certificates, who may do everything.
    Trusted,
    /// Nobody known on a port that does.
    Unknown,
    /// Whoever has the key of this certificate.
    Certified(std::sync::Arc<Certificate>),
}

/// Longer names of callers are cut.
const MAX_NAME: usize = 256;

impl Certificate {
    pub fn new(facts: Option<&Facts>, scheme: Scheme) -> Self {
        let Some(facts) = facts else {
            return Self {
                role: Err(NoIdentity::Unreadable),
                name: String::new(),
                ends: Timestamp(i64::MIN),
            };
        };
        let text = text(facts, scheme);
        let name = text.as_ref().copied().unwrap_or(&facts.subject);
        Self {
            name: name.chars().take(MAX_NAME).collect(),
            role: text.and_then(|text| role(text, scheme)),
            ends: Timestamp(facts.not_after.saturating_mul(1000)),
        }
    }
}

const SPIFFE: &str = "spiffe://";

fn text(facts: &Facts, scheme: Scheme) -> Result<&str, NoIdentity> {
    match scheme {
        Scheme::Uri => {
            let mut uris = facts.uris.iter().filter(|uri| uri.starts_with(SPIFFE));
            match (uris.next(), uris.next()) {
                (None, _) => Err(NoIdentity::NoUri),
                (Some(uri), None) => Ok(uri),
                (Some(_), Some(_)) => Err(NoIdentity::SeveralUris),
            }
        }
        Scheme::CommonName => match facts.common_names.as_slice() {
            [name] => Ok(name),
            _ => Err(NoIdentity::NoCommonName),
        },
    }
}

fn role(text: &str, scheme: Scheme) -> Result<Role, NoIdentity> {
    let path = match scheme {
        Scheme::CommonName => text,
        Scheme::Uri => {
            let after = text.strip_prefix(SPIFFE).unwrap_or(text);
            let (domain, path) = after.split_once('/').unwrap_or((after, ""));
            if domain.is_empty() {
                let text = text.to_owned();
                return Err(NoIdentity::NoTrustDomain { text });
            }
            path
        }
    };
    let text = || text.to_owned();
    let mut from_the_end = path.rsplit('/');
    let (role, word) = (from_the_end.next(), from_the_end.next());
    let (Some(role), Some("role")) = (role, word) else {
        return Err(NoIdentity::NoRole { text: text() });
    };
    match role {
        "viewer" => Ok(Role::Viewer),
        "admin" => Ok(Role::Admin),
        "watcher" => {
            let (name, word) = (from_the_end.next(), from_the_end.next());
            let (Some(name), Some("cluster")) = (name, word) else {
                return Err(NoIdentity::NoCluster { text: text() });
            };
            ClusterName::parse(name)
                .map(Role::Watcher)
                .map_err(|error| NoIdentity::BadCluster { error })
        }
        role => Err(NoIdentity::UnknownRole {
            role: role.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(uris: &[&str], common_names: &[&str]) -> Facts {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Facts {
            subject: "CN=somebody".to_owned(),
            common_names: owned(common_names),
            uris: owned(uris),
            not_after: 4_000_000_000,
        }
    }

    fn by_uri(uris: &[&str]) -> Result<Role, NoIdentity> {
        Certificate::new(Some(&certificate(uris, &["role/admin"])), Scheme::Uri).role
    }

    fn by_name(names: &[&str]) -> Result<Role, NoIdentity> {
        let facts = certificate(&["spiffe://x/role/admin"], names);
        Certificate::new(Some(&facts), Scheme::CommonName).role
    }

    fn watcher(cluster: &str) -> Result<Role, NoIdentity> {
        Ok(Role::Watcher(ClusterName::parse(cluster).unwrap()))
    }

    #[test]
    fn a_uri_gives_cluster_and_role() {
        for (uri, role) in [
            ("spiffe://example.org/cluster/a/role/watcher", watcher("a")),
            (
                "spiffe://example.org/ns/lb/cluster/prod.eu-1/role/watcher",
                watcher("prod.eu-1"),
            ),
            ("spiffe://x/cluster/b/cluster/a/role/watcher", watcher("a")),
            ("spiffe://x/cluster/a/role/viewer", Ok(Role::Viewer)),
            ("spiffe://x/role/admin", Ok(Role::Admin)),
        ] {
            assert_eq!(by_uri(&[uri]), role, "{uri}");
        }
    }

    #[test]
    fn a_uri_that_gives_none_is_told_what_is_missing() {
        for (uri, words) in [
            ("spiffe://x", "the role is missing"),
            ("spiffe://x/cluster/a", "the role is missing"),
            ("spiffe://x/cluster/a/role/", "none of watcher"),
            ("spiffe://x/cluster/a/role/Admin", "none of watcher"),
            ("spiffe://x/cluster/a/role/watcher/", "the role is missing"),
            (
                "spiffe://x/cluster/a/role/watcher/more",
                "the role is missing",
            ),
            ("spiffe://x/role/watcher", "the cluster is missing"),
            ("spiffe://x/a/role/watcher", "the cluster is missing"),
            ("spiffe://x/cluster//role/watcher", "cluster is empty"),
            ("spiffe://x/cluster/A/role/watcher", "not a DNS subdomain"),
            ("spiffe://x/cluster/%61/role/watcher", "not a DNS subdomain"),
            ("spiffe:///cluster/a/role/watcher", "trust domain"),
            ("https://x/cluster/a/role/watcher", "no URI"),
        ] {
            let told = by_uri(&[uri]).unwrap_err().to_string();
            assert!(told.contains(words), "{uri}: {told}");
        }
        assert_eq!(by_uri(&[]), Err(NoIdentity::NoUri));
        let two = ["spiffe://x/role/admin", "spiffe://x/role/viewer"];
        assert_eq!(by_uri(&two), Err(NoIdentity::SeveralUris));
        let other = ["https://example.org/", "spiffe://x/role/viewer"];
        assert_eq!(by_uri(&other), Ok(Role::Viewer));
    }

    #[test]
    fn by_setting_the_common_name_gives_them_and_nothing_else_does() {
        assert_eq!(by_name(&["cluster/a/role/watcher"]), watcher("a"));
        assert_eq!(by_name(&["role/viewer"]), Ok(Role::Viewer));
        assert_eq!(by_name(&[]), Err(NoIdentity::NoCommonName));
        let two = ["role/admin", "cluster/a/role/watcher"];
        assert_eq!(by_name(&two), Err(NoIdentity::NoCommonName));
        assert!(by_name(&["watcher"]).is_err());
    }

    #[test]
    fn who_has_no_role_is_named_by_the_subject_and_nobody_at_length() {
        let named = Certificate::new(Some(&certificate(&[], &[])), Scheme::Uri);
        assert_eq!(named.name, "CN=somebody");
        let long = format!("spiffe://x/{}", "a".repeat(3000));
        let named = Certificate::new(Some(&certificate(&[&long], &[])), Scheme::Uri);
        assert_eq!(named.name.len(), MAX_NAME);
        assert_eq!(
            Certificate::new(None, Scheme::Uri).role,
            Err(NoIdentity::Unreadable)
        );
    }
}
