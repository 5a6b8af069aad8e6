//! Clusters that say nothing. What they hold is never taken back for that: it is
//! reported, once, and a person decides.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use crate::{engine::ClusterName, published::Published, writer::Clock};

/// How often it is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// Reports for ever.
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
                    tracing::info!(%cluster, "the cluster speaks again");
                }
            } else if reported.insert(cluster.clone()) {
                tracing::warn!(
                    %cluster,
                    allocations,
                    "the cluster says nothing; it keeps its addresses until it is decommissioned"
                );
            }
        }
    }
}
