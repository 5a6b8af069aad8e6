//! From the engine's words to the contract's.

use lb_proto::v1;

use super::fault;
use crate::{
    engine::{Acquired, Allocation, ChangeKind, Family, Revision, Timestamp},
    published::State,
    store::HistoryRow,
};

pub const fn family(family: Family) -> v1::IpFamily {
    match family {
        Family::V4 => v1::IpFamily::Ipv4,
        Family::V6 => v1::IpFamily::Ipv6,
    }
}

pub fn allocation(allocation: &Allocation) -> v1::Allocation {
    let Allocation {
        address,
        pool,
        key,
        holder,
        since,
        revision,
    } = allocation;
    v1::Allocation {
        address: address.to_string(),
        family: family(allocation.family()).into(),
        pool: pool.to_string(),
        service: Some(v1::ServiceKey {
            cluster: key.cluster.to_string(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
        }),
        uid: holder
            .uid
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        cluster_ip: holder
            .cluster_ip
            .map(|ip| ip.to_string())
            .unwrap_or_default(),
        allocated_at: Some(timestamp(*since)),
        revision: revision.0,
    }
}

pub fn held_address(allocation: &Allocation) -> v1::HeldAddress {
    v1::HeldAddress {
        address: allocation.address.to_string(),
        family: family(allocation.family()).into(),
        pool: allocation.pool.to_string(),
    }
}

pub fn acquired(acquired: &Acquired, revision: Revision) -> v1::AcquireResponse {
    let unmet = acquired.unmet.iter().map(|unmet| v1::Unmet {
        family: family(unmet.family).into(),
        reason: unmet.refusal.reason().to_owned(),
        message: unmet.refusal.to_string(),
        metadata: fault::metadata(&unmet.refusal),
    });
    v1::AcquireResponse {
        revision: revision.0,
        addresses: acquired
            .addresses
            .iter()
            .map(|held| held_address(held))
            .collect(),
        satisfied: acquired.satisfied,
        unmet: unmet.collect(),
    }
}

/// Every pool, in the order of names.
pub fn pools(state: &State) -> Vec<v1::Pool> {
    let pools = state.pools();
    let shown = pools.indexes().map(|index| {
        let spec = pools.spec(index);
        let usable = pools.usable(index);
        let usage = usable.iter().filter(|(_, ranges)| !ranges.is_empty());
        let usage = usage.map(|(of, ranges)| {
            let used = state.used(index, of);
            v1::FamilyUsage {
                family: family(of).into(),
                size: saturated(ranges.len()),
                used,
                free: saturated(ranges.len() - u128::from(used)),
            }
        });
        v1::Pool {
            name: spec.name.to_string(),
            addresses: pools.ranges(index).map(|range| range.to_string()).collect(),
            namespaces: spec
                .namespaces
                .iter()
                .flatten()
                .map(ToString::to_string)
                .collect(),
            usage: usage.collect(),
        }
    });
    shown.collect()
}

pub fn history_entry(row: HistoryRow) -> v1::HistoryEntry {
    let kind = match row.kind {
        ChangeKind::Allocated => v1::ChangeKind::Allocated,
        ChangeKind::Released => v1::ChangeKind::Released,
        ChangeKind::Updated => v1::ChangeKind::Updated,
    };
    v1::HistoryEntry {
        revision: row.revision,
        at: Some(timestamp(Timestamp(row.at_millis))),
        kind: kind.into(),
        address: row.address,
        pool: row.pool,
        service: Some(v1::ServiceKey {
            cluster: row.cluster,
            namespace: row.namespace,
            name: row.name,
        }),
        uid: row.uid,
    }
}

fn saturated(count: u128) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.0.div_euclid(1000),
        // Below 1,000,000,000.
        nanos: (at.0.rem_euclid(1000) * 1_000_000) as i32,
    }
}
