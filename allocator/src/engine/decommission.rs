//! Taking a cluster out of service, and back in. From the first moment on its
//! requests are refused; what it holds is taken back after a grace, until which
//! all can be undone.

use super::{
    Engine, Outcome, Reply,
    change::{ChangeKind, Timestamp},
    clusters::{ClusterRecord, ClusterState},
    key::ClusterName,
};

/// Take a cluster out of service, and what it holds back at `release_at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decommission {
    pub cluster: ClusterName,
    pub release_at: Timestamp,
}

impl Engine {
    /// What a new database waits for. Clusters that are assumed absent are waited
    /// for no more, here or in any database.
    pub fn begin(&mut self, assumed_absent: &[ClusterName], now: Timestamp) -> Outcome {
        let mut outcome = self.pass(now);
        if self.revision.0 == 0 {
            let known = self.pools.settings().clusters.clone();
            for name in known {
                self.set_cluster(name, ClusterState::Awaited, &mut outcome);
            }
        }
        for name in assumed_absent {
            if self.clusters.state(name) == Some(ClusterState::Awaited) {
                self.set_cluster(name.clone(), ClusterState::Synced, &mut outcome);
            }
        }
        outcome
    }

    pub(super) fn decommission(
        &mut self,
        decommission: &Decommission,
        outcome: &mut Outcome,
    ) -> Reply {
        let Decommission {
            cluster,
            release_at,
        } = decommission;
        let state = match self.clusters.state(cluster) {
            Some(already @ ClusterState::Decommissioned { .. }) => already,
            Some(ClusterState::Unsynced | ClusterState::Awaited | ClusterState::Synced) | None => {
                let state = ClusterState::Decommissioned {
                    release_at: Some(*release_at),
                };
                self.set_cluster(cluster.clone(), state, outcome);
                state
            }
        };
        Reply::Decommissioned(state)
    }

    /// What was taken back stays so; its Services get it again if nobody took it. Where the
    /// database may not know all that is shown, the cluster has to tell what it has first.
    pub(super) fn recommission(&mut self, cluster: &ClusterName, outcome: &mut Outcome) -> Reply {
        if self.clusters.is_decommissioned(cluster) {
            // Its cluster may have another name by now.
            let identity = self.clusters.identity(cluster).cloned();
            let identity =
                identity.filter(|known| self.clusters.other_name(cluster, &known.uid).is_none());
            let is_complete = !self.is_opening() && self.clusters.awaited().is_empty();
            let record = ClusterRecord {
                name: cluster.clone(),
                state: if is_complete {
                    ClusterState::Synced
                } else {
                    ClusterState::Awaited
                },
                identity,
            };
            self.commit_cluster(record, outcome);
        }
        Reply::Recommissioned
    }

    /// Takes back what clusters hold whose time is over.
    pub(super) fn end_decommissions(&mut self, outcome: &mut Outcome) {
        while let Some(cluster) = self.clusters.ended(self.now) {
            for allocation in self.of_cluster(&cluster) {
                self.commit(ChangeKind::Released(allocation), outcome);
            }
            let conflicts: Vec<_> = self.conflicts.of_cluster(&cluster).cloned().collect();
            for conflict in conflicts {
                self.commit(ChangeKind::ConflictEnded(conflict), outcome);
            }
            let state = ClusterState::Decommissioned { release_at: None };
            self.set_cluster(cluster, state, outcome);
        }
    }
}
