//! From what people write to [`Pools`]: the environment variable `IP_LIST`, a
//! pools file, or both, which together are one configuration.

mod ask;
mod describe;
pub mod file;
pub mod ip_list;
pub mod reload;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;

use self::describe::json;
pub use self::{ask::ask, describe::explain};
use crate::engine::{AddressRange, PoolConflict, PoolName, Pools, Settings};

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

/// Pools that can be put in force.
#[derive(Clone, Debug)]
pub struct Configuration {
    pub pools: Arc<Pools>,
    /// The same as JSON, for history.
    pub json: String,
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
        let mut lines = Vec::new();
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
                let of_pool = pool.lines.into_iter();
                lines.extend(of_pool.map(|(range, line)| (name.clone(), range, line)));
                specs.push(pool.spec);
            }
        }
        let pools = Pools::new(specs).map_err(|conflict| ConfigError::Conflict {
            place: line_of(&lines, &conflict).map(|line| (path(), line)),
            source: Box::new(conflict),
        })?;
        let pools = pools.with_settings(settings);
        Ok(Configuration {
            json: json(&pools),
            pools: Arc::new(pools),
        })
    }
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
            "pools file pools.yaml: line 1: addresses: pools a and ip-list-default overlap: \
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
