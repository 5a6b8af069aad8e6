//! An address that a Service gave up while its status showed it: clients use it, and
//! DNS tells of it, until its cluster has written another status. Till then it is
//! reserved, for the Service itself and from it, so that nobody else gets it.
//!
//! It is over when the Service shows all that it holds, and not that address; when the
//! Service is released; and, where its cluster has it no more, after the grace. An
//! administrator may end it as any reservation, who knows that nobody uses the address.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{
    Engine, Outcome, Release,
    acquire::Acquire,
    change::{Allocation, ChangeKind, Reservation},
    is_same_uid,
    key::{ClusterName, ServiceKey},
};

/// For people who list reservations.
const COMMENT: &str = "given up, and still in the status of the Service";

impl Engine {
    /// Takes back what a Service holds and does not want, or may not hold, any more.
    pub(super) fn give_up(
        &mut self,
        held: Arc<Allocation>,
        acquire: &Acquire,
        outcome: &mut Outcome,
    ) {
        let address = held.address;
        // One that is there already keeps others away as well: it is an administrator's, for
        // this Service, or of one that moves away from the address that they share.
        if acquire.wish.current.contains(&address) && self.reservations.get(address).is_none() {
            let moved = Arc::new(Reservation {
                address,
                key: Some(Arc::clone(&held.key)),
                expires: None,
                comment: COMMENT.to_owned(),
                from: Some(Arc::clone(&held.key)),
            });
            self.commit(ChangeKind::Reserved(moved), outcome);
        }
        self.commit(ChangeKind::Released(held), outcome);
    }

    /// What a Service gave up and shows no more. That it shows what it holds now tells
    /// that it was asked after the move, and not before; or that it gets back what it
    /// showed at another time, which nothing tells apart.
    pub(super) fn past_moves(&self, acquire: &Acquire) -> Vec<Arc<Reservation>> {
        let current = &acquire.wish.current;
        let mut moves = self.reservations.moves(&acquire.key).peekable();
        // What it loses by this request it need not show for that.
        let is_told = |held: &Arc<Allocation>| {
            current.contains(&held.address) || self.may_not_stay(held, acquire).is_some()
        };
        // Of a wish that could not be read nothing is known.
        let is_known = !acquire.wish.families.is_empty();
        if moves.peek().is_none() || !is_known || !self.holding(&acquire.key).all(is_told) {
            return Vec::new();
        }
        moves
            .filter(|moved| !current.contains(&moved.address))
            .cloned()
            .collect()
    }

    /// A Service that is gone shows nothing any more.
    pub(super) fn moves_to_release(&self, release: &Release) -> Vec<Arc<Reservation>> {
        let is_it =
            |held: &Arc<Allocation>| is_same_uid(release.uid.as_ref(), held.holder.uid.as_ref());
        if !self.holding(&release.key).all(is_it) {
            return Vec::new();
        }
        self.reservations.moves(&release.key).cloned().collect()
    }

    /// Whether a Service that shows an address has only not been told that it gave it
    /// up: this database knows more than its status.
    pub(super) fn gave_up(&self, key: &ServiceKey, address: IpAddr) -> bool {
        let mut moves = self.reservations.moves(key);
        moves.any(|moved| moved.address == address)
    }

    /// Ends the moves that are over in a cluster, and those of Services that it does not
    /// have any more after the grace.
    pub(super) fn review_moves(
        &mut self,
        cluster: &ClusterName,
        live: &BTreeMap<&ServiceKey, &Acquire>,
        outcome: &mut Outcome,
    ) {
        let grace = self.now.after(self.pools.settings().orphan_grace);
        for moved in self.reservations.moves_of(cluster) {
            let acquire = moved.key.as_ref().and_then(|key| live.get(&**key));
            let is_over = acquire.is_some_and(|acquire| self.past_moves(acquire).contains(&moved));
            if is_over {
                self.commit(ChangeKind::Unreserved(moved), outcome);
                continue;
            }
            let expires = match acquire {
                Some(_) => None,
                None => Some(moved.expires.unwrap_or(grace)),
            };
            if moved.expires != expires {
                let kept = Reservation {
                    expires,
                    ..(*moved).clone()
                };
                self.commit(ChangeKind::Reserved(Arc::new(kept)), outcome);
            }
        }
    }
}
