//! Who gets a released address, and when.

use integration_tests::{namespace::Namespace, site::Site};

async fn start(rules: &str) -> (Namespace, Site) {
    let pools = format!("pools: [{{name: p, addresses: [192.0.2.1-192.0.2.2], {rules}}}]");
    Site::of_pools(&pools).await
}

/// A Service gets the first address and gives it back.
async fn leave(ns: &Namespace, site: &Site, name: &str) {
    ns.create(site.service(name)).await;
    ns.gets(name, ["192.0.2.1"]).await;
    ns.delete(name).await;
    ns.was_told(name, ["AddressAssigned", "AddressReleased"])
        .await;
}

#[tokio::test]
async fn others_get_a_released_address_only_when_nothing_else_is_free() {
    // The default of a day.
    let (ns, site) = start("priority: 1").await;
    leave(&ns, &site, "first").await;
    ns.create(site.service("other")).await;
    ns.gets("other", ["192.0.2.2"]).await;
    ns.create(site.service("first")).await;
    ns.gets("first", ["192.0.2.1"]).await;
    ns.delete("first").await;
    ns.create(site.service("last")).await;
    ns.gets("last", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn without_a_time_to_stick_the_lowest_free_address_is_given_to_anybody() {
    let (ns, site) = start("stickyFor: 0s").await;
    leave(&ns, &site, "first").await;
    ns.create(site.service("other")).await;
    ns.gets("other", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn the_last_holder_does_not_wait_for_the_cooldown_that_others_wait_for() {
    let (ns, site) = start("cooldown: 1h").await;
    leave(&ns, &site, "first").await;
    ns.create(site.service("other")).await;
    ns.gets("other", ["192.0.2.2"]).await;
    ns.create(site.service("waits")).await;
    let message = ns.is_pending("waits", "POOL_COOLING_DOWN").await.message;
    assert!(message.contains("the first is free at 20"), "{message}");
    ns.create(site.service("asking").ips("192.0.2.1")).await;
    ns.is_pending("asking", "POOL_COOLING_DOWN").await;
    ns.create(site.service("first")).await;
    ns.gets("first", ["192.0.2.1"]).await;
    ns.is_pending("waits", "POOL_COOLING_DOWN").await;
}

#[tokio::test]
async fn who_waits_for_a_cooldown_is_served_when_it_ends_asked_for_or_not() {
    let (ns, site) = start("cooldown: 6s").await;
    for name in ["first", "second"] {
        ns.create(site.service(name)).await;
        ns.gets_any(name).await;
    }
    for (name, address, service) in [
        ("first", "192.0.2.1", site.service("any")),
        (
            "second",
            "192.0.2.2",
            site.service("asking").ips("192.0.2.2"),
        ),
    ] {
        ns.delete(name).await;
        ns.was_told(name, ["AddressAssigned", "AddressReleased"])
            .await;
        let waiting = ns.create(service).await.metadata.name.unwrap();
        ns.gets(&waiting, [address]).await;
        let told = ns
            .was_told(&waiting, ["AllocationFailed", "AddressAssigned"])
            .await;
        assert!(told[0].note.starts_with("POOL_COOLING_DOWN"), "{told:?}");
    }
}

#[tokio::test]
async fn who_waits_is_told_of_a_cooldown_when_it_begins() {
    let (ns, site) = start("cooldown: 1h").await;
    for name in ["first", "second"] {
        ns.create(site.service(name)).await;
        ns.gets_any(name).await;
    }
    ns.create(site.service("any")).await;
    ns.is_pending("any", "POOL_EXHAUSTED").await;
    ns.create(site.service("asking").ips("192.0.2.2")).await;
    ns.is_pending("asking", "ADDRESS_IN_USE").await;
    ns.delete("second").await;
    for name in ["any", "asking"] {
        let message = ns.is_pending(name, "POOL_COOLING_DOWN").await.message;
        assert!(message.contains("the first is free at 20"), "{message}");
    }
}

#[tokio::test]
async fn room_in_a_quota_is_used_at_once_although_the_address_that_left_cools_down() {
    let (ns, site) = start("cooldown: 1h, maxPerNamespace: 1").await;
    ns.create(site.service("first")).await;
    ns.gets("first", ["192.0.2.1"]).await;
    ns.create(site.service("second")).await;
    ns.is_pending("second", "QUOTA_EXCEEDED").await;
    ns.delete("first").await;
    ns.gets("second", ["192.0.2.2"]).await;
}

#[tokio::test]
async fn room_in_a_quota_is_room_for_either_family() {
    let (ns, site) = start("maxPerCluster: 1").await;
    site.allocator.write_config(
        "pools: [{name: both, addresses: [192.0.2.1, '2001:db8::1'], maxPerCluster: 1}]",
    );
    let six = site.service("six").families("SingleStack", &["IPv6"]);
    ns.create(six).await;
    ns.gets("six", ["2001:db8::1"]).await;
    ns.create(site.service("four")).await;
    ns.is_pending("four", "QUOTA_EXCEEDED").await;
    ns.delete("six").await;
    ns.gets("four", ["192.0.2.1"]).await;
}
