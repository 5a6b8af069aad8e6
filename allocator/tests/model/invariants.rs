//! The promises, looked at from outside: from the changes alone.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use lb_allocator::engine::{Allocation, Change, ChangeKind, Reservation, ServiceKey, Timestamp};
use proptest::prelude::*;

use crate::{book::Book, rules::may_share, tables::Tables};

type Checked = Result<(), TestCaseError>;

/// Remembers every release, whatever else happens.
#[derive(Default)]
pub struct Witness {
    released: Vec<(IpAddr, ServiceKey, Timestamp)>,
}

impl Witness {
    /// Looks at a change before it is written down.
    pub fn see(&mut self, change: &Change, tables: &Tables, book: &Book) -> Checked {
        prop_assert_eq!(
            change.revision,
            tables.revision.next(),
            "a revision is lost"
        );
        prop_assert!(change.at >= tables.at, "time went back");
        match &change.kind {
            ChangeKind::Allocated(allocation) => self.granted(allocation, change.at, tables, book),
            ChangeKind::Released(allocation) => {
                let address = allocation.address;
                let is_held = tables
                    .allocations
                    .iter()
                    .any(|row| row.address == address && row.key == allocation.key);
                prop_assert!(is_held, "{} was not held", address);
                if tables.holders(address).len() == 1 {
                    self.released.retain(|(other, _, _)| *other != address);
                    let released = (address, (*allocation.key).clone(), change.at);
                    self.released.push(released);
                }
                Ok(())
            }
            ChangeKind::Updated(_)
            | ChangeKind::Reserved(_)
            | ChangeKind::Unreserved(_)
            | ChangeKind::Conflicted(_)
            | ChangeKind::ConflictEnded(_)
            | ChangeKind::Cluster(_)
            | ChangeKind::Opened => Ok(()),
        }
    }

    /// Nobody gets an address that is reserved for others or cools down for others,
    /// or one of a pool that does not serve it.
    fn granted(
        &self,
        allocation: &Allocation,
        at: Timestamp,
        tables: &Tables,
        book: &Book,
    ) -> Checked {
        let (address, key) = (allocation.address, &allocation.key);
        let pool = book.pool_of(address);
        let Some(pool) = pool else {
            return Err(TestCaseError::fail(format!("{address} is in no pool")));
        };
        let labels = allocation.holder.labels.clone().unwrap_or_default();
        prop_assert!(book.serves(pool, key, &labels) && !pool.disabled);

        let reserved = tables.reservations.iter().find(|r| r.address == address);
        prop_assert!(
            reserved.is_none_or(|r| r.key.as_ref() == Some(key)),
            "{} is reserved",
            address
        );
        let last = self.released.iter().find(|(other, _, _)| *other == address);
        if let Some((_, last, released_at)) = last
            && tables.holders(address).is_empty()
            && last != &**key
            && reserved.is_none()
        {
            let cooled = released_at.after(pool.cooldown);
            prop_assert!(cooled <= at, "{} cools down until {}", address, cooled);
        }

        Ok(())
    }
}

/// Whoever got an address has no more than its pool allows, or than it had before.
pub fn limits_hold(changes: &[Change], before: &Tables, after: &Tables, book: &Book) -> Checked {
    for change in changes {
        let ChangeKind::Allocated(allocation) = &change.kind else {
            continue;
        };
        let key = &allocation.key;
        let Some(pool) = book.pool_of(allocation.address) else {
            continue;
        };
        let counted = |tables: &Tables, is_counted: &dyn Fn(&ServiceKey) -> bool| {
            let rows = tables.allocations.iter().filter(|row| is_counted(&row.key));
            let addresses: BTreeSet<_> = rows
                .map(|row| row.address)
                .filter(|held| book.pool_of(*held).is_some_and(|p| p.name == pool.name))
                .collect();
            addresses.len() as u64
        };
        let of_cluster = |other: &ServiceKey| other.cluster == key.cluster;
        let of_namespace =
            |other: &ServiceKey| of_cluster(other) && other.namespace == key.namespace;
        let within = |limit: Option<u64>, is_counted: &dyn Fn(&ServiceKey) -> bool| {
            let limit = limit.map(|limit| limit.max(counted(before, is_counted)));
            limit.is_none_or(|limit| counted(after, is_counted) <= limit)
        };
        prop_assert!(within(pool.max_per_cluster, &of_cluster), "{} is over", key);
        prop_assert!(
            within(pool.max_per_namespace, &of_namespace),
            "{} is over",
            key
        );
    }
    Ok(())
}

/// What is true after every step.
pub fn hold(tables: &Tables) -> Checked {
    let rows = &tables.allocations;
    for (index, one) in rows.iter().enumerate() {
        for other in &rows[index + 1..] {
            prop_assert!(
                one.address != other.address || may_share(one, other),
                "{} is held by {} and {}",
                one.address,
                one.key,
                other.key
            );
            prop_assert!(
                one.key != other.key || one.family() != other.family(),
                "{} holds {} and {}",
                one.key,
                one.address,
                other.address
            );
        }
        let reserved = tables
            .reservations
            .iter()
            .find(|r| r.address == one.address);
        // The source of a handover goes on with it until it asks.
        let may_hold = |r: &&Arc<Reservation>| {
            let mut keys = [&r.key, &r.from].into_iter().flatten();
            keys.any(|key| *key == one.key)
        };
        prop_assert!(reserved.as_ref().is_none_or(may_hold), "it is reserved");
    }
    let revisions: BTreeSet<_> = rows.iter().map(|row| row.revision).collect();
    prop_assert_eq!(revisions.len(), rows.len(), "a revision is used twice");
    Ok(())
}
