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
