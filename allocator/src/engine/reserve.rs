//! Reservations made and ended by an administrator.

use std::{net::IpAddr, sync::Arc};

use super::{
    Engine, Outcome, Reply, Reserve,
    change::{ChangeKind, Reservation},
    pools::Located,
    refusal::Refusal,
    sharing::Holders,
};

impl Engine {
    pub(super) fn reserve(&mut self, reserve: &Reserve, outcome: &mut Outcome) -> Reply {
        match self.reservation(reserve) {
            Err(refusal) => Reply::Refused(refusal),
            Ok(reservation) => {
                if self.reservations.get(reserve.address) != Some(&reservation) {
                    self.commit(ChangeKind::Reserved(Arc::clone(&reservation)), outcome);
                }
                Reply::Reserved(reservation)
            }
        }
    }

    /// The reservation to be, if the address can be reserved.
    pub(super) fn reservation(&self, reserve: &Reserve) -> Result<Arc<Reservation>, Refusal> {
        let Reserve {
            address,
            key,
            expires,
            comment,
        } = reserve;
        let address = *address;
        let pool = match self.pools.locate(address) {
            Located::In(pool) => self.pools.spec(pool).name.clone(),
            Located::Excluded(pool) => {
                let pool = self.pools.spec(pool).name.clone();
                return Err(Refusal::AddressExcluded { address, pool });
            }
            Located::Nowhere => {
                return Err(Refusal::AddressNotInPool {
                    address,
                    pool: None,
                });
            }
        };
        let holders = self.held.get(address);
        let held = holders.into_iter().flat_map(Holders::iter);
        let shown = self.conflicts.about(address);
        let shown = shown.filter(|conflict| conflict.keeps_away());
        let mut users = held
            .map(|held| &held.key)
            .chain(shown.map(|conflict| &conflict.key));
        if let Some(other) = users.find(|other| Some(*other) != key.as_ref()) {
            return Err(Refusal::AddressInUse {
                address,
                pool,
                holder: Some(Arc::clone(other)),
            });
        }
        Ok(Arc::new(Reservation {
            address,
            key: key.clone(),
            expires: *expires,
            comment: comment.clone(),
            from: None,
        }))
    }

    pub(super) fn unreserve(&mut self, address: IpAddr, outcome: &mut Outcome) -> Reply {
        let reserved = self.reservations.get(address).cloned();
        if let Some(reserved) = &reserved {
            self.commit(ChangeKind::Unreserved(Arc::clone(reserved)), outcome);
        }
        Reply::Unreserved(reserved)
    }
}
