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
//!   # OPTIONAL: whom it serves; every one that is set must match
//!   namespaces: [default]
//!   namespaceSelector: {matchLabels: {tier: web}}
//!   serviceSelector: {matchExpressions: [{key: public, operator: Exists}]}
//!   clusters: [prod-eu]
//!   # OPTIONAL: its rules, here with values that are not the default
//!   priority: 10            # lower is tried first; none is last
//!   autoAssign: false       # only to those who ask for the pool or the address
//!   avoidBuggyIPs: true     # never .0 and .255 of IPv4
//!   fenced: true            # the namespaces it serves may use no other pool
//!   cooldown: 5m            # others get a released address only after this
//!   stickyFor: 1h           # and until then only when nothing else is free
//!   maxPerNamespace: 2      # addresses for a namespace of one cluster
//!   maxPerCluster: 20
//!   disabled: true          # gives nothing; what is held stays
//! # OPTIONAL: what holds for the whole configuration
//! # a new database waits for these to tell what they have; of an ephemeral one, which is
//! # made anew all the time, a new one takes over by itself when the last one is gone
//! clusters: [prod-eu, prod-us, {name: ci, ephemeral: true}]
//! adoptionWindow: 2s        # and so long, after the first session, for any other
//! orphanGrace: 2m           # how long a vanished Service's address is kept
//! clusterSilence: 15m       # a cluster without a Sync for this long is reported
//! history:                  # what is held, and its last change, always stay
//!   keepFor: 8760h          # older changes are removed
//!   keepRows: 10000000      # of more than these the oldest are
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net};
use jiff::SignedDuration;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_saphyr::Spanned;
use thiserror::Error;

use super::{
    shape::{self, ShapeError},
    unusable,
};
use crate::engine::{
    AddressRange, ClusterName, Family, InvalidName, Namespace, PoolName, PoolSpec, Requirement,
    Retention, STICKY_FOR, Selector, Settings,
};

/// Why a pools file was refused.
#[derive(Debug, Error)]
pub enum FileError {
    #[error(transparent)]
    Shape(#[from] ShapeError),
    #[error("{0}")]
    Yaml(String),
    #[error("line {line}: {key}")]
    Setting {
        line: u64,
        key: &'static str,
        source: KeyError,
    },
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
    #[error("the range {text:?} ends before it begins; write {last}-{first}")]
    Reversed {
        text: String,
        first: IpAddr,
        last: IpAddr,
    },
    #[error("the range {text:?} begins with one family of addresses and ends with the other")]
    TwoFamilies { text: String },
    #[error(
        "{text:?} begins inside its network; write {network} for all of the network, or \
         {address} for one address"
    )]
    HostBits {
        text: String,
        network: IpNet,
        address: IpAddr,
    },
    #[error("{text:?} has addresses that no Service can have: {why}")]
    Unusable { text: String, why: &'static str },
    #[error("the list is empty; {hint}")]
    Empty { hint: &'static str },
    #[error("{text:?} is not a duration such as 30s, 5m or 24h")]
    NotDuration { text: String },
    #[error("{text:?} is more than ten years, 87600h, which is the longest duration")]
    TooLong { text: String },
    #[error("{number} is not allowed; {hint}")]
    Number { number: i64, hint: &'static str },
    #[error("operator {text:?} is none of In, NotIn, Exists, DoesNotExist")]
    Operator { text: String },
    #[error("{operator} needs {needs}")]
    Values {
        operator: &'static str,
        needs: &'static str,
    },
    #[error(
        "a fenced pool needs namespaces or a namespaceSelector: these are the namespaces that it fences in"
    )]
    FenceAroundAll,
}

/// A pool and where its addresses stand in the file.
#[derive(Debug)]
pub struct FilePool {
    pub spec: PoolSpec,
    /// Where its name stands.
    pub line: u64,
    pub lines: Vec<(AddressRange, u64)>,
    /// The addresses that are written as a network, which may be that of a link.
    pub networks: Vec<(Ipv4Net, u64)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    pools: Vec<RawPool>,
    clusters: Option<Spanned<Vec<Spanned<RawCluster>>>>,
    adoption_window: Option<Spanned<String>>,
    orphan_grace: Option<Spanned<String>>,
    cluster_silence: Option<Spanned<String>>,
    history: Option<RawRetention>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawRetention {
    keep_for: Option<Spanned<String>>,
    keep_rows: Option<Spanned<i64>>,
}

/// A name, or a name and what is particular about it.
struct RawCluster {
    name: String,
    ephemeral: bool,
}

impl<'de> Deserialize<'de> for RawCluster {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Named {
            name: String,
            #[serde(default)]
            ephemeral: bool,
        }

        impl<'de> Visitor<'de> for Either {
            type Value = RawCluster;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a cluster's name, or {name: …, ephemeral: true}")
            }

            fn visit_str<E>(self, name: &str) -> Result<RawCluster, E> {
                Ok(RawCluster {
                    name: name.to_owned(),
                    ephemeral: false,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawCluster, A::Error> {
                let Named { name, ephemeral } =
                    Named::deserialize(MapAccessDeserializer::new(map))?;
                Ok(RawCluster { name, ephemeral })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawPool {
    name: Spanned<String>,
    addresses: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    exclude: Vec<Spanned<String>>,
    namespaces: Option<Spanned<Vec<Spanned<String>>>>,
    namespace_selector: Option<RawSelector>,
    service_selector: Option<RawSelector>,
    clusters: Option<Spanned<Vec<Spanned<String>>>>,
    priority: Option<i64>,
    #[serde(default = "yes")]
    auto_assign: bool,
    #[serde(default, rename = "avoidBuggyIPs")]
    avoid_buggy_ips: bool,
    fenced: Option<Spanned<bool>>,
    cooldown: Option<Spanned<String>>,
    sticky_for: Option<Spanned<String>>,
    max_per_namespace: Option<Spanned<i64>>,
    max_per_cluster: Option<Spanned<i64>>,
    #[serde(default)]
    disabled: bool,
}

/// The longest that a pools file may ask for: ten years.
pub const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

const fn yes() -> bool {
    true
}

/// As `LabelSelector` of `meta/v1`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawSelector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<RawExpression>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpression {
    key: String,
    operator: Spanned<String>,
    #[serde(default)]
    values: BTreeSet<String>,
}

/// # Errors
/// Names the line, the pool and the key of the first fault.
pub fn parse(text: &str, default: &Settings) -> Result<(Vec<FilePool>, Settings), FileError> {
    shape::check(text)?;
    let File {
        pools,
        clusters,
        adoption_window,
        orphan_grace,
        cluster_silence,
        history,
    } = serde_saphyr::from_str(text)
        .map_err(|error| FileError::Yaml(error.without_snippet().to_string()))?;
    let pools = pools.into_iter().map(pool).collect::<Result<_, _>>()?;
    let at = |key: &'static str| Place { pool: None, key };
    let (clusters, ephemeral) = at("clusters").clusters(clusters.as_ref())?;
    let settings = Settings {
        clusters,
        ephemeral,
        adoption_window: at("adoptionWindow")
            .duration(adoption_window.as_ref(), default.adoption_window)?,
        orphan_grace: at("orphanGrace").duration(orphan_grace.as_ref(), default.orphan_grace)?,
        cluster_silence: at("clusterSilence")
            .duration(cluster_silence.as_ref(), default.cluster_silence)?,
        history: history.map_or(Ok(default.history), retention)?,
    };
    Ok((pools, settings))
}

fn retention(raw: RawRetention) -> Result<Retention, FileError> {
    let RawRetention {
        keep_for,
        keep_rows,
    } = raw;
    let at = |key: &'static str| Place { pool: None, key };
    let default = Retention::default();
    let rows = at("history.keepRows").limit(keep_rows.as_ref(), "history has at least 1 row")?;
    Ok(Retention {
        keep_for: at("history.keepFor").duration(keep_for.as_ref(), default.keep_for)?,
        keep_rows: rows.unwrap_or(default.keep_rows),
    })
}

/// Where in the file we are, for messages.
struct Place<'a> {
    /// `None` outside of pools.
    pool: Option<&'a str>,
    key: &'static str,
}

impl Place<'_> {
    fn fault(&self, line: u64, source: KeyError) -> FileError {
        let key = self.key;
        match self.pool {
            None => FileError::Setting { line, key, source },
            Some(pool) => FileError::Key {
                line,
                pool: pool.to_owned(),
                key,
                source,
            },
        }
    }

    fn ranges(&self, list: &[Spanned<String>]) -> Result<Vec<(AddressRange, u64)>, FileError> {
        let parsed = list.iter().map(|text| {
            let line = text.referenced.line();
            let range = range(&text.value).map_err(|error| self.fault(line, error))?;
            Ok((range, line))
        });
        parsed.collect()
    }

    /// `None` where the key is left out; an empty list would serve nobody.
    fn names<T: Ord>(
        &self,
        list: Option<&Spanned<Vec<Spanned<String>>>>,
        hint: &'static str,
        parse: fn(&str) -> Result<T, InvalidName>,
    ) -> Result<Option<BTreeSet<T>>, FileError> {
        let Some(list) = list else { return Ok(None) };
        if list.value.is_empty() {
            let line = list.referenced.line();
            return Err(self.fault(line, KeyError::Empty { hint }));
        }
        let parsed = list.value.iter().map(|text| {
            let line = text.referenced.line();
            parse(&text.value).map_err(|error| self.fault(line, error.into()))
        });
        parsed.collect::<Result<_, _>>().map(Some)
    }

    /// All of them, and those that are ephemeral.
    fn clusters(
        &self,
        list: Option<&Spanned<Vec<Spanned<RawCluster>>>>,
    ) -> Result<(BTreeSet<ClusterName>, BTreeSet<ClusterName>), FileError> {
        let Some(list) = list else {
            return Ok(Default::default());
        };
        if list.value.is_empty() {
            let hint = "leave the key out";
            return Err(self.fault(list.referenced.line(), KeyError::Empty { hint }));
        }
        let (mut all, mut ephemeral) = (BTreeSet::new(), BTreeSet::new());
        for raw in &list.value {
            let line = raw.referenced.line();
            let RawCluster {
                name,
                ephemeral: is_ephemeral,
            } = &raw.value;
            let name = ClusterName::parse(name).map_err(|error| self.fault(line, error.into()))?;
            if *is_ephemeral {
                ephemeral.insert(name.clone());
            }
            all.insert(name);
        }
        Ok((all, ephemeral))
    }

    fn duration(
        &self,
        text: Option<&Spanned<String>>,
        default: Duration,
    ) -> Result<Duration, FileError> {
        let Some(text) = text else {
            return Ok(default);
        };
        let line = text.referenced.line();
        duration(&text.value).map_err(|source| self.fault(line, source))
    }

    fn limit(
        &self,
        number: Option<&Spanned<i64>>,
        hint: &'static str,
    ) -> Result<Option<u64>, FileError> {
        let Some(number) = number else {
            return Ok(None);
        };
        match u64::try_from(number.value) {
            Ok(limit) if limit > 0 => Ok(Some(limit)),
            Ok(_) | Err(_) => {
                let source = KeyError::Number {
                    number: number.value,
                    hint,
                };
                Err(self.fault(number.referenced.line(), source))
            }
        }
    }

    fn selector(&self, raw: Option<RawSelector>) -> Result<Option<Selector>, FileError> {
        let Some(raw) = raw else { return Ok(None) };
        let labels = raw.match_labels.into_iter();
        let labels = labels.map(|(key, value)| Requirement::In(key, BTreeSet::from([value])));
        let mut requirements: Vec<_> = labels.collect();
        for expression in raw.match_expressions {
            let RawExpression {
                key,
                operator,
                values,
            } = expression;
            let line = operator.referenced.line();
            let needs = |operator, needs| self.fault(line, KeyError::Values { operator, needs });
            requirements.push(match operator.value.as_str() {
                "In" if values.is_empty() => return Err(needs("In", "values")),
                "NotIn" if values.is_empty() => return Err(needs("NotIn", "values")),
                "Exists" if !values.is_empty() => return Err(needs("Exists", "no values")),
                "DoesNotExist" if !values.is_empty() => {
                    return Err(needs("DoesNotExist", "no values"));
                }
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::DoesNotExist(key),
                other => {
                    let text = other.to_owned();
                    return Err(self.fault(line, KeyError::Operator { text }));
                }
            });
        }
        Ok(Some(Selector(requirements)))
    }
}

fn pool(raw: RawPool) -> Result<FilePool, FileError> {
    let RawPool {
        name,
        addresses,
        exclude,
        namespaces,
        namespace_selector,
        service_selector,
        clusters,
        priority,
        auto_assign,
        avoid_buggy_ips,
        fenced,
        cooldown,
        sticky_for,
        max_per_namespace,
        max_per_cluster,
        disabled,
    } = raw;
    let at = |key: &'static str| Place {
        pool: Some(&name.value),
        key,
    };
    let everybody = "leave the key out to serve all";
    let nothing = "a limit is at least 1; use disabled to give nothing";
    let parsed_name = PoolName::parse(&name.value)
        .map_err(|error| at("name").fault(name.referenced.line(), error.into()))?;
    if addresses.value.is_empty() {
        let hint = "a pool needs addresses";
        let line = addresses.referenced.line();
        return Err(at("addresses").fault(line, KeyError::Empty { hint }));
    }
    let lines = at("addresses").ranges(&addresses.value)?;
    for (text, (range, line)) in addresses.value.iter().zip(&lines) {
        if let Some(why) = unusable::reason(range) {
            let text = text.value.clone();
            return Err(at("addresses").fault(*line, KeyError::Unusable { text, why }));
        }
    }
    let networks = addresses.value.iter().filter_map(|text| {
        let network = text.value.trim().parse::<Ipv4Net>().ok()?;
        (network.prefix_len() <= 30).then(|| (network, text.referenced.line()))
    });
    let networks = networks.collect();
    let excluded = at("exclude").ranges(&exclude)?;
    for (text, (range, line)) in exclude.iter().zip(&excluded) {
        // An exclusion that excludes nothing would let an address out that somebody keeps back.
        if let Some(why) = unusable::mapped(range) {
            let text = text.value.clone();
            return Err(at("exclude").fault(*line, KeyError::Unusable { text, why }));
        }
    }
    let spec = PoolSpec {
        name: parsed_name,
        addresses: lines.iter().map(|(range, _)| *range).collect(),
        exclude: excluded.into_iter().map(|(range, _)| range).collect(),
        namespaces: at("namespaces").names(namespaces.as_ref(), everybody, Namespace::parse)?,
        namespace_selector: at("namespaceSelector").selector(namespace_selector)?,
        service_selector: at("serviceSelector").selector(service_selector)?,
        clusters: at("clusters").names(clusters.as_ref(), everybody, ClusterName::parse)?,
        priority,
        auto_assign,
        avoid_buggy_ips,
        fenced: fenced.as_ref().is_some_and(|fenced| fenced.value),
        cooldown: at("cooldown").duration(cooldown.as_ref(), Duration::ZERO)?,
        sticky_for: at("stickyFor").duration(sticky_for.as_ref(), STICKY_FOR)?,
        max_per_namespace: at("maxPerNamespace").limit(max_per_namespace.as_ref(), nothing)?,
        max_per_cluster: at("maxPerCluster").limit(max_per_cluster.as_ref(), nothing)?,
        disabled,
    };
    if let Some(fenced) = fenced
        && spec.fenced
        && spec.namespaces.is_none()
        && spec.namespace_selector.is_none()
    {
        return Err(at("fenced").fault(fenced.referenced.line(), KeyError::FenceAroundAll));
    }
    Ok(FilePool {
        spec,
        line: name.referenced.line(),
        lines,
        networks,
    })
}

/// Not more than [`MAX_DURATION`], so that no time to come is beyond all counting.
fn duration(text: &str) -> Result<Duration, KeyError> {
    let text = || text.to_owned();
    let parsed = match text().parse::<SignedDuration>() {
        Ok(duration) => duration,
        // A number of hours and the like: what does not parse is out of any range.
        Err(_) if has_the_form_of_a_duration(&text()) => {
            return Err(KeyError::TooLong { text: text() });
        }
        Err(_) => return Err(KeyError::NotDuration { text: text() }),
    };
    let parsed = Duration::try_from(parsed).map_err(|_| KeyError::NotDuration { text: text() })?;
    if parsed > MAX_DURATION {
        return Err(KeyError::TooLong { text: text() });
    }
    Ok(parsed)
}

fn has_the_form_of_a_duration(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && ["ms", "s", "m", "h", "d"].contains(&unit)
}

fn range(text: &str) -> Result<AddressRange, KeyError> {
    let owned = || text.to_owned();
    let not_addresses = || KeyError::NotAddresses { text: owned() };
    let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| not_addresses());
    let (first, last) = if let Some((first, last)) = text.split_once('-') {
        (address(first)?, address(last)?)
    } else if text.contains('/') {
        let net: IpNet = text.trim().parse().map_err(|_| not_addresses())?;
        if net.addr() != net.network() {
            return Err(KeyError::HostBits {
                text: owned(),
                network: net.trunc(),
                address: net.addr(),
            });
        }
        (net.network(), net.broadcast())
    } else {
        let single = address(text)?;
        (single, single)
    };
    if Family::of(first) != Family::of(last) {
        return Err(KeyError::TwoFamilies { text: owned() });
    }
    AddressRange::new(first, last).ok_or_else(|| KeyError::Reversed {
        text: owned(),
        first,
        last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(error: &FileError) -> String {
        match error {
            FileError::Yaml(text) => text.clone(),
            FileError::Shape(error) => error.to_string(),
            FileError::Key { source, .. } | FileError::Setting { source, .. } => {
                format!("{error}: {source}")
            }
        }
    }

    #[test]
    fn addresses_are_cidrs_ranges_and_single_ones() {
        for (text, expected) in [
            ("192.0.2.0/30", "192.0.2.0-192.0.2.3"),
            ("192.0.2.5", "192.0.2.5"),
            ("192.0.2.5 - 192.0.2.9", "192.0.2.5-192.0.2.9"),
            ("2001:db8::/127", "2001:db8::-2001:db8::1"),
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
                "line 4: pool \"a\": namespaces: the list is empty; leave the key out to serve all",
            ),
        ] {
            assert_eq!(
                chain(&parse(text, &Settings::default()).unwrap_err()),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn a_duration_beyond_all_sense_is_refused_with_the_longest_one() {
        let pool = "pools:\n- name: a\n  addresses: [192.0.2.1]\n";
        for text in [
            "99999999999h",
            "99999999999999999999h",
            "87601h",
            "5256001m",
        ] {
            for (key, place) in [
                ("  cooldown: ", "line 4: pool \"a\": cooldown"),
                ("  stickyFor: ", "line 4: pool \"a\": stickyFor"),
                ("orphanGrace: ", "line 4: orphanGrace"),
                ("clusterSilence: ", "line 4: clusterSilence"),
                ("history:\n  keepFor: ", "line 5: history.keepFor"),
            ] {
                let error = chain(
                    &parse(&format!("{pool}{key}{text}\n"), &Settings::default()).unwrap_err(),
                );
                let expected = format!(
                    "{place}: {text:?} is more than ten years, 87600h, which is the longest duration"
                );
                assert_eq!(error, expected);
            }
        }
        for text in ["", "-5m", "5 minutes or so", "h"] {
            let error = duration(text).unwrap_err();
            assert!(matches!(error, KeyError::NotDuration { .. }), "{text:?}");
        }
        assert_eq!(duration("87600h"), Ok(MAX_DURATION));
    }

    #[test]
    fn history_is_kept_for_a_year_and_ten_million_rows_unless_the_file_says_otherwise() {
        let pool = "pools:\n- name: a\n  addresses: [192.0.2.1]\n";
        let kept = |text: &str| {
            parse(&format!("{pool}{text}"), &Settings::default()).map(|(_, all)| all.history)
        };
        let day = Duration::from_secs(24 * 60 * 60);
        let default = Retention {
            keep_for: 365 * day,
            keep_rows: 10_000_000,
        };
        assert_eq!(kept("").unwrap(), default);
        assert_eq!(kept("history: {}").unwrap(), default);
        let other = Retention {
            keep_for: day,
            keep_rows: 7,
        };
        assert_eq!(kept("history: {keepFor: 24h, keepRows: 7}").unwrap(), other);
        assert_eq!(
            chain(&kept("history: {keepRows: 0}").unwrap_err()),
            "line 4: history.keepRows: 0 is not allowed; history has at least 1 row"
        );
    }
}
