//! An allocator that is away changes nothing, and needs nobody when it is back.

use integration_tests::{namespace::condition, site::Site};
use rustix::process::Signal;

#[tokio::test]
async fn held_addresses_stay_and_new_services_are_told_and_served_when_it_is_back() {
    let (ns, mut site) = Site::of("192.0.2.1 192.0.2.2 192.0.2.3").await;
    ns.create(site.service("held")).await;
    ns.gets("held", ["192.0.2.1"]).await;
    ns.was_written("held", 1).await;

    site.allocator.kill();
    ns.create(site.service("fresh")).await;
    let condition = ns.is_pending("fresh", "ALLOCATOR_UNAVAILABLE").await;
    assert!(!condition.message.is_empty());
    ns.was_told("fresh", ["AllocationFailed"]).await;
    ns.annotate("held", "example.org/touched", Some("yes"))
        .await;
    ns.gets("held", ["192.0.2.1"]).await;

    site.allocator.start_again().await;
    ns.gets("fresh", ["192.0.2.2"]).await;
    ns.was_told("fresh", ["AllocationFailed", "AddressAssigned"])
        .await;
    site.fence(&ns).await;
    ns.gets("held", ["192.0.2.1"]).await;
    ns.was_written("held", 1).await;
    ns.was_told("held", ["AddressAssigned"]).await;
}

#[tokio::test]
async fn a_held_service_whose_status_is_fine_is_not_told_of_an_outage() {
    let (ns, mut site) = Site::of("192.0.2.1 192.0.2.2").await;
    ns.create(site.service("held")).await;
    ns.gets("held", ["192.0.2.1"]).await;
    site.allocator.kill();
    site.watcher.kill();
    site.watcher.start_unready();
    ns.create(site.service("fresh")).await;
    ns.is_pending("fresh", "ALLOCATOR_UNAVAILABLE").await;
    assert_eq!(
        condition(&ns.gets("held", ["192.0.2.1"]).await)
            .unwrap()
            .status,
        "True"
    );
    site.allocator.start_again().await;
    ns.gets("fresh", ["192.0.2.2"]).await;
    site.fence(&ns).await;
    ns.was_written("held", 1).await;
}

#[tokio::test]
async fn what_is_deleted_and_freed_during_the_outage_is_made_good_afterwards() {
    let (ns, mut site) = Site::of("192.0.2.1").await;
    ns.create(site.service("holder")).await;
    ns.gets("holder", ["192.0.2.1"]).await;
    ns.create(site.service("waiting")).await;
    ns.is_pending("waiting", "POOL_EXHAUSTED").await;
    site.allocator.kill();
    ns.delete("holder").await;
    site.allocator.start_again().await;
    ns.gets("waiting", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn an_allocator_that_hangs_counts_as_away() {
    let (ns, mut site) = Site::of("192.0.2.1 192.0.2.2").await;
    ns.create(site.service("held")).await;
    ns.gets("held", ["192.0.2.1"]).await;
    site.allocator.process().stop().await;
    ns.create(site.service("fresh")).await;
    ns.is_pending("fresh", "ALLOCATOR_UNAVAILABLE").await;
    site.allocator.process().signal(Signal::CONT);
    ns.gets("fresh", ["192.0.2.2"]).await;
    ns.gets("held", ["192.0.2.1"]).await;
}
