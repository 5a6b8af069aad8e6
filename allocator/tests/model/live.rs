//! What no engine may do, whatever it thinks: give somebody an address that the status of
//! another live Service shows. The statuses are this test's own: only its watchers write
//! them, after answers, and hands. One cluster lies about all that it has. And where a
//! database is a backup or a new one: give anything but what is shown, before every cluster
//! has told what it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use lb_allocator::engine::{
    Acquire, Allocation, Change, ChangeKind, ClusterName, ClusterState, Command, ConflictKind,
    Decommission, Engine, Family, Handover, Loss, PoolName, PoolSpec, Pools, Refusal, Release,
    Reply, Resolve, ServiceKey, Sync, Timestamp, Uid, Winner, Wish,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::{history::any_wish, rules::may_share, tables::Tables};

type Checked = Result<(), TestCaseError>;

const HONEST: [&str; 2] = ["a", "b"];
const LIAR: &str = "liar";
/// As many addresses of the small pool a cluster may hold.
const LIMIT: u64 = 2;
/// After so long a new database waits for nobody whom it does not know.
const GATHERING: i64 = 30_001;

#[derive(Clone, Debug)]
pub enum Deed {
    Create(usize),
    Delete(usize, bool),
    /// Another controller serves a Service from now on, and writes an address or nothing new.
    Leave(usize, Option<IpAddr>),
    /// A Service asks, and the answer is written into its status or gets lost.
    Ask(usize, Box<Wish>, bool),
    /// A hand writes an address into a status.
    Edit(usize, IpAddr),
    Sync(usize),
    /// The liar syncs or asks, showing what it likes.
    Lie(Vec<(usize, Wish)>, bool),
    Handover(IpAddr, usize),
    Resolve(usize, Winner),
    Decommission(usize),
    Pass(i64),
    Restart,
    BackUp,
    Restore,
    LoseDatabase,
}

/// A Service, and what its status shows.
#[derive(Clone, Debug)]
struct Live {
    uid: Uid,
    shown: BTreeSet<IpAddr>,
    /// Of this the allocator cannot know.
    untold: BTreeSet<IpAddr>,
    wish: Wish,
}

pub fn any_deeds() -> impl Strategy<Value = Vec<Deed>> {
    vec(any_deed(), 1..120)
}

fn any_deed() -> impl Strategy<Value = Deed> {
    let service = || 0usize..10;
    let wish = || any_wish().prop_map(without_status);
    let lies = vec((0usize..4, any_wish()), 0..5);
    let winner = prop_oneof![
        Just(Winner::Holder),
        Just(Winner::Nobody),
        Just(Winner::Shower {
            expires: Timestamp(50)
        }),
    ];
    prop_oneof![
        4 => service().prop_map(Deed::Create),
        2 => (service(), any::<bool>()).prop_map(|(of, told)| Deed::Delete(of, told)),
        1 => (service(), option::of(select(unlimited())))
            .prop_map(|(of, written)| Deed::Leave(of, written)),
        10 => (service(), wish(), prop::bool::weighted(0.7))
            .prop_map(|(of, wish, written)| Deed::Ask(of, Box::new(wish), written)),
        1 => (service(), select(unlimited())).prop_map(|(of, shown)| Deed::Edit(of, shown)),
        4 => (0usize..2).prop_map(Deed::Sync),
        3 => (lies, any::<bool>()).prop_map(|(lies, is_sync)| Deed::Lie(lies, is_sync)),
        2 => (select(addresses()), service()).prop_map(|(of, to)| Deed::Handover(of, to)),
        1 => (service(), winner).prop_map(|(of, winner)| Deed::Resolve(of, winner)),
        1 => (0usize..2).prop_map(Deed::Decommission),
        3 => (1i64..150).prop_map(Deed::Pass),
        1 => Just(Deed::Pass(GATHERING)),
        1 => Just(Deed::Restart),
        1 => Just(Deed::BackUp),
        1 => Just(Deed::Restore),
        1 => prop::bool::weighted(0.3).prop_map(|is_lost| if is_lost {
            Deed::LoseDatabase
        } else {
            Deed::Restart
        }),
    ]
}

/// Wishes name pools and addresses of the other test; they are none here.
fn without_status(wish: Wish) -> Wish {
    Wish {
        current: Vec::new(),
        pool: None,
        ..wish
    }
}

fn addresses() -> Vec<IpAddr> {
    let mut all = crate::pools::addresses();
    all.truncate(13);
    all
}

/// What hands write: of a pool with limits it is kept from others within these alone.
fn unlimited() -> Vec<IpAddr> {
    let mut all = addresses();
    all.retain(|address| !is_of_small(*address));
    all
}

fn is_of_small(address: IpAddr) -> bool {
    address.to_string().starts_with("10.0.1.")
}

/// One that anybody may have as much of as there is, and one of which not.
fn pools() -> Arc<Pools> {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').expect("a range");
        let parsed = |text: &str| text.parse().expect("an address");
        lb_allocator::engine::AddressRange::new(parsed(first), parsed(last)).expect("in order")
    };
    let pool = |name: &str, ranges: &[&str]| {
        let ranges = ranges.iter().map(|text| range(text)).collect();
        PoolSpec::new(PoolName::parse(name).expect("a name"), ranges)
    };
    let open = pool("open", &["10.0.0.252-10.0.0.255", "2001:db8::-2001:db8::2"]);
    let small = PoolSpec {
        max_per_cluster: Some(LIMIT),
        ..pool("small", &["10.0.1.0-10.0.1.4"])
    };
    let settings = lb_allocator::engine::Settings {
        orphan_grace: std::time::Duration::from_millis(100),
        ..lb_allocator::engine::Settings::default()
    };
    let pools = Pools::new(vec![open, small]).expect("pools that do not overlap");
    Arc::new(pools.with_settings(settings))
}

struct World {
    pools: Arc<Pools>,
    engine: Engine,
    tables: Tables,
    clock: Timestamp,
    live: BTreeMap<ServiceKey, Live>,
    created: u32,
    backup: Option<Tables>,
    /// What clusters that this database has not heard prove.
    loss: Loss,
    /// Clusters that were told by another database than this one, and have told this one
    /// nothing.
    unheard: BTreeSet<&'static str>,
    /// Those of them that this database knows of: one of them proved that there was more.
    awaited: BTreeSet<&'static str>,
    /// What the liar says that it shows.
    said: BTreeSet<(ServiceKey, IpAddr)>,
    /// No quota counted for the liar once.
    is_waived: bool,
}

pub fn live_through(deeds: &[Deed]) -> Checked {
    let pools = pools();
    let tables = Tables::default();
    let mut world = World {
        engine: Engine::restore(Arc::clone(&pools), tables.snapshot()).expect("empty"),
        pools,
        tables,
        clock: Timestamp(1_000),
        live: BTreeMap::new(),
        created: 0,
        backup: None,
        loss: Loss::Another,
        unheard: BTreeSet::new(),
        awaited: BTreeSet::new(),
        said: BTreeSet::new(),
        is_waived: false,
    };
    for deed in deeds {
        world.does(deed)?;
        world.liar_keeps_little()?;
    }
    Ok(())
}

fn cluster(name: &str) -> ClusterName {
    ClusterName::parse(name).expect("a name")
}

fn key(service: usize) -> ServiceKey {
    let cluster = HONEST[service % HONEST.len()];
    ServiceKey::parse(cluster, "default", &format!("s{}", service / 2)).expect("a key")
}

impl World {
    fn does(&mut self, deed: &Deed) -> Checked {
        match deed {
            Deed::Create(service) => {
                self.created += 1;
                let uid = format!("u{}", self.created);
                self.live.entry(key(*service)).or_insert_with(|| Live {
                    uid: Uid::parse(&uid).expect("a uid"),
                    shown: BTreeSet::new(),
                    untold: BTreeSet::new(),
                    wish: plain(),
                });
                Ok(())
            }
            Deed::Delete(service, is_told) => match self.live.remove(&key(*service)) {
                Some(gone) if *is_told => self
                    .run(&release(key(*service), gone.uid, Vec::new()))
                    .map(drop),
                Some(_) | None => Ok(()),
            },
            Deed::Leave(service, written) => {
                let Some(live) = self.live.get_mut(&key(*service)) else {
                    return Ok(());
                };
                live.shown.extend(written);
                live.untold.extend(written);
                let (uid, shown) = (live.uid.clone(), live.shown.iter().copied().collect());
                self.run(&release(key(*service), uid, shown)).map(drop)
            }
            Deed::Ask(service, wish, is_written) => {
                let key = key(*service);
                if let Some(live) = self.live.get_mut(&key) {
                    live.wish = (**wish).clone();
                    self.ask(&key, *is_written)?;
                }
                Ok(())
            }
            Deed::Edit(service, address) => {
                if let Some(live) = self.live.get_mut(&key(*service)) {
                    live.shown.insert(*address);
                    live.untold.insert(*address);
                }
                Ok(())
            }
            Deed::Sync(of) => {
                let name = HONEST[of % HONEST.len()];
                let of_cluster = |key: &&ServiceKey| key.cluster.as_str() == name;
                let keys: Vec<_> = self.live.keys().filter(of_cluster).cloned().collect();
                let services = keys.iter().filter_map(|key| self.acquire(key)).collect();
                for key in &keys {
                    self.is_told(key);
                }
                let mut proves = None;
                if self.unheard.remove(name) {
                    proves = Some(self.loss);
                    if self.loss == Loss::Restored && self.awaited.is_empty() {
                        self.awaited = self.known();
                    }
                }
                self.awaited.remove(name);
                self.run(&sync(name, services, proves)).map(drop)
            }
            Deed::Lie(lies, is_sync) => self.lie(lies, *is_sync),
            Deed::Handover(address, to) => {
                let holders = self.tables.holders(*address);
                let Some(held) = holders.first() else {
                    return Ok(());
                };
                let to = Arc::new(key(*to));
                // The target of two handovers of a family takes one after the other.
                let is_target = self.tables.reservations.iter().any(|reserved| {
                    reserved.key.as_ref() == Some(&to)
                        && Family::of(reserved.address) == Family::of(*address)
                });
                if held.key == to || is_target {
                    return Ok(());
                }
                self.run(&Command::Handover(Handover {
                    address: *address,
                    from: Arc::clone(&held.key),
                    to,
                    expires: Timestamp(self.clock.0 + 80),
                    comment: String::new(),
                }))
                .map(drop)
            }
            Deed::Resolve(service, winner) => self.resolve(&key(*service), *winner),
            Deed::Decommission(of) => self.decommission(HONEST[of % HONEST.len()]),
            Deed::Pass(millis) => {
                self.clock = Timestamp(self.clock.0 + millis);
                let ended = self.engine.pass(self.clock).changes;
                self.write_down(&ended)
            }
            Deed::BackUp => {
                self.backup = Some(self.tables.clone());
                Ok(())
            }
            Deed::Restore => match self.backup.clone() {
                Some(backup) => self.replace_database(backup, Loss::Restored),
                None => Ok(()),
            },
            Deed::LoseDatabase => {
                let tables = Tables {
                    is_new: true,
                    ..Tables::default()
                };
                self.replace_database(tables, Loss::Another)
            }
            Deed::Restart => {
                let snapshot = self.tables.snapshot();
                let engine = Engine::restore(Arc::clone(&self.pools), snapshot);
                self.engine = engine.map_err(|error| TestCaseError::fail(error.to_string()))?;
                Ok(())
            }
        }
    }

    /// By one that knows less of what Services show.
    fn replace_database(&mut self, tables: Tables, loss: Loss) -> Checked {
        (self.tables, self.loss) = (tables, loss);
        let engine = Engine::restore(Arc::clone(&self.pools), self.tables.snapshot());
        self.engine = engine.map_err(|error| TestCaseError::fail(error.to_string()))?;
        self.unheard = HONEST.into();
        self.awaited.clear();
        self.is_waived = true;
        for live in self.live.values_mut() {
            live.untold = live.shown.clone();
        }
        Ok(())
    }

    /// Honest clusters that the database knows of, and that have told it nothing yet.
    fn known(&self) -> BTreeSet<&'static str> {
        let is_known = |name: &&str| {
            let mut rows = self.tables.clusters.iter();
            rows.any(|row| {
                let is_in_service = !matches!(row.state, ClusterState::Decommissioned { .. });
                row.name.as_str() == *name && is_in_service
            })
        };
        self.unheard.iter().copied().filter(is_known).collect()
    }

    fn acquire(&self, key: &ServiceKey) -> Option<Acquire> {
        let live = self.live.get(key)?;
        Some(Acquire {
            key: Arc::new(key.clone()),
            uid: Some(live.uid.clone()),
            created: None,
            cluster_ip: None,
            was_allocated: !live.shown.is_empty(),
            shown_by_others: false,
            wish: Wish {
                current: live.shown.iter().copied().collect(),
                ..live.wish.clone()
            },
        })
    }

    /// From now on the allocator knows what a Service shows.
    fn is_told(&mut self, key: &ServiceKey) {
        if let Some(live) = self.live.get_mut(key) {
            live.untold.clear();
        }
    }

    fn ask(&mut self, key: &ServiceKey, is_written: bool) -> Checked {
        let Some(acquire) = self.acquire(key) else {
            return Ok(());
        };
        let before = acquire.wish.current.clone();
        if !self.unheard.contains(key.cluster.as_str()) {
            self.is_told(key);
        }
        let reply = self.run(&Command::Acquire(acquire))?;
        let answer: Option<BTreeSet<IpAddr>> = match reply {
            Reply::Acquired(acquired) => {
                let held = acquired.addresses.iter();
                Some(held.map(|held| held.address).collect())
            }
            Reply::Refused(
                Refusal::AddressConflict { .. }
                | Refusal::ClusterDecommissioned { .. }
                | Refusal::AwaitingSync { .. },
            ) => None,
            Reply::Refused(_) => Some(BTreeSet::new()),
            Reply::Released(_)
            | Reply::Reserved(_)
            | Reply::Unreserved(_)
            | Reply::Synced(_)
            | Reply::Resolved(_)
            | Reply::Decommissioned(_)
            | Reply::Recommissioned
            | Reply::Attached
            | Reply::Replaced { .. } => unreachable!("no answer to Acquire"),
        };
        let Some(answer) = answer.filter(|_| is_written) else {
            return Ok(());
        };
        let drops_some = before.iter().any(|shown| !answer.contains(shown));
        if let Some(live) = self.live.get_mut(key) {
            live.shown = answer;
        }
        if drops_some {
            self.ask(key, true)?;
        }
        Ok(())
    }

    /// Nobody of another cluster loses by it what it holds.
    fn lie(&mut self, lies: &[(usize, Wish)], is_sync: bool) -> Checked {
        let mut services = BTreeMap::new();
        for (number, wish) in lies {
            let key = ServiceKey::parse(LIAR, "default", &format!("s{number}")).expect("a key");
            services.insert(
                key.clone(),
                Acquire {
                    key: Arc::new(key),
                    uid: None,
                    created: None,
                    cluster_ip: None,
                    was_allocated: false,
                    shown_by_others: false,
                    wish: Wish {
                        pool: None,
                        ..wish.clone()
                    },
                },
            );
        }
        let services: Vec<_> = services.into_values().collect();
        for service in &services {
            let shown = service.wish.current.iter();
            let said = shown.map(|address| ((*service.key).clone(), *address));
            self.said.extend(said);
        }
        let commands = if is_sync {
            vec![sync(LIAR, services, None)]
        } else {
            services.into_iter().map(Command::Acquire).collect()
        };
        for command in commands {
            let ended = self.engine.pass(self.clock).changes;
            self.write_down(&ended)?;
            let held = |tables: &Tables| {
                let rows = tables.allocations.iter();
                let honest = rows.filter(|row| row.key.cluster.as_str() != LIAR);
                honest
                    .map(|row| (row.address, Arc::clone(&row.key)))
                    .collect::<BTreeSet<_>>()
            };
            let before = held(&self.tables);
            self.run(&command)?;
            let after = held(&self.tables);
            for (address, key) in before.difference(&after) {
                // What the liar leaves may be what a Service shows, and was waiting for.
                let got_another = after
                    .iter()
                    .any(|(other, of)| of == key && Family::of(*other) == Family::of(*address));
                prop_assert!(got_another, "{} lost {} by {:?}", key, address, command);
            }
        }
        Ok(())
    }

    fn resolve(&mut self, key: &ServiceKey, winner: Winner) -> Checked {
        let rows = self.tables.conflicts.iter();
        let Some(conflict) = rows.clone().find(|row| *row.key == *key).cloned() else {
            return Ok(());
        };
        if winner == Winner::Nobody
            && let Some(live) = self.live.get_mut(key)
        {
            // An administrator said so.
            live.untold.insert(conflict.address);
        }
        let winner = match winner {
            Winner::Shower { expires } => Winner::Shower {
                expires: Timestamp(self.clock.0 + expires.0),
            },
            Winner::Holder | Winner::Nobody => winner,
        };
        let resolve = Resolve {
            address: conflict.address,
            key: Arc::clone(&conflict.key),
            winner,
        };
        self.run(&Command::Resolve(resolve)).map(drop)
    }

    /// Its Services go with it.
    fn decommission(&mut self, name: &str) -> Checked {
        self.live.retain(|key, _| key.cluster.as_str() != name);
        self.awaited.remove(name);
        self.run(&Command::Decommission(Decommission {
            cluster: cluster(name),
            release_at: Timestamp(self.clock.0 + 1),
        }))?;
        self.clock = Timestamp(self.clock.0 + 1);
        self.run(&Command::Recommission(cluster(name))).map(drop)
    }

    fn run(&mut self, command: &Command) -> Result<Reply, TestCaseError> {
        let ended = self.engine.pass(self.clock).changes;
        self.write_down(&ended)?;
        let snapshot = self.tables.snapshot();
        let twin = Engine::restore(Arc::clone(&self.pools), snapshot);
        let mut twin = twin.map_err(|error| TestCaseError::fail(error.to_string()))?;
        let (reply, outcome) = self.engine.plan(command, self.clock);
        let again = twin.plan(command, self.clock);
        // How long a new database waits begins anew with a restart.
        if !self.tables.is_new {
            prop_assert_eq!(&again.0, &reply, "restarted, asked {:?}", command);
            prop_assert_eq!(&again.1.changes, &outcome.changes, "restarted");
        }
        self.write_down(&outcome.changes)?;
        // A Sync may free what another Service of it claims, and who gets what it claims
        // leaves what the one that asked may have.
        let asks = |key: &ServiceKey| matches!(command, Command::Acquire(of) if *of.key == *key);
        let settles = outcome.changes.iter().filter_map(Change::allocated);
        let settles = settles.filter(|given| !asks(&given.key)).count() > 0;
        let repeats = if settles || matches!(command, Command::Sync(_)) {
            3
        } else {
            0
        };
        for _ in 0..repeats {
            let (_, outcome) = self.engine.plan(command, self.clock);
            self.write_down(&outcome.changes)?;
        }
        let (_, outcome) = self.engine.plan(command, self.clock);
        prop_assert_eq!(outcome.changes, vec![], "repeated {:?}", command);
        Ok(reply)
    }

    fn write_down(&mut self, changes: &[Change]) -> Checked {
        for change in changes {
            if let ChangeKind::Allocated(allocation) = &change.kind {
                self.is_shown_by_nobody_else(allocation)?;
                self.is_not_too_early(allocation)?;
            }
            self.tables.apply(change);
        }
        crate::invariants::hold(&self.tables)
    }

    /// Nothing but what is shown is given before all have told what they have.
    fn is_not_too_early(&self, allocation: &Allocation) -> Checked {
        let (key, address) = (&*allocation.key, allocation.address);
        let shows = self
            .live
            .get(key)
            .is_some_and(|of| of.shown.contains(&address));
        let says = self.said.contains(&(key.clone(), address));
        let mut conflicts = self.tables.conflicts.iter();
        let claims = conflicts.any(|row| row.address == address && *row.key == *key);
        prop_assert!(
            shows || says || claims || (self.awaited.is_empty() && !self.tables.is_new),
            "{} is given to {}, and {:?} are not heard",
            address,
            key,
            self.awaited
        );
        Ok(())
    }

    /// But by those with whom the Service shares it; and whoever claims in another cluster
    /// what is shared does not end that. Who goes back to what it shows itself adds nothing.
    fn is_shown_by_nobody_else(&self, allocation: &Allocation) -> Checked {
        let address = allocation.address;
        let holders = self.tables.holders(address);
        let own = self.live.get(&*allocation.key);
        if own.is_some_and(|own| own.shown.contains(&address)) {
            return Ok(());
        }
        for (key, live) in &self.live {
            let shows = live.shown.contains(&address) && !live.untold.contains(&address);
            if *key == *allocation.key || !shows {
                continue;
            }
            let shares = holders
                .iter()
                .any(|held| *held.key == *key && may_share(held, allocation));
            // Of two who claim an address the one gets it that told so first; nobody can tell
            // that the liar does not show what it says.
            let told = |of: &ServiceKey| {
                let mut rows = self.tables.conflicts.iter();
                rows.find(|row| row.address == address && *row.key == *of)
            };
            let is_of_liar = allocation.key.cluster.as_str() == LIAR;
            let claims_first = told(&allocation.key)
                .zip(told(key))
                .is_some_and(|(own, other)| {
                    (own.is_claim() || is_of_liar) && own.since < other.since
                });
            let is_elsewhere = !holders.is_empty() && key.cluster != allocation.key.cluster;
            prop_assert!(
                shares || is_elsewhere || claims_first,
                "{} is given to {} and shown by {}",
                address,
                allocation.key,
                key
            );
        }
        Ok(())
    }

    /// It holds no more than its limit, and keeps no more from others than that once more.
    fn liar_keeps_little(&self) -> Checked {
        let held = self.tables.allocations.iter();
        let held = held.filter(|row| row.key.cluster.as_str() == LIAR && is_of_small(row.address));
        let held = held.map(|row| row.address).collect::<BTreeSet<_>>().len() as u64;
        let kept = self.tables.conflicts.iter().filter(|row| {
            row.key.cluster.as_str() == LIAR
                && is_of_small(row.address)
                && row.kind != ConflictKind::BeyondQuota
        });
        let kept = kept.count() as u64;
        let is_little = held <= LIMIT && kept <= 2 * LIMIT;
        prop_assert!(is_little || self.is_waived, "{} and {}", held, kept);
        Ok(())
    }
}

fn release(key: ServiceKey, uid: Uid, current: Vec<IpAddr>) -> Command {
    let uid = Some(uid);
    Command::Release(Release { key, uid, current })
}

fn sync(name: &str, services: Vec<Acquire>, proves: Option<Loss>) -> Command {
    Command::Sync(Sync {
        cluster: cluster(name),
        services,
        seen: None,
        proves,
    })
}

fn plain() -> Wish {
    Wish {
        families: vec![Family::V4],
        policy: lb_allocator::engine::Policy::All,
        requested: lb_allocator::engine::PerFamily::default(),
        pool: None,
        sharing: None,
        current: Vec::new(),
        labels: Arc::default(),
    }
}
