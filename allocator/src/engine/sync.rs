//! Sync: what a cluster says that it has, all of it, against what is known here.
//!
//! 1. A Service that is not in the set has its address taken back after a grace,
//!    unless it is seen again.
//! 2. An address that a Service shows is its own, whatever the database says, whatever
//!    else it asks for, and whoever wrote it into the status: the database may be new,
//!    or an old backup. It is adopted if it is in a pool that the cluster may use, and
//!    nobody else who is still there holds it; where the pool does not serve the Service
//!    it is stranded. But what it gave up by its own wish, and shows because it was not
//!    told, is not its own. Only while the cluster is awaited it may be more than quotas
//!    allow. See `claims`.
//! 3. If somebody else holds it, or quotas do not allow it, that is a conflict. A holder
//!    keeps the address, and the Service that shows it keeps working on it; nobody else gets
//!    it, and it goes over to that Service when the holder is gone. See `shown`.
//!
//! It costs O(log n) for each Service in the set and each that the cluster holds
//! addresses for.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Engine, Notice, Outcome, Reply,
    acquire::Acquire,
    change::{Allocation, ChangeKind, Conflict, ConflictKind, Holder, Revision, Timestamp},
    claims::AllFound,
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
        let is_restored = *proves == Some(Loss::Restored) || self.is_restored(cluster);
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
        self.review_shown(cluster, &live, outcome);
        let found = self.settle_claims(&live, missed, is_restored, outcome);
        self.keep_conflicts((cluster, is_restored), &live, &found, outcome);
        self.keep_shown_of_all(&live, *seen, outcome);
        // Who got what it shows shows all that it holds.
        self.review_shown(cluster, &live, outcome);
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
            outcome.notices.push(Notice::SyncAgain(name.clone()));
            self.set_cluster(name, ClusterState::Awaited, outcome);
        }
        outcome.notices.push(Notice::LossProved(teller.clone()));
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
            outcome.notices.push(Notice::AllMayAsk);
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

    /// Whether an address is of a pool that the Service's cluster may use. Other
    /// rules of the pool may have changed since the Service got it; this one too, but
    /// it keeps a watcher from claiming what is kept for other clusters.
    pub(super) fn may_adopt(&self, acquire: &Acquire, address: IpAddr) -> bool {
        let cluster = &acquire.key.cluster;
        match self.pools.locate(address) {
            Located::In(pool) => {
                let only = self.pools.spec(pool).clusters.as_ref();
                only.is_none_or(|clusters| clusters.contains(cluster))
            }
            Located::Excluded(_) | Located::Nowhere => false,
        }
    }

    /// Notes new conflicts of a cluster, and ends those that are over.
    fn keep_conflicts(
        &mut self,
        (cluster, is_restored): (&ClusterName, bool),
        live: &BTreeMap<&ServiceKey, &Acquire>,
        found: &AllFound,
        outcome: &mut Outcome,
    ) {
        let is_over = |conflict: &&Arc<Conflict>| {
            let acquire = live.get(&*conflict.key);
            conflict.is_claim()
                && acquire.is_some_and(|acquire| !acquire.is_mere_presence())
                && !found.contains_key(&(conflict.address, Arc::clone(&conflict.key)))
        };
        let known = self.conflicts.of_cluster(cluster);
        let over: Vec<_> = known.filter(is_over).cloned().collect();
        for conflict in over {
            self.commit(ChangeKind::ConflictEnded(conflict), outcome);
        }
        for ((address, key), holder) in found {
            let known = self.conflicts.get(key, *address);
            if known.is_some_and(|known| known.kind != ConflictKind::BeyondQuota) {
                continue;
            }
            let since = known.map_or_else(|| self.shown_since(*address), |known| known.since);
            let kind = if is_restored || self.may_keep_away(key, *address) {
                ConflictKind::Claimed
            } else {
                ConflictKind::BeyondQuota
            };
            if known.is_none_or(|known| known.kind != kind) {
                let conflict = Conflict {
                    address: *address,
                    key: Arc::clone(key),
                    holder: holder.clone(),
                    since,
                    kind,
                };
                self.commit(ChangeKind::Conflicted(Arc::new(conflict)), outcome);
            }
        }
    }

    /// Keeps from others what Services show beside what they hold. What one shows that was
    /// given something after the cluster made up its set is not known.
    fn keep_shown_of_all(
        &mut self,
        live: &BTreeMap<&ServiceKey, &Acquire>,
        seen: Option<Revision>,
        outcome: &mut Outcome,
    ) {
        for acquire in live.values() {
            let is_old = |held: &Arc<Allocation>| seen.is_none_or(|seen| held.revision <= seen);
            if self.holding(&acquire.key).all(is_old) && !self.shown_in_vain(acquire).is_empty() {
                let holder = self.next_holder(acquire);
                self.keep_all_shown(acquire, &holder, outcome);
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
                let verdict = if self.conflicts.of(key).any(|conflict| conflict.is_claim()) {
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
}
