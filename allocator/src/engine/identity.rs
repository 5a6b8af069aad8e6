//! Who a cluster is: its name, and the uid of its namespace `kube-system`. The first
//! uid that comes with a name is bound to it. Whatever comes with another one is
//! refused, and changes nothing, until an administrator says that it takes over, or the
//! configuration says that clusters of that name are made anew all the time.

use super::{
    Command, Engine, Outcome, Reply,
    change::{Allocation, Revision, Timestamp},
    clusters::{ClusterRecord, ClusterState},
    key::{ClusterName, Uid},
    refusal::Refusal,
};

/// The cluster that a name belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `metadata.uid` of its namespace `kube-system`.
    pub uid: Uid,
    pub since: Timestamp,
    /// It took over from another one: whatever changed last before this is of that one.
    pub took_over_at: Option<Revision>,
}

/// Who says that a command is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub cluster: ClusterName,
    pub uid: Uid,
}

/// Open a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    pub cluster: ClusterName,
    /// No session of that name has been open for a while.
    pub is_vacant: bool,
}

/// Let the cluster of this uid have the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplaceCluster {
    pub cluster: ClusterName,
    pub uid: Uid,
}

impl Engine {
    /// Whether the claim stands; binds the name where it belongs to nobody yet.
    pub(super) fn identify(
        &mut self,
        claim: &Claim,
        command: &Command,
        outcome: &mut Outcome,
    ) -> Result<(), Refusal> {
        let is_left = self.is_left(command, &claim.cluster);
        match self.judge(claim, is_left)? {
            Standing::Known => {}
            Standing::First if matches!(command, Command::Release(_)) => {}
            Standing::First | Standing::TakesOver => {
                self.bind(&claim.cluster, &claim.uid, outcome);
            }
        }
        Ok(())
    }

    pub(super) fn attach(&self, attach: &Attach) -> Reply {
        let cluster = &attach.cluster;
        if self.clusters.is_decommissioned(cluster) {
            return Reply::Refused(Refusal::ClusterDecommissioned {
                cluster: cluster.clone(),
            });
        }
        Reply::Attached
    }

    /// Whether requests in the name of a cluster are its own, and it is in service.
    pub fn is_served(&self, cluster: &ClusterName, claim: Option<&Claim>) -> bool {
        match claim {
            Some(claim) => self.judge(claim, false).is_ok(),
            None => !self.clusters.is_decommissioned(cluster),
        }
    }

    /// `is_left`: another cluster may take the name over.
    fn judge(&self, claim: &Claim, is_left: bool) -> Result<Standing, Refusal> {
        let Claim { cluster, uid } = claim;
        if self.clusters.is_decommissioned(cluster) {
            return Err(Refusal::ClusterDecommissioned {
                cluster: cluster.clone(),
            });
        }
        match self.clusters.identity(cluster) {
            Some(known) if known.uid == *uid => Ok(Standing::Known),
            Some(known) => {
                if !is_left {
                    return Err(Refusal::ClusterNameInUse {
                        cluster: cluster.clone(),
                        uid: uid.clone(),
                        owner: known.clone(),
                    });
                }
                self.check_other_names(claim)?;
                Ok(Standing::TakesOver)
            }
            None => {
                self.check_other_names(claim)?;
                Ok(Standing::First)
            }
        }
    }

    /// Whether a cluster that is made anew all the time is made anew now.
    fn is_left(&self, command: &Command, cluster: &ClusterName) -> bool {
        matches!(command, Command::Attach(attach) if attach.is_vacant)
            && self.pools.settings().ephemeral.contains(cluster)
    }

    fn check_other_names(&self, claim: &Claim) -> Result<(), Refusal> {
        let Claim { cluster, uid } = claim;
        match self.clusters.other_name(cluster, uid) {
            None => Ok(()),
            Some((name, known)) => Err(Refusal::ClusterHasOtherName {
                cluster: cluster.clone(),
                known_as: name.clone(),
                owner: known.clone(),
            }),
        }
    }

    pub(super) fn replace_cluster(
        &mut self,
        replace: &ReplaceCluster,
        outcome: &mut Outcome,
    ) -> Reply {
        let ReplaceCluster { cluster, uid } = replace;
        if self.clusters.is_decommissioned(cluster) {
            return Reply::Refused(Refusal::ClusterDecommissioned {
                cluster: cluster.clone(),
            });
        }
        let holds_something = self.holdings.of_cluster(cluster).next().is_some();
        if self.clusters.state(cluster).is_none() && !holds_something {
            return Reply::Refused(Refusal::NoCluster {
                cluster: cluster.clone(),
            });
        }
        let before = self.clusters.identity(cluster).map(|of| of.uid.clone());
        if before.as_ref() != Some(uid) {
            let claim = Claim {
                cluster: cluster.clone(),
                uid: uid.clone(),
            };
            if let Err(refusal) = self.check_other_names(&claim) {
                return Reply::Refused(refusal);
            }
            self.bind(cluster, uid, outcome);
        }
        Reply::Replaced { before }
    }

    fn bind(&mut self, cluster: &ClusterName, uid: &Uid, outcome: &mut Outcome) {
        let revision = self.revision.next();
        let takes_over = self.clusters.identity(cluster).is_some();
        let identity = Identity {
            uid: uid.clone(),
            since: self.now,
            took_over_at: takes_over.then_some(revision),
        };
        let state = self.clusters.state(cluster);
        let record = ClusterRecord {
            name: cluster.clone(),
            state: state.unwrap_or(ClusterState::Unsynced),
            identity: Some(identity),
        };
        self.commit_cluster(record, outcome);
    }

    /// Whether an address is held for a Service of a cluster that had the name before.
    /// Nothing follows from the times at which Services of the two were created.
    pub(super) fn is_of_the_cluster_before(&self, held: &Allocation) -> bool {
        let identity = self.clusters.identity(&held.key.cluster);
        identity
            .and_then(|identity| identity.took_over_at)
            .is_some_and(|at| held.revision < at)
    }
}

/// What a claim that is not refused comes to.
enum Standing {
    Known,
    /// The name belongs to nobody yet.
    First,
    TakesOver,
}
