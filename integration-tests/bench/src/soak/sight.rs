//! What was seen of all clusters' Services, one change after the other: who got
//! which address, who lost one without having asked for anything, and which two
//! showed one address at a time. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    pools::ROOMY,
    seen::{Key, Seen},
};

/// From when its user asked for it until a Service was seen with its address.
#[derive(Clone, Debug)]
pub struct Wait {
    pub key: Key,
    pub from: Duration,
    pub to: Duration,
}

/// Two Services that were seen with one address, and may not share one.
#[derive(Clone, Debug)]
pub struct Overlap {
    pub address: IpAddr,
    /// Who showed it first.
    pub first: (Key, String),
    pub second: (Key, String),
    pub from: Duration,
    /// None: for ever.
    pub to: Option<Duration>,
}

#[derive(Debug, Default)]
pub struct Sight {
    services: BTreeMap<Key, Seen>,
    showing: BTreeMap<IpAddr, BTreeSet<Key>>,
    /// Seen in the list of a cluster that is being told anew.
    listed: BTreeMap<String, BTreeSet<Key>>,
    pub grants: BTreeSet<(Key, String, IpAddr)>,
    /// Of Services for which there is room at any time, and that nobody changed.
    pub waits: Vec<Wait>,
    pub lost: Vec<String>,
    pub overlaps: Vec<Overlap>,
}

impl Sight {
    /// A cluster tells everything anew.
    pub fn begin_list(&mut self, cluster: &str) {
        self.listed.insert(cluster.to_owned(), BTreeSet::new());
    }

    /// One of the Services that it has.
    pub fn listed(&mut self, key: Key, seen: Seen, now: Duration) {
        let listed = self.listed.entry(key.cluster.clone()).or_default();
        listed.insert(key.clone());
        self.changed(key, seen, now);
    }

    /// Those were all.
    pub fn end_list(&mut self, cluster: &str, now: Duration) {
        let listed = self.listed.remove(cluster).unwrap_or_default();
        let known = self.services.keys().filter(|key| key.cluster == cluster);
        let gone: Vec<_> = known.filter(|key| !listed.contains(key)).cloned().collect();
        for key in gone {
            self.deleted(&key, now);
        }
    }

    /// What all clusters have now, whatever was not told yet.
    pub fn catch_up(&mut self, services: &BTreeMap<Key, Seen>, now: Duration) {
        let known = self.services.keys().chain(services.keys());
        let clusters: BTreeSet<_> = known.map(|key| key.cluster.clone()).collect();
        for cluster in clusters {
            self.begin_list(&cluster);
            for (key, seen) in services.iter().filter(|(key, _)| key.cluster == cluster) {
                self.listed(key.clone(), seen.clone(), now);
            }
            self.end_list(&cluster, now);
        }
    }

    pub fn deleted(&mut self, key: &Key, now: Duration) {
        if let Some(seen) = self.services.remove(key) {
            for address in seen.shown {
                self.shows_no_more(key, address, now);
            }
        }
    }

    pub fn changed(&mut self, key: Key, seen: Seen, now: Duration) {
        let before = self.services.get(&key).filter(|it| it.uid == seen.uid);
        let (was_served, shown) = before.map_or_else(Default::default, |before| {
            (before.is_served(), before.shown.clone())
        });
        if before.is_none() {
            self.deleted(&key, now);
        }
        for address in shown.difference(&seen.shown) {
            if seen.balanced && !seen.may_move {
                self.lost.push(format!(
                    "{key} {} showed {address}, and nobody asked for another; now it shows {:?}",
                    seen.uid, seen.shown
                ));
            }
            self.shows_no_more(&key, *address, now);
        }
        for address in seen.shown.difference(&shown) {
            self.shows(&key, &seen, *address, now);
        }
        if !was_served && seen.is_served() && key.namespace == ROOMY && !seen.may_move {
            let wait = Wait {
                key: key.clone(),
                from: seen.created,
                to: now,
            };
            self.waits.push(wait);
        }
        self.services.insert(key, seen);
    }

    fn shows(&mut self, key: &Key, seen: &Seen, address: IpAddr, now: Duration) {
        self.grants.insert((key.clone(), seen.uid.clone(), address));
        let showing = self.showing.entry(address).or_default();
        for other in showing.iter() {
            let Some(first) = self.services.get(other) else {
                continue;
            };
            // When their ports clash, the last look at all of them tells.
            let same_place = (&other.cluster, &other.namespace) == (&key.cluster, &key.namespace);
            if same_place && first.shares_with(seen) {
                continue;
            }
            self.overlaps.push(Overlap {
                address,
                first: (other.clone(), first.uid.clone()),
                second: (key.clone(), seen.uid.clone()),
                from: now,
                to: None,
            });
        }
        showing.insert(key.clone());
    }

    fn shows_no_more(&mut self, key: &Key, address: IpAddr, now: Duration) {
        if let Some(showing) = self.showing.get_mut(&address) {
            showing.remove(key);
        }
        for overlap in &mut self.overlaps {
            let of_it = overlap.first.0 == *key || overlap.second.0 == *key;
            if overlap.address == address && overlap.to.is_none() && of_it {
                overlap.to = Some(now);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        let (cluster, name) = name.split_once('/').unwrap();
        Key {
            cluster: cluster.to_owned(),
            namespace: ROOMY.to_owned(),
            name: name.to_owned(),
        }
    }

    fn shows(shown: &[u8]) -> Seen {
        Seen {
            uid: "1".to_owned(),
            balanced: true,
            shown: shown.iter().map(|n| IpAddr::from([10, 0, 0, *n])).collect(),
            families: vec![true],
            ..Seen::default()
        }
    }

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn an_address_that_goes_without_an_edit_is_lost() {
        for (may_move, balanced, lost) in [(false, true, 1), (true, true, 0), (false, false, 0)] {
            let mut sight = Sight::default();
            sight.changed(key("a/x"), shows(&[1]), at(1));
            let after = Seen {
                may_move,
                balanced,
                ..shows(&[2])
            };
            sight.changed(key("a/x"), after, at(2));
            assert_eq!(sight.lost.len(), lost, "{:?}", sight.lost);
        }
    }

    #[test]
    fn a_service_that_was_created_again_may_have_another_address() {
        let mut sight = Sight::default();
        sight.changed(key("a/x"), shows(&[1]), at(1));
        let again = Seen {
            uid: "2".to_owned(),
            ..shows(&[2])
        };
        sight.changed(key("a/x"), again, at(2));
        assert!(sight.lost.is_empty());
        assert_eq!(sight.grants.len(), 2);
        sight.changed(key("b/y"), shows(&[1]), at(3));
        assert!(sight.overlaps.is_empty(), "{:?}", sight.overlaps);
    }

    #[test]
    fn two_services_that_show_one_address_are_told_with_when_and_how_long() {
        let mut sight = Sight::default();
        sight.changed(key("a/x"), shows(&[1]), at(1));
        sight.changed(key("b/y"), shows(&[1]), at(5));
        sight.deleted(&key("a/x"), at(8));
        let [overlap] = &sight.overlaps[..] else {
            panic!("{:?}", sight.overlaps)
        };
        assert_eq!((overlap.from, overlap.to), (at(5), Some(at(8))));
        assert_eq!(overlap.first.0, key("a/x"));
    }

    #[test]
    fn services_share_under_one_key_of_one_cluster() {
        let shared = || Seen {
            sharing_key: Some("k".to_owned()),
            ..shows(&[1])
        };
        let mut sight = Sight::default();
        sight.changed(key("a/x"), shared(), at(1));
        sight.changed(key("a/y"), shared(), at(2));
        assert!(sight.overlaps.is_empty());
        sight.changed(key("b/z"), shared(), at(3));
        assert_eq!(sight.overlaps.len(), 2);
    }

    #[test]
    fn what_a_new_list_does_not_have_is_gone() {
        let mut sight = Sight::default();
        sight.changed(key("a/gone"), shows(&[1]), at(1));
        sight.changed(key("a/stays"), shows(&[2]), at(1));
        sight.changed(key("b/other"), shows(&[3]), at(1));
        sight.begin_list("a");
        sight.listed(key("a/stays"), shows(&[2]), at(2));
        sight.end_list("a", at(2));
        let left: Vec<_> = sight.services.keys().cloned().collect();
        assert_eq!(left, [key("a/stays"), key("b/other")]);
    }

    #[test]
    fn what_was_not_told_in_time_is_caught_up_with() {
        let mut sight = Sight::default();
        sight.changed(key("a/x"), shows(&[1]), at(1));
        sight.changed(key("a/gone"), shows(&[2]), at(1));
        sight.changed(key("b/y"), shows(&[1]), at(2));
        let after = BTreeMap::from([(key("a/x"), shows(&[3])), (key("c/new"), shows(&[4]))]);
        sight.catch_up(&after, at(9));
        assert!(sight.services.keys().eq(after.keys()));
        assert_eq!(sight.lost.len(), 1);
        assert_eq!(sight.overlaps[0].to, Some(at(9)));
    }

    #[test]
    fn a_wait_ends_with_the_first_address() {
        let mut sight = Sight::default();
        let created = at(3);
        let with = |shown: &[u8]| Seen {
            created,
            ..shows(shown)
        };
        sight.changed(key("a/x"), with(&[]), at(4));
        sight.changed(key("a/x"), with(&[1]), at(7));
        sight.changed(key("a/x"), with(&[1]), at(9));
        let waits: Vec<_> = sight.waits.iter().map(|it| (it.from, it.to)).collect();
        assert_eq!(waits, [(at(3), at(7))]);
    }
}
