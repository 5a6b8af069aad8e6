//! An address that goes from one Service to another, and what an administrator
//! decides about a conflict.
//!
//! A handover is a reservation of an address that is held: from then on nobody but
//! its target can get it. The source is told to let go, takes the address off its
//! status, releases it, and only then the target gets it. If that does not happen
//! in time the reservation expires, and whoever holds the address keeps it. So it
//! is never with both, and never with a third.

use std::{net::IpAddr, sync::Arc};

use super::{
    Engine, Outcome, Reply,
    acquire::Acquire,
    address::Family,
    change::{Allocation, ChangeKind, Conflict, Reservation, Timestamp},
    is_same_uid,
    key::ServiceKey,
    pools::Located,
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
            outcome.ask_again.push(Arc::clone(&handover.from));
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
        let pool = || self.pools.spec(pool).name.clone();
        let reserved = self.reservations.get(address);
        if reserved.is_some_and(|reserved| reserved.key.as_ref() != Some(to)) {
            return Err(Refusal::AddressReserved {
                address,
                pool: pool(),
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
        Ok(Arc::new(Reservation {
            address,
            key: Some(Arc::clone(to)),
            expires: Some(*expires),
            comment: comment.clone(),
            from: Some(Arc::clone(from)),
        }))
    }

    pub(super) fn resolve(&mut self, resolve: &Resolve, outcome: &mut Outcome) -> Reply {
        let Some(conflict) = self.conflict(&resolve.key, resolve.address).cloned() else {
            return Reply::Refused(Refusal::NoConflict {
                address: resolve.address,
                key: Arc::clone(&resolve.key),
            });
        };
        let expires = match resolve.winner {
            Winner::Holder => {
                outcome.ask_again.push(Arc::clone(&conflict.key));
                self.commit(ChangeKind::ConflictEnded(Arc::clone(&conflict)), outcome);
                return Reply::Resolved(conflict);
            }
            Winner::Shower { expires } => expires,
        };
        let holders = self.held.get(conflict.address);
        let Some(holder) = holders.and_then(|holders| holders.iter().next()) else {
            return Reply::Refused(Refusal::AddressConflict {
                address: conflict.address,
                holder: None,
            });
        };
        let handover = Handover {
            address: conflict.address,
            from: Arc::clone(&holder.key),
            to: Arc::clone(&conflict.key),
            expires,
            comment: "conflict resolved".to_owned(),
        };
        self.begin_handover(&handover, outcome)
            .map_or_else(Reply::Refused, |_| Reply::Resolved(conflict))
    }

    pub(super) fn conflict(&self, key: &ServiceKey, address: IpAddr) -> Option<&Arc<Conflict>> {
        self.conflicts.of(key).find(|of| of.address == address)
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
        if let Some(promised) = self.promised_away(key) {
            return Some(Refusal::AddressHandedOver {
                address: promised.address,
                to: promised.key.as_ref().and_then(within_cluster),
            });
        }
        let conflict = self
            .conflicts
            .of(key)
            .find(|conflict| is_still_shown(conflict, acquire))?;
        let holders = self.held.get(conflict.address);
        let holder = holders.and_then(|holders| holders.iter().next());
        Some(Refusal::AddressConflict {
            address: conflict.address,
            holder: holder.and_then(|held| within_cluster(&held.key)),
        })
    }

    /// An address that a Service holds and has to let go.
    fn promised_away(&self, key: &ServiceKey) -> Option<&Arc<Reservation>> {
        self.holding(key)
            .filter_map(|held| self.reservations.get(held.address))
            .find(|reserved| reserved.from.as_deref() == Some(key))
    }

    /// Conflicts of a Service that it is in no more: it was created again, or shows
    /// another address.
    pub(super) fn past_conflicts(&self, acquire: &Acquire) -> Vec<Arc<Conflict>> {
        self.conflicts
            .of(&acquire.key)
            .filter(|conflict| !is_still_shown(conflict, acquire))
            .cloned()
            .collect()
    }

    /// An address that was handed over to a Service and is free for it.
    pub(super) fn handed_over(&self, key: &ServiceKey, family: Family) -> Option<IpAddr> {
        self.reservations.of(key, family).find(|address| {
            let reserved = self.reservations.get(*address);
            reserved.is_some_and(|reserved| reserved.from.is_some() && !reserved.is_of_a_move())
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
