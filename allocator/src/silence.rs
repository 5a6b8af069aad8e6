//! Clusters that send no Sync. The allocator reports each of them once, and never releases
//! their addresses for that: an administrator decides.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use crate::{clock::Clock, engine::ClusterName, published::Published};

const PERIOD: Duration = Duration::from_secs(1);

pub async fn report(published: Arc<Published>, clock: Clock) {
    let mut period = interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reported = BTreeSet::<ClusterName>::new();
    loop {
        period.tick().await;
        let now = clock.now();
        let clusters = published.clusters();
        for (cluster, _, allocations) in clusters {
            if !published.is_silent(&cluster, now) {
                if reported.remove(&cluster) {
                    tracing::info!(%cluster, "the cluster is syncing again");
                }
            } else if reported.insert(cluster.clone()) {
                tracing::warn!(
                    %cluster,
                    allocations,
                    "no Sync from the cluster for clusterSilence; it keeps its addresses until it is decommissioned"
                );
            }
        }
    }
}
