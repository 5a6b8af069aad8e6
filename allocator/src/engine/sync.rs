//! Sync: what a cluster says that it has, all of it, against what is known here.
//!
//! 1. A Service that is not in the set has its address taken back after a grace,
//!    unless it is seen again.
//! 2. An address that a Service shows is its own, whatever the database says: the
//!    database may be new, or an old backup. It is adopted if it is in a pool that
//!    the cluster may use, and nobody else who is still there holds it. But what it
//!    gave up by its own wish, and shows because it was not told, is not its own.
//! 3. If somebody does, that is a conflict. The holder keeps the address, and the
//!    Service that shows it keeps working on it; nobody else gets it, and it goes
//!    over to that Service when the holder is gone.
//!
//! It costs O(log n) for each Service in the set and each that the cluster holds
//! addresses for.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Engine, Outcome, Reply,
    acquire::Acquire,
    address::Family,
    change::{Allocation, ChangeKind, Conflict, Holder, Revision, Timestamp},
    clusters::{ClusterRecord, ClusterState},
    is_same_uid,
    key::{ClusterName, ServiceKey},
    pools::Located,
    refusal::Refusal,
};

/// Every Service of a cluster that wants an address. In each wish, `current` is
/// what the Service has, as far as its cluster knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    pub cluster: ClusterName,
    pub services: Vec<Acquire>,
    /// The newest revision that the cluster says it was told: what was given later is
    /// not judged by this set. Anybody can say any number, so nothing else follows.
    pub seen: Option<Revision>,
    /// What it proves about the database.
    pub proves: Option<Loss>,
}

/// What a cluster proves by a mark, which only a database can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The database is behind: it was restored from a backup.
    Restored,
    /// There was another one.
    Another,
}

/// What became of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds what it shows, or shows nothing yet.
    Kept,
    /// It holds now what it shows.
    Adopted,
    /// Others hold an address that it shows.
    Conflict,
    /// It shows what it cannot have, or has nothing: it has to ask.
    Reassign,
    /// It holds an address and was not in the set: taken back at this time.
    Leaving(Timestamp),
}

/// A Service and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    pub key: Arc<ServiceKey>,
    pub verdict: Verdict,
    /// What it holds now, IPv4 first.
    pub held: Vec<Arc<Allocation>>,
}

/// Conflicts of a set, and how the Services that show the address are known.
type Found = BTreeMap<(IpAddr, Arc<ServiceKey>), Holder>;

/// An address that a Service shows and does not hold.
struct Claim<'a> {
    acquire: &'a Acquire,
    address: IpAddr,
}

impl Engine {
    pub(super) fn sync(&mut self, sync: &Sync, outcome: &mut Outcome) -> Reply {
        let Sync {
            cluster,
            services,
            seen,
            proves,
        } = sync;
        if self.clusters.is_decommissioned(cluster) {
            return Reply::Refused(Refusal::ClusterDecommissioned {
                cluster: cluster.clone(),
            });
        }
        if *proves == Some(Loss::Restored) {
            self.await_others(cluster, outcome);
        }
        // What this Sync changes is not news that the cluster has missed.
        let missed = seen.map(|seen| (seen, self.revision));
        let live: BTreeMap<&ServiceKey, &Acquire> = services
            .iter()
            .map(|acquire| (&*acquire.key, acquire))
            .collect();
        self.mark_absent(sync, &live, outcome);
        self.review_moves(cluster, &live, outcome);
        let conflicts = self.settle_claims(&live, missed, outcome);
        self.keep_conflicts(cluster, &conflicts, outcome);
        self.heard_of(cluster, outcome);
        Reply::Synced(self.verdicts(cluster, &live, outcome))
    }

    /// The database is older than what a cluster was told: it was restored from a
    /// backup, and any other cluster may hold what it does not know of.
    fn await_others(&mut self, teller: &ClusterName, outcome: &mut Outcome) {
        let others: Vec<_> = self
            .clusters
            .iter()
            .filter(|record| match record.state {
                ClusterState::Unsynced | ClusterState::Synced => record.name != *teller,
                ClusterState::Awaited | ClusterState::Decommissioned { .. } => false,
            })
            .map(|record| record.name.clone())
            .collect();
        for name in others {
            outcome.tell_again.push(name.clone());
            self.set_cluster(name, ClusterState::Awaited, outcome);
        }
        outcome.loss_shown_by.push(teller.clone());
    }

    fn heard_of(&mut self, cluster: &ClusterName, outcome: &mut Outcome) {
        if self.clusters.state(cluster) != Some(ClusterState::Synced) {
            self.set_cluster(cluster.clone(), ClusterState::Synced, outcome);
        }
    }

    pub(super) fn set_cluster(
        &mut self,
        name: ClusterName,
        state: ClusterState,
        outcome: &mut Outcome,
    ) {
        let identity = self.clusters.identity(&name).cloned();
        let record = ClusterRecord {
            name,
            state,
            identity,
        };
        self.commit_cluster(record, outcome);
    }

    pub(super) fn commit_cluster(&mut self, record: ClusterRecord, outcome: &mut Outcome) {
        let awaited = !self.clusters.awaited().is_empty();
        self.commit(ChangeKind::Cluster(Arc::new(record)), outcome);
        if awaited && self.clusters.awaited().is_empty() && !self.is_opening() {
            outcome.all_may_ask = true;
        }
    }

    /// Marks what is held for Services that are not in the set, and unmarks what is
    /// held for those that are. One that was created again is another Service, and
    /// takes over what it shows of what the old one held, if whoever shares that
    /// agrees. Who acquired without a uid is a person, for a Service that may be yet
    /// to come; and what was given after the cluster made up its set is not judged by
    /// it.
    fn mark_absent(
        &mut self,
        sync: &Sync,
        live: &BTreeMap<&ServiceKey, &Acquire>,
        outcome: &mut Outcome,
    ) {
        let release_at = self.now.after(self.pools.settings().orphan_grace);
        for held in self.of_cluster(&sync.cluster) {
            let acquire = live.get(&*held.key);
            let is_known = sync.seen.is_none_or(|seen| held.revision <= seen);
            let of_another = self.is_of_the_cluster_before(&held);
            let is_live = acquire.is_some_and(|acquire| {
                acquire.accounts_for(&held.holder, is_known)
                    && (!of_another || is_same_uid(acquire.uid.as_ref(), held.holder.uid.as_ref()))
            });
            let takes_over = |acquire: &&&Acquire| {
                acquire.wish.current.contains(&held.address)
                    && self.may_not_stay(&held, acquire).is_none()
            };
            if let Some(acquire) = acquire.filter(takes_over).filter(|_| !is_live) {
                let holder = self.next_holder(acquire);
                self.update(&held, holder, outcome);
                continue;
            }
            let is_marked = held.holder.transition.release_at().is_some();
            let is_to_mark = is_live == is_marked && (is_live || is_known);
            // Selectors may look at labels that none looked at when it was acquired.
            let labels = acquire
                .filter(|acquire| is_live && is_known && !acquire.wish.families.is_empty())
                .map(|acquire| self.pools.relevant(&acquire.wish.labels))
                .filter(|labels| *labels != held.holder.labels);
            if held.holder.uid.is_some() && (is_to_mark || labels.is_some()) {
                let release_at = (!is_live).then_some(release_at);
                let transition = &held.holder.transition;
                let holder = Holder {
                    transition: if is_to_mark {
                        transition.with_release_at(release_at)
                    } else {
                        transition.clone()
                    },
                    labels: labels.unwrap_or_else(|| held.holder.labels.clone()),
                    // The times of two clusters do not compare.
                    created: held.holder.created.filter(|_| !of_another),
                    ..held.holder.clone()
                };
                self.update(&held, holder, outcome);
            }
        }
    }

    /// Gives Services the addresses that they show, and tells which they cannot
    /// have because others hold them.
    fn settle_claims(
        &mut self,
        live: &BTreeMap<&ServiceKey, &Acquire>,
        missed: Option<(Revision, Revision)>,
        outcome: &mut Outcome,
    ) -> Found {
        let mut claims = self.claims(live, missed);
        let mut blocked = Found::new();
        // A Service whose own claim is blocked does not make room for another one's.
        loop {
            let leaving: HashSet<(IpAddr, Arc<ServiceKey>)> = claims
                .iter()
                .filter_map(|claim| {
                    let key = &claim.acquire.key;
                    let held = self.held_by(key, Family::of(claim.address))?;
                    Some((held.address, Arc::clone(key)))
                })
                .collect();
            let (possible, stuck): (Vec<_>, Vec<_>) = claims
                .into_iter()
                .partition(|claim| self.can_have(claim, &leaving));
            claims = possible;
            if stuck.is_empty() {
                break;
            }
            for Claim { acquire, address } in stuck {
                let place = (address, Arc::clone(&acquire.key));
                blocked.insert(place, self.next_holder(acquire));
            }
        }
        for claim in &claims {
            self.make_room(claim, outcome);
        }
        for claim in &claims {
            let Claim { acquire, address } = *claim;
            let holder = self.next_holder(acquire);
            if !self.adopt(&acquire.key, address, holder.clone(), outcome) {
                // Two Services of the set show it, and this one comes second.
                blocked.insert((address, Arc::clone(&acquire.key)), holder);
            }
        }
        blocked
    }

    /// What Services show and do not hold. One that was given something after the
    /// cluster made up its set shows what it had before.
    fn claims<'a>(
        &self,
        live: &BTreeMap<&ServiceKey, &'a Acquire>,
        missed: Option<(Revision, Revision)>,
    ) -> Vec<Claim<'a>> {
        let mut claims = Vec::new();
        for acquire in live.values() {
            for family in &acquire.wish.families {
                let shown = acquire.wish.current.iter().copied();
                let shown = shown
                    .filter(|address| Family::of(*address) == *family)
                    .filter(|address| !self.gave_up(&acquire.key, *address))
                    .find(|address| self.may_adopt(acquire, *address));
                let held = self.held_by(&acquire.key, *family);
                let is_new = |held: &Allocation| {
                    missed.is_some_and(|(seen, now)| held.revision > seen && held.revision <= now)
                };
                let is_shown = |held: &Allocation| acquire.wish.current.contains(&held.address);
                if let Some(address) = shown
                    && held.is_none_or(|held| !is_shown(held) && !is_new(held))
                {
                    claims.push(Claim { acquire, address });
                }
            }
        }
        claims
    }

    /// Whether an address is of a pool that the Service's cluster may use. Other
    /// rules of the pool may have changed since the Service got it; this one too, but
    /// it keeps a watcher from claiming what is kept for other clusters.
    fn may_adopt(&self, acquire: &Acquire, address: IpAddr) -> bool {
        let cluster = &acquire.key.cluster;
        match self.pools.locate(address) {
            Located::In(pool) => {
                let only = self.pools.spec(pool).clusters.as_ref();
                only.is_none_or(|clusters| clusters.contains(cluster))
            }
            Located::Excluded(_) | Located::Nowhere => false,
        }
    }

    /// Whether whoever holds a claimed address is about to leave it, is gone, or
    /// shares it.
    fn can_have(&self, claim: &Claim<'_>, leaving: &HashSet<(IpAddr, Arc<ServiceKey>)>) -> bool {
        let Claim { acquire, address } = *claim;
        let reserved = self.reservations.get(address);
        if reserved.is_some_and(|reserved| reserved.key.as_ref() != Some(&acquire.key)) {
            return false;
        }
        let Some(holders) = self.held.get(address) else {
            return true;
        };
        holders
            .admit(&acquire.key, acquire.wish.sharing.as_deref())
            .is_ok()
            || holders.iter().all(|held| {
                held.holder.transition.release_at().is_some()
                    || leaving.contains(&(address, Arc::clone(&held.key)))
            })
    }

    /// Takes back what the Service shows no more, and what is held at its address
    /// for Services that are gone.
    fn make_room(&mut self, claim: &Claim<'_>, outcome: &mut Outcome) {
        let Claim { acquire, address } = *claim;
        let own = self.held_by(&acquire.key, Family::of(address)).cloned();
        let gone = self.held.get(address).into_iter().flat_map(|holders| {
            let shares = holders
                .admit(&acquire.key, acquire.wish.sharing.as_deref())
                .is_ok();
            holders
                .iter()
                .filter(move |held| !shares && held.holder.transition.release_at().is_some())
        });
        let gone: Vec<_> = gone.cloned().chain(own).collect();
        for held in gone {
            self.commit(ChangeKind::Released(held), outcome);
        }
    }

    /// Gives a Service an address that it shows; `false` if others hold it.
    pub(super) fn adopt(
        &mut self,
        key: &Arc<ServiceKey>,
        address: IpAddr,
        holder: Holder,
        outcome: &mut Outcome,
    ) -> bool {
        let Located::In(pool) = self.pools.locate(address) else {
            return false;
        };
        let admitted = self
            .held
            .get(address)
            .is_none_or(|holders| holders.admit(key, holder.sharing.as_deref()).is_ok());
        let reserved = self.reservations.get(address);
        if !admitted || reserved.is_some_and(|reserved| reserved.key.as_ref() != Some(key)) {
            return false;
        }
        if let Some(held) = self.held_by(key, Family::of(address)).cloned() {
            self.commit(ChangeKind::Released(held), outcome);
        }
        self.allocate(key, address, pool, holder, outcome);
        let conflict = self.conflicts.of(key).find(|of| of.address == address);
        if let Some(conflict) = conflict.cloned() {
            self.commit(ChangeKind::ConflictEnded(conflict), outcome);
        }
        true
    }

    /// Notes new conflicts of a cluster, and ends those that are over.
    fn keep_conflicts(&mut self, cluster: &ClusterName, found: &Found, outcome: &mut Outcome) {
        let over: Vec<_> = self
            .conflicts
            .iter()
            .filter(|conflict| conflict.key.cluster == *cluster)
            .filter(|conflict| !found.contains_key(&(conflict.address, Arc::clone(&conflict.key))))
            .cloned()
            .collect();
        for conflict in over {
            self.commit(ChangeKind::ConflictEnded(conflict), outcome);
        }
        for ((address, key), holder) in found {
            let known = self
                .conflicts
                .of(key)
                .any(|conflict| conflict.address == *address);
            if !known {
                let conflict = Conflict {
                    address: *address,
                    key: Arc::clone(key),
                    holder: holder.clone(),
                    since: self.now,
                };
                self.commit(ChangeKind::Conflicted(Arc::new(conflict)), outcome);
            }
        }
    }

    fn verdicts(
        &self,
        cluster: &ClusterName,
        live: &BTreeMap<&ServiceKey, &Acquire>,
        outcome: &Outcome,
    ) -> Vec<Synced> {
        let adopted: HashSet<&ServiceKey> = outcome
            .changes
            .iter()
            .filter_map(|change| change.allocated())
            .map(|allocation| &*allocation.key)
            .collect();
        let mut all: Vec<_> = live
            .values()
            .map(|acquire| {
                let key = &acquire.key;
                let held: Vec<_> = self.holding(key).cloned().collect();
                let shows_another = acquire
                    .wish
                    .current
                    .iter()
                    .any(|shown| held.iter().all(|held| held.address != *shown));
                let verdict = if self.conflicts.of(key).next().is_some() {
                    Verdict::Conflict
                } else if held.is_empty() || shows_another {
                    Verdict::Reassign
                } else if adopted.contains(&**key) {
                    Verdict::Adopted
                } else {
                    Verdict::Kept
                };
                Synced {
                    key: Arc::clone(key),
                    verdict,
                    held,
                }
            })
            .collect();
        let leaving = self.of_cluster(cluster).into_iter().filter_map(|held| {
            Some(Synced {
                key: Arc::clone(&held.key),
                verdict: Verdict::Leaving(held.holder.transition.release_at()?),
                held: vec![held],
            })
        });
        all.extend(leaving);
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// Gives addresses that have become free to the Services that show them.
    pub(super) fn settle_conflicts(&mut self, outcome: &mut Outcome) {
        let mut looked_at = 0;
        while !self.conflicts.is_empty()
            && let Some(change) = outcome.changes.get(looked_at)
        {
            looked_at += 1;
            let left = match &change.kind {
                ChangeKind::Released(left) => left.address,
                ChangeKind::Unreserved(left) => left.address,
                ChangeKind::Allocated(_)
                | ChangeKind::Updated(_)
                | ChangeKind::Reserved(_)
                | ChangeKind::Conflicted(_)
                | ChangeKind::ConflictEnded(_)
                | ChangeKind::Cluster(_)
                | ChangeKind::Opened => continue,
            };
            if let Some(conflict) = self.conflicts.about(left).first().cloned() {
                let holder = conflict.holder.clone();
                if self.adopt(&conflict.key, left, holder, outcome) {
                    outcome.ask_again.push(Arc::clone(&conflict.key));
                }
            }
        }
    }
}
