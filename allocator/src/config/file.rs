//! The pools file.
//!
//! ```yaml
//! pools:
//! - name: public            # REQUIRED, a DNS subdomain
//!   addresses:              # REQUIRED: CIDRs, ranges, single addresses
//!   - 192.0.2.0/28
//!   - 192.0.2.32-192.0.2.40
//!   - 2001:db8::/64
//!   exclude: [192.0.2.1]    # OPTIONAL: never given, written the same way
//!   namespaces: [default]   # OPTIONAL: all others get nothing from this pool
//! ```

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use serde::Deserialize;
use serde_saphyr::Spanned;
use thiserror::Error;

use super::STICKY_FOR;
use crate::engine::{AddressRange, InvalidName, Namespace, PoolName, PoolSpec};

/// Why a pools file was refused.
#[derive(Debug, Error)]
pub enum FileError {
    #[error("{0}")]
    Yaml(String),
    #[error("line {line}: pool {pool:?}: {key}")]
    Key {
        line: u64,
        pool: String,
        key: &'static str,
        source: KeyError,
    },
}

/// What is wrong with the value of a key.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error("{text:?} is not an address, a range FIRST-LAST or a CIDR")]
    NotAddresses { text: String },
    #[error("the range {text:?} ends before it begins, or mixes families")]
    BadRange { text: String },
    #[error("the list is empty; {hint}")]
    Empty { hint: &'static str },
}

/// A pool and where its addresses stand in the file.
#[derive(Debug)]
pub struct FilePool {
    pub spec: PoolSpec,
    pub lines: Vec<(AddressRange, u64)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pools: Vec<RawPool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPool {
    name: Spanned<String>,
    addresses: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    exclude: Vec<Spanned<String>>,
    namespaces: Option<Spanned<Vec<Spanned<String>>>>,
}

/// # Errors
/// Names the line, the pool and the key of the first fault.
pub fn parse(text: &str) -> Result<Vec<FilePool>, FileError> {
    let file: File = serde_saphyr::from_str(text)
        .map_err(|error| FileError::Yaml(error.without_snippet().to_string()))?;
    file.pools.into_iter().map(pool).collect()
}

fn pool(raw: RawPool) -> Result<FilePool, FileError> {
    let fault = |at: u64, key: &'static str| {
        let pool = raw.name.value.clone();
        move |source: KeyError| FileError::Key {
            line: at,
            pool,
            key,
            source,
        }
    };
    let name_line = raw.name.referenced.line();
    let name =
        PoolName::parse(&raw.name.value).map_err(|error| fault(name_line, "name")(error.into()))?;
    let ranges = |list: &[Spanned<String>], key: &'static str| {
        list.iter()
            .map(|text| {
                let line = text.referenced.line();
                range(&text.value)
                    .map(|range| (range, line))
                    .map_err(fault(line, key))
            })
            .collect::<Result<Vec<_>, _>>()
    };
    if raw.addresses.value.is_empty() {
        let hint = "a pool needs addresses";
        return Err(fault(raw.addresses.referenced.line(), "addresses")(
            KeyError::Empty { hint },
        ));
    }
    let lines = ranges(&raw.addresses.value, "addresses")?;
    let exclude = ranges(&raw.exclude, "exclude")?;
    let namespaces = match &raw.namespaces {
        None => None,
        Some(list) if list.value.is_empty() => {
            let hint = "leave the key out to serve every namespace";
            return Err(fault(list.referenced.line(), "namespaces")(
                KeyError::Empty { hint },
            ));
        }
        Some(list) => {
            let parsed = list.value.iter().map(|text| {
                Namespace::parse(&text.value)
                    .map_err(|error| fault(text.referenced.line(), "namespaces")(error.into()))
            });
            Some(parsed.collect::<Result<BTreeSet<_>, _>>()?)
        }
    };
    Ok(FilePool {
        spec: PoolSpec {
            name,
            addresses: lines.iter().map(|(range, _)| *range).collect(),
            exclude: exclude.into_iter().map(|(range, _)| range).collect(),
            namespaces,
            sticky_for: STICKY_FOR,
        },
        lines,
    })
}

fn range(text: &str) -> Result<AddressRange, KeyError> {
    let not_addresses = || KeyError::NotAddresses {
        text: text.to_owned(),
    };
    let address = |text: &str| {
        let parsed = text.trim().parse::<IpAddr>();
        parsed
            .map(|a| a.to_canonical())
            .map_err(|_| not_addresses())
    };
    if let Some((first, last)) = text.split_once('-') {
        let range = AddressRange::new(address(first)?, address(last)?);
        return range.ok_or_else(|| KeyError::BadRange {
            text: text.to_owned(),
        });
    }
    if text.contains('/') {
        let net: IpNet = text.trim().parse().map_err(|_| not_addresses())?;
        return AddressRange::new(net.network(), net.broadcast()).ok_or_else(not_addresses);
    }
    address(text).map(AddressRange::single)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(error: &FileError) -> String {
        match error {
            FileError::Yaml(text) => text.clone(),
            FileError::Key { source, .. } => format!("{error}: {source}"),
        }
    }

    #[test]
    fn addresses_are_cidrs_ranges_and_single_ones() {
        for (text, expected) in [
            ("192.0.2.0/30", "192.0.2.0-192.0.2.3"),
            ("192.0.2.5/30", "192.0.2.4-192.0.2.7"),
            ("192.0.2.5", "192.0.2.5"),
            ("192.0.2.5 - 192.0.2.9", "192.0.2.5-192.0.2.9"),
            ("2001:db8::/127", "2001:db8::-2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(range(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn a_fault_is_told_with_line_pool_and_key() {
        for (text, expected) in [
            (
                "pools:\n- name: a\n  addresses:\n  - 192.0.2.0/24\n  - 192.0.2.300\n",
                "line 5: pool \"a\": addresses: \"192.0.2.300\" is not an address, \
                 a range FIRST-LAST or a CIDR",
            ),
            (
                "pools:\n- name: a\n  addresses: [192.0.2.9-192.0.2.1]\n",
                "line 3: pool \"a\": addresses: the range \"192.0.2.9-192.0.2.1\" ends before \
                 it begins, or mixes families",
            ),
            (
                "pools:\n- name: a\n  addresses: [192.0.2.1]\n  exclude: [x]\n",
                "line 4: pool \"a\": exclude: \"x\" is not an address, a range FIRST-LAST or a CIDR",
            ),
            (
                "pools:\n- name: A\n  addresses: [192.0.2.1]\n",
                "line 2: pool \"A\": name: pool name \"A\" is not a DNS subdomain (RFC 1123): \
                 lower-case letters, digits and '-' and '.', with a letter or digit at both ends",
            ),
            (
                "pools:\n- name: a\n  addresses: []\n",
                "line 3: pool \"a\": addresses: the list is empty; a pool needs addresses",
            ),
            (
                "pools:\n- name: a\n  addresses: [192.0.2.1]\n  namespaces: []\n",
                "line 4: pool \"a\": namespaces: the list is empty; leave the key out to serve \
                 every namespace",
            ),
        ] {
            assert_eq!(chain(&parse(text).unwrap_err()), expected, "{text}");
        }
    }

    #[test]
    fn unknown_missing_and_doubled_keys_are_errors() {
        for (text, word) in [
            ("pools:\n- name: a\n  adresses: [192.0.2.1]\n", "adresses"),
            ("pools:\n- name: a\n", "addresses"),
            ("pool: []\n", "pool"),
            ("", "end of input"),
            (
                "pools:\n- name: a\n  name: b\n  addresses: [192.0.2.1]\n",
                "name",
            ),
            ("pools: [", "line 1"),
        ] {
            let error = chain(&parse(text).unwrap_err());
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }
}
