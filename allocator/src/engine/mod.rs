//! The allocation engine: a pure, synchronous state machine. It has no clock, no
//! I/O, no randomness and no async; time is an argument. The same snapshot, the
//! same commands and the same times give the same replies and changes.
//!
//! ```text
//!   Command ─► Engine::plan ─► Reply + Outcome       (the state has moved on)
//!   time    ─► Engine::pass ─► Outcome               (what ended by itself)
//!   Snapshot + Pools ─► Engine::restore              (what a database holds)
//! ```
//!
//! No request costs more than O(log n) in the size of a pool, the number of
//! allocations, marks of former holders, or reservations. What pays for that is
//! said where it is:
//! - [`holdings::Holdings`] finds what a Service, or a whole cluster, holds, O(1) for each;
//! - [`sharing::Held`] finds who holds an address, and who may join them;
//! - [`free::Free`] finds the address to give, and what cools down until when;
//! - [`reservations::Reservations`] finds what is kept for whom;
//! - [`quota::Quotas`] counts what limits look at;
//! - `leaving` finds whose grace ends next;
//! - [`conflicts::Conflicts`] and [`clusters::Clusters`] find what holds a Service
//!   or a cluster up;
//! - [`pools::Pools`] finds the pools of a Service, and the pool of an address.
//!
//! Read [`acquire`] first. `tests/model` says the same rules once more, slowly, and
//! holds the engine to them.

mod acquire;
mod address;
mod change;
mod choose;
mod claims;
mod clusters;
mod commit;
mod conflicts;
mod decommission;
mod free;
mod handover;
mod holdings;
mod identity;
mod key;
mod labels;
mod limits;
mod opening;
mod pools;
mod quota;
mod ranges;
mod refusal;
mod reservations;
mod reserve;
mod restore;
mod settle;
mod sharing;
mod shown;
mod sync;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use hashbrown::HashMap;
use thiserror::Error;

pub use self::{
    acquire::{Acquire, Acquired, Policy, Unmet, Wish},
    address::{AddressRange, Family, PerFamily},
    change::{
        Allocation, Change, ChangeKind, Conflict, ConflictKind, Holder, LastHeld, Reservation,
        Revision, Snapshot, Timestamp, Transition,
    },
    clusters::{ClusterRecord, ClusterState},
    decommission::Decommission,
    handover::{Handover, Resolve, Winner},
    holdings::Holdings,
    identity::{Attach, Claim, Identity, ReplaceCluster},
    key::{
        ClusterName, InvalidName, Namespace, PoolName, ServiceKey, ServiceName, SharingKey, Uid,
    },
    labels::{LabelMap, Labels, Requirement, Selector},
    pools::{Located, PoolConflict, PoolIndex, PoolSpec, Pools, Retention, STICKY_FOR, Settings},
    quota::{Reached, Scope},
    refusal::Refusal,
    restore::Restoring,
    sharing::{Backend, Permitted, Port, Protocol, Terms},
    sync::{Loss, Sync, Synced, Verdict},
};
use clusters::Clusters;
use conflicts::Conflicts;
use free::Free;
use opening::Opening;
use quota::Quotas;
use reservations::Reservations;
use sharing::Held;

/// What is asked of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Acquire(Acquire),
    Release(Release),
    Reserve(Reserve),
    /// Ends the reservation of an address.
    Unreserve(IpAddr),
    Sync(Sync),
    Handover(Handover),
    Resolve(Resolve),
    Decommission(Decommission),
    /// Takes a cluster back into service.
    Recommission(ClusterName),
    Attach(Attach),
    ReplaceCluster(ReplaceCluster),
}

/// Take back what `key` holds; with a uid, only if the holder has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    pub key: ServiceKey,
    pub uid: Option<Uid>,
    /// What the status of the Service still shows, which is kept from others.
    pub current: Vec<IpAddr>,
}

/// Keep an address from everybody, or from all but `key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    pub address: IpAddr,
    pub key: Option<Arc<ServiceKey>>,
    /// `None`: until it is ended.
    pub expires: Option<Timestamp>,
    pub comment: String,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Acquired(Acquired),
    Refused(Refusal),
    /// What was held until now.
    Released(Vec<Arc<Allocation>>),
    Reserved(Arc<Reservation>),
    /// The reservation that was ended, if there was one.
    Unreserved(Option<Arc<Reservation>>),
    /// Every Service of the cluster, in the order of keys.
    Synced(Vec<Synced>),
    /// The conflict that was decided.
    Resolved(Arc<Conflict>),
    Decommissioned(ClusterState),
    Recommissioned,
    /// The session may begin.
    Attached,
    /// The name belongs to another cluster now; whose it was until now.
    Replaced {
        before: Option<Uid>,
    },
}

impl Reply {
    pub const fn acquired(&self) -> Option<&Acquired> {
        if let Self::Acquired(acquired) = self {
            Some(acquired)
        } else {
            None
        }
    }

    /// Why something that was asked for was not granted, in the order of the request.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        let whole = if let Self::Refused(refusal) = self {
            Some(refusal)
        } else {
            None
        };
        let unmet = self.acquired().into_iter().flat_map(|of| &of.unmet);
        whole.into_iter().chain(unmet.map(|unmet| &unmet.refusal))
    }
}

/// What a step did: what has to be made durable before it is told, and whom it concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub changes: Vec<Change>,
    pub notices: Vec<Notice>,
}

impl Outcome {
    /// Adds what another step did.
    pub fn extend(&mut self, other: &Self) {
        self.changes.extend_from_slice(&other.changes);
        self.notices.extend_from_slice(&other.notices);
    }

    fn ask_again(&mut self, key: &Arc<ServiceKey>) {
        self.notices.push(Notice::AskAgain(Arc::clone(key)));
    }
}

/// Something that somebody else than the caller has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Freed(Freed),
    /// The Service will get another answer now, though nothing was freed.
    AskAgain(Arc<ServiceKey>),
    /// The cluster synced before the database turned out to be an old one, and has to do so
    /// again.
    SyncAgain(ClusterName),
    /// No cluster is awaited any more: every Service may ask.
    AllMayAsk,
    /// The cluster proved that the database is not what it was, so that others have to sync.
    LossProved(ClusterName),
}

/// Something that Services may wait for: an address is free or kept for one of
/// them, there is room under a limit, or those who share an address changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freed {
    pub pool: PoolName,
    pub family: Family,
    pub address: IpAddr,
    /// Whose limits have room now.
    pub by: Option<ClusterName>,
    /// It is still held: who shares it.
    pub shared: Option<(ClusterName, SharingKey)>,
}

/// Why a snapshot cannot be what this engine wrote.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Inconsistent {
    #[error("address {address} is held by {second} and others that do not share it with that")]
    TwoHolders {
        address: IpAddr,
        second: Arc<ServiceKey>,
    },
    #[error("{key} holds two {family} addresses, {first} and {second}")]
    TwoAddresses {
        key: Arc<ServiceKey>,
        family: Family,
        first: IpAddr,
        second: IpAddr,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Engine {
    pools: Arc<Pools>,
    revision: Revision,
    /// When the last change was made.
    last_change_at: Timestamp,
    /// Time as decisions see it: it never goes back, not even over a restart, so
    /// that what has ended stays ended.
    now: Timestamp,
    holdings: Holdings,
    leaving: BTreeSet<(Timestamp, Arc<ServiceKey>)>,
    held: Held,
    free: Free,
    quotas: Quotas,
    reservations: Reservations,
    conflicts: Conflicts,
    /// Addresses that conflicts keep from others, counted as `quotas` counts what is held.
    kept_away: Quotas,
    clusters: Clusters,
    /// Of a database that knows nothing, until it gives what is new.
    opening: Option<Opening>,
    /// What a database calls the pool of an address, where that has another name
    /// by now.
    recorded: HashMap<(IpAddr, Arc<ServiceKey>), PoolName>,
}

impl Engine {
    pub const fn pools(&self) -> &Arc<Pools> {
        &self.pools
    }

    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Everything that is held, in no order.
    pub fn allocations(&self) -> impl Iterator<Item = &Arc<Allocation>> {
        self.holdings.iter()
    }

    pub const fn holdings(&self) -> &Holdings {
        &self.holdings
    }

    /// Everything that is reserved, in no order.
    pub fn reservations(&self) -> impl Iterator<Item = &Arc<Reservation>> {
        self.reservations.iter()
    }

    /// Services that show addresses which they do not hold, in the order of addresses.
    pub fn conflicts(&self) -> impl Iterator<Item = &Arc<Conflict>> {
        self.conflicts.iter()
    }

    /// What is known of clusters, in the order of names.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<ClusterRecord>> {
        self.clusters.iter()
    }

    /// Decides, and moves the state on as if the changes were durable already.
    /// Where they cannot be made so, the engine has to be restored.
    pub fn plan(&mut self, command: &Command, now: Timestamp) -> (Reply, Outcome) {
        self.plan_as(None, command, now)
    }

    /// As [`Engine::plan`], for the cluster that says that the command is its own.
    pub fn plan_as(
        &mut self,
        claim: Option<&Claim>,
        command: &Command,
        now: Timestamp,
    ) -> (Reply, Outcome) {
        let mut outcome = self.pass(now);
        if let Some(claim) = claim
            && let Err(refusal) = self.identify(claim, command, &mut outcome)
        {
            return (Reply::Refused(refusal), outcome);
        }
        self.note_arrival(claim, command, &mut outcome);
        let reply = self.carry_out(command, &mut outcome);
        self.settle_conflicts(&mut outcome);
        self.open_when_due(&mut outcome);
        (reply, outcome)
    }

    fn carry_out(&mut self, command: &Command, outcome: &mut Outcome) -> Reply {
        match command {
            Command::Acquire(acquire) => self.acquire(acquire, outcome),
            Command::Release(release) => self.release(release, outcome),
            Command::Reserve(reserve) => self.reserve(reserve, outcome),
            Command::Unreserve(address) => self.unreserve(*address, outcome),
            Command::Sync(sync) => self.sync(sync, outcome),
            Command::Handover(handover) => self.hand_over(handover, outcome),
            Command::Resolve(resolve) => self.resolve(resolve, outcome),
            Command::Decommission(decommission) => self.decommission(decommission, outcome),
            Command::Recommission(cluster) => self.recommission(cluster, outcome),
            Command::Attach(attach) => self.attach(attach),
            Command::ReplaceCluster(replace) => self.replace_cluster(replace, outcome),
        }
    }

    /// When [`Engine::pass`] has something to do.
    pub fn next_end(&self) -> Option<Timestamp> {
        let ends = [
            self.free.next_end(),
            self.reservations.next_expiry(),
            self.leaving.first().map(|(end, _)| *end),
            self.clusters.next_end(),
            self.next_opening(),
            self.conflicts.next_end(),
        ];
        ends.into_iter().flatten().min()
    }

    /// Ends what has its end by `now`: cooldowns, protection of former holders,
    /// reservations, the grace of Services and clusters that are gone.
    pub fn pass(&mut self, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        self.now = self.now.max(now);
        for address in self.free.end_stages(self.now) {
            self.notify_freed(address, None, &mut outcome);
        }
        while let Some(expired) = self.reservations.expired(self.now) {
            self.commit(ChangeKind::Unreserved(expired), &mut outcome);
        }
        while let Some((end, key)) = self.leaving.first().cloned()
            && end <= self.now
        {
            let gone = self
                .holding(&key)
                .filter(|held| held.holder.transition.release_at() == Some(end));
            for allocation in gone.cloned().collect::<Vec<_>>() {
                self.commit(ChangeKind::Released(allocation), &mut outcome);
            }
        }
        while let Some(shown_by) = self.conflicts.next_cooled(self.now) {
            outcome
                .notices
                .extend(shown_by.into_iter().map(Notice::AskAgain));
        }
        while let Some(ended) = self.conflicts.ended(self.now) {
            self.commit(ChangeKind::ConflictEnded(ended), &mut outcome);
        }
        self.end_decommissions(&mut outcome);
        self.settle_conflicts(&mut outcome);
        self.open_when_due(&mut outcome);
        outcome
    }

    fn release(&mut self, release: &Release, outcome: &mut Outcome) -> Reply {
        let held: Vec<_> = self.to_release(release).cloned().collect();
        let conflicts = self.conflicts_to_release(release);
        for allocation in &held {
            let holder = &allocation.holder;
            self.give_up(Arc::clone(allocation), (&release.current, holder), outcome);
        }
        for conflict in conflicts {
            self.commit(ChangeKind::ConflictEnded(conflict), outcome);
        }
        Reply::Released(held)
    }

    fn to_release(&self, release: &Release) -> impl Iterator<Item = &Arc<Allocation>> {
        self.holding(&release.key)
            .filter(|held| is_same_uid(release.uid.as_ref(), held.holder.uid.as_ref()))
    }

    /// What a key holds, IPv4 first.
    fn holding(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<Allocation>> {
        self.holdings.of(key)
    }

    fn held_by(&self, key: &ServiceKey, family: Family) -> Option<&Arc<Allocation>> {
        self.holdings.get(key, family)
    }

    /// What a cluster holds, in the order of keys, IPv4 first.
    fn of_cluster(&self, cluster: &ClusterName) -> Vec<Arc<Allocation>> {
        let mut held: Vec<_> = self.holdings.of_cluster(cluster).cloned().collect();
        held.sort_by(|a, b| (&a.key, a.address).cmp(&(&b.key, b.address)));
        held
    }

    /// Whether a pool has an address that is free for anybody whom it serves.
    pub fn has_free(&self, pool: &PoolName, family: Family) -> bool {
        let pool = self.pools.by_name(pool.as_str());
        pool.is_some_and(|pool| {
            self.free.lowest_fresh(pool, family).is_some()
                || self.free.lowest_sticky(pool, family).is_some()
        })
    }

    /// How many free addresses of a pool only their last holders get for now.
    pub fn cooling(&self, pool: PoolIndex, family: Family) -> usize {
        self.free.cooling(pool, family)
    }

    /// The pools that a wish could be served from if they had room; of an address that is
    /// asked for, its pool.
    pub fn pools_for(&self, acquire: &Acquire, family: Family) -> Vec<PoolName> {
        let requested = acquire.wish.requested.get(family);
        let pools = match requested.map(|address| self.pools.locate(address)) {
            Some(Located::In(pool)) => vec![pool],
            Some(Located::Excluded(_) | Located::Nowhere) => Vec::new(),
            None => self.candidates(acquire, family).unwrap_or_default(),
        };
        let names = pools.into_iter().map(|pool| &self.pools.spec(pool).name);
        names.cloned().collect()
    }
}

/// Whether a request is meant for a holder: whoever does not say or is not known
/// is not told apart.
fn is_same_uid(asked: Option<&Uid>, holder: Option<&Uid>) -> bool {
    match (asked, holder) {
        (Some(asked), Some(holder)) => asked == holder,
        (None, _) | (_, None) => true,
    }
}

/// Whether an address is held that its holder would not get today: it is in no
/// pool, excluded, or its pool is disabled or serves others.
pub fn is_stranded(pools: &Pools, allocation: &Allocation) -> bool {
    let Located::In(pool) = pools.locate(allocation.address) else {
        return true;
    };
    let none = Labels::default();
    let labels = allocation.holder.labels.as_deref().unwrap_or(&none);
    pools.spec(pool).disabled || !pools.serves(pool, &allocation.key, labels)
}

#[cfg(test)]
mod tests;
