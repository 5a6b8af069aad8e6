//! What there is when the faults are over: what every cluster shows, what the
//! allocator holds, and where they are not of one mind. Pure but for the asking.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::{Context, Result};
use integration_tests::allocator::connect;
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, api::ListParams};
use lb_proto::v1::{
    HistoryEntry, ListAllocationsRequest, ListHistoryRequest,
    pool_service_client::PoolServiceClient,
};
use tokio::time::timeout;

use super::{
    pools::{NAMESPACES, allowed},
    seen::{Key, Seen},
};

const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
pub struct Ending {
    pub services: BTreeMap<Key, Seen>,
    /// Addresses and who holds them, with the uid.
    pub held: BTreeMap<Key, (String, BTreeSet<IpAddr>)>,
}

/// What is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// Shown, and not held.
    Lost(String),
    /// Shown by two that may not share it.
    Doubled(String),
    /// Held for nobody.
    Leaked(String),
    /// Something is left to do.
    Unfinished(String),
}

impl Ending {
    /// # Errors
    /// When somebody does not answer.
    pub async fn look(clusters: &[(&'static str, Client)], allocator: &str) -> Result<Self> {
        let mut ending = Self::default();
        for (cluster, client) in clusters {
            let services: Api<Service> = Api::all(client.clone());
            let params = ListParams::default();
            let listed = timeout(DEADLINE, services.list(&params)).await;
            for service in listed.with_context(|| format!("{cluster} does not answer"))?? {
                let key = Key::of(cluster, &service);
                if NAMESPACES.contains(&key.namespace.as_str()) {
                    ending.services.insert(key, Seen::of(&service));
                }
            }
        }
        let mut client = PoolServiceClient::new(connect(allocator).await?);
        let mut request = ListAllocationsRequest {
            page_size: 1000,
            ..Default::default()
        };
        loop {
            let page = client.list_allocations(request.clone()).await?.into_inner();
            for allocation in page.allocations {
                let key = allocation.service.context("an allocation of nobody")?;
                let (uid, addresses) = ending.held.entry(key.into()).or_default();
                *uid = allocation.uid;
                addresses.insert(allocation.address.parse()?);
            }
            if page.next_page_token.is_empty() {
                return Ok(ending);
            }
            request.page_token = page.next_page_token;
        }
    }

    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let none = Default::default();
        for (key, seen) in &self.services {
            let (uid, held) = self.held.get(key).unwrap_or(&none);
            let who = format!("{key} {}", seen.uid);
            for address in seen.shown.difference(held) {
                problems.push(Problem::Lost(format!(
                    "{who} shows {address} and holds {held:?}"
                )));
            }
            if !held.is_empty() && (*uid != seen.uid || !seen.balanced) {
                let type_ = if seen.balanced {
                    ""
                } else {
                    ", which is of type ClusterIP"
                };
                problems.push(Problem::Leaked(format!(
                    "{held:?} of {who}{type_}, by {uid}"
                )));
            } else if let Some(what) = self.left_to_do(key, seen, held) {
                problems.push(Problem::Unfinished(format!("{who} {what}")));
            }
        }
        for (key, (uid, held)) in &self.held {
            if !self.services.contains_key(key) {
                problems.push(Problem::Leaked(format!(
                    "{held:?} of {key} {uid}, which is gone"
                )));
            }
        }
        self.doubles(&mut problems);
        problems
    }

    /// How many Services want an address and have none.
    pub fn waiting(&self) -> usize {
        let waits = |seen: &&Seen| seen.balanced && seen.shown.is_empty();
        self.services.values().filter(waits).count()
    }

    fn left_to_do(&self, key: &Key, seen: &Seen, held: &BTreeSet<IpAddr>) -> Option<String> {
        if !seen.balanced {
            return seen
                .told
                .as_ref()
                .map(|_| "has our condition still".to_owned());
        }
        if let Some(address) = held.difference(&seen.shown).next() {
            return Some(format!("does not show {address}, which it holds"));
        }
        let Some(told) = &seen.told else {
            return Some("was told nothing".to_owned());
        };
        let could = |v4: &bool| {
            let has = held.iter().any(|address| address.is_ipv4() == *v4);
            let asked = seen.asked.filter(|asked| asked.is_ipv4() == *v4);
            let is_content = asked.is_none_or(|asked| held.contains(&asked));
            // Of a family that it has, it changes the address only for the one it asks for.
            !(has && is_content)
                && allowed(&key.namespace, *v4, asked).any(|address| self.is_free(&address))
        };
        let has = |v4: &bool| held.iter().any(|address| address.is_ipv4() == *v4);
        let servable =
            !seen.needs_all_families || seen.families.iter().all(|v4| has(v4) || could(v4));
        let could = seen.families.iter().any(could);
        (servable && could).then(|| format!("could have more than {held:?}; it was told {told}"))
    }

    fn is_free(&self, address: &IpAddr) -> bool {
        !self.held.values().any(|(_, held)| held.contains(address))
    }

    fn doubles(&self, problems: &mut Vec<Problem>) {
        let mut showing: BTreeMap<IpAddr, Vec<(&Key, &Seen)>> = BTreeMap::new();
        for (key, seen) in &self.services {
            for address in &seen.shown {
                let others = showing.entry(*address).or_default();
                for (other, of) in others.iter() {
                    let same_place =
                        (&other.cluster, &other.namespace) == (&key.cluster, &key.namespace);
                    let ports_clash = !of.ports.is_disjoint(&seen.ports);
                    if !same_place || !of.shares_with(seen) || ports_clash {
                        problems.push(Problem::Doubled(format!(
                            "{other} {} and {key} {} show {address}",
                            of.uid, seen.uid
                        )));
                    }
                }
                others.push((key, seen));
            }
        }
    }
}

/// All of history, the oldest first.
///
/// # Errors
/// When the allocator does not answer.
pub async fn history(allocator: &str) -> Result<Vec<HistoryEntry>> {
    let mut client = PoolServiceClient::new(connect(allocator).await?);
    let mut request = ListHistoryRequest {
        page_size: 1000,
        ..Default::default()
    };
    let mut entries = Vec::new();
    loop {
        let page = client.list_history(request.clone()).await?.into_inner();
        entries.extend(page.entries);
        if page.next_page_token.is_empty() {
            entries.reverse();
            return Ok(entries);
        }
        request.page_token = page.next_page_token;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]
mod tests {
    use super::*;

    const PUBLIC: [&str; 2] = ["198.18.1.1", "198.18.1.2"];

    fn key(name: &str) -> Key {
        let (cluster, name) = name.split_once('/').unwrap();
        Key {
            cluster: cluster.to_owned(),
            namespace: "web".to_owned(),
            name: name.to_owned(),
        }
    }

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn service(shown: &[&str]) -> Seen {
        Seen {
            uid: "1".to_owned(),
            balanced: true,
            shown: addresses(shown),
            families: vec![true],
            told: Some("something".to_owned()),
            ..Seen::default()
        }
    }

    /// `held`: who, with which uid, holds what.
    fn ending(services: Vec<(&str, Seen)>, held: &[(&str, &str, &str)]) -> Ending {
        let held = held
            .iter()
            .map(|(name, uid, held)| (key(name), ((*uid).to_owned(), addresses(&[held]))));
        Ending {
            services: services
                .into_iter()
                .map(|(name, it)| (key(name), it))
                .collect(),
            held: held.collect(),
        }
    }

    /// How many problems there are: lost, doubled, leaked, unfinished.
    fn count(ending: &Ending) -> [usize; 4] {
        let mut count = [0; 4];
        for problem in ending.problems() {
            count[match problem {
                Problem::Lost(_) => 0,
                Problem::Doubled(_) => 1,
                Problem::Leaked(_) => 2,
                Problem::Unfinished(_) => 3,
            }] += 1;
        }
        count
    }

    #[test]
    fn what_is_shown_and_what_is_held_are_compared() {
        let [first, second] = PUBLIC;
        let asking = |asked: &str, shown: &[&str]| Seen {
            asked: Some(asked.parse().unwrap()),
            ..service(shown)
        };
        let other_type = Seen {
            balanced: false,
            told: None,
            ..service(&[])
        };
        let holds = ("a/x", "1", first);
        let rows = [
            (service(&[first]), vec![holds], [0, 0, 0, 0]),
            (service(&[first]), vec![], [1, 0, 0, 1]),
            (service(&[first]), vec![("a/x", "0", first)], [0, 0, 1, 0]),
            (service(&[]), vec![holds], [0, 0, 0, 1]),
            (service(&[]), vec![], [0, 0, 0, 1]),
            (other_type.clone(), vec![], [0, 0, 0, 0]),
            (other_type, vec![holds], [0, 0, 1, 0]),
            (asking(second, &[first]), vec![holds], [0, 0, 0, 1]),
            (
                asking(second, &[first]),
                vec![holds, ("a/gone", "1", second)],
                [0, 0, 1, 0],
            ),
            (
                asking(first, &[]),
                vec![("a/gone", "1", first)],
                [0, 0, 1, 0],
            ),
        ];
        for (row, (service, held, expected)) in rows.into_iter().enumerate() {
            let ending = ending(vec![("a/x", service)], &held);
            assert_eq!(count(&ending), expected, "{row}: {:?}", ending.problems());
        }
    }

    #[test]
    fn one_address_is_shown_twice_only_by_those_that_share_it() {
        let keyed = |key: &str, port| Seen {
            sharing_key: Some(key.to_owned()),
            ports: BTreeSet::from([port]),
            ..service(&[PUBLIC[0]])
        };
        let rows = [
            (("a/x", keyed("k", 1)), ("a/y", keyed("k", 2)), 0),
            (("a/x", keyed("k", 1)), ("a/y", keyed("k", 1)), 1),
            (("a/x", keyed("k", 1)), ("a/y", keyed("l", 2)), 1),
            (("a/x", keyed("k", 1)), ("b/y", keyed("k", 2)), 1),
            (
                ("a/x", service(&[PUBLIC[0]])),
                ("a/y", service(&[PUBLIC[0]])),
                1,
            ),
        ];
        for (row, (one, other, doubled)) in rows.into_iter().enumerate() {
            let held = [(one.0, "1", PUBLIC[0]), (other.0, "1", PUBLIC[0])];
            let ending = ending(vec![one, other], &held);
            assert_eq!(count(&ending), [0, doubled, 0, 0], "{row}");
        }
    }
}
