//! What a database knows that is told nothing but the changes.

use std::{net::IpAddr, sync::Arc};

use lb_allocator::engine::{
    Allocation, Change, ChangeKind, ClusterRecord, Conflict, LastHeld, Reservation, Revision,
    Snapshot, Timestamp,
};

#[derive(Clone, Default)]
pub struct Tables {
    pub revision: Revision,
    pub at: Timestamp,
    pub allocations: Vec<Arc<Allocation>>,
    pub last_held: Vec<LastHeld>,
    pub reservations: Vec<Arc<Reservation>>,
    pub conflicts: Vec<Arc<Conflict>>,
    pub clusters: Vec<Arc<ClusterRecord>>,
    /// Nothing but what Services showed was ever given.
    pub is_new: bool,
}

impl Tables {
    pub fn apply(&mut self, change: &Change) {
        (self.revision, self.at) = (change.revision, change.at);
        match &change.kind {
            ChangeKind::Allocated(allocation) => {
                self.allocations.push(Arc::clone(allocation));
                self.last_held.retain(|l| l.address != allocation.address);
            }
            ChangeKind::Updated(allocation) => {
                let row = self
                    .allocations
                    .iter_mut()
                    .find(|row| is_of(row, allocation));
                *row.expect("updated what was held") = Arc::clone(allocation);
            }
            ChangeKind::Released(allocation) => {
                let address = allocation.address;
                self.allocations.retain(|row| !is_of(row, allocation));
                if self.holders(address).is_empty() {
                    self.last_held.push(LastHeld {
                        address,
                        key: Arc::clone(&allocation.key),
                        released_at: change.at,
                    });
                }
            }
            ChangeKind::Reserved(reservation) => {
                self.reservations
                    .retain(|r| r.address != reservation.address);
                self.reservations.push(Arc::clone(reservation));
            }
            ChangeKind::Unreserved(reservation) => {
                self.reservations
                    .retain(|r| r.address != reservation.address);
            }
            ChangeKind::Conflicted(conflict) => {
                self.conflicts.retain(|row| !is_about(row, conflict));
                self.conflicts.push(Arc::clone(conflict));
            }
            ChangeKind::ConflictEnded(conflict) => {
                self.conflicts.retain(|row| !is_about(row, conflict));
            }
            ChangeKind::Cluster(record) => {
                self.clusters.retain(|row| row.name != record.name);
                self.clusters.push(Arc::clone(record));
            }
            ChangeKind::Opened => self.is_new = false,
        }
    }

    pub fn holders(&self, address: IpAddr) -> Vec<&Arc<Allocation>> {
        let rows = self.allocations.iter();
        rows.filter(|row| row.address == address).collect()
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            revision: self.revision,
            last_change_at: self.at,
            allocations: self.allocations.clone(),
            last_held: self.last_held.clone(),
            reservations: self.reservations.clone(),
            conflicts: self.conflicts.clone(),
            clusters: self.clusters.clone(),
            is_new: self.is_new,
        }
    }
}

fn is_about(row: &Conflict, conflict: &Conflict) -> bool {
    row.address == conflict.address && row.key == conflict.key
}

fn is_of(row: &Allocation, allocation: &Allocation) -> bool {
    row.address == allocation.address && row.key == allocation.key
}
