//! Clusters that are no more, and whose certificates therefore count for nothing.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::RwLock;

use crate::engine::ClusterName;

/// The set of them, shared by whoever sets it and whoever asks.
#[derive(Clone, Debug, Default)]
pub struct Decommissioned(Arc<RwLock<BTreeSet<ClusterName>>>);

impl Decommissioned {
    /// Counts from the next RPC on.
    pub fn replace(&self, clusters: BTreeSet<ClusterName>) {
        *self.0.write() = clusters;
    }

    pub fn contains(&self, cluster: &ClusterName) -> bool {
        self.0.read().contains(cluster)
    }
}
