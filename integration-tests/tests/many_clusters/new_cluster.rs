//! A cluster is wiped and made again under the same name: another etcd, the same
//! namespaces and names, other uids. For the allocator that is an API server where
//! none of it has been yet, so each test goes on with another one, after an
//! administrator has said that it takes over.

use integration_tests::eventually::{DEADLINE, eventually};

use crate::fleet::{Cluster, Fleet};

const NAMES: [&str; 4] = ["s1", "s2", "s3", "s4"];

/// Its Services get the first addresses of the pool, in this order.
async fn filled(fleet: &Fleet, number: usize) -> (Cluster, Vec<String>) {
    let cluster = fleet.cluster("a", number).await;
    let mut got = Vec::new();
    for name in NAMES {
        cluster.ns.create(fleet.service(name)).await;
        got.push(cluster.ns.gets_any(name).await);
    }
    (cluster, got)
}

async fn gets_all_back(fleet: &Fleet, cluster: &Cluster, had: &[String]) {
    for (name, address) in NAMES.iter().zip(had) {
        cluster.ns.gets(name, [address]).await;
    }
    let holders = fleet.holders().await;
    assert_eq!(holders.len(), 5, "nothing is left over: {holders:?}");
}

#[tokio::test]
async fn a_cluster_made_again_at_once_gets_its_addresses_back() {
    let fleet =
        Fleet::start("pools: [{name: p, addresses: [192.0.2.1-192.0.2.5], stickyFor: 0s}]").await;
    let b = fleet.cluster("b", 1).await;
    let (mut old, had) = filled(&fleet, 0).await;
    old.watcher.kill();

    let mut new = fleet.prepare("a", 2, &fleet.identity("a")).await;
    // Half of them are there when its watcher looks for the first time.
    for name in [NAMES[3], NAMES[2]] {
        new.ns.create(fleet.service(name)).await;
    }
    fleet.replace("a", 2).await;
    new.watcher.start_again().await;
    new.ns.gets(NAMES[3], [&had[3]]).await;
    for name in ["one", "two"] {
        b.ns.create(fleet.service(name)).await;
    }
    eventually(DEADLINE, "one of b's gets the only free one", async || {
        let holders = fleet.holders().await;
        if holders.len() == 5 {
            Ok(())
        } else {
            Err(format!("{holders:?}"))
        }
    })
    .await;
    for name in [NAMES[1], NAMES[0]] {
        new.ns.create(fleet.service(name)).await;
    }
    gets_all_back(&fleet, &new, &had).await;
}

#[tokio::test]
async fn a_cluster_made_again_later_gets_its_addresses_back_while_they_are_sticky() {
    let pool = "pools: [{name: p, addresses: [192.0.2.1-192.0.2.9], stickyFor: 1h}]";
    let fleet = Fleet::start(&format!("{pool}\norphanGrace: 0s\n")).await;
    let b = fleet.cluster("b", 1).await;
    let (mut old, had) = filled(&fleet, 0).await;
    old.watcher.kill();

    fleet.replace("a", 2).await;
    let new = fleet.cluster("a", 2).await;
    eventually(DEADLINE, "what is gone is taken back", async || {
        let holders = fleet.holders().await;
        if holders.is_empty() {
            Ok(())
        } else {
            Err(format!("{holders:?}"))
        }
    })
    .await;
    b.ns.create(fleet.service("other")).await;
    let other = b.ns.gets_any("other").await;
    assert!(!had.contains(&other), "{other} is kept for who had it");
    for name in NAMES.iter().rev() {
        new.ns.create(fleet.service(name)).await;
        new.ns.gets_any(name).await;
    }
    gets_all_back(&fleet, &new, &had).await;
}
