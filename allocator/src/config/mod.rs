//! From what people write to [`Pools`]: the environment variable `IP_LIST`, a
//! pools file, or both, which together are one configuration.

mod ask;
mod describe;
pub(crate) mod file;
pub mod ip_list;
mod node;
mod shape;
mod syntax;
mod unusable;

#[cfg(test)]
mod mistakes;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::Ipv4Net;
use thiserror::Error;

use self::describe::json;
pub use self::{ask::ask, describe::explain};
use crate::engine::{AddressRange, Family, PoolConflict, PoolName, Pools, Settings};

/// Why there are no pools to work with.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error(
        "there are no pools: set IP_LIST to namespace:IP items, or name a pools file with --config"
    )]
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
        place: Option<ConflictPlace>,
        source: Box<PoolConflict>,
    },
}

/// Where in the file a conflict can be mended.
#[derive(Debug)]
pub struct ConflictPlace {
    path: PathBuf,
    line: u64,
    pool: PoolName,
    key: &'static str,
}

fn at(place: Option<&ConflictPlace>) -> String {
    let Some(place) = place else {
        return "pools conflict".to_owned();
    };
    let ConflictPlace {
        path,
        line,
        pool,
        key,
    } = place;
    let pool = pool.as_str();
    format!(
        "pools file {}: line {line}: pool {pool:?}: {key}",
        path.display()
    )
}

/// Pools that can be put in force.
#[derive(Clone, Debug)]
pub struct Configuration {
    pub pools: Arc<Pools>,
    /// The same as JSON, for history.
    pub json: String,
    /// What may be meant, and is seldom good.
    pub warnings: Vec<String>,
}

/// Where pools come from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    ip_list: Option<String>,
    file: Option<PathBuf>,
    /// What is not in the file.
    defaults: Settings,
}

impl Source {
    /// The text of `IP_LIST` and the path of a pools file.
    pub fn new(ip_list: Option<String>, file: Option<PathBuf>) -> Self {
        Self {
            ip_list: ip_list.filter(|text| !text.trim().is_empty()),
            file,
            defaults: Settings::default(),
        }
    }

    /// Where the file does not say otherwise.
    #[must_use]
    pub const fn with_adoption_window(mut self, window: Duration) -> Self {
        self.defaults.adoption_window = window;
        self
    }

    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// # Errors
    /// If the file cannot be read.
    pub fn read_file(&self) -> Result<Option<String>, ConfigError> {
        let Some(path) = &self.file else {
            return Ok(None);
        };
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.clone(),
            source,
        })?;
        Ok(Some(text))
    }

    /// # Errors
    /// As [`Source::read_file`] and [`Source::with_file`].
    pub fn load(&self) -> Result<Configuration, ConfigError> {
        let text = self.read_file()?;
        self.with_file(text.as_deref())
    }

    /// The configuration that the text of a pools file makes together with
    /// `IP_LIST`.
    ///
    /// # Errors
    /// Names the source, the place in it and what is wrong there.
    pub fn with_file(&self, text: Option<&str>) -> Result<Configuration, ConfigError> {
        let path = || self.file.clone().unwrap_or_default();
        if self.ip_list.is_none() && text.is_none() {
            return Err(ConfigError::NoSource);
        }
        let ip_list = self.ip_list.as_deref().map(ip_list::parse).transpose()?;
        let mut specs = ip_list.unwrap_or_default();
        let mut names = Vec::new();
        let mut lines = Vec::new();
        let mut networks = Vec::new();
        let mut settings = self.defaults.clone();
        if let Some(text) = text {
            let (pools, of_file) =
                file::parse(text, &self.defaults).map_err(|source| ConfigError::File {
                    path: path(),
                    source: Box::new(source),
                })?;
            settings = of_file;
            for pool in pools {
                let name = pool.spec.name.clone();
                names.push((name.clone(), pool.line));
                let of_pool = pool.lines.into_iter();
                lines.extend(of_pool.map(|(range, line)| (name.clone(), range, line)));
                let of_pool = pool.networks.into_iter();
                networks.extend(of_pool.map(|(network, line)| (name.clone(), network, line)));
                specs.push(pool.spec);
            }
        }
        let pools = Pools::new(specs).map_err(|conflict| ConfigError::Conflict {
            place: place_of(&names, &lines, &conflict).map(|(pool, line, key)| ConflictPlace {
                path: path(),
                line,
                pool,
                key,
            }),
            source: Box::new(conflict),
        })?;
        let pools = pools.with_settings(settings);
        let warn = |(pool, network, line): &(_, _, _)| {
            let ends = ends_that_are_given(&pools, pool, *network)?;
            Some(format!(
                "pools file {}: line {line}: pool \"{pool}\": addresses: {ends}, which no host \
                 answers on where {network} is the network of a link; exclude what it has there, \
                 unless the addresses are routed",
                path().display()
            ))
        };
        Ok(Configuration {
            json: json(&pools),
            warnings: networks.iter().filter_map(warn).collect(),
            pools: Arc::new(pools),
        })
    }
}

/// The network's own address and its broadcast, if Services may get them.
fn ends_that_are_given(pools: &Pools, pool: &PoolName, network: Ipv4Net) -> Option<String> {
    let index = pools
        .indexes()
        .find(|index| pools.spec(*index).name == *pool)?;
    let usable = pools.usable(index).get(Family::V4);
    let ends = [
        (network.network(), "the address of the network itself"),
        (network.broadcast(), "its broadcast address"),
    ];
    let given = ends
        .into_iter()
        .filter(|(end, _)| usable.contains(Family::number((*end).into())));
    let given: Vec<_> = given
        .map(|(end, what)| format!("{end} is {what}"))
        .collect();
    (!given.is_empty()).then(|| given.join(" and "))
}

/// The pool, line and key where the conflict can be mended.
fn place_of(
    names: &[(PoolName, u64)],
    lines: &[(PoolName, AddressRange, u64)],
    conflict: &PoolConflict,
) -> Option<(PoolName, u64, &'static str)> {
    let addresses = |pool: &PoolName, range: &AddressRange| {
        let found = lines.iter().rev();
        let mut found = found.filter(|(name, at, _)| name == pool && at == range);
        let (_, _, line) = found.next()?;
        Some((pool.clone(), *line, "addresses"))
    };
    match conflict {
        PoolConflict::DuplicateName { name } => {
            let mut found = names.iter().rev().filter(|(known, _)| known == name);
            found.next().map(|(_, line)| (name.clone(), *line, "name"))
        }
        PoolConflict::OverlapInside { pool, second, .. } => addresses(pool, second),
        PoolConflict::OverlapBetween {
            first_pool,
            first,
            second_pool,
            second,
        } => addresses(second_pool, second).or_else(|| addresses(first_pool, first)),
    }
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

    fn with_file(ip_list: Option<&str>, text: &str) -> Result<Arc<Pools>, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let source = Source::new(ip_list.map(ToOwned::to_owned), Some(file.path().to_owned()));
        source
            .load()
            .map_err(|error| {
                chain(&error).replace(&file.path().display().to_string(), "pools.yaml")
            })
            .map(|configuration| configuration.pools)
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
            "pools file pools.yaml: line 1: pool \"a\": addresses: pools a and ip-list-default overlap: \
             a has 192.0.2.0-192.0.2.3, ip-list-default has 192.0.2.1"
        );
    }

    #[test]
    fn no_source_at_all_is_an_error() {
        for empty in [None, Some(""), Some(" \n ")] {
            let source = Source::new(empty.map(ToOwned::to_owned), None);
            assert!(matches!(source.load(), Err(ConfigError::NoSource)));
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
