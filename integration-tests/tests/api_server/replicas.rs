//! Two watchers for one cluster do no harm to each other.

use integration_tests::{
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    namespace::addresses,
    service::service,
    site::{CLUSTER, Site, random_class},
    watcher::{Options, Watcher},
};

#[tokio::test]
async fn two_watchers_of_one_cluster_give_each_service_one_address() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let list: Vec<_> = (1..=30)
        .map(|host| format!("{ns}:192.0.2.{host}"))
        .collect();
    let mut site = Site::start(control_plane, list.join(" ")).await;
    let options = Options::cluster(CLUSTER).class(&site.class);
    let _second = Watcher::start(control_plane, &site.allocator.url(), options).await;

    for number in 0..30 {
        ns.create(site.service(&format!("s{number}"))).await;
    }
    for number in 0..30 {
        ns.gets_any(&format!("s{number}")).await;
    }
    assert_eq!(site.allocator.allocations().await.len(), 30);
    ns.create(site.service("waiting")).await;
    ns.is_pending("waiting", "POOL_EXHAUSTED").await;

    let freed = addresses(&ns.get("s7").await).remove(0);
    site.watcher.kill();
    ns.delete("s7").await;
    ns.gets("waiting", [freed.as_str()]).await;
    site.watcher.start_again().await;
    eventually(
        DEADLINE,
        "the one that came back changed nothing",
        async || match site.allocator.allocations().await.len() {
            30 => Ok(()),
            held => Err(held),
        },
    )
    .await;
    ns.gets("waiting", [freed.as_str()]).await;
}

#[tokio::test]
async fn two_watchers_settle_on_one_status_and_stop_writing() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let site = Site::start(control_plane, format!("{ns}:192.0.2.1 {ns}:192.0.2.2")).await;
    let options = Options::cluster(CLUSTER).class(&site.class);
    let _second = Watcher::start(control_plane, &site.allocator.url(), options).await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.create(site.service("b")).await;
    ns.gets("b", ["192.0.2.2"]).await;
    let version = ns.get("a").await.metadata.resource_version;
    ns.delete("b").await;
    ns.create(site.service("c")).await;
    ns.gets_any("c").await;
    assert_eq!(ns.get("a").await.metadata.resource_version, version);
    assert!(
        ns.status_writes("a").len() <= 2,
        "{:#?}",
        ns.status_writes("a")
    );
}

#[tokio::test]
async fn two_watchers_of_one_cluster_with_a_class_each_leave_the_others_services_alone() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let mut site = Site::start(
        control_plane,
        format!("{ns}:192.0.2.1 {ns}:192.0.2.2 {ns}:192.0.2.3"),
    )
    .await;
    let other_class = random_class();
    let options = Options::cluster(CLUSTER).class(&other_class);
    let mut other = Watcher::start(control_plane, &site.allocator.url(), options).await;
    ns.create(site.service("ours")).await;
    ns.gets("ours", ["192.0.2.1"]).await;
    ns.create(service("theirs").class(&other_class)).await;
    ns.gets("theirs", ["192.0.2.2"]).await;

    for round in 0..2 {
        site.watcher.kill();
        other.kill();
        site.watcher.start_again().await;
        other.start_again().await;
        let fresh = format!("fresh-{round}");
        ns.create(site.service(&fresh)).await;
        ns.gets(&fresh, ["192.0.2.3"]).await;
        ns.delete(&fresh).await;
        eventually(DEADLINE, "only what passed by is released", async || {
            let held: Vec<_> = site
                .allocator
                .allocations()
                .await
                .into_iter()
                .map(|a| a.address)
                .collect();
            if held == ["192.0.2.1", "192.0.2.2"] {
                Ok(())
            } else {
                Err(format!("{held:?}"))
            }
        })
        .await;
    }
    ns.delete("theirs").await;
    ns.create(site.service("next").ips("192.0.2.2")).await;
    ns.gets("next", ["192.0.2.2"]).await;
}
