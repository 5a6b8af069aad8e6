//! The engine, the model and the tables side by side.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use lb_allocator::engine::{
    Acquire, Change, Command, Engine, Family, Labels, PerFamily, Policy, Pools, Reply, ServiceKey,
    Timestamp, Wish,
};
use proptest::prelude::*;

use crate::{
    book::{Book, Place},
    history::{History, Step},
    invariants::{self, Witness},
    pools::{Plan, addresses},
    tables::Tables,
    waiting::Waiting,
};

type Checked = Result<(), TestCaseError>;

pub struct World {
    plan: Plan,
    pools: Arc<Pools>,
    engine: Engine,
    book: Book,
    tables: Tables,
    witness: Witness,
    waiting: Waiting,
    clock: Timestamp,
}

pub fn live_through(history: &History) -> Checked {
    let mut world = World::new(&history.pools);
    for step in &history.steps {
        world.step(step)?;
        world.is_one()?;
        invariants::hold(&world.tables)?;
        world.nothing_leaks()?;
        world.waiting.are_told(&world.engine)?;
    }
    world.drain()
}

fn pools(plan: &Plan) -> Arc<Pools> {
    Arc::new(Pools::new(plan.specs()).expect("pools that do not overlap"))
}

impl World {
    fn new(plan: &Plan) -> Self {
        let tables = Tables::default();
        let pools = pools(plan);
        Self {
            engine: Engine::restore(Arc::clone(&pools), tables.snapshot()).expect("empty"),
            book: Book::new(plan.specs()),
            plan: plan.clone(),
            pools,
            tables,
            witness: Witness::default(),
            waiting: Waiting::default(),
            clock: Timestamp(1_000),
        }
    }

    fn step(&mut self, step: &Step) -> Checked {
        match step {
            Step::Run(command) => self.run(command),
            Step::Clock(millis) => {
                self.clock = Timestamp(self.clock.0 + millis);
                Ok(())
            }
            Step::Configure(edits) => {
                for edit in edits {
                    self.plan.edit(edit);
                }
                self.pools = pools(&self.plan);
                let engine = self.engine.with_pools(Arc::clone(&self.pools));
                self.engine = engine.map_err(|error| TestCaseError::fail(error.to_string()))?;
                self.book.configure(self.plan.specs());
                self.waiting.all_ask_again();
                self.nobody_is_renumbered()
            }
            Step::RestartFromSnapshot => {
                let snapshot = self.engine.snapshot();
                self.restart(snapshot)
            }
            Step::RestartFromChanges => self.restart(self.tables.snapshot()),
        }
    }

    fn restart(&mut self, snapshot: lb_allocator::engine::Snapshot) -> Checked {
        let engine = Engine::restore(Arc::clone(&self.pools), snapshot);
        self.engine = engine.map_err(|error| TestCaseError::fail(error.to_string()))?;
        self.book.restart();
        self.waiting.all_ask_again();
        Ok(())
    }

    fn run(&mut self, command: &Command) -> Checked {
        let mut command = command.clone();
        if let Command::Reserve(reserve) = &mut command {
            let later = |Timestamp(millis)| Timestamp(self.clock.0 + millis);
            reserve.expires = reserve.expires.map(later);
        }
        if let Command::Handover(handover) = &mut command {
            handover.expires = Timestamp(self.clock.0 + handover.expires.0);
        }

        let ended = self.engine.pass(self.clock);
        self.waiting.hear(&ended);
        let passed = ended.changes;
        prop_assert_eq!(&passed, &self.book.pass(self.clock), "what ended by itself");
        self.write_down(&passed)?;

        let mut twin = Engine::restore(Arc::clone(&self.pools), self.tables.snapshot())
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        let is_behind = self.clock < self.book.now;
        twin.pass(self.clock);

        let (reply, outcome) = self.engine.plan(&command, self.clock);
        let (expected, changes) = self.book.run(&command, self.clock);
        prop_assert_eq!(&reply, &expected, "engine and model, asked {:?}", command);
        prop_assert_eq!(
            &outcome.changes,
            &changes,
            "engine and model, asked {:?}",
            command
        );
        self.write_down(&changes)?;
        self.waiting.hear(&outcome);
        self.waiting.note(&command, &reply);

        if !is_behind {
            let again = twin.plan(&command, self.clock);
            prop_assert_eq!(
                again,
                (reply.clone(), outcome),
                "restarted, asked {:?}",
                command
            );
        }
        self.is_idempotent(&command, reply)
    }

    fn is_idempotent(&mut self, command: &Command, reply: Reply) -> Checked {
        let expires = match command {
            Command::Reserve(reserve) => reserve.expires,
            Command::Handover(handover) => Some(handover.expires),
            Command::Acquire(_)
            | Command::Release(_)
            | Command::Unreserve(_)
            | Command::Sync(_)
            | Command::Resolve(_)
            | Command::Decommission(_)
            | Command::Recommission(_)
            | Command::Attach(_)
            | Command::ReplaceCluster(_) => None,
        };
        if expires.is_some_and(|expires| expires <= self.book.now) {
            return Ok(());
        }
        let (again, outcome) = self.engine.plan(command, self.clock);
        prop_assert_eq!(outcome.changes, vec![], "repeated {:?}", command);
        match reply {
            Reply::Acquired(_) | Reply::Refused(_) | Reply::Reserved(_) => {
                prop_assert_eq!(again, reply, "repeated {:?}", command);
            }
            Reply::Released(_) => prop_assert_eq!(again, Reply::Released(vec![])),
            Reply::Unreserved(_) => prop_assert_eq!(again, Reply::Unreserved(None)),
            // What is decided is no conflict any more.
            Reply::Resolved(_) => {}
            Reply::Synced(_)
            | Reply::Decommissioned(_)
            | Reply::Recommissioned
            | Reply::Attached
            | Reply::Replaced { .. } => unreachable!("no command of a history leads to it"),
        }
        Ok(())
    }

    fn write_down(&mut self, changes: &[Change]) -> Checked {
        let before = self.tables.clone();
        for change in changes {
            self.witness.see(change, &self.tables, &self.book)?;
            self.tables.apply(change);
        }
        invariants::limits_hold(changes, &before, &self.tables, &self.book)
    }

    /// Engine, model and tables hold the same.
    fn is_one(&self) -> Checked {
        let mut held: Vec<_> = self.engine.allocations().cloned().collect();
        let mut expected: Vec<_> = self.book.held.iter().map(|h| self.book.shown(h)).collect();
        held.sort_by(|one, other| (one.address, &one.key).cmp(&(other.address, &other.key)));
        expected.sort_by(|one, other| (one.address, &one.key).cmp(&(other.address, &other.key)));
        prop_assert_eq!(held, expected);
        let mut kept: Vec<_> = self.engine.reservations().cloned().collect();
        let mut expected: Vec<_> = self
            .book
            .kept
            .iter()
            .map(crate::book::Kept::shown)
            .collect();
        kept.sort_by_key(|kept| kept.address);
        expected.sort_by_key(|kept| kept.address);
        prop_assert_eq!(kept, expected);
        let mut shown: Vec<_> = self.engine.conflicts().cloned().collect();
        let told = self.book.shown.iter().map(crate::book::Shown::told);
        let mut expected: Vec<_> = told.collect();
        shown.sort_by(|one, other| (one.address, &one.key).cmp(&(other.address, &other.key)));
        expected.sort_by(|one, other| (one.address, &one.key).cmp(&(other.address, &other.key)));
        prop_assert_eq!(shown, expected);
        prop_assert_eq!(self.engine.revision(), self.book.revision);
        prop_assert_eq!(self.tables.revision, self.book.revision);
        Ok(())
    }

    fn nobody_is_renumbered(&self) -> Checked {
        let who = |(address, key): (IpAddr, &ServiceKey)| (address, key.clone());
        let held: BTreeSet<_> = self
            .engine
            .allocations()
            .map(|a| who((a.address, &a.key)))
            .collect();
        let rows = self.tables.allocations.iter();
        let before: BTreeSet<_> = rows.map(|a| who((a.address, &a.key))).collect();
        prop_assert_eq!(held, before, "a configuration changed who holds what");
        Ok(())
    }

    /// A stranger asks for every address: it is given or refused as its stage says.
    fn nothing_leaks(&self) -> Checked {
        let strangers = strangers("probe");
        let (mut passed, mut book_passed) = (self.engine.clone(), self.book.clone());
        passed.pass(Timestamp(0));
        book_passed.pass(Timestamp(0));
        let (mut engine, mut book) = (passed.clone(), book_passed.clone());
        for address in addresses() {
            let Place::Usable(pool) = self.book.place(address) else {
                continue;
            };
            let Some((key, labels)) = strangers
                .iter()
                .find(|(key, labels)| self.book.serves(pool, key, labels))
            else {
                continue;
            };
            let mut acquire = plain(key.clone(), Arc::clone(labels), Family::of(address));
            *acquire.wish.requested.get_mut(Family::of(address)) = Some(address);
            let command = Command::Acquire(acquire.clone());
            let (reply, outcome) = engine.plan(&command, Timestamp(0));
            let expected = book.acquire(&acquire);
            let is_given = !outcome.changes.is_empty();
            prop_assert_eq!((reply, outcome.changes), expected, "{}", address);
            if is_given {
                engine = passed.clone();
                book = book_passed.clone();
            }
        }
        Ok(())
    }

    /// Strangers take all that is left, in the same order.
    fn drain(mut self) -> Checked {
        for (key, labels) in strangers("drain") {
            for family in Family::ALL {
                for number in 0.. {
                    let key = ServiceKey {
                        name: lb_allocator::engine::ServiceName::parse(&format!("drain{number}"))
                            .expect("a name"),
                        ..key.clone()
                    };
                    let acquire = Command::Acquire(plain(key, labels.clone(), family));
                    let (reply, outcome) = self.engine.plan(&acquire, self.clock);
                    let expected = self.book.run(&acquire, self.clock);
                    prop_assert_eq!((reply.clone(), outcome.changes), expected, "drained");
                    if let Reply::Refused(_) = reply {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Services that nothing is known of, of every kind that pools tell apart.
fn strangers(name: &str) -> Vec<(ServiceKey, Arc<Labels>)> {
    let mut strangers = Vec::new();
    for cluster in ["a", "b"] {
        for namespace in ["default", "web"] {
            for labels in ["", "tier=web team=x", "tier=db team=y"] {
                let pairs = labels.split_whitespace().filter_map(|l| l.split_once('='));
                let of = |wanted: &str| {
                    let pairs = pairs.clone().filter(|(name, _)| *name == wanted);
                    pairs
                        .map(|(name, value)| (name.into(), value.into()))
                        .collect()
                };
                let labels = Labels {
                    service: of("tier"),
                    namespace: of("team"),
                };
                let key = ServiceKey::parse(cluster, namespace, name).expect("a key");
                strangers.push((key, Arc::new(labels)));
            }
        }
    }
    strangers
}

fn plain(key: ServiceKey, labels: Arc<Labels>, family: Family) -> Acquire {
    Acquire {
        created: None,
        key: Arc::new(key),
        uid: None,
        cluster_ip: None,
        was_allocated: false,
        shown_by_others: false,
        wish: Wish {
            families: vec![family],
            policy: Policy::All,
            requested: PerFamily::default(),
            pool: None,
            sharing: None,
            current: Vec::new(),
            labels,
        },
    }
}
