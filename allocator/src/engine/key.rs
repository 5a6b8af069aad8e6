//! The names that people and clusters use, checked once at the edge.

use std::{fmt, sync::Arc};

use arcstr::ArcStr;
use smol_str::SmolStr;
use thiserror::Error;
use uuid::Uuid;

/// Why a name was refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InvalidName {
    #[error("{what} is empty")]
    Empty { what: &'static str },
    #[error("{what} has {length} characters, at most {limit} are allowed")]
    TooLong {
        what: &'static str,
        length: usize,
        limit: usize,
    },
    #[error(
        "{what} {text:?} is not a {form}: lower-case letters, digits and '-'{dots}, \
         with a letter or digit at both ends"
    )]
    Malformed {
        what: &'static str,
        text: String,
        form: &'static str,
        dots: &'static str,
    },
    #[error("{what} has characters other than printable ASCII")]
    NotPrintable { what: &'static str },
}

/// A DNS label of RFC 1123, without its length.
fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
}

fn check_length(what: &'static str, text: &str, limit: usize) -> Result<(), InvalidName> {
    match text.chars().count() {
        0 => Err(InvalidName::Empty { what }),
        length if length > limit => Err(InvalidName::TooLong {
            what,
            length,
            limit,
        }),
        _ => Ok(()),
    }
}

fn label(what: &'static str, text: &str) -> Result<(), InvalidName> {
    check_length(what, text, 63)?;
    if !is_label(text) {
        return Err(InvalidName::Malformed {
            what,
            text: text.to_owned(),
            form: "DNS label (RFC 1123)",
            dots: "",
        });
    }
    Ok(())
}

fn subdomain(what: &'static str, text: &str) -> Result<(), InvalidName> {
    check_length(what, text, 253)?;
    if !text.split('.').all(is_label) {
        return Err(InvalidName::Malformed {
            what,
            text: text.to_owned(),
            form: "DNS subdomain (RFC 1123)",
            dots: " and '.'",
        });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident($text:ty), $check:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type($text);

        impl $type {
            pub fn parse(text: &str) -> Result<Self, InvalidName> {
                $check($what, text)?;
                Ok(Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a pool.
    PoolName(ArcStr), subdomain, "pool name"
);
name!(
    /// The name that a cluster's watcher was started with.
    ClusterName(ArcStr), subdomain, "cluster"
);
name!(
    /// A namespace of some cluster.
    Namespace(ArcStr), label, "namespace"
);
name!(
    /// The name of a Service. Hardly two of them are the same, and most are short.
    ServiceName(SmolStr), label, "service name"
);

name!(
    /// Services of one sharing key may share an address.
    SharingKey(Arc<str>), sharing_key, "sharing key"
);

fn sharing_key(what: &'static str, text: &str) -> Result<(), InvalidName> {
    printable(what, text, 253)
}

fn printable(what: &'static str, text: &str, limit: usize) -> Result<(), InvalidName> {
    check_length(what, text, limit)?;
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(InvalidName::NotPrintable { what });
    }
    Ok(())
}

/// `metadata.uid` of a Service: whatever an API server calls unique.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(UidText);

/// A third of the memory for what every API server makes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum UidText {
    /// In the form of RFC 9562, lower-case.
    Uuid(Uuid),
    Other(Arc<str>),
}

impl Uid {
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        printable("uid", text, 128)?;
        let mut buffer = Uuid::encode_buffer();
        let uuid = Uuid::try_parse(text).ok();
        let uuid = uuid.filter(|uuid| uuid.hyphenated().encode_lower(&mut buffer) == text);
        Ok(Self(uuid.map_or_else(
            || UidText::Other(text.into()),
            UidText::Uuid,
        )))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            UidText::Uuid(uuid) => uuid.hyphenated().fmt(f),
            UidText::Other(text) => f.write_str(text),
        }
    }
}

/// Who holds an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub cluster: ClusterName,
    pub namespace: Namespace,
    pub name: ServiceName,
}

impl ServiceKey {
    pub fn parse(cluster: &str, namespace: &str, name: &str) -> Result<Self, InvalidName> {
        Ok(Self {
            cluster: ClusterName::parse(cluster)?,
            namespace: Namespace::parse(namespace)?,
            name: ServiceName::parse(name)?,
        })
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cluster, self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::{ClusterName, Namespace, PoolName, Uid};

    #[test]
    fn a_uid_is_told_as_it_was_given() {
        for text in [
            "b1a7c3d0-5f3a-4b6c-8d7e-0123456789ab",
            "B1A7C3D0-5F3A-4B6C-8D7E-0123456789AB",
            "b1a7c3d05f3a4b6c8d7e0123456789ab",
            "{b1a7c3d0-5f3a-4b6c-8d7e-0123456789ab}",
            "urn:uuid:b1a7c3d0-5f3a-4b6c-8d7e-0123456789ab",
            "u-1",
        ] {
            assert_eq!(Uid::parse(text).unwrap().to_string(), text);
        }
        assert!(Uid::parse("").is_err());
        assert!(Uid::parse("a b").is_err());
    }

    #[test]
    fn names_are_checked_as_kubernetes_checks_them() {
        for (text, is_a_label, is_a_subdomain) in [
            ("default", true, true),
            ("a", true, true),
            ("0-9", true, true),
            ("prod.eu-1", false, true),
            ("", false, false),
            ("-a", false, false),
            ("a-", false, false),
            ("a..b", false, false),
            ("Upper", false, false),
            ("under_score", false, false),
            ("ümlaut", false, false),
        ] {
            assert_eq!(Namespace::parse(text).is_ok(), is_a_label, "{text:?}");
            assert_eq!(ClusterName::parse(text).is_ok(), is_a_subdomain, "{text:?}");
        }
        assert!(Namespace::parse(&"a".repeat(63)).is_ok());
        assert!(Namespace::parse(&"a".repeat(64)).is_err());
        assert!(PoolName::parse(&"a".repeat(253)).is_ok());
        assert!(PoolName::parse(&"a".repeat(254)).is_err());
    }
}
