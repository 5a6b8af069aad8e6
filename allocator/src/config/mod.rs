//! From what people write to [`Pools`]: the environment variable `IP_LIST`, a
//! pools file, or both, which together are one configuration.

pub mod file;
pub mod ip_list;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

use crate::engine::{AddressRange, PoolConflict, PoolName, PoolSpec, Pools};

/// For how long others get a released address only when nothing else is free.
pub const STICKY_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Why there are no pools to work with.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("no pools: set IP_LIST to namespace:IP items, or give a pools file with --config")]
    NoSource,
    #[error("IP_LIST")]
    IpList(#[from] ip_list::IpListError),
    #[error("cannot read the pools file {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("pools file {}", path.display())]
    File {
        path: PathBuf,
        source: Box<file::FileError>,
    },
    #[error("{}", at(place.as_ref()))]
    Conflict {
        place: Option<(PathBuf, u64)>,
        source: Box<PoolConflict>,
    },
}

fn at(place: Option<&(PathBuf, u64)>) -> String {
    place.map_or_else(
        || "pools conflict".to_owned(),
        |(path, line)| format!("pools file {}: line {line}: addresses", path.display()),
    )
}

/// Pools of `IP_LIST` (its text) and of a pools file.
///
/// # Errors
/// Names the source, the place in it and what is wrong there.
pub fn load(ip_list: Option<&str>, file: Option<&Path>) -> Result<Pools, ConfigError> {
    let ip_list = ip_list.filter(|text| !text.trim().is_empty());
    if ip_list.is_none() && file.is_none() {
        return Err(ConfigError::NoSource);
    }
    let mut specs = ip_list.map(ip_list::parse).transpose()?.unwrap_or_default();
    let mut lines = Vec::new();
    if let Some(path) = file {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let pools = file::parse(&text).map_err(|source| ConfigError::File {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        for pool in pools {
            let name = pool.spec.name.clone();
            lines.extend(
                pool.lines
                    .into_iter()
                    .map(|(range, line)| (name.clone(), range, line)),
            );
            specs.push(pool.spec);
        }
    }
    Pools::new(specs).map_err(|conflict| ConfigError::Conflict {
        place: file
            .zip(line_of(&lines, &conflict))
            .map(|(path, line)| (path.to_owned(), line)),
        source: Box::new(conflict),
    })
}

/// Where in the file the conflict can be mended.
fn line_of(lines: &[(PoolName, AddressRange, u64)], conflict: &PoolConflict) -> Option<u64> {
    let find = |pool: &PoolName, range: Option<&AddressRange>| {
        let mut found = lines
            .iter()
            .filter(|(name, at, _)| name == pool && range.is_none_or(|range| range == at));
        found.next_back().map(|(_, _, line)| *line)
    };
    match conflict {
        PoolConflict::DuplicateName { name } => find(name, None),
        PoolConflict::OverlapInside { pool, second, .. } => find(pool, Some(second)),
        PoolConflict::OverlapBetween {
            first_pool,
            first,
            second_pool,
            second,
        } => find(second_pool, Some(second)).or_else(|| find(first_pool, Some(first))),
    }
}

/// What a configuration means, for people.
pub fn explain(pools: &Pools) -> String {
    let mut text = String::new();
    for index in pools.indexes() {
        let PoolSpec {
            name,
            addresses,
            exclude,
            namespaces,
            ..
        } = pools.spec(index);
        let join = |ranges: &[AddressRange]| {
            let texts: Vec<_> = ranges.iter().map(ToString::to_string).collect();
            texts.join(", ")
        };
        let namespaces = namespaces.as_ref().map_or_else(
            || "every namespace".to_owned(),
            |set| {
                let names: Vec<_> = set.iter().map(|n| n.as_str()).collect();
                format!("namespaces {}", names.join(", "))
            },
        );
        text += &format!(
            "pool {name}: for {namespaces}\n  addresses: {}\n",
            join(addresses)
        );
        if !exclude.is_empty() {
            text += &format!("  exclude: {}\n", join(exclude));
        }
        for (family, usable) in pools.usable(index).iter() {
            if !usable.is_empty() {
                text += &format!("  usable {family} addresses: {}\n", usable.len());
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn chain(error: &ConfigError) -> String {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }

    fn with_file(ip_list: Option<&str>, text: &str) -> Result<Pools, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        load(ip_list, Some(file.path())).map_err(|error| {
            chain(&error).replace(&file.path().display().to_string(), "pools.yaml")
        })
    }

    #[test]
    fn ip_list_and_file_are_one_configuration() {
        let text = "pools: [{name: a, addresses: [192.0.2.0/30]}]";
        let pools = with_file(Some("default:192.0.2.9"), text).unwrap();
        let names: Vec<_> = pools
            .indexes()
            .map(|i| pools.spec(i).name.to_string())
            .collect();
        assert_eq!(names, ["a", "ip-list-default"]);

        let overlap = with_file(Some("default:192.0.2.1"), text).unwrap_err();
        assert_eq!(
            overlap,
            "pools file pools.yaml: line 1: addresses: pools a and ip-list-default overlap: \
             a has 192.0.2.0-192.0.2.3, ip-list-default has 192.0.2.1"
        );
    }

    #[test]
    fn no_source_at_all_is_an_error() {
        for empty in [None, Some(""), Some(" \n ")] {
            assert!(matches!(load(empty, None), Err(ConfigError::NoSource)));
        }
    }

    #[test]
    fn a_configuration_is_explained_with_its_sizes() {
        let pools = with_file(
            None,
            "pools:\n- name: a\n  addresses: [192.0.2.0/29, 2001:db8::/64]\n  \
             exclude: [192.0.2.0]\n  namespaces: [x, y]\n",
        );
        assert_eq!(
            explain(&pools.unwrap()),
            "pool a: for namespaces x, y\n  addresses: 192.0.2.0-192.0.2.7, \
             2001:db8::-2001:db8::ffff:ffff:ffff:ffff\n  exclude: 192.0.2.0\n  \
             usable IPv4 addresses: 7\n  usable IPv6 addresses: 18446744073709551616\n"
        );
    }
}
