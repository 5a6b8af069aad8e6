//! Which request for a Service is the newest that was carried out. A request may arrive late,
//! or twice: the connection of one that was given up may deliver it after another connection
//! delivered the next one. Carried out then, it would move the Service back to what it asked
//! for once.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use hashbrown::HashMap;
use tokio::time::Instant;

use crate::engine::{ClusterName, ServiceKey};

/// How long a request may be on its way. No watcher waits as long for an answer.
const ON_THE_WAY: Duration = Duration::from_secs(60);

/// `metadata.resourceVersion` of a Service.
pub type Version = u64;

/// See the module. It costs O(1) for each request, and memory for those of the last minute.
#[derive(Debug, Default)]
pub struct Newest {
    versions: HashMap<Arc<ServiceKey>, (Version, Instant)>,
    /// Oldest first. Of a Service there may be several: only its last one counts.
    noted: VecDeque<(Instant, Arc<ServiceKey>)>,
}

impl Newest {
    /// Whether a newer request for the Service was carried out.
    pub fn is_overtaken(&self, key: &ServiceKey, version: Version, now: Instant) -> bool {
        let newest = self.versions.get(key);
        newest.is_some_and(|(newest, at)| version < *newest && now - *at < ON_THE_WAY)
    }

    /// The request is carried out now.
    pub fn carried_out(&mut self, key: &Arc<ServiceKey>, version: Version, now: Instant) {
        self.forget(now);
        self.versions.insert(Arc::clone(key), (version, now));
        self.noted.push_back((now, Arc::clone(key)));
    }

    /// The cluster sent a Sync: its requests are in a new order from now on.
    pub fn begin(&mut self, cluster: &ClusterName) {
        self.versions.retain(|key, _| key.cluster != *cluster);
        self.noted.retain(|(_, key)| key.cluster != *cluster);
    }

    fn forget(&mut self, now: Instant) {
        while let Some((at, key)) = self.noted.front()
            && now.duration_since(*at) >= ON_THE_WAY
        {
            if self.versions.get(key).is_some_and(|(_, last)| last == at) {
                self.versions.remove(key);
            }
            self.noted.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(cluster: &str) -> Arc<ServiceKey> {
        Arc::new(ServiceKey::parse(cluster, "ns", "svc").unwrap())
    }

    #[test]
    fn of_the_requests_for_a_service_an_older_one_is_overtaken_for_a_minute() {
        let (mut newest, now) = (Newest::default(), Instant::now());
        newest.carried_out(&key("a"), 5, now);
        newest.carried_out(&key("a"), 7, now);
        assert!(newest.is_overtaken(&key("a"), 5, now + Duration::from_secs(59)));
        assert!(!newest.is_overtaken(&key("a"), 7, now), "it is repeated");
        assert!(
            !newest.is_overtaken(&key("b"), 1, now),
            "of another Service"
        );
        let later = now + ON_THE_WAY;
        assert!(!newest.is_overtaken(&key("a"), 5, later));
        newest.carried_out(&key("b"), 1, later);
        assert_eq!((newest.versions.len(), newest.noted.len()), (1, 1));
    }

    #[test]
    fn a_sync_of_the_cluster_begins_a_new_order() {
        let (mut newest, now) = (Newest::default(), Instant::now());
        for cluster in ["a", "b"] {
            newest.carried_out(&key(cluster), 429, now);
        }
        newest.begin(&key("a").cluster);
        assert!(!newest.is_overtaken(&key("a"), 238, now));
        assert!(newest.is_overtaken(&key("b"), 238, now));
    }
}
