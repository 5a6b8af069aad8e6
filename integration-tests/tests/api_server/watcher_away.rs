//! What happens to Services while no watcher runs is made good at its start.

use integration_tests::{
    eventually::{DEADLINE, eventually},
    namespace::condition,
    site::Site,
};
use rustix::process::Signal;
use serde_json::json;

/// Two addresses, and little patience with Services that nobody saw go.
const SHORT_GRACE: &str = "pools:
- name: two
  addresses: [192.0.2.1-192.0.2.2]
orphanGrace: 1s
";

#[tokio::test]
async fn services_deleted_while_it_was_down_are_released_at_its_start() {
    let (ns, mut site) = Site::of_pools(SHORT_GRACE).await;
    for (name, address) in [("stays", "192.0.2.1"), ("goes", "192.0.2.2")] {
        ns.create(site.service(name)).await;
        ns.gets(name, [address]).await;
    }
    ns.create(site.service("waits")).await;
    ns.is_pending("waits", "POOL_EXHAUSTED").await;

    site.watcher.kill();
    ns.delete("goes").await;
    site.watcher.start_again().await;
    ns.gets("waits", ["192.0.2.2"]).await;
    site.allocator
        .holds(&[("stays", "192.0.2.1"), ("waits", "192.0.2.2")])
        .await;
}

#[tokio::test]
async fn a_service_created_again_while_it_was_down_keeps_its_address() {
    let (ns, mut site) = Site::of_pools(SHORT_GRACE).await;
    for (name, address) in [("first", "192.0.2.1"), ("again", "192.0.2.2")] {
        ns.create(site.service(name)).await;
        ns.gets(name, [address]).await;
    }
    site.watcher.kill();
    ns.delete("first").await;
    ns.delete("again").await;
    let uid = ns.create(site.service("again")).await.metadata.uid.unwrap();
    site.watcher.start_again().await;
    ns.gets("again", ["192.0.2.2"]).await;
    site.allocator.holds(&[("again", "192.0.2.2")]).await;
    assert_eq!(site.allocator.allocations().await[0].uid, uid);
}

#[tokio::test]
async fn a_service_that_changed_its_type_while_it_was_down_is_released_at_its_start() {
    let (ns, mut site) = Site::of_pools(SHORT_GRACE).await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    site.watcher.kill();
    ns.edit("a", json!({"spec": {"type": "ClusterIP"}})).await;
    site.watcher.start_again().await;
    site.allocator.holds(&[]).await;
    ns.sees("the condition is gone", "a", |service| {
        condition(service).is_none()
    })
    .await;
}

#[tokio::test]
async fn edits_made_while_it_was_down_are_carried_out_at_its_start() {
    let (ns, mut site) = Site::of("192.0.2.1 192.0.2.2").await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    site.watcher.kill();
    ns.annotate("a", "lb-allocator.io/ips", Some("192.0.2.2"))
        .await;
    site.watcher.start_again().await;
    ns.gets("a", ["192.0.2.2"]).await;
}

#[tokio::test]
async fn sigterm_ends_it_in_time_with_success_and_changes_nothing() {
    let (ns, mut site) = Site::of("192.0.2.1").await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    let status = site
        .watcher
        .terminate(std::time::Duration::from_secs(10))
        .await;
    assert!(status.success(), "{status}");
    site.allocator.holds(&[("a", "192.0.2.1")]).await;
    ns.gets("a", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn a_watcher_that_hangs_is_noticed_by_the_allocator_and_heard_again_when_it_is_back() {
    let (ns, mut site) = Site::of("192.0.2.1").await;
    let listen = async |site: &Site, count: usize| {
        // Keep-alives find a dead peer in 4 s.
        eventually(DEADLINE, format!("{count} watchers listen"), async || {
            let clusters = site.allocator.clusters().await;
            match clusters.first() {
                Some(cluster) if cluster.sessions.len() == count => Ok(()),
                _ => Err(format!("{clusters:?}")),
            }
        })
        .await;
    };
    listen(&site, 1).await;
    site.watcher.process().stop().await;
    listen(&site, 0).await;
    ns.create(site.service("fresh")).await;
    site.watcher.process().signal(Signal::CONT);
    ns.gets("fresh", ["192.0.2.1"]).await;
    listen(&site, 1).await;
}
