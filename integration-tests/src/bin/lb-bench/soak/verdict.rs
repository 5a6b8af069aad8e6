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
    /// Addresses that were shown by one that had given it up for another one that a
    /// user asked for, beside the one that it was given to, and for how long.
    pub moving: Vec<(Duration, String)>,
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        let Self {
            lost,
            doubled,
            leaked,
            unfinished,
            moving: _,
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
            first_went,
            may_move,
        } = overlap;
        let what = format!(
            "{address} was shown by {} {} and {} {} from {:.1} s on",
            first.0,
            first.1,
            second.0,
            second.1,
            from.as_secs_f64()
        );
        let both = [first, second].map(|(key, _)| (key.clone(), *address));
        let each_was_given_it = both.iter().all(|it| past.given.contains(it));
        let came_late = look == Look::NotBoth && (*first_went || !may_move);
        match to {
            _ if came_late => {}
            Some(to) if *may_move && each_was_given_it => {
                verdict.moving.push((*to - *from, what));
            }
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
        for entry in history {
            let (Some(service), Ok(address)) = (&entry.service, entry.address.parse()) else {
                continue;
            };
            let key = Key::from(service.clone());
            let holders = holders.entry(address).or_default();
            if entry.kind() == ChangeKind::Allocated {
                let elsewhere = holders.iter().find(|it| it.cluster != key.cluster);
                if let Some(other) = elsewhere {
                    let revision = entry.revision;
                    past.doubled.push(format!(
                        "{address} was given to {key} at {revision} while {other} held it"
                    ));
                }
                past.given.insert((key.clone(), address));
                holders.insert(key);
            } else if entry.kind() == ChangeKind::Released {
                holders.remove(&key);
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

    fn overlap(may_move: bool, first_went: bool, look: Look) -> Testimony {
        let overlap = Overlap {
            address: "10.0.0.1".parse().unwrap(),
            first: (key("a"), "1".to_owned()),
            second: (key("b"), "2".to_owned()),
            from: Duration::from_secs(1),
            to: Some(Duration::from_secs(3)),
            first_went,
            may_move,
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
    fn an_address_that_moved_is_told_apart_from_one_that_is_doubled() {
        use Look::{Both, NotBoth};
        let unheard_of = || moved()[2..].to_vec();
        let rows = [
            (overlap(true, false, Both), moved(), 0, 1),
            (overlap(true, false, NotBoth), moved(), 0, 1),
            (overlap(true, false, Both), unheard_of(), 1, 0),
            (overlap(true, true, Both), moved(), 0, 1),
            (overlap(true, true, NotBoth), moved(), 0, 0),
            (overlap(false, false, Both), moved(), 1, 0),
            (overlap(false, false, NotBoth), moved(), 0, 0),
        ];
        for (row, (testimony, history, doubled, moving)) in rows.into_iter().enumerate() {
            let verdict = verdict(testimony, &history, Vec::new());
            let found = (verdict.doubled.len(), verdict.moving.len());
            assert_eq!(found, (doubled, moving), "{row}: {verdict:?}");
        }
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
