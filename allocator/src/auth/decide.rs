//! The one place that says who may call what for which cluster.

use thiserror::Error;

use super::{Access, Caller, Decommissioned, NoIdentity, Role, Rpc};
use crate::engine::{ClusterName, Timestamp};

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// Not known yet: the message has not been read. Who passes is asked again.
    Unread,
    /// Services of this cluster.
    Cluster(&'a ClusterName),
    Everything,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Denied {
    #[error("no client certificate was shown")]
    NoCertificate,
    #[error(transparent)]
    NoIdentity(NoIdentity),
    #[error("the certificate of this connection has expired; connect with a new one")]
    Expired,
    #[error("a {role} may not call {}", rpc.name())]
    Role { role: &'static str, rpc: Rpc },
    #[error("the certificate is for cluster {own}, not for cluster {asked}")]
    OtherCluster {
        own: ClusterName,
        asked: ClusterName,
    },
    #[error("a watcher may ask about its own cluster only, which is {own}")]
    NotOneCluster { own: ClusterName },
    #[error("cluster {cluster} has been decommissioned")]
    Decommissioned { cluster: ClusterName },
}

impl Denied {
    /// For machines.
    pub const fn why(&self) -> &'static str {
        match self {
            Self::NoCertificate => "NO_CERTIFICATE",
            Self::NoIdentity(_) => "NO_IDENTITY",
            Self::Expired => "EXPIRED",
            Self::Role { .. } => "ROLE",
            Self::OtherCluster { .. } => "OTHER_CLUSTER",
            Self::NotOneCluster { .. } => "NOT_ONE_CLUSTER",
            Self::Decommissioned { .. } => "DECOMMISSIONED",
        }
    }
}

/// Whether this caller may call this RPC for this cluster.
///
/// # Errors
/// Why not.
pub fn decide(
    caller: &Caller,
    rpc: Rpc,
    target: Target<'_>,
    decommissioned: &Decommissioned,
    now: Timestamp,
) -> Result<(), Denied> {
    let role = role(caller, now)?;
    let gone = |cluster: &ClusterName| {
        if decommissioned.contains(cluster) {
            let cluster = cluster.clone();
            return Err(Denied::Decommissioned { cluster });
        }
        Ok(())
    };
    let access = rpc.access();
    match role {
        Role::Admin => {}
        Role::Viewer => match access {
            Access::Reading | Access::Open => {}
            Access::Watching | Access::Administering => return Err(not_for(role, rpc)),
        },
        Role::Watcher(own) => {
            gone(own)?;
            match access {
                Access::Open => {}
                Access::Administering => return Err(not_for(role, rpc)),
                Access::Watching | Access::Reading => about_own(own, target)?,
            }
        }
    }
    // A late watcher may come without a certificate too.
    match (access, target) {
        (Access::Watching, Target::Cluster(cluster)) => gone(cluster),
        (
            Access::Watching | Access::Reading | Access::Administering | Access::Open,
            Target::Unread | Target::Cluster(_) | Target::Everything,
        ) => Ok(()),
    }
}

fn role(caller: &Caller, now: Timestamp) -> Result<&Role, Denied> {
    match caller {
        Caller::Trusted => Ok(&Role::Admin),
        Caller::Unknown => Err(Denied::NoCertificate),
        Caller::Certified(certificate) => {
            let role = certificate.role.as_ref();
            let role = role.map_err(|error| Denied::NoIdentity(error.clone()))?;
            if certificate.ends <= now {
                return Err(Denied::Expired);
            }
            Ok(role)
        }
    }
}

const fn not_for(role: &Role, rpc: Rpc) -> Denied {
    let role = role.name();
    Denied::Role { role, rpc }
}

fn about_own(own: &ClusterName, target: Target<'_>) -> Result<(), Denied> {
    match target {
        Target::Unread => Ok(()),
        Target::Cluster(asked) if asked == own => Ok(()),
        Target::Cluster(asked) => Err(Denied::OtherCluster {
            own: own.clone(),
            asked: asked.clone(),
        }),
        Target::Everything => Err(Denied::NotOneCluster { own: own.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use super::{super::Certificate, *};

    const NOW: Timestamp = Timestamp(1_000);

    fn cluster(name: &str) -> ClusterName {
        ClusterName::parse(name).unwrap()
    }

    fn certified(role: Result<Role, NoIdentity>) -> Caller {
        Caller::Certified(Arc::new(Certificate {
            role,
            name: "somebody".to_owned(),
            ends: Timestamp(2_000),
        }))
    }

    /// With the letters of the table; `-` is in none of its rows.
    fn callers() -> [(char, Caller); 6] {
        [
            ('t', Caller::Trusted),
            ('a', certified(Ok(Role::Admin))),
            ('v', certified(Ok(Role::Viewer))),
            ('w', certified(Ok(Role::Watcher(cluster("own"))))),
            ('-', certified(Err(NoIdentity::NoUri))),
            ('-', Caller::Unknown),
        ]
    }

    /// Who may, for a message that is unread, about the watcher's own cluster,
    /// about another one, about everything.
    const TABLE: &[(Rpc, [&str; 4])] = &[
        (Rpc::Acquire, ["ta.w", "ta.w", "ta..", "ta.."]),
        (Rpc::Release, ["ta.w", "ta.w", "ta..", "ta.."]),
        (Rpc::Sync, ["ta.w", "ta.w", "ta..", "ta.."]),
        (Rpc::Watch, ["ta.w", "ta.w", "ta..", "ta.."]),
        (Rpc::Reserve, ["ta..", "ta..", "ta..", "ta.."]),
        (Rpc::Unreserve, ["ta..", "ta..", "ta..", "ta.."]),
        (Rpc::ListReservations, ["tavw", "tavw", "tav.", "tav."]),
        (Rpc::Handover, ["ta..", "ta..", "ta..", "ta.."]),
        (Rpc::ResolveConflict, ["ta..", "ta..", "ta..", "ta.."]),
        (Rpc::DecommissionCluster, ["ta..", "ta..", "ta..", "ta.."]),
        (Rpc::RecommissionCluster, ["ta..", "ta..", "ta..", "ta.."]),
        (Rpc::ReplaceCluster, ["ta..", "ta..", "ta..", "ta.."]),
        (Rpc::PlanConfiguration, ["tavw", "tavw", "tav.", "tav."]),
        (Rpc::ListDenials, ["tavw", "tavw", "tav.", "tav."]),
        (Rpc::ListPools, ["tavw", "tavw", "tav.", "tav."]),
        (Rpc::ListAllocations, ["tavw", "tavw", "tav.", "tav."]),
        (Rpc::GetAllocation, ["tavw", "tavw", "tav.", "tav."]),
        (Rpc::ListHistory, ["tavw", "tavw", "tav.", "tav."]),
        (Rpc::ListConflicts, ["tavw", "tavw", "tav.", "tav."]),
        (Rpc::ListClusters, ["tavw", "tavw", "tav.", "tav."]),
        (Rpc::Check, ["tavw", "tavw", "tavw", "tavw"]),
        (Rpc::HealthWatch, ["tavw", "tavw", "tavw", "tavw"]),
        (Rpc::ServerReflectionInfo, ["tavw", "tavw", "tavw", "tavw"]),
        (
            Rpc::ServerReflectionInfoAlpha,
            ["tavw", "tavw", "tavw", "tavw"],
        ),
    ];

    #[test]
    fn each_role_may_call_what_the_table_says_and_nothing_else() {
        let (own, other) = (cluster("own"), cluster("other"));
        let targets = [
            Target::Unread,
            Target::Cluster(&own),
            Target::Cluster(&other),
            Target::Everything,
        ];
        let none = Decommissioned::default();
        assert_eq!(TABLE.len(), Rpc::ALL.len(), "every RPC has a row");
        for rpc in Rpc::ALL {
            let (_, row) = TABLE.iter().find(|(of, _)| of == rpc).unwrap();
            for (target, granted) in targets.into_iter().zip(row) {
                for (letter, caller) in callers() {
                    let decided = decide(&caller, *rpc, target, &none, NOW);
                    let may = granted.contains(letter);
                    let what = format!("{caller:?} {rpc:?} {target:?}: {decided:?}");
                    assert_eq!(decided.is_ok(), may, "{what}");
                }
            }
        }
    }

    #[test]
    fn a_decommissioned_cluster_is_refused_even_with_a_good_certificate() {
        let gone = Decommissioned::default();
        gone.replace(BTreeSet::from([cluster("own")]));
        let own = cluster("own");
        let watcher = certified(Ok(Role::Watcher(own.clone())));
        for rpc in Rpc::ALL {
            for target in [Target::Unread, Target::Cluster(&own), Target::Everything] {
                let denied = decide(&watcher, *rpc, target, &gone, NOW).unwrap_err();
                assert_eq!(denied.why(), "DECOMMISSIONED", "{rpc:?}");
            }
        }
        for caller in [Caller::Trusted, certified(Ok(Role::Admin))] {
            let about = Target::Cluster(&own);
            let denied = decide(&caller, Rpc::Acquire, about, &gone, NOW).unwrap_err();
            assert_eq!(denied.why(), "DECOMMISSIONED", "whoever says so");
            decide(&caller, Rpc::ListAllocations, about, &gone, NOW).unwrap();
        }
        let other = cluster("other");
        let watcher = certified(Ok(Role::Watcher(other.clone())));
        decide(&watcher, Rpc::Acquire, Target::Cluster(&other), &gone, NOW).unwrap();
        gone.replace(BTreeSet::new());
        let watcher = certified(Ok(Role::Watcher(own.clone())));
        decide(&watcher, Rpc::Acquire, Target::Cluster(&own), &gone, NOW).unwrap();
    }

    #[test]
    fn a_certificate_that_ends_during_its_connection_ends_its_rights() {
        let none = Decommissioned::default();
        let admin = certified(Ok(Role::Admin));
        let at = |now| decide(&admin, Rpc::ListPools, Target::Everything, &none, now);
        assert_eq!(at(Timestamp(1_999)), Ok(()));
        assert_eq!(at(Timestamp(2_000)), Err(Denied::Expired));
    }

    #[test]
    fn a_refusal_says_what_is_missing() {
        let none = Decommissioned::default();
        let watcher = certified(Ok(Role::Watcher(cluster("own"))));
        let other = cluster("other");
        let ask = |caller, rpc, target| {
            let denied = decide(caller, rpc, target, &none, NOW).unwrap_err();
            (denied.why(), denied.to_string())
        };
        let (why, words) = ask(&watcher, Rpc::Acquire, Target::Cluster(&other));
        assert_eq!(why, "OTHER_CLUSTER");
        assert_eq!(
            words,
            "the certificate is for cluster own, not for cluster other"
        );
        let (why, words) = ask(&watcher, Rpc::Reserve, Target::Everything);
        assert_eq!((why, &*words), ("ROLE", "a watcher may not call Reserve"));
        let (why, words) = ask(&watcher, Rpc::ListAllocations, Target::Everything);
        assert_eq!(why, "NOT_ONE_CLUSTER");
        assert!(words.ends_with("which is own"), "{words}");
        let (why, _) = ask(&Caller::Unknown, Rpc::Check, Target::Everything);
        assert_eq!(why, "NO_CERTIFICATE");
        let nameless = certified(Err(NoIdentity::NoUri));
        let (why, words) = ask(&nameless, Rpc::Check, Target::Everything);
        assert_eq!(why, "NO_IDENTITY");
        assert!(words.contains("spiffe://"), "{words}");
    }
}
