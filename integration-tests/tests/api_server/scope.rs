//! Services that come into scope, leave it, or were never ours.

use integration_tests::{
    control_plane::ControlPlane,
    namespace::{CONDITION, addresses, condition},
    service::service,
    site::{Site, random_class},
};
use serde_json::json;

#[tokio::test]
async fn a_service_that_stops_being_a_load_balancer_gives_its_address_back_and_gets_it_again() {
    let (ns, site) = Site::of("192.0.2.1 192.0.2.2 192.0.2.3").await;
    ns.create(site.service("other")).await;
    ns.gets("other", ["192.0.2.1"]).await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.2"]).await;

    ns.edit("a", json!({"spec": {"type": "ClusterIP"}})).await;
    ns.sees("address and condition are gone", "a", |service| {
        addresses(service).is_empty() && condition(service).is_none()
    })
    .await;
    site.allocator.holds(&[("other", "192.0.2.1")]).await;

    ns.create(site.service("third")).await;
    ns.gets("third", ["192.0.2.3"]).await;
    ns.edit(
        "a",
        json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": site.class}}),
    )
    .await;
    let service = ns.gets("a", ["192.0.2.2"]).await;
    assert_eq!(condition(&service).unwrap().reason, "Satisfied");
}

#[tokio::test]
async fn a_service_that_becomes_a_load_balancer_is_served() {
    let (ns, site) = Site::of("192.0.2.1").await;
    ns.create(service("a").kind("NodePort")).await;
    ns.edit(
        "a",
        json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": site.class}}),
    )
    .await;
    ns.gets("a", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn a_service_that_was_pending_and_leaves_scope_loses_its_condition_and_waits_no_more() {
    let (ns, site) = Site::of("192.0.2.1").await;
    ns.create(site.service("holder")).await;
    ns.gets("holder", ["192.0.2.1"]).await;
    ns.create(site.service("waiting")).await;
    ns.is_pending("waiting", "POOL_EXHAUSTED").await;
    ns.edit("waiting", json!({"spec": {"type": "ClusterIP"}}))
        .await;
    ns.sees("the condition is gone", "waiting", |service| {
        condition(service).is_none()
    })
    .await;
    ns.delete("holder").await;
    site.allocator.holds(&[]).await;
}

#[tokio::test]
async fn a_service_of_another_class_or_type_is_never_written_whatever_its_status_says() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let foreign = service("foreign").class(&random_class());
    ns.create(foreign).await;
    let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]}});
    ns.apply_status("foreign", "somebody-else", status).await;
    ns.create(service("internal").kind("ClusterIP")).await;
    let conditions = json!({"conditions": [{
        "type": CONDITION, "status": "True", "reason": "Satisfied", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    ns.edit_status("foreign", conditions).await;
    let before = (ns.get("foreign").await, ns.get("internal").await);

    let site = Site::start(control_plane, format!("{ns}:192.0.2.1 {ns}:192.0.2.2")).await;
    ns.create(site.service("ours")).await;
    ns.gets("ours", ["192.0.2.1"]).await;

    assert_eq!((ns.get("foreign").await, ns.get("internal").await), before);
    for name in ["foreign", "internal"] {
        let ours = ns
            .status_writes(name)
            .into_iter()
            .filter(|write| write.uri.contains("lb-watcher"));
        assert_eq!(ours.collect::<Vec<_>>(), []);
    }
}

#[tokio::test]
async fn the_end_of_a_namespaces_services_gives_all_addresses_back() {
    let list: Vec<_> = (1..=20).map(|host| format!("192.0.2.{host}")).collect();
    let (ns, site) = Site::of(&list.join(" ")).await;
    for number in 0..20 {
        ns.create(site.service(&format!("s{number}"))).await;
    }
    for number in 0..20 {
        ns.gets_any(&format!("s{number}")).await;
    }
    for number in 0..20 {
        ns.delete(&format!("s{number}")).await;
    }
    site.allocator.holds(&[]).await;
}

#[tokio::test]
async fn a_service_created_again_with_another_class_gives_its_address_back() {
    let (ns, site) = Site::of("192.0.2.1").await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.create(site.service("waiting")).await;
    ns.is_pending("waiting", "POOL_EXHAUSTED").await;
    ns.delete("a").await;
    ns.create(service("a").class(&random_class())).await;
    ns.gets("waiting", ["192.0.2.1"]).await;
    assert_eq!(condition(&ns.get("a").await), None);
}

#[tokio::test]
async fn a_controller_that_is_away_does_not_block_a_deletion() {
    let (ns, mut site) = Site::of("192.0.2.1").await;
    ns.create(site.service("a")).await;
    let service = ns.gets("a", ["192.0.2.1"]).await;
    assert_eq!(service.metadata.finalizers, None);
    site.watcher.kill();
    ns.delete("a").await;
    assert!(ns.services().get_opt("a").await.unwrap().is_none());
}
