//! What the caller does with an answer: what the status of the Service shows and says, and
//! when it is worth asking again. The one table of that: a watcher copies the answer, and
//! knows no reasons.

use lb_proto::v1::{HeldAddress, Instructions, Retry, StatusAction};

use crate::engine::{Acquired, Refusal};

/// Why a request is refused.
#[derive(Clone, Copy, Debug)]
pub enum Cause<'a> {
    /// The engine says so.
    Engine(&'a Refusal),
    InvalidRequest,
    ConflictingRequest,
    PermissionDenied,
    Overloaded,
    StoreUnavailable,
    ShuttingDown,
    SlowConsumer,
    AllocationNotFound,
    InvalidConfiguration,
}

/// What follows from a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Course {
    retry: Retry,
    transient: bool,
    /// What happens next, or what a person can do.
    advice: &'static str,
}

const fn on_notice(advice: &'static str) -> Course {
    Course {
        retry: Retry::OnNotice,
        transient: false,
        advice,
    }
}

const fn after_edit(advice: &'static str) -> Course {
    Course {
        retry: Retry::AfterEdit,
        transient: false,
        advice,
    }
}

const fn seldom(advice: &'static str) -> Course {
    Course {
        retry: Retry::Seldom,
        transient: false,
        advice,
    }
}

const SOON: Course = Course {
    retry: Retry::Soon,
    transient: true,
    advice: "lb-watcher tries again by itself",
};

/// Not about a Service, so a watcher that gets it has something to look at.
const NOT_FOR_WATCHERS: Course = seldom("");

impl Cause<'_> {
    /// The machine-readable reason, a part of the contract.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Engine(refusal) => refusal.reason(),
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::ConflictingRequest => "CONFLICTING_REQUEST",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::Overloaded => "OVERLOADED",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::SlowConsumer => "SLOW_CONSUMER",
            Self::AllocationNotFound => "ALLOCATION_NOT_FOUND",
            Self::InvalidConfiguration => "INVALID_CONFIGURATION",
        }
    }

    const fn course(self) -> Course {
        match self {
            Self::Engine(refusal) => course(refusal),
            Self::InvalidRequest => after_edit("correct the Service"),
            Self::ConflictingRequest => after_edit("remove one of the two"),
            Self::PermissionDenied => {
                seldom("check the cluster name and the credentials of lb-watcher")
            }
            Self::Overloaded | Self::StoreUnavailable | Self::ShuttingDown | Self::SlowConsumer => {
                SOON
            }
            Self::AllocationNotFound | Self::InvalidConfiguration => NOT_FOR_WATCHERS,
        }
    }

    /// What the caller does about it. `message` says what happened and why.
    pub fn instructions(self, message: &str, action: StatusAction) -> Instructions {
        let Course {
            retry, transient, ..
        } = self.course();
        Instructions {
            action: action.into(),
            addresses: Vec::new(),
            satisfied: false,
            reason: self.reason().to_owned(),
            message: self.words(message),
            retry: retry.into(),
            transient,
        }
    }

    fn words(self, message: &str) -> String {
        match self.course().advice {
            "" => message.to_owned(),
            advice => format!("{message}; {advice}"),
        }
    }

    /// What becomes of the addresses that a Service shows and does not hold. `is_its_own`:
    /// whether nobody else may get any of them.
    pub const fn action(self, is_its_own: bool) -> StatusAction {
        match self.course().retry {
            Retry::OnNotice if !is_its_own && !self.keeps_the_address() => StatusAction::TakeOff,
            Retry::OnNotice
            | Retry::Unspecified
            | Retry::Soon
            | Retry::AfterEdit
            | Retry::Seldom => StatusAction::Keep,
        }
    }

    const fn keeps_the_address(self) -> bool {
        matches!(self, Self::Engine(Refusal::AddressConflict { .. }))
    }
}

const fn course(refusal: &Refusal) -> Course {
    match refusal {
        Refusal::PoolExhausted { .. } => on_notice("it is served as soon as an address is free"),
        Refusal::PoolCoolingDown { .. } => on_notice("it is served when the time is over"),
        Refusal::QuotaExceeded { .. } => {
            on_notice("it is served when another Service gives an address back")
        }
        Refusal::NoPool { .. } => on_notice("it is served when a pool serves it"),
        Refusal::PoolNotFound { .. } => {
            on_notice("correct the annotation, or add the pool to lb-allocator")
        }
        Refusal::PoolNotAllowed { .. } => {
            on_notice("name another pool or address, or let the pool serve this namespace")
        }
        Refusal::PoolDisabled { .. } => on_notice("name another pool, or enable this one"),
        Refusal::AddressInUse { .. }
        | Refusal::AddressReserved { .. }
        | Refusal::AddressShown { .. } => {
            on_notice("it is granted as soon as it is free; or ask for another one")
        }
        Refusal::AddressNotInPool { .. } => {
            on_notice("ask for an address of a pool, or add this one to a pool")
        }
        Refusal::AddressExcluded { .. } => on_notice("ask for another address"),
        Refusal::SharingPortClash { .. } => on_notice("use another port or another sharing key"),
        Refusal::SharingKeyMismatch { .. } => {
            on_notice("use the same sharing key on both Services")
        }
        Refusal::SharingNotPermitted { .. } => on_notice(
            "share within one cluster, let both Services name the other's namespace, and use the \
             same externalTrafficPolicy and selector",
        ),
        Refusal::AddressConflict { .. } => on_notice(
            "both keep working; decide with lb-allocator's ResolveConflict, or delete one of the \
             two",
        ),
        Refusal::AwaitingSync { .. } => Course {
            transient: false,
            ..SOON
        },
        Refusal::ClusterNameInUse { .. } => seldom(
            "start lb-watcher of one of the two clusters with another --cluster, or let this one \
             take over",
        ),
        Refusal::ClusterHasOtherName { .. } => {
            seldom("start lb-watcher with the name that the allocator knows")
        }
        Refusal::ClusterDecommissioned { .. } => Cause::PermissionDenied.course(),
        Refusal::NotTheHolder { .. } | Refusal::NoConflict { .. } | Refusal::NoCluster { .. } => {
            NOT_FOR_WATCHERS
        }
    }
}

/// What the caller does with what a Service holds.
pub fn of_grant(acquired: &Acquired, addresses: &[HeldAddress]) -> Instructions {
    let each = addresses
        .iter()
        .map(|held| format!("{} from pool {}", held.address, held.pool));
    let held = each.collect::<Vec<_>>().join(", ");
    let granted = |reason: &str, message: String, retry: Retry| Instructions {
        action: StatusAction::Show.into(),
        addresses: addresses.iter().map(|held| held.address.clone()).collect(),
        satisfied: acquired.satisfied,
        reason: reason.to_owned(),
        message,
        retry: retry.into(),
        transient: false,
    };
    let Some(unmet) = acquired.unmet.first() else {
        return granted("Satisfied", held, Retry::AfterEdit);
    };
    let cause = Cause::Engine(&unmet.refusal);
    let words = cause.words(&unmet.refusal.to_string());
    let retry = cause.course().retry;
    if acquired.satisfied {
        let message = format!("{held}; not yet all: {words}");
        granted("Satisfied", message, retry)
    } else {
        granted(cause.reason(), format!("keeps {held}: {words}"), retry)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use super::*;
    use crate::engine::{
        ClusterName, Family, Identity, Namespace, PoolName, Port, Protocol, Reached, Scope,
        ServiceKey, Timestamp, Uid, Unmet,
    };

    fn pool() -> PoolName {
        PoolName::parse("red").unwrap()
    }

    fn address() -> IpAddr {
        "192.0.2.1".parse().unwrap()
    }

    fn holder() -> Arc<ServiceKey> {
        Arc::new(ServiceKey::parse("a", "ns", "svc").unwrap())
    }

    fn cluster() -> ClusterName {
        ClusterName::parse("a").unwrap()
    }

    fn identity() -> Identity {
        Identity {
            uid: Uid::parse("u").unwrap(),
            since: Timestamp(0),
            took_over_at: None,
        }
    }

    fn waits_for_addresses() -> Vec<Refusal> {
        let (pools, family) = (vec![pool()], Family::V4);
        vec![
            Refusal::PoolExhausted {
                pools: pools.clone(),
                family,
            },
            Refusal::PoolCoolingDown {
                pools,
                family,
                until: Timestamp(0),
            },
            Refusal::QuotaExceeded {
                pool: pool(),
                reached: Reached {
                    scope: Scope::Cluster,
                    limit: 1,
                    used: 1,
                },
            },
        ]
    }

    fn waits_for_pools() -> Vec<Refusal> {
        let namespace = Namespace::parse("ns").unwrap();
        vec![
            Refusal::NoPool {
                namespace: namespace.clone(),
                family: Family::V4,
            },
            Refusal::PoolNotFound { pool: pool() },
            Refusal::PoolNotAllowed {
                pool: pool(),
                namespace,
            },
            Refusal::PoolDisabled { pool: pool() },
        ]
    }

    fn waits_for_either() -> Vec<Refusal> {
        let (address, pool) = (address(), pool());
        vec![
            Refusal::AddressInUse {
                address,
                pool: pool.clone(),
                holder: None,
            },
            Refusal::AddressReserved {
                address,
                pool: pool.clone(),
            },
            Refusal::AddressShown {
                address,
                pool: pool.clone(),
                by: None,
            },
            Refusal::AddressNotInPool {
                address,
                pool: None,
            },
            Refusal::AddressExcluded { address, pool },
            Refusal::SharingPortClash {
                address,
                port: Port {
                    protocol: Protocol::Tcp,
                    number: 80,
                },
                holder: holder(),
            },
            Refusal::SharingKeyMismatch { address },
            Refusal::SharingNotPermitted { address },
        ]
    }

    fn waits_for_people() -> Vec<Refusal> {
        vec![
            Refusal::ClusterNameInUse {
                cluster: cluster(),
                uid: identity().uid,
                owner: identity(),
            },
            Refusal::ClusterHasOtherName {
                cluster: cluster(),
                known_as: cluster(),
                owner: identity(),
            },
            Refusal::ClusterDecommissioned { cluster: cluster() },
        ]
    }

    fn told(cause: Cause<'_>, is_its_own: bool) -> (Retry, bool, StatusAction) {
        let instructions = cause.instructions("why", cause.action(is_its_own));
        assert_eq!(instructions.reason, cause.reason());
        assert!(!instructions.satisfied && instructions.addresses.is_empty());
        let words = instructions.message.strip_prefix("why; ");
        assert!(words.is_some_and(|words| words.len() > 10), "{cause:?}");
        (
            instructions.retry(),
            instructions.transient,
            instructions.action(),
        )
    }

    #[test]
    fn each_reason_leads_to_what_the_specification_says() {
        use StatusAction::{Keep, TakeOff};
        let waits = [waits_for_addresses(), waits_for_pools(), waits_for_either()];
        for refusal in waits.concat() {
            let cause = Cause::Engine(&refusal);
            assert_eq!(told(cause, true), (Retry::OnNotice, false, Keep));
            assert_eq!(told(cause, false), (Retry::OnNotice, false, TakeOff));
        }
        let conflict = Refusal::AddressConflict {
            address: address(),
            holder: Some(holder()),
            is_held: true,
        };
        for is_its_own in [true, false] {
            let told = |cause: Cause<'_>| told(cause, is_its_own);
            assert_eq!(
                told(Cause::Engine(&conflict)),
                (Retry::OnNotice, false, Keep),
                "both keep working"
            );
            for cause in [Cause::InvalidRequest, Cause::ConflictingRequest] {
                assert_eq!(told(cause), (Retry::AfterEdit, false, Keep), "{cause:?}");
            }
            for refusal in waits_for_people() {
                let cause = Cause::Engine(&refusal);
                assert_eq!(told(cause), (Retry::Seldom, false, Keep), "{cause:?}");
            }
            let denied = told(Cause::PermissionDenied);
            assert_eq!(denied, (Retry::Seldom, false, Keep));
            for cause in [
                Cause::Overloaded,
                Cause::StoreUnavailable,
                Cause::ShuttingDown,
                Cause::SlowConsumer,
            ] {
                assert_eq!(told(cause), (Retry::Soon, true, Keep), "{cause:?}");
            }
            let awaiting = Refusal::AwaitingSync {
                clusters: vec![cluster()],
                until: None,
            };
            assert_eq!(
                told(Cause::Engine(&awaiting)),
                (Retry::Soon, false, Keep),
                "which cluster is waited for is worth telling"
            );
        }
    }

    #[test]
    fn what_a_service_holds_is_shown_whatever_else_it_asks_for() {
        let held = |addresses: &[&str]| -> Vec<HeldAddress> {
            let held = addresses.iter().map(|address| HeldAddress {
                address: (*address).to_owned(),
                family: 0,
                pool: "red".to_owned(),
            });
            held.collect()
        };
        let both = ["192.0.2.1", "2001:db8::1"];
        let unmet = || {
            let refusal = Refusal::PoolNotFound { pool: pool() };
            vec![Unmet {
                family: Family::V6,
                refusal,
            }]
        };
        for (addresses, satisfied, unmet, reason, message, retry) in [
            (
                &both[..],
                true,
                vec![],
                "Satisfied",
                "192.0.2.1 from pool red, 2001:db8::1 from pool red",
                Retry::AfterEdit,
            ),
            (
                &both[..1],
                true,
                unmet(),
                "Satisfied",
                "192.0.2.1 from pool red; not yet all: pool red does not exist; correct the \
                 annotation, or add the pool to lb-allocator",
                Retry::OnNotice,
            ),
            (
                &both[..1],
                false,
                unmet(),
                "POOL_NOT_FOUND",
                "keeps 192.0.2.1 from pool red: pool red does not exist; correct the annotation, \
                 or add the pool to lb-allocator",
                Retry::OnNotice,
            ),
        ] {
            let acquired = Acquired {
                addresses: Vec::new(),
                unmet,
                satisfied,
            };
            let told = of_grant(&acquired, &held(addresses));
            assert_eq!(told.action(), StatusAction::Show);
            assert_eq!(told.addresses, addresses);
            assert_eq!((told.satisfied, &*told.reason), (satisfied, reason));
            assert_eq!((&*told.message, told.retry()), (message, retry));
        }
    }
}
