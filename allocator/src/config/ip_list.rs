//! `IP_LIST`: whitespace-separated `namespace:IP` items.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use thiserror::Error;

use super::unusable;
use crate::engine::{AddressRange, InvalidName, Namespace, PoolName, PoolSpec};

/// Why `IP_LIST` was refused; quotes the item.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IpListError {
    #[error("item {item:?} has no ':'; write namespace:IP")]
    NoColon { item: String },
    #[error("item {item:?}")]
    Namespace { item: String, source: InvalidName },
    #[error("item {item:?}: {address:?} is not an IP address")]
    Address { item: String, address: String },
    #[error("item {item:?}: {address:?} is an address that no Service can have: {why}")]
    Unusable {
        item: String,
        address: String,
        why: &'static str,
    },
    #[error(
        "item {item:?}: {address} is listed for namespace {other} already; \
         an address belongs to one namespace"
    )]
    TwoNamespaces {
        item: String,
        address: IpAddr,
        other: Namespace,
    },
}

/// One pool for each namespace, named `ip-list-NAMESPACE`. An item that is
/// repeated counts once.
///
/// # Errors
/// Names the first item that is wrong.
pub fn parse(text: &str) -> Result<Vec<PoolSpec>, IpListError> {
    let mut owners: BTreeMap<IpAddr, Namespace> = BTreeMap::new();
    for item in text.split_whitespace() {
        let (namespace, address) = parse_item(item)?;
        match owners.get(&address) {
            Some(other) if *other != namespace => {
                return Err(IpListError::TwoNamespaces {
                    item: item.to_owned(),
                    address,
                    other: other.clone(),
                });
            }
            Some(_) | None => owners.insert(address, namespace),
        };
    }
    let mut namespaces: BTreeMap<Namespace, Vec<AddressRange>> = BTreeMap::new();
    for (address, namespace) in owners {
        let ranges = namespaces.entry(namespace).or_default();
        ranges.push(AddressRange::single(address));
    }
    namespaces
        .into_iter()
        .map(|(namespace, addresses)| {
            let name = PoolName::parse(&format!("ip-list-{namespace}"));
            let name = name.map_err(|source| IpListError::Namespace {
                item: namespace.to_string(),
                source,
            })?;
            Ok(PoolSpec {
                namespaces: Some(BTreeSet::from([namespace])),
                ..PoolSpec::new(name, addresses)
            })
        })
        .collect()
}

fn parse_item(item: &str) -> Result<(Namespace, IpAddr), IpListError> {
    let (namespace, address) = item.split_once(':').ok_or_else(|| IpListError::NoColon {
        item: item.to_owned(),
    })?;
    let namespace = Namespace::parse(namespace).map_err(|source| IpListError::Namespace {
        item: item.to_owned(),
        source,
    })?;
    let inside = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    let parsed: IpAddr = inside.parse().map_err(|_| IpListError::Address {
        item: item.to_owned(),
        address: address.to_owned(),
    })?;
    if let Some(why) = unusable::reason(&AddressRange::single(parsed)) {
        return Err(IpListError::Unusable {
            item: item.to_owned(),
            address: address.to_owned(),
            why,
        });
    }
    Ok((namespace, parsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_become_one_pool_for_each_namespace() {
        let pools = parse(
            "default:192.0.2.2 default:192.0.2.1\n  web:[2001:db8::1] web:2001:db8::2\n\t\
             default:192.0.2.1",
        );
        let shown: Vec<_> = pools
            .unwrap()
            .into_iter()
            .map(|pool| {
                let ranges: Vec<_> = pool.addresses.iter().map(ToString::to_string).collect();
                format!("{} {}", pool.name, ranges.join(" "))
            })
            .collect();
        assert_eq!(
            shown,
            [
                "ip-list-default 192.0.2.1 192.0.2.2",
                "ip-list-web 2001:db8::1 2001:db8::2"
            ]
        );
    }

    #[test]
    fn a_malformed_item_is_quoted() {
        for (text, item) in [
            ("default:192.0.2.1 nocolon", "nocolon"),
            (":192.0.2.1", ":192.0.2.1"),
            ("default:", "default:"),
            ("default:192.0.2.256", "default:192.0.2.256"),
            ("default:192.0.2.01", "default:192.0.2.01"),
            ("default:192.0.2.0/24", "default:192.0.2.0/24"),
            ("default:[2001:db8::1", "default:[2001:db8::1"),
            ("De_fault:192.0.2.1", "De_fault:192.0.2.1"),
            ("a:192.0.2.1 b:192.0.2.1", "b:192.0.2.1"),
            ("b:::ffff:192.0.2.1", "b:::ffff:192.0.2.1"),
            ("a:192.0.2.1 a:127.0.0.1", "a:127.0.0.1"),
            ("a:255.255.255.255", "a:255.255.255.255"),
            ("a:[fe80::1]", "a:[fe80::1]"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{item:?}")), "{text:?}: {error}");
        }
    }
}
