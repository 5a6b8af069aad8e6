//! What the Services of a Sync show and do not hold, and which of that they get.
//!
//! A claim is stuck if somebody holds the address who neither shares it nor leaves it:
//! because its cluster does not have it any more, or because it claims another address
//! itself. A Service whose own claim is stuck does not leave, so whatever is claimed of
//! it is stuck as well. Each claim is looked at once, and once more when it gets stuck.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Engine, Outcome,
    acquire::Acquire,
    address::Family,
    change::{Allocation, ChangeKind, Holder, Revision},
    clusters::ClusterState,
    is_same_uid,
    key::{ClusterName, Namespace, ServiceKey},
    pools::{Located, PoolIndex},
    quota::Weight,
    sharing::{Holders, Terms},
};

/// An address that a Service shows and does not hold.
struct Claim<'a> {
    acquire: &'a Acquire,
    address: IpAddr,
    pool: PoolIndex,
}

/// Claims that are not granted, by address and Service, and the Service as it will be known
/// when it gets the address.
pub(super) type AllFound = BTreeMap<(IpAddr, Arc<ServiceKey>), Holder>;

/// Which claims are stuck, and which wait for somebody to leave the address.
struct Progress {
    stuck: Vec<bool>,
    /// by the address that has to be left
    waiting: HashMap<IpAddr, Vec<usize>>,
    #[cfg(test)]
    steps: usize,
}

/// What claims take and give back of pools with limits, so far.
#[derive(Default)]
struct Budget {
    clusters: HashMap<PoolIndex, (u64, u64)>,
    namespaces: HashMap<(PoolIndex, Namespace), (u64, u64)>,
    counted: HashSet<(IpAddr, Option<Namespace>)>,
}

impl Engine {
    /// Gives Services the addresses that they show, and tells which they cannot have.
    pub(super) fn settle_claims(
        &mut self,
        live: &BTreeMap<&ServiceKey, &Acquire>,
        missed: Option<(Revision, Revision)>,
        is_restored: bool,
        outcome: &mut Outcome,
    ) -> AllFound {
        let claims = self.claims(live, missed);
        let mut progress = self.progress(&claims);
        // In a restore nobody knows what was in force when Services got what they show.
        let over_quota = if is_restored {
            Vec::new()
        } else {
            self.over_quota(&claims, &progress)
        };
        self.get_stuck(&claims, over_quota, &mut progress);
        let mut found = AllFound::new();
        let mut refuse = |engine: &Self, claim: &Claim<'_>| {
            let holder = engine.next_holder(claim.acquire);
            let place = (claim.address, Arc::clone(&claim.acquire.key));
            found.insert(place, holder);
        };
        let mut granted = Vec::new();
        for (claim, is_stuck) in claims.iter().zip(&progress.stuck) {
            if *is_stuck {
                refuse(self, claim);
            } else {
                granted.push(claim);
            }
        }
        for claim in &granted {
            self.make_room(claim, outcome);
        }
        for claim in granted {
            let Claim {
                acquire, address, ..
            } = claim;
            let holder = self.next_holder(acquire);
            let shown = &acquire.wish.current;
            if !self.adopt(&acquire.key, *address, (holder, shown), outcome) {
                // Two Services of the set show it, and this one comes second.
                refuse(self, claim);
            }
        }
        #[cfg(test)]
        super::tests::claims::STEPS.set(progress.steps);
        found
    }

    /// What Services show and do not hold. One that was given something after the
    /// cluster made up its set shows what it had before, and one that gave up what it
    /// shows was only not told yet.
    fn claims<'a>(
        &self,
        live: &BTreeMap<&ServiceKey, &'a Acquire>,
        missed: Option<(Revision, Revision)>,
    ) -> Vec<Claim<'a>> {
        let mut claims = Vec::new();
        for acquire in live.values() {
            for family in Family::ALL {
                let held = self.held_by(&acquire.key, family);
                let is_new = |held: &Allocation| {
                    missed.is_some_and(|(seen, now)| held.revision > seen && held.revision <= now)
                };
                let is_shown = |held: &Allocation| acquire.wish.current.contains(&held.address);
                // A hand in the status moves no Service from what it holds.
                let is_edited = |held: &Allocation| {
                    acquire.shown_by_others
                        && is_same_uid(acquire.uid.as_ref(), held.holder.uid.as_ref())
                };
                if held.is_some_and(|held| is_shown(held) || is_new(held) || is_edited(held)) {
                    continue;
                }
                let shown = acquire.wish.current.iter().copied();
                let claim = shown
                    .filter(|address| Family::of(*address) == family)
                    .filter(|address| !self.gave_up(acquire, *address))
                    .filter(|address| self.may_adopt(acquire, *address))
                    .find_map(|address| match self.pools.locate(address) {
                        Located::In(pool) => Some(Claim {
                            acquire,
                            address,
                            pool,
                        }),
                        Located::Excluded(_) | Located::Nowhere => None,
                    });
                claims.extend(claim);
            }
        }
        claims
    }

    /// Whether a Service shows what it gave up because it was not told yet: this
    /// database knows more than its status.
    fn gave_up(&self, acquire: &Acquire, address: IpAddr) -> bool {
        let family = Family::of(address);
        let known = self.conflicts.get(&acquire.key, address);
        let wants = acquire.wish.families.is_empty() || acquire.wish.families.contains(&family);
        known.is_some_and(|known| !known.is_claim())
            && (!wants
                || self.held_by(&acquire.key, family).is_some()
                || !self.is_open_to(&acquire.key, address, acquire.wish.sharing.as_deref()))
    }

    /// Whether a Service may hold an address beside whoever does already, its pool's
    /// rules and limits aside.
    pub(super) fn is_open_to(
        &self,
        key: &ServiceKey,
        address: IpAddr,
        terms: Option<&Terms>,
    ) -> bool {
        let reserved = self.reservations.get(address);
        let holders = self.held.get(address);
        reserved.is_none_or(|reserved| reserved.key.as_deref() == Some(key))
            && holders.is_none_or(|holders| holders.admit(key, terms).is_ok())
            && self.kept_from(key, address).is_none()
    }

    /// Whether the database knows less than it did of what a cluster has.
    pub(super) fn is_restored(&self, cluster: &ClusterName) -> bool {
        self.is_opening() || self.clusters.state(cluster) == Some(ClusterState::Awaited)
    }

    fn progress(&self, claims: &[Claim<'_>]) -> Progress {
        let claimants: HashSet<(&ServiceKey, Family)> = claims
            .iter()
            .map(|claim| (&*claim.acquire.key, Family::of(claim.address)))
            .collect();
        let mut progress = Progress {
            stuck: vec![false; claims.len()],
            waiting: HashMap::new(),
            #[cfg(test)]
            steps: 0,
        };
        let mut may_be_left: HashMap<IpAddr, bool> = HashMap::new();
        let mut stuck = Vec::new();
        for (index, claim) in claims.iter().enumerate() {
            let Claim {
                acquire, address, ..
            } = claim;
            let (key, terms) = (&acquire.key, acquire.wish.sharing.as_deref());
            if self.is_open_to(key, *address, terms) {
                continue;
            }
            let leaves = |held: &Arc<Allocation>| {
                is_gone_from(held, key) || claimants.contains(&(&*held.key, Family::of(*address)))
            };
            let reserved = self.reservations.get(*address);
            let is_reserved = reserved.is_some_and(|reserved| reserved.key.as_ref() != Some(key));
            let holders = self.held.get(*address);
            let is_left = *may_be_left
                .entry(*address)
                .or_insert_with(|| holders.is_some_and(|holders| holders.iter().all(leaves)));
            if is_left && !is_reserved && self.kept_from(key, *address).is_none() {
                progress.waiting.entry(*address).or_default().push(index);
            } else {
                stuck.push(index);
            }
        }
        self.get_stuck(claims, stuck, &mut progress);
        progress
    }

    /// Claims that are stuck, and with them those of what their Services do not leave.
    fn get_stuck(&self, claims: &[Claim<'_>], mut stuck: Vec<usize>, progress: &mut Progress) {
        while let Some(index) = stuck.pop() {
            #[cfg(test)]
            {
                progress.steps += 1;
            }
            let (Some(claim), Some(is_stuck)) = (claims.get(index), progress.stuck.get_mut(index))
            else {
                continue;
            };
            *is_stuck = true;
            let held = self.held_by(&claim.acquire.key, Family::of(claim.address));
            let waiting = held.and_then(|held| progress.waiting.remove(&held.address));
            stuck.extend(waiting.unwrap_or_default());
        }
    }

    /// Claims beyond what quotas allow.
    fn over_quota(&self, claims: &[Claim<'_>], progress: &Progress) -> Vec<usize> {
        let is_open = |index: &usize| progress.stuck.get(*index) == Some(&false);
        let is_limited = |claim: &Claim<'_>| self.pools.spec(claim.pool).has_limits();
        let wanted: HashSet<IpAddr> = claims.iter().map(|claim| claim.address).collect();
        let mut budget = Budget::default();
        let mut over = Vec::new();
        for (index, claim) in claims.iter().enumerate() {
            if !is_open(&index) || !is_limited(claim) {
                continue;
            }
            let key = &claim.acquire.key;
            let joining = budget.joining(claim, self.held.get(claim.address));
            let leaving = self
                .held_by(key, Family::of(claim.address))
                .filter(|held| !wanted.contains(&held.address))
                .filter(|held| self.pools.locate(held.address) == Located::In(claim.pool))
                .and_then(|held| self.held.get(held.address))
                .map(|holders| Weight::of_leaving(key, holders))
                .unwrap_or_default();
            let (taken, given_back) = budget.spent(claim);
            let beside = (taken, given_back.plus(leaving));
            let spec = self.pools.spec(claim.pool);
            let reached = self.quotas.reached(spec, claim.pool, key, joining, beside);
            if reached.is_some() {
                over.push(index);
            } else {
                budget.spend(claim, joining, leaving);
            }
        }
        over
    }

    /// Takes back what the Service shows no more, and what is held at its address
    /// for Services that are gone.
    fn make_room(&mut self, claim: &Claim<'_>, outcome: &mut Outcome) {
        let Claim {
            acquire, address, ..
        } = claim;
        let own = self.held_by(&acquire.key, Family::of(*address)).cloned();
        let gone = self.held.get(*address).into_iter().flat_map(|holders| {
            let shares = holders
                .admit(&acquire.key, acquire.wish.sharing.as_deref())
                .is_ok();
            holders
                .iter()
                .filter(move |held| !shares && is_gone_from(held, &acquire.key))
        });
        let gone: Vec<_> = gone.cloned().chain(own).collect();
        for held in gone {
            self.commit(ChangeKind::Released(held), outcome);
        }
    }

    /// Gives a Service an address that it shows; `false` if others hold it. `shown` is all
    /// that it may show.
    pub(super) fn adopt(
        &mut self,
        key: &Arc<ServiceKey>,
        address: IpAddr,
        (holder, shown): (Holder, &[IpAddr]),
        outcome: &mut Outcome,
    ) -> bool {
        let Located::In(pool) = self.pools.locate(address) else {
            return false;
        };
        if !self.is_open_to(key, address, holder.sharing.as_deref()) {
            return false;
        }
        if let Some(held) = self.held_by(key, Family::of(address)).cloned() {
            self.give_up(held, (shown, &holder), outcome);
        }
        self.allocate(key, address, pool, holder, outcome);
        true
    }
}

/// Whether the cluster of `key` does not have a holder any more. Others wait until the
/// grace of that is over.
fn is_gone_from(held: &Allocation, key: &ServiceKey) -> bool {
    held.key.cluster == key.cluster && held.holder.transition.release_at().is_some()
}

impl Budget {
    /// What a claim adds, beside what was counted of its address before.
    fn joining(&self, claim: &Claim<'_>, holders: Option<Holders<'_>>) -> Weight {
        let key = &claim.acquire.key;
        let Weight { namespace, cluster } = Weight::of_joining(key, holders);
        let is_new = |of: Option<&Namespace>| {
            u64::from(!self.counted.contains(&(claim.address, of.cloned())))
        };
        Weight {
            namespace: namespace * is_new(Some(&key.namespace)),
            cluster: cluster * is_new(None),
        }
    }

    /// What claims of one namespace and cluster took and gave back.
    fn spent(&self, claim: &Claim<'_>) -> (Weight, Weight) {
        let namespace = (claim.pool, claim.acquire.key.namespace.clone());
        let of_namespace = self.namespaces.get(&namespace).copied().unwrap_or_default();
        let of_cluster = self.clusters.get(&claim.pool).copied().unwrap_or_default();
        let weight = |namespace, cluster| Weight { namespace, cluster };
        (
            weight(of_namespace.0, of_cluster.0),
            weight(of_namespace.1, of_cluster.1),
        )
    }

    fn spend(&mut self, claim: &Claim<'_>, joining: Weight, leaving: Weight) {
        let namespace = &claim.acquire.key.namespace;
        self.counted.insert((claim.address, None));
        self.counted
            .insert((claim.address, Some(namespace.clone())));
        let of_cluster = self.clusters.entry(claim.pool).or_default();
        *of_cluster = (
            of_cluster.0 + joining.cluster,
            of_cluster.1 + leaving.cluster,
        );
        let of_namespace = self
            .namespaces
            .entry((claim.pool, namespace.clone()))
            .or_default();
        *of_namespace = (
            of_namespace.0 + joining.namespace,
            of_namespace.1 + leaving.namespace,
        );
    }
}
