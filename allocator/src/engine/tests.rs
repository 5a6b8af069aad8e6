use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use proptest::{prelude::*, sample::select};

use super::*;

pub mod claims;
mod identity;
mod opening;
mod shown;
mod syncing;

const STICKY: Duration = Duration::from_millis(100);

/// The tables of a database, kept as its triggers keep them.
#[derive(Clone, Default)]
struct Tables {
    revision: Revision,
    at: Timestamp,
    allocations: BTreeMap<(IpAddr, Arc<ServiceKey>), Arc<Allocation>>,
    last_held: BTreeMap<IpAddr, LastHeld>,
    reservations: BTreeMap<IpAddr, Arc<Reservation>>,
    conflicts: BTreeMap<(Arc<ServiceKey>, IpAddr), Arc<Conflict>>,
    clusters: BTreeMap<ClusterName, Arc<ClusterRecord>>,
    is_new: bool,
}

/// The rule of sharing, as semantics has it.
fn may_share(one: &Allocation, other: &Allocation) -> bool {
    let (Some(a), Some(b)) = (&one.holder.sharing, &other.holder.sharing) else {
        return false;
    };
    let permits = |permitted: &Permitted, namespace: &Namespace| match permitted {
        Permitted::All => true,
        Permitted::Only(set) => set.contains(namespace),
    };
    a.key == b.key
        && one.key.cluster == other.key.cluster
        && a.ports.is_disjoint(&b.ports)
        && a.backend == b.backend
        && !matches!(&a.backend, Backend::Local(selector) if selector.is_empty())
        && (one.key.namespace == other.key.namespace
            || (permits(&a.permitted, &other.key.namespace)
                && permits(&b.permitted, &one.key.namespace)))
}

impl Tables {
    fn apply(&mut self, change: &Change) {
        assert_eq!(change.revision, self.revision.next(), "a revision is lost");
        assert!(change.at >= self.at, "time went back");
        (self.revision, self.at) = (change.revision, change.at);
        match &change.kind {
            ChangeKind::Allocated(allocation) => {
                let place = (allocation.address, Arc::clone(&allocation.key));
                for ((address, key), other) in &self.allocations {
                    assert!(
                        *address != allocation.address || may_share(other, allocation),
                        "{address} is given to {key} and {}",
                        allocation.key
                    );
                }
                self.allocations.insert(place, Arc::clone(allocation));
                self.last_held.remove(&allocation.address);
            }
            ChangeKind::Released(allocation) => {
                let place = (allocation.address, Arc::clone(&allocation.key));
                let held = self.allocations.remove(&place);
                assert_eq!(held.as_ref(), Some(allocation));
                let address = allocation.address;
                let is_held = self.allocations.keys().any(|(held, _)| *held == address);
                if is_held {
                    return;
                }
                let last = LastHeld {
                    address,
                    key: Arc::clone(&allocation.key),
                    released_at: change.at,
                };
                self.last_held.insert(address, last);
            }
            ChangeKind::Updated(allocation) => {
                let place = (allocation.address, Arc::clone(&allocation.key));
                let held = self.allocations.insert(place, Arc::clone(allocation));
                assert!(held.is_some());
            }
            ChangeKind::Reserved(reservation) => {
                let address = reservation.address;
                self.reservations.insert(address, Arc::clone(reservation));
            }
            ChangeKind::Unreserved(reservation) => {
                let gone = self.reservations.remove(&reservation.address);
                assert_eq!(gone.as_ref(), Some(reservation));
            }
            ChangeKind::Conflicted(conflict) => {
                let place = (Arc::clone(&conflict.key), conflict.address);
                self.conflicts.insert(place, Arc::clone(conflict));
            }
            ChangeKind::ConflictEnded(conflict) => {
                let place = (Arc::clone(&conflict.key), conflict.address);
                assert_eq!(self.conflicts.remove(&place).as_ref(), Some(conflict));
            }
            ChangeKind::Cluster(record) => {
                self.clusters
                    .insert(record.name.clone(), Arc::clone(record));
            }
            ChangeKind::Opened => self.is_new = false,
        }
    }

    fn restart(&self, pools: &Arc<Pools>) -> Engine {
        let snapshot = Snapshot {
            revision: self.revision,
            last_change_at: self.at,
            allocations: self.allocations.values().cloned().collect(),
            last_held: self.last_held.values().cloned().collect(),
            reservations: self.reservations.values().cloned().collect(),
            conflicts: self.conflicts.values().cloned().collect(),
            clusters: self.clusters.values().cloned().collect(),
            is_new: self.is_new,
        };
        Engine::restore(Arc::clone(pools), snapshot).unwrap()
    }
}

/// An engine, the tables it would have written, and a clock.
struct Harness {
    pools: Arc<Pools>,
    engine: Engine,
    tables: Tables,
    now: Timestamp,
}

impl Harness {
    fn new(pools: &[(&str, &[&str], &[&str])]) -> Self {
        Self::with_rules(pools, |_| {})
    }

    fn with_rules(pools: &[(&str, &[&str], &[&str])], rules: impl Fn(&mut PoolSpec)) -> Self {
        let specs = pools.iter().map(|(name, namespaces, addresses)| {
            let mut spec = pool(name, namespaces, addresses);
            rules(&mut spec);
            spec
        });
        let pools = Arc::new(Pools::new(specs.collect()).unwrap());
        Self {
            engine: Tables::default().restart(&pools),
            pools,
            tables: Tables::default(),
            now: Timestamp(1_000),
        }
    }

    fn run(&mut self, command: &Command) -> (Reply, Outcome) {
        let (reply, outcome) = self.engine.plan(command, self.now);
        for change in &outcome.changes {
            self.tables.apply(change);
        }
        (reply, outcome)
    }

    fn acquire(&mut self, acquire: Acquire) -> Reply {
        self.run(&Command::Acquire(acquire)).0
    }

    /// The addresses a Service gets or keeps, or the refusal.
    fn get(&mut self, acquire: Acquire) -> Result<Vec<String>, Refusal> {
        let reply = self.acquire(acquire);
        if let Reply::Refused(refusal) = reply {
            return Err(refusal);
        }
        let Reply::Acquired(acquired) = reply else {
            panic!("an Acquire was not answered as one");
        };
        Ok(texts(&acquired.addresses))
    }

    fn release(&mut self, name: &str, uid: Option<&str>) -> Vec<String> {
        let uid = uid.map(|uid| Uid::parse(uid).unwrap());
        let command = gone(&key("default", name), uid);
        let Reply::Released(released) = self.run(&command).0 else {
            panic!("a Release was not answered as one");
        };
        texts(&released)
    }
}

impl Outcome {
    /// Addresses that others may get something by.
    fn freed(&self) -> Vec<String> {
        let freed = self.notices.iter().filter_map(|notice| {
            if let Notice::Freed(freed) = notice {
                Some(freed.address.to_string())
            } else {
                None
            }
        });
        freed.collect()
    }

    fn asked_again(&self) -> Vec<Arc<ServiceKey>> {
        let asked = self.notices.iter().filter_map(|notice| {
            if let Notice::AskAgain(key) = notice {
                Some(Arc::clone(key))
            } else {
                None
            }
        });
        asked.collect()
    }
}

fn texts(allocations: &[Arc<Allocation>]) -> Vec<String> {
    allocations.iter().map(|a| a.address.to_string()).collect()
}

fn range(text: &str) -> AddressRange {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    AddressRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap()
}

fn pool(name: &str, namespaces: &[&str], addresses: &[&str]) -> PoolSpec {
    let (exclude, addresses): (Vec<_>, Vec<_>) = addresses
        .iter()
        .partition(|text: &&&str| text.starts_with('!'));
    let ranges = addresses.into_iter().copied().map(range).collect();
    PoolSpec {
        exclude: exclude.into_iter().map(|text| range(&text[1..])).collect(),
        namespaces: (!namespaces.is_empty()).then(|| {
            let parsed = namespaces.iter().map(|n| Namespace::parse(n).unwrap());
            parsed.collect()
        }),
        sticky_for: STICKY,
        ..PoolSpec::new(PoolName::parse(name).unwrap(), ranges)
    }
}

fn key(namespace: &str, name: &str) -> ServiceKey {
    ServiceKey::parse("a", namespace, name).unwrap()
}

fn acquire(name: &str) -> Acquire {
    in_namespace("default", name)
}

fn in_namespace(namespace: &str, name: &str) -> Acquire {
    Acquire {
        key: Arc::new(key(namespace, name)),
        uid: None,
        created: None,
        cluster_ip: None,
        was_allocated: false,
        shown_by_others: false,
        wish: Wish {
            families: vec![Family::V4],
            policy: Policy::All,
            requested: PerFamily::default(),
            pool: None,
            sharing: None,
            current: Vec::new(),
            labels: Arc::default(),
        },
    }
}

impl Acquire {
    fn uid(mut self, uid: &str) -> Self {
        self.uid = Some(Uid::parse(uid).unwrap());
        self
    }

    fn created(mut self, millis: i64) -> Self {
        self.created = Some(Timestamp(millis));
        self
    }

    fn dual(mut self, policy: Policy) -> Self {
        self.wish.families = vec![Family::V4, Family::V6];
        self.wish.policy = policy;
        self
    }

    fn asking(mut self, address: &str) -> Self {
        let address: IpAddr = address.parse().unwrap();
        *self.wish.requested.get_mut(Family::of(address)) = Some(address);
        self
    }

    fn of_pool(mut self, pool: &str) -> Self {
        self.wish.pool = Some(PoolName::parse(pool).unwrap());
        self
    }

    fn showing(mut self, address: &str) -> Self {
        self.wish.current.push(address.parse().unwrap());
        self
    }
}

fn ok(addresses: &[&str]) -> Result<Vec<String>, Refusal> {
    Ok(addresses.iter().map(ToString::to_string).collect())
}

fn name(text: &str) -> PoolName {
    PoolName::parse(text).unwrap()
}

#[test]
fn the_lowest_free_address_is_given_and_kept() {
    let mut h = Harness::new(&[("p", &[], &["192.0.2.1-192.0.2.3"])]);
    assert_eq!(h.get(acquire("a")), ok(&["192.0.2.1"]));
    assert_eq!(h.get(acquire("b")), ok(&["192.0.2.2"]));
    assert_eq!(h.get(acquire("a")), ok(&["192.0.2.1"]));
    assert_eq!(h.release("a", None), ["192.0.2.1"]);
    assert_eq!(h.release("a", None), [""; 0]);
    assert_eq!(h.get(acquire("b")), ok(&["192.0.2.2"]));
}

#[test]
fn a_released_address_goes_back_to_its_service_and_to_others_last() {
    let mut h = Harness::new(&[("p", &[], &["192.0.2.1-192.0.2.2"])]);
    h.get(acquire("a")).unwrap();
    h.release("a", None);
    assert_eq!(h.get(acquire("b")), ok(&["192.0.2.2"]));
    assert_eq!(h.get(acquire("a")), ok(&["192.0.2.1"]));
    h.release("a", None);
    assert_eq!(
        h.get(acquire("c")),
        ok(&["192.0.2.1"]),
        "nothing else is free"
    );
    assert!(h.get(acquire("a")).is_err());
}

#[test]
fn protection_ends_with_its_time_but_the_claim_does_not() {
    let mut h = Harness::new(&[("p", &[], &["192.0.2.1-192.0.2.3"])]);
    for name in ["a", "b"] {
        h.get(acquire(name)).unwrap();
        h.release(name, None);
    }
    h.now = h.now.after(STICKY);
    assert_eq!(h.get(acquire("b")), ok(&["192.0.2.2"]), "nobody took it");
    assert_eq!(h.get(acquire("c")), ok(&["192.0.2.1"]), "lowest again");
    assert_eq!(h.get(acquire("a")), ok(&["192.0.2.3"]), "its own is taken");
}

#[test]
fn an_address_cools_down_whatever_its_last_holder_or_an_operator_does_next() {
    let mut h = Harness::with_rules(&[("p", &[], &["192.0.2.1-192.0.2.3"])], |spec| {
        spec.cooldown = Duration::from_millis(50);
    });
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        h.get(acquire("a").asking(address)).unwrap();
    }
    h.release("a", None);
    let reserve = Command::Reserve(Reserve {
        address: "192.0.2.2".parse().unwrap(),
        key: None,
        expires: None,
        comment: String::new(),
    });
    h.run(&reserve);
    h.run(&Command::Unreserve("192.0.2.2".parse().unwrap()));
    for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        let refused = h.get(acquire("b").asking(address));
        assert!(matches!(refused, Err(Refusal::PoolCoolingDown { .. })));
    }
    assert_eq!(h.get(acquire("a")), ok(&["192.0.2.3"]), "the latest");
    h.now = h.now.after(Duration::from_millis(50));
    assert_eq!(h.get(acquire("b")), ok(&["192.0.2.1"]));
}

#[test]
fn what_cools_down_for_a_service_alone_is_its_own_though_it_held_another_since() {
    let pools: [(&str, &[&str], &[&str]); 2] = [
        ("p", &[], &["192.0.2.1"]),
        ("on-request", &[], &["192.0.2.9"]),
    ];
    let mut h = Harness::with_rules(&pools, |spec| {
        spec.cooldown = Duration::from_millis(50);
        spec.auto_assign = spec.name.as_str() == "p";
    });
    h.get(acquire("a")).unwrap();
    assert_eq!(
        h.get(acquire("a").of_pool("on-request")),
        ok(&["192.0.2.9"])
    );
    h.release("a", None);
    assert!(h.get(acquire("b")).is_err());
    assert_eq!(h.get(acquire("a")), ok(&["192.0.2.1"]));
}

#[test]
fn the_old_uid_is_remembered_when_every_address_changes_at_once() {
    let mut h = Harness::new(&[("p", &[], &["192.0.2.1", "2001:db8::1"])]);
    h.get(acquire("a").uid("old")).unwrap();
    let mut six = acquire("a").uid("new");
    six.wish.families = vec![Family::V6];
    assert_eq!(h.get(six), ok(&["2001:db8::1"]));
    let late = h.run(&Command::Acquire(acquire("a").uid("old")));
    assert_eq!(late.1.changes, []);
}

#[test]
fn a_service_created_again_takes_over_and_the_late_old_one_changes_nothing() {
    let mut h = Harness::new(&[("p", &[], &["192.0.2.1-192.0.2.2"])]);
    h.get(acquire("a").uid("old")).unwrap();
    assert_eq!(h.get(acquire("a").uid("new")), ok(&["192.0.2.1"]));
    assert_eq!(h.release("a", Some("old")), [""; 0]);
    let late = h.run(&Command::Acquire(acquire("a").uid("old")));
    assert_eq!(late.1.changes, []);
    assert_eq!(h.release("a", Some("old")), [""; 0], "still the new one's");
    assert_eq!(h.release("a", Some("new")), ["192.0.2.1"]);
}

#[test]
fn of_two_services_of_one_name_the_later_one_is_there_whoever_asks_last() {
    let mut h = Harness::new(&[("p", &[], &["192.0.2.1-192.0.2.2"])]);
    let old = || acquire("a").uid("old").created(1_000);
    let new = || acquire("a").uid("new").created(2_000);
    h.get(old()).unwrap();
    h.release("a", Some("old"));
    assert_eq!(h.get(new()), ok(&["192.0.2.1"]));
    assert_eq!(h.run(&Command::Acquire(old())).1.changes, []);
    assert_eq!(h.release("a", Some("old")), [""; 0], "still the new one's");

    h.release("a", Some("new"));
    h.get(old()).unwrap();
    assert_eq!(
        h.get(new()),
        ok(&["192.0.2.1"]),
        "first, and yet the old one"
    );
    assert_eq!(h.release("a", Some("new")), ["192.0.2.1"]);
}

#[test]
fn an_address_of_a_family_that_the_wish_does_not_have_is_not_kept() {
    let mut h = Harness::new(&[("p", &[], &["192.0.2.1", "2001:db8::1"])]);
    let v6 = |mut acquire: Acquire| {
        acquire.wish.families = vec![Family::V6];
        acquire
    };
    h.get(v6(acquire("b"))).unwrap();
    h.get(acquire("a").uid("old")).unwrap();
    let refused = h.acquire(v6(acquire("a").uid("new")));
    assert!(matches!(refused, Reply::Refused(_)), "{refused:?}");
    assert_eq!(h.get(acquire("c")), ok(&["192.0.2.1"]));
}

#[test]
fn namespaces_use_their_own_pools_before_open_ones() {
    let mut h = Harness::new(&[
        ("a-open", &[], &["192.0.2.1"]),
        ("bound", &["default"], &["192.0.2.9"]),
    ]);
    assert_eq!(h.get(acquire("a")), ok(&["192.0.2.9"]));
    assert_eq!(h.get(acquire("b")), ok(&["192.0.2.1"]));
    assert_eq!(
        h.get(acquire("c")),
        Err(Refusal::PoolExhausted {
            pools: vec![name("bound"), name("a-open")],
            family: Family::V4
        })
    );
}

#[test]
fn requests_are_granted_or_refused_with_the_reason() {
    let taken = |holder: Option<Arc<ServiceKey>>| Refusal::AddressInUse {
        address: "192.0.2.1".parse().unwrap(),
        pool: name("p"),
        holder,
    };
    let mut h = Harness::new(&[
        ("p", &["default"], &["192.0.2.0-192.0.2.9", "!192.0.2.5"]),
        ("other", &["other"], &["192.0.2.20"]),
        ("six", &["default"], &["2001:db8::1"]),
    ]);
    h.get(acquire("a").asking("192.0.2.1")).unwrap();
    let nowhere = |pool: Option<&str>| Refusal::AddressNotInPool {
        address: "198.51.100.1".parse().unwrap(),
        pool: pool.map(name),
    };
    let mut elsewhere = acquire("x").asking("192.0.2.1");
    elsewhere.key = Arc::new(ServiceKey::parse("b", "default", "x").unwrap());
    let table = [
        (
            acquire("b").asking("192.0.2.1"),
            taken(Some(Arc::new(key("default", "a")))),
        ),
        (elsewhere, taken(None)),
        (
            acquire("b").asking("192.0.2.5"),
            Refusal::AddressExcluded {
                address: "192.0.2.5".parse().unwrap(),
                pool: name("p"),
            },
        ),
        (acquire("b").asking("198.51.100.1"), nowhere(None)),
        (
            acquire("b").asking("198.51.100.1").of_pool("p"),
            nowhere(Some("p")),
        ),
        (
            acquire("b").asking("192.0.2.20"),
            Refusal::PoolNotAllowed {
                pool: name("other"),
                namespace: Namespace::parse("default").unwrap(),
            },
        ),
        (
            acquire("b").of_pool("nope"),
            Refusal::PoolNotFound { pool: name("nope") },
        ),
        (
            acquire("b").of_pool("six"),
            Refusal::NoPool {
                namespace: Namespace::parse("default").unwrap(),
                family: Family::V4,
            },
        ),
        (
            in_namespace("third", "b"),
            Refusal::NoPool {
                namespace: Namespace::parse("third").unwrap(),
                family: Family::V4,
            },
        ),
    ];
    for (acquire, refusal) in table {
        let (reply, outcome) = h.run(&Command::Acquire(acquire.clone()));
        assert_eq!(reply, Reply::Refused(refusal), "{acquire:?}");
        assert_eq!(outcome.changes, []);
    }
    assert_eq!(
        h.get(acquire("b").asking("192.0.2.7").of_pool("p")),
        ok(&["192.0.2.7"])
    );
}

#[test]
fn an_edited_request_moves_if_it_can_and_keeps_the_address_if_not() {
    let mut h = Harness::new(&[
        ("p", &[], &["192.0.2.1-192.0.2.3"]),
        ("q", &[], &["192.0.2.9"]),
    ]);
    h.get(acquire("a")).unwrap();
    h.get(acquire("b")).unwrap();
    let Reply::Acquired(kept) = h.acquire(acquire("a").asking("192.0.2.2")) else {
        panic!("a live Service was refused");
    };
    assert_eq!(texts(&kept.addresses), ["192.0.2.1"]);
    assert!(!kept.satisfied);
    assert!(matches!(
        kept.unmet[0].refusal,
        Refusal::AddressInUse { .. }
    ));
    assert_eq!(h.get(acquire("a").asking("192.0.2.3")), ok(&["192.0.2.3"]));
    assert_eq!(
        h.get(acquire("a")),
        ok(&["192.0.2.3"]),
        "no request, no move"
    );
    assert_eq!(h.get(acquire("a").of_pool("q")), ok(&["192.0.2.9"]));
    assert_eq!(h.get(acquire("c").asking("192.0.2.1")), ok(&["192.0.2.1"]));
}

#[test]
fn a_dual_stack_service_gets_both_families_from_one_pool_if_one_has_both() {
    let mut h = Harness::new(&[
        ("four", &[], &["192.0.2.1"]),
        ("mixed", &[], &["192.0.2.9", "2001:db8::9"]),
        ("six", &[], &["2001:db8::1-2001:db8::2"]),
    ]);
    assert_eq!(
        h.get(acquire("a").dual(Policy::All)),
        ok(&["192.0.2.9", "2001:db8::9"])
    );
    assert_eq!(
        h.get(acquire("b").dual(Policy::All)),
        ok(&["192.0.2.1", "2001:db8::1"])
    );
    let before = h.tables.revision;
    assert!(h.get(acquire("c").dual(Policy::All)).is_err());
    assert_eq!(h.tables.revision, before, "both or none, nothing leaks");
}

#[test]
fn a_preferred_family_is_added_when_it_becomes_possible() {
    let mut h = Harness::new(&[("p", &[], &["192.0.2.1-192.0.2.2", "2001:db8::1"])]);
    h.get(acquire("a").dual(Policy::All)).unwrap();
    let Reply::Acquired(one) = h.acquire(acquire("b").dual(Policy::Any)) else {
        panic!("one family is fine");
    };
    assert_eq!(texts(&one.addresses), ["192.0.2.2"]);
    assert!(one.satisfied);
    assert_eq!(one.unmet[0].family, Family::V6);
    h.release("a", None);
    assert_eq!(
        h.get(acquire("b").dual(Policy::Any)),
        ok(&["192.0.2.2", "2001:db8::1"])
    );
    assert_eq!(
        h.get(acquire("b")),
        ok(&["192.0.2.2"]),
        "only the second family goes"
    );
    assert_eq!(h.release("b", None), ["192.0.2.2"]);
}

#[test]
fn a_limit_does_not_count_what_the_same_request_gives_back() {
    let pools: [(&str, &[&str], &[&str]); 2] = [
        ("p", &[], &["192.0.2.1-192.0.2.9", "2001:db8::1"]),
        ("q", &[], &["192.0.2.20", "2001:db8::20"]),
    ];
    let limit = |spec: &mut PoolSpec| spec.max_per_cluster = Some(1);
    let mut h = Harness::with_rules(&pools, limit);
    let six = |asked: &str| acquire("a").dual(Policy::All).asking(asked);
    h.get(six("2001:db8::1").asking("192.0.2.20")).unwrap();
    let swapped = six("2001:db8::20").asking("192.0.2.2");
    assert_eq!(h.get(swapped), ok(&["192.0.2.2", "2001:db8::20"]));
    assert_eq!(
        h.get(acquire("a").asking("192.0.2.20")),
        ok(&["192.0.2.20"])
    );
}

#[test]
fn a_limit_for_one_address_leaves_it_to_the_primary_family() {
    let pools: [(&str, &[&str], &[&str]); 1] = [("p", &[], &["192.0.2.1", "2001:db8::1"])];
    let mut h = Harness::with_rules(&pools, |spec| spec.max_per_cluster = Some(1));
    let mut six = acquire("a");
    six.wish.families = vec![Family::V6];
    h.get(six).unwrap();
    h.release("a", None);
    assert_eq!(h.get(acquire("a").dual(Policy::Any)), ok(&["192.0.2.1"]));
}

#[test]
fn the_primary_family_makes_room_where_only_so_both_are_possible() {
    let pools: [(&str, &[&str], &[&str]); 2] = [
        ("p", &[], &["192.0.2.1", "2001:db8::1"]),
        ("q", &[], &["192.0.2.20"]),
    ];
    let mut h = Harness::with_rules(&pools, |spec| spec.max_per_cluster = Some(1));
    assert_eq!(
        h.get(acquire("a").dual(Policy::All)),
        ok(&["192.0.2.20", "2001:db8::1"])
    );
}

#[test]
fn both_families_come_from_one_pool_also_where_only_kept_addresses_are_left() {
    let mut h = Harness::new(&[
        ("four", &[], &["192.0.2.1"]),
        ("mixed", &[], &["192.0.2.9", "2001:db8::9"]),
    ]);
    for name in ["a", "b"] {
        h.get(acquire(name).dual(Policy::Any)).unwrap();
    }
    for name in ["a", "b"] {
        h.release(name, None);
    }
    assert_eq!(
        h.get(acquire("c").dual(Policy::All)),
        ok(&["192.0.2.9", "2001:db8::9"])
    );
}

#[test]
fn an_address_in_status_is_adopted_when_it_is_free_and_allowed() {
    let mut h = Harness::new(&[
        ("p", &["default"], &["192.0.2.1-192.0.2.9"]),
        ("other", &["other"], &["192.0.2.20"]),
    ]);
    assert_eq!(h.get(acquire("a").showing("192.0.2.7")), ok(&["192.0.2.7"]));
    assert_eq!(h.get(acquire("b").showing("192.0.2.7")), ok(&["192.0.2.1"]));
    assert_eq!(
        h.get(acquire("c").showing("192.0.2.20")),
        ok(&["192.0.2.2"])
    );
    assert_eq!(
        h.get(acquire("d").showing("203.0.113.1")),
        ok(&["192.0.2.3"])
    );
}

#[test]
fn addresses_that_end_in_0_and_255_are_left_out_of_ipv4_where_that_is_asked() {
    let mut spec = pool("p", &[], &["10.0.0.254-10.0.2.1", "2001:db8::-2001:db8::1"]);
    spec.avoid_buggy_ips = true;
    let pools = Pools::new(vec![spec]).unwrap();
    let ranges: Vec<_> = pools
        .indexes()
        .flat_map(|index| pools.ranges(index))
        .map(|range| range.to_string())
        .collect();
    assert_eq!(
        ranges,
        [
            "10.0.0.254",
            "10.0.1.1-10.0.1.254",
            "10.0.2.1",
            "2001:db8::-2001:db8::1"
        ]
    );
}

#[test]
fn a_slash_64_costs_one_range() {
    let mut h = Harness::new(&[("p", &[], &["2001:db8::-2001:db8::ffff:ffff:ffff:ffff"])]);
    let mut six = acquire("a");
    six.wish.families = vec![Family::V6];
    assert_eq!(h.get(six), ok(&["2001:db8::"]));
}

#[test]
fn pools_that_overlap_are_refused_with_both_names() {
    let conflict = |specs: &[(&str, &[&str])]| {
        let specs = specs.iter().map(|(name, ranges)| pool(name, &[], ranges));
        Pools::new(specs.collect()).unwrap_err().to_string()
    };
    assert_eq!(
        conflict(&[("b", &["10.0.0.4-10.0.0.9"]), ("a", &["10.0.0.0-10.0.0.4"])]),
        "pools a and b overlap: a has 10.0.0.0-10.0.0.4, b has 10.0.0.4-10.0.0.9"
    );
    assert_eq!(
        conflict(&[("a", &["10.0.0.0-10.0.0.4", "10.0.0.2"])]),
        "pool a has 10.0.0.0-10.0.0.4 and 10.0.0.2, which overlap"
    );
    assert_eq!(
        conflict(&[("a", &[]), ("a", &[])]),
        "two pools have the name a"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Run(Command),
    Pass(i64),
    Restart,
}

fn any_acquire() -> impl Strategy<Value = Acquire> {
    let address = select(vec![
        None,
        None,
        None,
        Some("192.0.2.1"),
        Some("192.0.2.4"),
        Some("192.0.2.5"),
        Some("192.0.2.99"),
        Some("2001:db8::1"),
        Some("2001:db8::2"),
    ]);
    (
        select(vec!["default", "other"]),
        select(vec!["s0", "s1", "s2", "s3", "s4", "s5"]),
        select(vec![None, Some("u0"), Some("u1"), Some("u2")]),
        select(vec![
            (vec![Family::V4], Policy::All),
            (vec![Family::V6], Policy::All),
            (vec![Family::V4, Family::V6], Policy::All),
            (vec![Family::V6, Family::V4], Policy::Any),
        ]),
        (address.clone(), address),
        select(vec![None, None, None, Some("p"), Some("q"), Some("nope")]),
    )
        .prop_map(
            |(namespace, name, uid, (families, policy), (asked, shown), pool)| {
                let mut acquire = in_namespace(namespace, name);
                acquire.uid = uid.map(|uid| Uid::parse(uid).unwrap());
                acquire.wish.policy = policy;
                if let Some(address) = asked
                    && families.contains(&Family::of(address.parse().unwrap()))
                {
                    acquire = acquire.asking(address);
                }
                acquire.wish.families = families;
                acquire
                    .wish
                    .current
                    .extend(shown.map(|a| a.parse::<IpAddr>().unwrap()));
                acquire.wish.pool = pool.map(|pool| PoolName::parse(pool).unwrap());
                acquire
            },
        )
}

fn any_sharing() -> impl Strategy<Value = Option<Arc<Terms>>> {
    let terms = (
        select(vec!["k1", "k2"]),
        any::<bool>(),
        prop::collection::btree_set(select(vec![80u16, 81, 82, 83]), 1..3),
        select(vec![None, None, Some("app"), Some("")]),
    );
    let terms = terms.prop_map(|(key, everywhere, ports, local)| {
        let tcp = |number| Port {
            protocol: Protocol::Tcp,
            number,
        };
        let label = |text: &str| (!text.is_empty()).then(|| (text.to_owned(), "x".to_owned()));
        Arc::new(Terms {
            key: SharingKey::parse(key).unwrap(),
            permitted: if everywhere {
                Permitted::All
            } else {
                Permitted::Only(BTreeSet::new())
            },
            ports: ports.into_iter().map(tcp).collect(),
            backend: local.map_or(Backend::Cluster, |text| {
                Backend::Local(label(text).into_iter().collect())
            }),
        })
    });
    prop::option::of(terms)
}

fn any_reservation() -> impl Strategy<Value = Command> {
    let address = select(vec!["192.0.2.1", "192.0.2.5", "2001:db8::1"]);
    let holder = select(vec![None, Some("s0"), Some("s1")]);
    let expires = prop::option::of(1i64..300);
    (address, holder, expires).prop_map(|(address, holder, expires)| {
        Command::Reserve(Reserve {
            address: address.parse().unwrap(),
            key: holder.map(|name| Arc::new(key("default", name))),
            expires: expires.map(Timestamp),
            comment: String::new(),
        })
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => any_reservation().prop_map(Step::Run),
        1 => select(vec!["192.0.2.1", "192.0.2.5", "2001:db8::1"])
            .prop_map(|address| Step::Run(Command::Unreserve(address.parse().unwrap()))),
        5 => (any_acquire(), any_sharing()).prop_map(|(mut acquire, sharing)| {
            acquire.wish.sharing = sharing;
            Step::Run(Command::Acquire(acquire))
        }),
        6 => any_acquire().prop_map(|acquire| Step::Run(Command::Acquire(acquire))),
        4 => any_acquire().prop_map(|acquire| Step::Run(gone(&acquire.key, acquire.uid))),
        1 => (0i64..150).prop_map(Step::Pass),
        1 => Just(Step::Restart),
    ]
}

/// Lets time pass in the engine, and no more.
fn nothing() -> Command {
    gone(&key("nowhere", "nothing"), None)
}

/// The release of a Service that shows nothing any more.
fn gone(key: &ServiceKey, uid: Option<Uid>) -> Command {
    Command::Release(Release {
        key: key.clone(),
        uid,
        current: Vec::new(),
    })
}

/// Nobody got an address that cools down for somebody else, unless it is kept for
/// just that Service.
fn cooled_down(
    h: &Harness,
    before: &BTreeMap<IpAddr, LastHeld>,
    outcome: &Outcome,
) -> Result<(), TestCaseError> {
    for change in &outcome.changes {
        if let ChangeKind::Allocated(allocation) = &change.kind
            && let Some(last) = before.get(&allocation.address)
            && last.key != allocation.key
            && !h.tables.reservations.contains_key(&allocation.address)
            && let Located::In(pool) = h.pools.locate(allocation.address)
        {
            let cooled = last.released_at.after(h.pools.spec(pool).cooldown);
            prop_assert!(
                change.at >= cooled,
                "{:?} cools down until {}",
                last,
                cooled
            );
        }
    }
    Ok(())
}

/// No namespace and no cluster holds more than its pools allow.
fn limits_hold(h: &Harness) -> Result<(), TestCaseError> {
    let mut namespaces = BTreeSet::new();
    let mut clusters = BTreeSet::new();
    for allocation in h.tables.allocations.values() {
        if let Located::In(pool) = h.pools.locate(allocation.address) {
            let cluster = (pool, &allocation.key.cluster);
            namespaces.insert((cluster, &allocation.key.namespace, allocation.address));
            clusters.insert((cluster, allocation.address));
        }
    }
    for (cluster, namespace, _) in &namespaces {
        let used = namespaces
            .iter()
            .filter(|other| (&other.0, &other.1) == (cluster, namespace));
        let limit = h.pools.spec(cluster.0).max_per_namespace;
        prop_assert!(limit.is_none_or(|limit| used.count() as u64 <= limit));
    }
    for (cluster, _) in &clusters {
        let used = clusters.iter().filter(|other| other.0 == *cluster);
        let limit = h.pools.spec(cluster.0).max_per_cluster;
        prop_assert!(limit.is_none_or(|limit| used.count() as u64 <= limit));
    }
    Ok(())
}

const POOLS: [(&str, &[&str], &[&str]); 2] = [
    (
        "p",
        &["default"],
        &["192.0.2.1-192.0.2.4", "2001:db8::1-2001:db8::2"],
    ),
    (
        "q",
        &[],
        &["192.0.2.5-192.0.2.7", "!192.0.2.6", "2001:db8::9"],
    ),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    // `Tables` asserts that no address is given twice and no revision is lost.
    #[test]
    fn any_history_keeps_the_promises(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut h = Harness::with_rules(&POOLS, |spec| {
            if spec.name.as_str() == "p" {
                spec.cooldown = Duration::from_millis(30);
                spec.max_per_namespace = Some(3);
            } else {
                spec.max_per_cluster = Some(2);
            }
        });
        for step in steps {
            match step {
                Step::Pass(millis) => h.now = Timestamp(h.now.0 + millis),
                Step::Restart => h.engine = h.tables.restart(&h.pools),
                Step::Run(mut command) => {
                    if let Command::Reserve(reserve) = &mut command {
                        // Relative up to here; nobody reserves for the past.
                        let later = |Timestamp(millis)| Timestamp(h.now.0 + millis);
                        reserve.expires = reserve.expires.map(later);
                    }
                    let mut restarted = h.tables.restart(&h.pools);
                    let passed = h.run(&nothing());
                    let repassed = restarted.plan(&nothing(), h.now);
                    prop_assert_eq!(repassed.1.changes, passed.1.changes);
                    let before = h.tables.last_held.clone();

                    let plan = h.run(&command);
                    prop_assert_eq!(&restarted.plan(&command, h.now), &plan, "restarted differs");
                    let (reply, outcome) = plan;
                    cooled_down(&h, &before, &outcome)?;

                    let (again, more) = h.run(&command);
                    prop_assert_eq!(more.changes, vec![], "not idempotent");
                    if let Reply::Acquired(_) | Reply::Refused(_) = reply {
                        prop_assert_eq!(again, reply);
                    }
                }
            }
            limits_hold(&h)?;
            for allocation in h.tables.allocations.values() {
                prop_assert!(!is_stranded(&h.pools, allocation), "{:?}", allocation);
                let family = allocation.family();
                let same = h.tables.allocations.values().filter(|other| {
                    other.key == allocation.key && other.family() == family
                });
                prop_assert_eq!(same.count(), 1, "two addresses of one family");
                // Who shared it with one that moved goes on with it.
                let reserved = h.tables.reservations.get(&allocation.address);
                prop_assert!(
                    reserved.is_none_or(|r| r.key.as_ref() == Some(&allocation.key))
                );
            }
        }
    }

    #[test]
    fn a_pool_is_exhausted_exactly_at_its_size(
        size in 1u32..40,
        released in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let last = std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(10, 0, 0, 1)) + size - 1);
        let addresses = format!("10.0.0.1-{last}");
        let mut h = Harness::new(&[("p", &[], &[addresses.as_str()])]);
        let names: Vec<_> = (0..size).map(|i| format!("s{i}")).collect();
        let got: Vec<_> = names.iter().map(|name| h.get(acquire(name)).unwrap()).collect();
        prop_assert!(h.get(acquire("late")).is_err());

        let mut free: Vec<_> = released.iter().map(|index| index.index(size as usize)).collect();
        free.sort_unstable();
        free.dedup();
        for i in &free {
            h.release(&names[*i], None);
        }
        for i in free.iter().rev() {
            prop_assert_eq!(&h.get(acquire(&names[*i])).unwrap(), &got[*i], "not sticky");
        }
        prop_assert!(h.get(acquire("late")).is_err());
    }
}
