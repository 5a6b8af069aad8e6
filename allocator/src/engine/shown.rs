//! What is shown is held: an address that the status of a live Service shows is given to
//! nobody else. Clients use it, and DNS tells of it, until that Service's cluster has
//! written another status.
//!
//! A Service that shows an address without holding it has a [`Conflict`], whose kind says
//! what it brings:
//!
//! | kind | the Service | others |
//! | --- | --- | --- |
//! | `Claimed` | shows what others hold or what is kept for others, as its cluster told by Sync; it gets the address when that is free and quotas allow it | get it after the Service at most |
//! | `Shown` | gave the address up, or a hand wrote it into the status; it gets nothing by it | do not get it |
//! | `BeyondQuota` | shows more than its cluster and namespace may keep from others; it gets the address by Sync when their quotas allow it | may get it |
//!
//! A conflict is over when the Service asks without showing the address, or its cluster
//! syncs so; when the Service is released, or holds the address; and, where its cluster
//! has it no more, after the grace. An administrator who knows that nobody uses the
//! address may end it (ResolveConflict). Reservations come and go without regard to it.
//!
//! Of a pool with quotas, a cluster and a namespace keep away what they show falsely up to
//! their quota, and one address more in exchange for each that they hold.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{
    Engine, Outcome, Release,
    acquire::Acquire,
    address::Family,
    change::{Allocation, ChangeKind, Conflict, ConflictKind, Holder, Timestamp},
    is_same_uid,
    key::{ClusterName, ServiceKey},
    pools::Located,
    quota::Weight,
};

impl Engine {
    /// Takes back what a Service holds and does not want, or may not hold, any more. What it
    /// shows of that is kept from others.
    pub(super) fn give_up(
        &mut self,
        held: Arc<Allocation>,
        (shown, holder): (&[IpAddr], &Holder),
        outcome: &mut Outcome,
    ) {
        if shown.contains(&held.address) {
            // Before whoever claimed it while it was held.
            let first = self.conflicts.about(held.address).next();
            let since = first.map_or(held.since, |first| {
                held.since.min(Timestamp(first.since.0 - 1))
            });
            self.keep_shown(&held.key, held.address, (holder, since), outcome);
        }
        self.commit(ChangeKind::Released(held), outcome);
    }

    fn keep_shown(
        &mut self,
        key: &Arc<ServiceKey>,
        address: IpAddr,
        (holder, since): (&Holder, Timestamp),
        outcome: &mut Outcome,
    ) {
        if self.may_keep_away(key, address) {
            let conflict = Conflict {
                address,
                key: Arc::clone(key),
                holder: holder.clone(),
                since,
                kind: ConflictKind::Shown,
            };
            self.commit(ChangeKind::Conflicted(Arc::new(conflict)), outcome);
        }
    }

    /// Now, but later than when others were known to show the address: who came first
    /// counts, also within one millisecond.
    pub(super) fn shown_since(&self, address: IpAddr) -> Timestamp {
        let last = self.conflicts.about(address).next_back();
        last.map_or(self.now, |last| self.now.max(Timestamp(last.since.0 + 1)))
    }

    /// Keeps from others what a Service shows, though it does not hold it. Returns whether
    /// anything was not known yet.
    pub(super) fn keep_all_shown(
        &mut self,
        acquire: &Acquire,
        holder: &Holder,
        outcome: &mut Outcome,
    ) -> bool {
        let unknown = self.shown_in_vain(acquire);
        for address in &unknown {
            match self.conflicts.get(&acquire.key, *address).cloned() {
                Some(known) => self.seen_again(&known, outcome),
                None => {
                    let since = self.shown_since(*address);
                    self.keep_shown(&acquire.key, *address, (holder, since), outcome);
                }
            }
        }
        !unknown.is_empty()
    }

    /// Addresses that a Service shows and does not hold, where that is not known yet.
    pub(super) fn shown_in_vain(&self, acquire: &Acquire) -> Vec<IpAddr> {
        let key = &acquire.key;
        let is_unknown = |address: &IpAddr| match self.conflicts.get(key, *address) {
            Some(known) => known.release_at().is_some(),
            None => {
                let family = Family::of(*address);
                let holds = self.held_by(key, family);
                holds.is_none_or(|held| held.address != *address)
                    && self.may_adopt(acquire, *address)
                    && self.may_keep_away(key, *address)
            }
        };
        let current = acquire.wish.current.iter().copied();
        let mut unknown: Vec<_> = current.filter(is_unknown).collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown
    }

    fn seen_again(&mut self, known: &Conflict, outcome: &mut Outcome) {
        self.conflict_ends_at(known, None, outcome);
    }

    fn conflict_ends_at(
        &mut self,
        known: &Conflict,
        release_at: Option<Timestamp>,
        outcome: &mut Outcome,
    ) {
        if known.release_at() != release_at {
            let holder = Holder {
                transition: known.holder.transition.with_release_at(release_at),
                ..known.holder.clone()
            };
            let conflict = Conflict {
                holder,
                ..known.clone()
            };
            self.commit(ChangeKind::Conflicted(Arc::new(conflict)), outcome);
        }
    }

    /// Whether quotas let a Service keep others away from one more address: its namespace
    /// and cluster keep away as many as they may hold, and one more in exchange for each
    /// that they hold.
    pub(super) fn may_keep_away(&self, key: &ServiceKey, address: IpAddr) -> bool {
        self.may_keep_away_beside(key, address, Weight::default())
    }

    /// The same for an address that the Service keeps away already.
    fn may_go_on_keeping_away(&self, key: &ServiceKey, address: IpAddr) -> bool {
        self.may_keep_away_beside(key, address, Weight::ONE)
    }

    fn may_keep_away_beside(&self, key: &ServiceKey, address: IpAddr, itself: Weight) -> bool {
        let Located::In(pool) = self.pools.locate(address) else {
            return true;
        };
        let spec = self.pools.spec(pool);
        if !spec.has_limits() {
            return true;
        }
        let in_exchange = self.quotas.used(pool, key).plus(itself);
        let beside = (Weight::default(), in_exchange);
        let reached = self.kept_away.reached(spec, pool, key, Weight::ONE, beside);
        reached.is_none()
    }

    /// Who shows an address so that `key` does not get it. Of those who show it the first
    /// one counts; but nobody of a cluster comes back to an address that another one of
    /// it shows still.
    pub(super) fn kept_from(&self, key: &ServiceKey, address: IpAddr) -> Option<&Arc<Conflict>> {
        let own = self.conflicts.get(key, address);
        let is_held = self.held.get(address).is_some();
        let comes_first = |other: &Conflict| {
            own.is_none_or(|own| (other.since, &other.key) < (own.since, &own.key))
        };
        self.conflicts
            .about(address)
            .filter(|other| *other.key != *key && other.keeps_away())
            .find(|other| {
                let is_of_one = other.key.cluster == key.cluster;
                // Those who hold an address may share it with others of their cluster,
                // whoever claims it elsewhere.
                (is_of_one && other.kind == ConflictKind::Shown)
                    || (comes_first(other) && (is_of_one || !is_held))
            })
    }

    /// What a Service does not hold and shows no more. That it shows what it holds tells
    /// that it was asked after it got that, and not before; or that it gets back what it
    /// showed at another time, which nothing tells apart.
    pub(super) fn shown_no_more(&self, acquire: &Acquire) -> Vec<Arc<Conflict>> {
        let current = &acquire.wish.current;
        let mut shown = self.conflicts.of(&acquire.key).peekable();
        // What it loses by this request it need not show for that.
        let is_told = |held: &Arc<Allocation>| {
            current.contains(&held.address) || self.may_not_stay(held, acquire).is_some()
        };
        if shown.peek().is_none()
            || acquire.is_mere_presence()
            || !self.holding(&acquire.key).all(is_told)
        {
            return Vec::new();
        }
        shown
            .filter(|shown| shown.kind == ConflictKind::Shown)
            .filter(|shown| !current.contains(&shown.address))
            .cloned()
            .collect()
    }

    /// A Service shows no more than its release says, which is nothing where it is gone.
    pub(super) fn conflicts_to_release(&self, release: &Release) -> Vec<Arc<Conflict>> {
        let mut holding = self.holding(&release.key).peekable();
        let is_it =
            |held: &Arc<Allocation>| is_same_uid(release.uid.as_ref(), held.holder.uid.as_ref());
        let is_the_holder = holding.peek().is_some() && holding.all(is_it);
        self.conflicts
            .of(&release.key)
            .filter(|conflict| !release.current.contains(&conflict.address))
            .filter(|conflict| {
                is_the_holder || is_same_uid(release.uid.as_ref(), conflict.holder.uid.as_ref())
            })
            .cloned()
            .collect()
    }

    /// Ends what Services of a cluster show no more, and, after the grace, what Services
    /// showed that the cluster does not have any more.
    pub(super) fn review_shown(
        &mut self,
        cluster: &ClusterName,
        live: &BTreeMap<&ServiceKey, &Acquire>,
        outcome: &mut Outcome,
    ) {
        let grace = self.now.after(self.pools.settings().orphan_grace);
        let known: Vec<_> = self.conflicts.of_cluster(cluster).cloned().collect();
        for conflict in known {
            match live.get(&*conflict.key) {
                Some(acquire) if self.shown_no_more(acquire).contains(&conflict) => {
                    self.commit(ChangeKind::ConflictEnded(conflict), outcome);
                }
                Some(acquire)
                    if is_same_uid(acquire.uid.as_ref(), conflict.holder.uid.as_ref())
                        || acquire.wish.current.contains(&conflict.address) =>
                {
                    self.seen_again(&conflict, outcome);
                }
                // One that was created again under the name is another Service.
                Some(_) | None => {
                    let end = conflict.release_at().unwrap_or(grace);
                    self.conflict_ends_at(&conflict, Some(end), outcome);
                }
            }
        }
    }

    /// Gives addresses that have become free to the Services that claim them.
    pub(super) fn settle_conflicts(&mut self, outcome: &mut Outcome) {
        let mut looked_at = 0;
        while !self.conflicts.is_empty()
            && let Some(change) = outcome.changes.get(looked_at)
        {
            looked_at += 1;
            if let Some(address) = change.kind.opened_up() {
                self.settle_conflict(address, outcome);
            }
        }
    }

    fn settle_conflict(&mut self, address: IpAddr, outcome: &mut Outcome) {
        while let Some(conflict) = self.first_claim(address) {
            let Conflict { key, holder, .. } = &*conflict;
            if !self.is_open_to(key, address, holder.sharing.as_deref()) {
                return;
            }
            if self.has_room(key, address).is_err() {
                if self.may_go_on_keeping_away(key, address) {
                    return;
                }
                let conflict = Conflict {
                    kind: ConflictKind::BeyondQuota,
                    ..(*conflict).clone()
                };
                self.commit(ChangeKind::Conflicted(Arc::new(conflict)), outcome);
                continue;
            }
            if self.adopt_for_claim(&conflict, outcome) {
                outcome.ask_again(key);
            }
            return;
        }
    }

    /// Gives a Service the address that it claims. Its status may show what it held until now,
    /// so that is kept from others until a request of the Service shows it no more.
    pub(super) fn adopt_for_claim(&mut self, claim: &Conflict, outcome: &mut Outcome) -> bool {
        let Conflict {
            address,
            key,
            holder,
            ..
        } = claim;
        let held = self.held_by(key, Family::of(*address));
        let shown: Vec<_> = held.map(|held| held.address).into_iter().collect();
        self.adopt(key, *address, (holder.clone(), &shown), outcome)
    }

    fn first_claim(&self, address: IpAddr) -> Option<Arc<Conflict>> {
        let mut about = self.conflicts.about(address);
        about
            .find(|conflict| conflict.kind == ConflictKind::Claimed)
            .cloned()
    }
}
