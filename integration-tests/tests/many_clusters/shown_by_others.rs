//! Addresses that Services show and that we did not write, or of Services whose
//! requests we cannot read: they are their own all the same, also when the allocator
//! has forgotten everything.

use std::time::Duration;

use integration_tests::{eventually::eventually, namespace::condition};
use serde_json::{Value, json};

use crate::fleet::{Cluster, Fleet};

/// One address for two clusters.
const POOL: &str = "pools: [{name: p, addresses: [192.0.2.1]}]\nclusters: [a, b]\n";
const ADDRESS: &str = "192.0.2.1";
/// A database that was lost waits 30 s for clusters that it does not know.
const ADOPTED: Duration = Duration::from_secs(75);

/// What MetalLB's controller writes.
fn metallb() -> Value {
    json!({"loadBalancer": {"ingress": [{"ip": ADDRESS, "ipMode": "VIP"}]}})
}

async fn is_held_by_a(fleet: &Fleet, a: &Cluster, b: &Cluster) {
    eventually(ADOPTED, "the newcomer gets nothing", async || {
        let reason = condition(&b.ns.get("newcomer").await).map(|condition| condition.reason);
        match reason.as_deref() {
            Some("POOL_EXHAUSTED") => Ok(()),
            _ => Err(format!("{reason:?}")),
        }
    })
    .await;
    a.ns.gets("s", [ADDRESS]).await;
    assert_eq!(
        fleet.holders().await,
        [(ADDRESS.to_owned(), "a/s".to_owned())]
    );
    assert_eq!(fleet.conflicts().await, []);
}

async fn lose_the_database(fleet: &mut Fleet) {
    fleet.allocator.kill();
    fleet.remove_database();
    fleet.allocator.start_again().await;
}

#[tokio::test]
async fn an_address_that_another_controller_wrote_is_held_by_its_service_also_after_a_lost_database()
 {
    let mut fleet = Fleet::start(POOL).await;
    let mut a = fleet.prepare("a", 0, &fleet.identity("a")).await;
    a.ns.create(fleet.service("s")).await;
    a.ns.apply_status("s", "controller", metallb()).await;
    let b = fleet.cluster("b", 1).await;
    b.ns.create(fleet.service("newcomer")).await;
    b.ns.is_pending("newcomer", "AWAITING_SYNC").await;

    a.watcher.start_again().await;
    is_held_by_a(&fleet, &a, &b).await;

    a.watcher.kill();
    lose_the_database(&mut fleet).await;
    b.ns.is_pending("newcomer", "AWAITING_SYNC").await;
    a.watcher.start_again().await;
    is_held_by_a(&fleet, &a, &b).await;
}

/// The Service is told as it is by its condition, and nobody else gets its address.
async fn keeps_its_address(edit: Value, says: [&str; 2]) {
    let mut fleet = Fleet::start(POOL).await;
    let (a, mut b) = (fleet.cluster("a", 0).await, fleet.cluster("b", 1).await);
    a.ns.create(fleet.service("s")).await;
    a.ns.gets("s", [ADDRESS]).await;
    a.ns.edit("s", edit).await;
    let service = a.ns.has_condition("s", "False", "INVALID_REQUEST").await;
    let condition = condition(&service).unwrap();
    for words in says {
        assert!(condition.message.contains(words), "{}", condition.message);
    }

    b.watcher.kill();
    lose_the_database(&mut fleet).await;
    b.ns.create(fleet.service("newcomer")).await;
    b.watcher.start_again().await;
    is_held_by_a(&fleet, &a, &b).await;
    a.ns.has_condition("s", "False", "INVALID_REQUEST").await;
}

#[tokio::test]
async fn a_service_whose_request_cannot_be_read_keeps_its_address_when_the_database_is_lost() {
    let edit = json!({"metadata": {"annotations": {"lb-allocator.io/pool": "My_Pool"}}});
    let says = [
        "lb-allocator.io/pool",
        "\"My_Pool\" is not the name of a pool",
    ];
    keeps_its_address(edit, says).await;
}

#[tokio::test]
async fn a_service_whose_request_is_too_large_keeps_its_address_when_the_database_is_lost() {
    let labels: serde_json::Map<_, _> = (0..1001)
        .map(|number| (format!("label-{number}"), json!("")))
        .collect();
    let edit = json!({"spec": {"selector": labels}});
    let says = ["spec.selector has 1001 entries", "at most 1000"];
    keeps_its_address(edit, says).await;
}
