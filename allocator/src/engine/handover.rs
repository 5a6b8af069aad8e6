//! An address that goes from one Service to another, and what an administrator
//! decides about a conflict.
//!
//! A handover is a reservation of an address that is held: from then on nobody but
//! its target can get it. The source is told to ask again: by that it loses the address,
//! and that alone. The target gets it when the source's status shows it no more (see
//! `shown`). If the source does not ask in time the reservation expires, and whoever
//! holds the address keeps it. So it is never with both, and never with a third.

use std::{net::IpAddr, sync::Arc};

use super::{
    Engine, Outcome, Reply,
    acquire::Acquire,
    address::Family,
    change::{Allocation, ChangeKind, Conflict, ConflictKind, Holder, Reservation, Timestamp},
    is_same_uid,
    key::ServiceKey,
    labels::Labels,
    pools::{Located, PoolIndex},
    refusal::Refusal,
};

/// Let `to` have an address of `from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    pub address: IpAddr,
    pub from: Arc<ServiceKey>,
    pub to: Arc<ServiceKey>,
    pub expires: Timestamp,
    pub comment: String,
}

/// Who shall have an address that `key` shows and others hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    pub address: IpAddr,
    pub key: Arc<ServiceKey>,
    pub winner: Winner,
}

/// Who keeps the address of a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Winner {
    /// Who holds it: the other Service gets another address.
    Holder,
    /// Who shows it: it is handed over until this time.
    Shower { expires: Timestamp },
    /// Nobody: whatever the status says, the address is not used, and anybody may get it.
    Nobody,
}

impl Engine {
    pub(super) fn hand_over(&mut self, handover: &Handover, outcome: &mut Outcome) -> Reply {
        self.begin_handover(handover, outcome)
            .map_or_else(Reply::Refused, Reply::Reserved)
    }

    fn begin_handover(
        &mut self,
        handover: &Handover,
        outcome: &mut Outcome,
    ) -> Result<Arc<Reservation>, Refusal> {
        let promise = self.promise(handover)?;
        if self.reservations.get(promise.address) != Some(&promise) {
            self.commit(ChangeKind::Reserved(Arc::clone(&promise)), outcome);
            outcome.ask_again(&handover.from);
        }
        Ok(promise)
    }

    /// The reservation that a handover is, if it is possible.
    fn promise(&self, handover: &Handover) -> Result<Arc<Reservation>, Refusal> {
        let Handover {
            address,
            from,
            to,
            expires,
            comment,
        } = handover;
        let address = *address;
        let Located::In(pool) = self.pools.locate(address) else {
            return Err(Refusal::AddressNotInPool {
                address,
                pool: None,
            });
        };
        self.may_arrive(to, pool)?;
        let pool = || self.pools.spec(pool).name.clone();
        let reserved = self.reservations.get(address);
        if reserved.is_some_and(|reserved| reserved.key.as_ref() != Some(to)) {
            return Err(Refusal::AddressReserved {
                address,
                pool: pool(),
            });
        }
        // A Service has one address of a family, so it waits for one.
        let is_handover = |other: &IpAddr| {
            let reserved = self.reservations.get(*other);
            *other != address && reserved.is_some_and(|reserved| reserved.from.is_some())
        };
        let mut waits_for = self.reservations.of(to, Family::of(address));
        if let Some(other) = waits_for.find(is_handover) {
            let pool = match self.pools.locate(other) {
                Located::In(pool) => self.pools.spec(pool).name.clone(),
                Located::Excluded(_) | Located::Nowhere => pool(),
            };
            return Err(Refusal::AddressReserved {
                address: other,
                pool,
            });
        }
        let holders = self.held.get(address);
        let (source, others): (Vec<_>, Vec<_>) = holders
            .into_iter()
            .flat_map(|holders| holders.iter())
            .partition(|held| held.key == *from);
        if source.is_empty() {
            return Err(Refusal::NotTheHolder {
                address,
                key: Arc::clone(from),
            });
        }
        if let Some(other) = others.first() {
            return Err(Refusal::AddressInUse {
                address,
                pool: pool(),
                holder: Some(Arc::clone(&other.key)),
            });
        }
        // Whoever shows the address would keep it from the target, and get it in the end.
        let is_claimant = self.conflicts.get(to, address).is_some();
        let mut showing = self.conflicts.about(address);
        if reserved.is_none()
            && !is_claimant
            && let Some(other) = showing.find(|conflict| conflict.keeps_away())
        {
            return Err(Refusal::AddressShown {
                address,
                pool: pool(),
                by: Some(Arc::clone(&other.key)),
            });
        }
        Ok(Arc::new(Reservation {
            address,
            key: Some(Arc::clone(to)),
            expires: Some(*expires),
            comment: comment.clone(),
            from: Some(Arc::clone(from)),
        }))
    }

    /// Whether a Service could be given addresses of a pool, as far as is known of it.
    fn may_arrive(&self, to: &ServiceKey, pool: PoolIndex) -> Result<(), Refusal> {
        let spec = self.pools.spec(pool);
        let held = self.holding(to).map(|held| &held.holder);
        let shown = self.conflicts.of(to).map(|conflict| &conflict.holder);
        let known = held.chain(shown).next();
        let none = Labels::default();
        let serves = match known {
            Some(holder) => {
                let labels = holder.labels.as_deref().unwrap_or(&none);
                self.pools.serves(pool, to, labels)
            }
            None => self.pools.may_serve(pool, to),
        };
        if !serves {
            return Err(Refusal::PoolNotAllowed {
                pool: spec.name.clone(),
                namespace: to.namespace.clone(),
            });
        }
        if spec.disabled {
            return Err(Refusal::PoolDisabled {
                pool: spec.name.clone(),
            });
        }
        Ok(())
    }

    pub(super) fn resolve(&mut self, resolve: &Resolve, outcome: &mut Outcome) -> Reply {
        let Some(conflict) = self.conflicts.get(&resolve.key, resolve.address).cloned() else {
            return Reply::Refused(Refusal::NoConflict {
                address: resolve.address,
                key: Arc::clone(&resolve.key),
            });
        };
        let expires = match resolve.winner {
            Winner::Holder => {
                self.give_in(&conflict, outcome);
                return Reply::Resolved(conflict);
            }
            Winner::Nobody => {
                outcome.ask_again(&conflict.key);
                self.commit(ChangeKind::ConflictEnded(Arc::clone(&conflict)), outcome);
                return Reply::Resolved(conflict);
            }
            Winner::Shower { expires } => expires,
        };
        let Conflict { address, key, .. } = &*conflict;
        let holders = self.held.get(*address);
        let Some(holding) = holders.and_then(|holders| holders.iter().next()) else {
            if !self.is_restored(&key.cluster)
                && let Err(refusal) = self.has_room(key, *address)
            {
                return Reply::Refused(refusal);
            }
            if self.adopt_for_claim(&conflict, outcome) {
                outcome.ask_again(key);
                return Reply::Resolved(conflict);
            }
            return Reply::Refused(Refusal::AddressConflict {
                address: *address,
                holder: None,
                is_held: false,
            });
        };
        let handover = Handover {
            address: conflict.address,
            from: Arc::clone(&holding.key),
            to: Arc::clone(key),
            expires,
            comment: "conflict resolved".to_owned(),
        };
        self.begin_handover(&handover, outcome)
            .map_or_else(Reply::Refused, |_| Reply::Resolved(conflict))
    }

    /// A Service is not to keep working on an address. Nobody else gets it until its status
    /// shows it no more.
    fn give_in(&mut self, conflict: &Arc<Conflict>, outcome: &mut Outcome) {
        let kind = match conflict.kind {
            ConflictKind::Shown => return,
            ConflictKind::Claimed => ChangeKind::Conflicted(Arc::new(Conflict {
                kind: ConflictKind::Shown,
                ..(**conflict).clone()
            })),
            ConflictKind::BeyondQuota => ChangeKind::ConflictEnded(Arc::clone(conflict)),
        };
        self.commit(kind, outcome);
        outcome.ask_again(&conflict.key);
    }

    /// Why a Service gets nothing, whatever it asks for.
    pub(super) fn barred(&self, acquire: &Acquire) -> Option<Refusal> {
        let key = &acquire.key;
        if self.clusters.is_decommissioned(&key.cluster) {
            return Some(Refusal::ClusterDecommissioned {
                cluster: key.cluster.clone(),
            });
        }
        let within_cluster = |other: &Arc<ServiceKey>| {
            Some(Arc::clone(other)).filter(|other| other.cluster == key.cluster)
        };
        let conflict = self
            .conflicts
            .of(key)
            .find(|conflict| conflict.is_claim() && is_still_shown(conflict, acquire))?;
        let holders = self.held.get(conflict.address);
        let holder = holders.and_then(|holders| holders.iter().next());
        Some(Refusal::AddressConflict {
            address: conflict.address,
            holder: holder.and_then(|held| within_cluster(&held.key)),
            is_held: holder.is_some(),
        })
    }

    /// Addresses that a Service holds and another one is to have. While clusters are awaited
    /// it would get nothing in exchange.
    pub(super) fn handed_over_by(
        &self,
        key: &ServiceKey,
    ) -> impl Iterator<Item = &Arc<Allocation>> {
        let is_time = self.clusters.awaited().is_empty();
        self.holding(key).filter(move |held| {
            let reserved = self.reservations.get(held.address);
            is_time && reserved.is_some_and(|reserved| reserved.from.as_ref() == Some(&held.key))
        })
    }

    /// The source of a handover loses the address, and keeps what else it holds.
    pub(super) fn release_handed_over(
        &mut self,
        acquire: &Acquire,
        holder: &Holder,
        outcome: &mut Outcome,
    ) {
        let gone: Vec<_> = self.handed_over_by(&acquire.key).cloned().collect();
        for held in gone {
            self.give_up(held, (&acquire.wish.current, holder), outcome);
        }
    }

    /// Conflicts of a Service that it is in no more: it was created again, or shows
    /// another address.
    pub(super) fn past_conflicts(&self, acquire: &Acquire) -> Vec<Arc<Conflict>> {
        self.conflicts
            .of(&acquire.key)
            .filter(|conflict| conflict.is_claim() && !is_still_shown(conflict, acquire))
            .cloned()
            .collect()
    }

    /// An address that was handed over to a Service and is free for it.
    pub(super) fn handed_over(&self, key: &ServiceKey, family: Family) -> Option<IpAddr> {
        self.reservations.of(key, family).find(|address| {
            let reserved = self.reservations.get(*address);
            reserved.is_some_and(|reserved| reserved.from.is_some())
                && self.held.get(*address).is_none()
        })
    }

    /// Ends the handover of an address that has arrived, or has come back.
    pub(super) fn arrived(&mut self, allocation: &Allocation, outcome: &mut Outcome) {
        let handover = self.reservations.get(allocation.address).cloned();
        if let Some(handover) = handover.filter(|reserved| {
            reserved.from.is_some() && reserved.key.as_ref() == Some(&allocation.key)
        }) {
            self.commit(ChangeKind::Unreserved(handover), outcome);
        }
    }
}

fn is_still_shown(conflict: &Conflict, acquire: &Acquire) -> bool {
    is_same_uid(acquire.uid.as_ref(), conflict.holder.uid.as_ref())
        && acquire.wish.current.contains(&conflict.address)
}
