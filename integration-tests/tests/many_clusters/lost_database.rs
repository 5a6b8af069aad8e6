//! The allocator's disk is lost while clusters go on.

use std::ops::Range;

use integration_tests::{
    allocator::Options,
    eventually::{DEADLINE, eventually},
};

use crate::{
    fleet::{Cluster, Fleet},
    record::{Record, nobody_was_moved},
};

const POOL: &str = "pools: [{name: p, addresses: [192.0.2.1-192.0.2.120]}]\nclusters: [a, b]\n";

async fn create(fleet: &Fleet, cluster: &Cluster, prefix: &str, numbers: Range<usize>) {
    for number in numbers {
        let service = fleet.service(&format!("{prefix}{number}"));
        cluster.ns.create(service).await;
    }
}

#[tokio::test]
async fn every_service_keeps_its_address_when_the_database_is_lost_under_load() {
    let mut fleet = Fleet::start(POOL).await;
    let (a, mut b) = (fleet.cluster("a", 0).await, fleet.cluster("b", 1).await);
    let records = [Record::of(&a.ns).await, Record::of(&b.ns).await];
    tokio::join!(
        create(&fleet, &a, "old", 0..8),
        create(&fleet, &b, "old", 0..8)
    );
    for number in 0..8 {
        a.ns.gets_any(&format!("old{number}")).await;
        b.ns.gets_any(&format!("old{number}")).await;
    }
    let before = fleet.holders().await;
    assert_eq!(before.len(), 16);

    // In the middle of work, with answers on their way.
    tokio::select! {
        _ = a.ns.gets_any("busy0") => {}
        () = async {
            tokio::join!(
                create(&fleet, &a, "busy", 0..20),
                create(&fleet, &b, "busy", 0..20)
            );
            a.ns.gets_any("busy0").await;
        } => {}
    }
    fleet.allocator.kill();
    b.watcher.kill();
    fleet.remove_database();
    tokio::join!(
        create(&fleet, &a, "away", 0..10),
        create(&fleet, &b, "away", 0..10)
    );
    fleet.allocator.start_again().await;

    // What b's Services show is not known yet, so a's get nothing new.
    for number in 0..10 {
        let name = format!("away{number}");
        a.ns.is_pending(&name, "AWAITING_SYNC").await;
    }
    b.watcher.start_again().await;
    for cluster in [&a, &b] {
        for service in cluster
            .ns
            .services()
            .list(&Default::default())
            .await
            .unwrap()
        {
            let name = service.metadata.name.unwrap();
            cluster.ns.gets_any(&name).await;
        }
    }
    let [of_a, of_b] = records;
    let stories = [of_a.end(&a.ns).await, of_b.end(&b.ns).await];
    nobody_was_moved(&stories);
    let after = fleet.holders().await;
    let shown = stories.iter().map(|story| story.len()).sum::<usize>();
    assert_eq!(after.len(), shown, "each holds one");
    for held in &before {
        assert!(after.contains(held), "{held:?} was lost: {after:?}");
    }
}

#[tokio::test]
async fn what_a_cluster_shows_goes_to_nobody_when_the_database_is_lost_and_no_cluster_is_named() {
    let pool = "pools: [{name: p, addresses: [192.0.2.1]}]\n";
    let mut fleet = Fleet::start_with(Options::config(pool).waits_for_clusters()).await;
    let (mut a, mut b) = (fleet.cluster("a", 0).await, fleet.cluster("b", 1).await);
    a.ns.create(fleet.service("s")).await;
    a.ns.gets("s", ["192.0.2.1"]).await;
    b.ns.create(fleet.service("new")).await;
    b.ns.is_pending("new", "POOL_EXHAUSTED").await;
    let record = Record::of(&a.ns).await;
    a.watcher.kill();
    b.watcher.kill();
    fleet.allocator.kill();
    fleet.remove_database();
    fleet.allocator.start_again().await;
    b.watcher.start_unready();
    a.watcher.start_unready();
    b.ns.is_pending("new", "AWAITING_SYNC").await;
    let held = [("192.0.2.1".to_owned(), "a/s".to_owned())];
    eventually(DEADLINE, "a has what it shows", async || {
        let holders = fleet.holders().await;
        if holders == held {
            Ok(())
        } else {
            Err(format!("{holders:?}"))
        }
    })
    .await;
    b.ns.is_pending("new", "AWAITING_SYNC").await;
    nobody_was_moved(&[record.end(&a.ns).await]);
}
