//! Which promises were kept, from what was seen, what the allocator tells of its
//! past, and how it ended. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use lb_proto::v1::{ChangeKind, HistoryEntry};

use super::{
    ending::Problem,
    seen::Key,
    sight::Overlap,
    witness::{Look, Testimony},
};

/// What was broken, in words, and what was not.
#[derive(Debug, Default)]
pub struct Verdict {
    pub lost: Vec<String>,
    pub doubled: Vec<String>,
    pub leaked: Vec<String>,
    pub unfinished: Vec<String>,
    /// Addresses that two Services seemed to show, for how long, and one of them did not
    /// when it was asked at once: its API server's watch was late.
    pub late: Vec<Duration>,
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        let Self {
            lost,
            doubled,
            leaked,
            unfinished,
            late: _,
        } = self;
        [lost, doubled, leaked, unfinished]
            .iter()
            .all(|it| it.is_empty())
    }
}

pub fn verdict(testimony: Testimony, history: &[HistoryEntry], problems: Vec<Problem>) -> Verdict {
    let Testimony { sight, looks } = testimony;
    let mut verdict = Verdict {
        lost: sight.lost.clone(),
        ..Verdict::default()
    };
    for problem in problems {
        match problem {
            Problem::Lost(what) => verdict.lost.push(what),
            Problem::Doubled(what) => verdict.doubled.push(what),
            Problem::Leaked(what) => verdict.leaked.push(what),
            Problem::Unfinished(what) => verdict.unfinished.push(what),
        }
    }
    let past = Past::of(history);
    for (key, uid, address) in &sight.grants {
        if !past.given.contains(&(key.clone(), *address)) {
            verdict.lost.push(format!(
                "{key} {uid} showed {address}, which history does not know of"
            ));
        }
    }
    verdict.doubled.extend(past.doubled.iter().cloned());
    for (overlap, look) in sight.overlaps.iter().zip(looks) {
        let Overlap {
            address,
            first,
            second,
            from,
            to,
        } = overlap;
        let what = format!(
            "{address} was shown by {} {} and {} {} from {:.1} s on",
            first.0,
            first.1,
            second.0,
            second.1,
            from.as_secs_f64()
        );
        match to {
            Some(to) if look == Look::NotBoth => verdict.late.push(*to - *from),
            Some(_) | None => verdict.doubled.push(what),
        }
    }
    verdict
}

#[derive(Debug, Default)]
struct Past {
    given: BTreeSet<(Key, IpAddr)>,
    doubled: Vec<String>,
}

impl Past {
    fn of(history: &[HistoryEntry]) -> Self {
        let mut past = Self::default();
        let mut holders: BTreeMap<IpAddr, BTreeSet<Key>> = BTreeMap::new();
        let mut kept: BTreeMap<IpAddr, Key> = BTreeMap::new();
        for entry in history {
            let (Some(service), Ok(address)) = (&entry.service, entry.address.parse()) else {
                continue;
            };
            let key = Key::from(service.clone());
            let holders = holders.entry(address).or_default();
            match entry.kind() {
                ChangeKind::Allocated => {
                    let elsewhere = holders.iter().find(|it| it.cluster != key.cluster);
                    let moving = kept.get(&address).filter(|it| **it != key);
                    if let Some(other) = elsewhere.or(moving) {
                        let revision = entry.revision;
                        past.doubled.push(format!(
                            "{address} was given to {key} at {revision} while {other} had it"
                        ));
                    }
                    past.given.insert((key.clone(), address));
                    holders.insert(key);
                }
                ChangeKind::Released => {
                    holders.remove(&key);
                }
                // Users of a soak reserve nothing: it is of one that moves.
                ChangeKind::Reserved => {
                    kept.insert(address, key);
                }
                ChangeKind::Unreserved => {
                    kept.remove(&address);
                }
                ChangeKind::Unspecified
                | ChangeKind::Updated
                | ChangeKind::Conflicted
                | ChangeKind::ConflictEnded
                | ChangeKind::Cluster
                | ChangeKind::Opened => {}
            }
        }
        past
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]
mod tests {
    use lb_proto::v1::ServiceKey;

    use super::*;
    use crate::soak::sight::Sight;

    fn key(cluster: &str) -> Key {
        Key {
            cluster: cluster.to_owned(),
            namespace: "n".to_owned(),
            name: "s".to_owned(),
        }
    }

    fn entry(revision: i64, kind: ChangeKind, cluster: &str) -> HistoryEntry {
        let Key {
            cluster,
            namespace,
            name,
        } = key(cluster);
        HistoryEntry {
            revision,
            kind: kind.into(),
            address: "10.0.0.1".to_owned(),
            service: Some(ServiceKey {
                cluster,
                namespace,
                name,
            }),
            ..HistoryEntry::default()
        }
    }

    fn overlap(to: Option<Duration>, look: Look) -> Testimony {
        let overlap = Overlap {
            address: "10.0.0.1".parse().unwrap(),
            first: (key("a"), "1".to_owned()),
            second: (key("b"), "2".to_owned()),
            from: Duration::from_secs(1),
            to,
        };
        let mut sight = Sight::default();
        sight.overlaps.push(overlap);
        Testimony {
            sight,
            looks: vec![look],
        }
    }

    /// From a to b.
    fn moved() -> Vec<HistoryEntry> {
        vec![
            entry(1, ChangeKind::Allocated, "a"),
            entry(2, ChangeKind::Released, "a"),
            entry(3, ChangeKind::Allocated, "b"),
        ]
    }

    #[test]
    fn an_address_that_two_show_is_told_apart_from_one_that_was_told_of_late() {
        use Look::{Both, NotBoth};
        let ended = Some(Duration::from_secs(3));
        for (to, look, doubled, late) in [
            (ended, Both, 1, 0),
            (ended, NotBoth, 0, 1),
            (None, Both, 1, 0),
            (None, NotBoth, 1, 0),
        ] {
            let verdict = verdict(overlap(to, look), &moved(), Vec::new());
            let found = (verdict.doubled.len(), verdict.late.len());
            assert_eq!(found, (doubled, late), "{to:?} {look:?}: {verdict:?}");
        }
    }

    #[test]
    fn an_address_that_is_given_before_the_one_that_moves_let_go_of_it_is_a_double() {
        let kept = |revision, kind| entry(revision, kind, "a");
        let mut history = moved();
        history.insert(1, kept(2, ChangeKind::Reserved));
        let found = verdict(Testimony::default(), &history, Vec::new());
        assert_eq!(found.doubled.len(), 1, "{found:?}");
        history.insert(3, kept(3, ChangeKind::Unreserved));
        let found = verdict(Testimony::default(), &history, Vec::new());
        assert!(found.is_good(), "{found:?}");
    }

    #[test]
    fn history_that_gives_one_address_to_two_clusters_is_a_double() {
        let mut history = moved();
        history.remove(1);
        let verdict = verdict(Testimony::default(), &history, Vec::new());
        assert_eq!(verdict.doubled.len(), 1, "{verdict:?}");
        assert!(!verdict.is_good());
    }

    #[test]
    fn a_grant_that_history_does_not_know_of_is_lost() {
        let mut testimony = Testimony::default();
        let address = "10.0.0.1".parse().unwrap();
        let grants = [(key("a"), "1".to_owned(), address)];
        testimony.sight.grants.extend(grants.clone());
        assert!(verdict(testimony, &moved(), Vec::new()).is_good());
        let mut testimony = Testimony::default();
        testimony.sight.grants.extend(grants);
        let verdict = verdict(testimony, &moved()[2..], Vec::new());
        assert_eq!(verdict.lost.len(), 1, "{verdict:?}");
    }
}
