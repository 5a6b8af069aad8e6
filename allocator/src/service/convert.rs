//! From the engine's words to the contract's.

use lb_proto::v1;

use super::{fault, instructions};
use crate::{
    contacts::Refused,
    engine::{
        Acquired, Allocation, Conflict, ConflictKind, Family, Pools, Reservation, Revision,
        ServiceKey, Synced, Timestamp, Verdict, is_stranded,
    },
    published::State,
    store::{DenialRow, HistoryKind, HistoryRow},
    streams::Session,
};

pub const fn family(family: Family) -> v1::IpFamily {
    match family {
        Family::V4 => v1::IpFamily::Ipv4,
        Family::V6 => v1::IpFamily::Ipv6,
    }
}

pub fn service_key(key: &ServiceKey) -> v1::ServiceKey {
    v1::ServiceKey {
        cluster: key.cluster.to_string(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
    }
}

pub fn reservation(reservation: &Reservation) -> v1::Reservation {
    let Reservation {
        address,
        key,
        expires,
        comment,
        from,
    } = reservation;
    v1::Reservation {
        address: address.to_string(),
        service: key.as_deref().map(service_key),
        expires_at: expires.map(timestamp),
        comment: comment.clone(),
        from: from.as_deref().map(service_key),
    }
}

/// An allocation as it is under these pools.
pub fn allocation(pools: &Pools, allocation: &Allocation) -> v1::Allocation {
    let stranded = is_stranded(pools, allocation);
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
        service: Some(service_key(key)),
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
        sharing_key: holder
            .sharing
            .as_ref()
            .map(|terms| terms.key.to_string())
            .unwrap_or_default(),
        stranded,
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
    let addresses = acquired.addresses.iter().map(|held| held_address(held));
    let addresses: Vec<_> = addresses.collect();
    v1::AcquireResponse {
        revision: revision.0,
        instructions: Some(instructions::of_grant(acquired, &addresses)),
        addresses,
        satisfied: acquired.satisfied,
        unmet: unmet.collect(),
    }
}

pub fn synced(synced: &Synced) -> v1::SyncedService {
    let Synced { key, verdict, held } = synced;
    let (outcome, release_at) = match verdict {
        Verdict::Kept => (v1::SyncOutcome::Kept, None),
        Verdict::Adopted => (v1::SyncOutcome::Adopted, None),
        Verdict::Conflict => (v1::SyncOutcome::Conflict, None),
        Verdict::Reassign => (v1::SyncOutcome::Reassign, None),
        Verdict::Leaving(at) => (v1::SyncOutcome::ReleasedAfterGrace, Some(timestamp(*at))),
    };
    v1::SyncedService {
        service: Some(service_key(key)),
        outcome: outcome.into(),
        addresses: held.iter().map(|held| held_address(held)).collect(),
        release_at,
    }
}

pub fn conflict(state: &State, conflict: &Conflict) -> v1::Conflict {
    let Conflict {
        address,
        key,
        holder: _,
        since,
        kind,
    } = conflict;
    let kind = match kind {
        ConflictKind::Claimed => v1::ConflictKind::Claimed,
        ConflictKind::Shown => v1::ConflictKind::Shown,
        ConflictKind::BeyondQuota => v1::ConflictKind::BeyondQuota,
    };
    let holders = state.by_address(*address);
    v1::Conflict {
        address: address.to_string(),
        service: Some(service_key(key)),
        holders: holders.map(|held| service_key(&held.key)).collect(),
        since: Some(timestamp(*since)),
        kind: kind.into(),
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
            disabled: spec.disabled,
        }
    });
    shown.collect()
}

pub fn session(session: Session) -> v1::Session {
    let Session {
        replica,
        since,
        acting,
    } = session;
    let (replica, serves) = replica.map_or_else(Default::default, |of| (of.name, of.serves));
    v1::Session {
        replica,
        serves,
        since: Some(timestamp(since)),
        acting,
    }
}

pub fn refused_cluster(refused: &Refused) -> v1::RefusedCluster {
    let Refused {
        uid,
        name,
        first_at,
        last_at,
        count,
    } = refused;
    v1::RefusedCluster {
        uid: uid.to_string(),
        first_at: Some(timestamp(*first_at)),
        last_at: Some(timestamp(*last_at)),
        count: *count,
        name: name.to_string(),
    }
}

pub fn history_entry(row: HistoryRow) -> v1::HistoryEntry {
    let kind = match row.kind {
        HistoryKind::Allocated => v1::ChangeKind::Allocated,
        HistoryKind::Released => v1::ChangeKind::Released,
        HistoryKind::Updated => v1::ChangeKind::Updated,
        HistoryKind::Reserved => v1::ChangeKind::Reserved,
        HistoryKind::Unreserved => v1::ChangeKind::Unreserved,
        HistoryKind::Conflicted => v1::ChangeKind::Conflicted,
        HistoryKind::ConflictEnded => v1::ChangeKind::ConflictEnded,
        HistoryKind::Cluster => v1::ChangeKind::Cluster,
        HistoryKind::Opened => v1::ChangeKind::Opened,
    };
    let service = (!row.cluster.is_empty()).then_some(v1::ServiceKey {
        cluster: row.cluster,
        namespace: row.namespace,
        name: row.name,
    });
    v1::HistoryEntry {
        revision: row.revision,
        at: Some(timestamp(Timestamp(row.at_millis))),
        kind: kind.into(),
        address: row.address,
        pool: row.pool,
        service,
        uid: row.uid,
    }
}

pub fn denial(row: DenialRow) -> v1::Denial {
    let DenialRow {
        id: _,
        first_at,
        last_at,
        count,
        caller,
        role,
        method,
        cluster,
        why,
    } = row;
    v1::Denial {
        first_at: Some(timestamp(Timestamp(first_at))),
        last_at: Some(timestamp(Timestamp(last_at))),
        count: u64::try_from(count).unwrap_or_default(),
        caller,
        role,
        method,
        cluster,
        why,
    }
}

fn saturated(count: u128) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

pub fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.0.div_euclid(1000),
        // Below 1,000,000,000.
        nanos: (at.0.rem_euclid(1000) * 1_000_000) as i32,
    }
}
