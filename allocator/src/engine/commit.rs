//! How a change moves the state on. Every change goes through [`Engine::commit`],
//! so that each index is kept in one place.

use std::{net::IpAddr, sync::Arc};

use super::{
    Engine, Freed, Notice, Outcome,
    address::Family,
    change::{Allocation, Change, ChangeKind, Conflict, LastHeld, Reservation},
    key::{ClusterName, ServiceKey},
    pools::{Located, PoolIndex, Pools},
    quota::{Quotas, Weight},
    sharing::Holders,
};

impl Engine {
    /// Gives a change its revision, and moves the state on by it.
    pub(super) fn commit(&mut self, kind: ChangeKind, outcome: &mut Outcome) {
        self.revision = self.revision.next();
        self.last_change_at = self.now;
        match &kind {
            ChangeKind::Allocated(allocation) => {
                self.count_in(allocation);
                self.hold(Arc::clone(allocation));
                self.notify_who_may_join(allocation, outcome);
            }
            ChangeKind::Updated(allocation) => {
                self.is_recorded(allocation);
                self.hold(Arc::clone(allocation));
                self.notify_who_may_join(allocation, outcome);
            }
            ChangeKind::Released(allocation) => self.let_go(allocation, outcome),
            ChangeKind::Reserved(reservation) => {
                self.keep(Arc::clone(reservation));
                if let Some(key) = &reservation.key
                    && self.held.get(reservation.address).is_none()
                {
                    outcome.ask_again(key);
                }
            }
            ChangeKind::Unreserved(reservation) => {
                let address = reservation.address;
                self.reservations.remove(address);
                self.open_up(address, outcome);
            }
            ChangeKind::Conflicted(conflict) => {
                let older = self.note_conflict(Arc::clone(conflict));
                if older.is_some_and(|older| older.keeps_away()) && !conflict.keeps_away() {
                    self.open_up(conflict.address, outcome);
                }
            }
            ChangeKind::ConflictEnded(conflict) => {
                self.conflicts.remove(&conflict.key, conflict.address);
                if conflict.keeps_away() {
                    self.count_kept_away(conflict, Quotas::remove);
                    self.open_up(conflict.address, outcome);
                }
            }
            ChangeKind::Cluster(record) => self.clusters.set(Arc::clone(record)),
            ChangeKind::Opened => {}
        }
        outcome.changes.push(Change {
            revision: self.revision,
            at: self.now,
            kind,
        });
    }

    pub(super) fn hold(&mut self, allocation: Arc<Allocation>) {
        let before = self.holdings.insert(Arc::clone(&allocation));
        self.occupy(allocation);
        if let Some(before) = before {
            self.leaves_no_more(&before);
        }
    }

    /// All of holding that has nothing to do with what the key held before.
    pub(super) fn occupy(&mut self, allocation: Arc<Allocation>) {
        self.free.take(&self.pools, allocation.address);
        if let Some(end) = allocation.holder.transition.release_at() {
            self.leaving.insert((end, Arc::clone(&allocation.key)));
        }
        self.held.add(allocation);
    }

    /// To be called when the state has moved on from `before`.
    fn leaves_no_more(&mut self, before: &Allocation) {
        if let Some(end) = before.holder.transition.release_at() {
            let still = self
                .holding(&before.key)
                .any(|held| held.holder.transition.release_at() == Some(end));
            if !still {
                self.leaving.remove(&(end, Arc::clone(&before.key)));
            }
        }
    }

    pub(super) fn keep(&mut self, reservation: Arc<Reservation>) {
        self.free.withhold(&self.pools, reservation.address);
        self.reservations.add(reservation);
    }

    pub(super) fn remember(&mut self, last: LastHeld) {
        let address = last.address;
        self.free.mark(&self.pools, last);
        if self.is_kept_away(address) {
            self.remember_cooling(address);
        } else if self.reservations.get(address).is_none() {
            self.free.give(&self.pools, address, self.now);
        }
    }

    fn remember_cooling(&mut self, address: IpAddr) {
        if let Some((_, until)) = self.free.cooling_until(address, self.now) {
            self.conflicts.cools_until(address, until);
        }
    }

    /// Returns the conflict that it replaces.
    pub(super) fn note_conflict(&mut self, conflict: Arc<Conflict>) -> Option<Arc<Conflict>> {
        let older = self.conflicts.add(Arc::clone(&conflict));
        if let Some(older) = older.as_ref().filter(|older| older.keeps_away()) {
            self.count_kept_away(older, Quotas::remove);
        }
        if conflict.keeps_away() {
            self.count_kept_away(&conflict, Quotas::add);
            self.free.withhold(&self.pools, conflict.address);
            self.remember_cooling(conflict.address);
        }
        older
    }

    fn count_kept_away(
        &mut self,
        conflict: &Conflict,
        count: fn(&mut Quotas, &Pools, PoolIndex, &ServiceKey, Weight),
    ) {
        if let Located::In(pool) = self.pools.locate(conflict.address) {
            count(
                &mut self.kept_away,
                &self.pools,
                pool,
                &conflict.key,
                Weight::ONE,
            );
        }
    }

    fn is_kept_away(&self, address: IpAddr) -> bool {
        let mut about = self.conflicts.about(address);
        about.any(|conflict| conflict.keeps_away())
    }

    /// Something that kept an address from others is over: whoever may have it now is
    /// told.
    fn open_up(&mut self, address: IpAddr, outcome: &mut Outcome) {
        match self.held.get(address) {
            None if self.is_kept_away(address) => {
                for conflict in self.conflicts.about(address) {
                    outcome.ask_again(&conflict.key);
                }
            }
            None => match self.reservations.get(address) {
                Some(reserved) => {
                    if let Some(key) = &reserved.key {
                        outcome.ask_again(key);
                    }
                }
                None => {
                    self.free.give(&self.pools, address, self.now);
                    self.notify_freed(address, None, outcome);
                }
            },
            Some(Holders::Sharing(_)) => self.notify_freed(address, None, outcome),
            Some(Holders::One(_)) => {}
        }
    }

    fn let_go(&mut self, allocation: &Allocation, outcome: &mut Outcome) {
        let address = allocation.address;
        self.is_recorded(allocation);
        self.holdings.remove(&allocation.key, allocation.family());
        self.leaves_no_more(allocation);
        self.count_out(allocation);
        let nobody_is_left = self.held.remove(allocation);
        if nobody_is_left {
            let reserved = self.reservations.get(address);
            if let Some(key) = reserved.and_then(|reserved| reserved.key.as_ref()) {
                outcome.ask_again(key);
            }
            for shown_by in self.conflicts.about(address) {
                // A claimant is told when it has the address.
                if shown_by.key != allocation.key && !shown_by.is_claim() {
                    outcome.ask_again(&shown_by.key);
                }
            }
            self.remember(LastHeld {
                address,
                key: Arc::clone(&allocation.key),
                released_at: self.now,
            });
        }
        // Also of an address that cools down: who waits learns until when.
        self.notify_freed(address, Some(&allocation.key.cluster), outcome);
    }

    fn notify_who_may_join(&self, allocation: &Allocation, outcome: &mut Outcome) {
        if allocation.holder.sharing.is_some() {
            self.notify_freed(allocation.address, None, outcome);
        }
    }

    pub(super) fn notify_freed(
        &self,
        address: IpAddr,
        by: Option<&ClusterName>,
        outcome: &mut Outcome,
    ) {
        if let Located::In(pool) = self.pools.locate(address) {
            outcome.notices.push(Notice::Freed(Freed {
                pool: self.pools.spec(pool).name.clone(),
                family: Family::of(address),
                address,
                by: by.cloned(),
                shared: self.held.get(address).and_then(Holders::group),
            }));
        }
    }

    pub(super) fn count_in(&mut self, allocation: &Allocation) {
        if let Located::In(pool) = self.pools.locate(allocation.address)
            && self.pools.spec(pool).has_limits()
        {
            let weight = Weight::of_joining(&allocation.key, self.held.get(allocation.address));
            self.quotas.add(&self.pools, pool, &allocation.key, weight);
        }
    }

    fn count_out(&mut self, allocation: &Allocation) {
        if let Located::In(pool) = self.pools.locate(allocation.address)
            && self.pools.spec(pool).has_limits()
            && let Some(holders) = self.held.get(allocation.address)
        {
            let weight = Weight::of_leaving(&allocation.key, holders);
            self.quotas
                .remove(&self.pools, pool, &allocation.key, weight);
        }
    }
}
