//! Events tell of transitions, once each.

use integration_tests::site::Site;
use serde_json::json;

#[tokio::test]
async fn each_transition_is_told_once() {
    let (ns, site) = Site::of("192.0.2.1 192.0.2.2").await;
    ns.create(site.service("holder").ips("192.0.2.1")).await;
    ns.gets("holder", ["192.0.2.1"]).await;

    ns.create(site.service("a").ips("192.0.2.1")).await;
    let told = ns.was_told("a", ["AllocationFailed"]).await;
    assert_eq!(told[0].kind, "Warning");
    assert!(
        told[0].note.contains("ADDRESS_IN_USE") || told[0].note.contains("192.0.2.1"),
        "{told:?}"
    );

    ns.delete("holder").await;
    ns.gets("a", ["192.0.2.1"]).await;
    let told = ns
        .was_told("a", ["AllocationFailed", "AddressAssigned"])
        .await;
    assert_eq!(told[1].kind, "Normal");
    assert!(told[1].note.contains("192.0.2.1"), "{told:?}");

    ns.annotate("a", "lb-allocator.io/ips", Some("192.0.2.2"))
        .await;
    ns.gets("a", ["192.0.2.2"]).await;
    let told = ns
        .was_told(
            "a",
            ["AllocationFailed", "AddressAssigned", "AddressChanged"],
        )
        .await;
    assert!(
        told[2].note.contains("192.0.2.1") && told[2].note.contains("192.0.2.2"),
        "{told:?}"
    );

    ns.edit("a", json!({"spec": {"type": "ClusterIP"}})).await;
    site.fence(&ns).await;
    let told = ns
        .was_told(
            "a",
            [
                "AllocationFailed",
                "AddressAssigned",
                "AddressChanged",
                "AddressReleased",
            ],
        )
        .await;
    assert!(told[3].note.contains("192.0.2.2"), "{told:?}");
}

#[tokio::test]
async fn a_deleted_service_is_told_of_its_release() {
    let (ns, site) = Site::of("192.0.2.1").await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.delete("a").await;
    site.fence(&ns).await;
    ns.was_told("a", ["AddressAssigned", "AddressReleased"])
        .await;
}

#[tokio::test]
async fn retries_and_restarts_repeat_nothing() {
    let (ns, mut site) = Site::of("192.0.2.1 192.0.2.2").await;
    ns.create(site.service("held")).await;
    ns.create(site.service("pending").ips("203.0.113.1")).await;
    ns.was_told("held", ["AddressAssigned"]).await;
    ns.was_told("pending", ["AllocationFailed"]).await;

    // Every release wakes those who wait, and every edit is looked at.
    for round in 0..3 {
        ns.create(site.service("passing")).await;
        ns.gets_any("passing").await;
        ns.delete("passing").await;
        ns.annotate("pending", "example.org/round", Some(&round.to_string()))
            .await;
        site.watcher.kill();
        site.watcher.start_again().await;
    }
    site.fence(&ns).await;
    ns.was_told("held", ["AddressAssigned"]).await;
    ns.was_told("pending", ["AllocationFailed"]).await;
}

#[tokio::test]
async fn another_reason_is_another_transition() {
    let (ns, site) = Site::of("192.0.2.1").await;
    ns.create(site.service("a").ips("203.0.113.1")).await;
    ns.was_told("a", ["AllocationFailed"]).await;
    ns.annotate("a", "lb-allocator.io/ips", Some("nonsense"))
        .await;
    ns.has_condition("a", "False", "INVALID_REQUEST").await;
    site.fence(&ns).await;
    ns.was_told("a", ["AllocationFailed", "AllocationFailed"])
        .await;
}
