//! How status is written: once, by a strategic merge patch, and again only when
//! somebody changed it.

use integration_tests::{
    control_plane::ControlPlane,
    namespace::{CONDITION, Namespace, addresses, condition},
    site::Site,
};
use rustix::process::Signal;
use serde_json::json;

async fn served() -> (Namespace, Site) {
    let (ns, site) = Site::of("192.0.2.1 192.0.2.2 192.0.2.3").await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    (ns, site)
}

#[tokio::test]
async fn a_fresh_service_costs_one_status_write_under_a_field_manager_of_ours() {
    let (ns, site) = served().await;
    ns.create(site.service("b")).await;
    ns.gets("b", ["192.0.2.2"]).await;
    site.fence(&ns).await;
    for name in ["a", "b"] {
        let writes = ns.was_written(name, 1).await;
        assert_eq!((writes[0].verb.as_str(), writes[0].code), ("patch", 200));
        assert!(
            writes[0].uri.contains("fieldManager=lb-watcher"),
            "{}",
            writes[0].uri
        );
    }
    let managers = ns.get("b").await.metadata.managed_fields.unwrap();
    let ours: Vec<_> = managers
        .iter()
        .filter(|m| m.manager.as_deref() == Some("lb-watcher"))
        .collect();
    assert_eq!(ours.len(), 1);
    assert_eq!(ours[0].operation.as_deref(), Some("Update"));
    assert_eq!(ours[0].subresource.as_deref(), Some("status"));
}

#[tokio::test]
async fn ip_mode_is_written_and_nothing_else_is_in_the_entry() {
    let (ns, _site) = served().await;
    let status = ns.get("a").await.status.unwrap();
    assert_eq!(
        serde_json::to_value(status.load_balancer.unwrap()).unwrap(),
        json!({"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]})
    );
}

#[tokio::test]
async fn a_held_service_costs_no_write_when_the_watcher_or_the_allocator_starts_again() {
    let (ns, mut site) = served().await;
    ns.was_written("a", 1).await;
    for round in 0..3 {
        if round == 1 {
            site.allocator.kill();
            site.allocator.start_again().await;
        } else {
            site.watcher.kill();
            site.watcher.start_again().await;
        }
        // Held Services come first: once a fresh one is served, the others were looked at.
        let fresh = format!("fresh-{round}");
        ns.create(site.service(&fresh)).await;
        ns.gets_any(&fresh).await;
        ns.delete(&fresh).await;
        ns.was_written("a", 1).await;
    }
}

#[tokio::test]
async fn a_pending_service_is_not_written_again_by_retries_and_restarts() {
    let (ns, mut site) = Site::of("192.0.2.1 192.0.2.2").await;
    ns.create(site.service("pending").ips("203.0.113.1")).await;
    ns.is_pending("pending", "ADDRESS_NOT_IN_POOL").await;
    site.watcher.kill();
    site.watcher.start_again().await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.delete("a").await;
    ns.create(site.service("b")).await;
    ns.gets_any("b").await;
    ns.was_written("pending", 1).await;
}

#[tokio::test]
async fn a_status_that_was_wiped_by_hand_is_written_back() {
    let (ns, _site) = served().await;
    ns.edit_status("a", json!({"loadBalancer": {"ingress": null}}))
        .await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.edit_status("a", json!({"loadBalancer": null, "conditions": null}))
        .await;
    let service = ns.gets("a", ["192.0.2.1"]).await;
    assert_eq!(condition(&service).unwrap().status, "True");
}

#[tokio::test]
async fn a_status_that_was_edited_by_hand_is_written_back() {
    let (ns, site) = served().await;
    ns.create(site.service("b")).await;
    ns.gets("b", ["192.0.2.2"]).await;
    for (name, address, ingress) in [
        ("a", "192.0.2.1", json!([{"ip": "192.0.2.3"}])),
        (
            "a",
            "192.0.2.1",
            json!([{"ip": "192.0.2.1"}, {"ip": "203.0.113.3"}]),
        ),
        (
            "a",
            "192.0.2.1",
            json!([{"ip": "192.0.2.1", "ipMode": "Proxy"}]),
        ),
        ("b", "192.0.2.2", json!([{"hostname": "example.org"}])),
    ] {
        ns.edit_status(name, json!({"loadBalancer": {"ingress": ingress}}))
            .await;
        ns.sees(
            format!("after {ingress} it is as it was"),
            name,
            |service| {
                let status = service
                    .status
                    .clone()
                    .unwrap_or_default()
                    .load_balancer
                    .unwrap_or_default();
                serde_json::to_value(status).unwrap()
                    == json!({"ingress": [{"ip": address, "ipMode": "VIP"}]})
            },
        )
        .await;
    }
}

#[tokio::test]
async fn a_status_changed_while_the_watcher_was_down_is_written_back() {
    let (ns, mut site) = served().await;
    site.watcher.kill();
    ns.edit_status(
        "a",
        json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.3"}]}}),
    )
    .await;
    site.watcher.start_again().await;
    ns.gets("a", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn other_controllers_conditions_survive() {
    let (ns, site) = Site::of("192.0.2.1").await;
    ns.create(site.service("holder")).await;
    ns.gets("holder", ["192.0.2.1"]).await;
    ns.create(site.service("a")).await;
    let theirs = json!({
        "type": "example.org/Ready", "status": "True", "reason": "Fine", "message": "all is well",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    ns.apply_status("a", "somebody-else", json!({"conditions": [theirs]}))
        .await;
    let has_theirs = |service: &k8s_openapi::api::core::v1::Service| {
        let conditions = service
            .status
            .clone()
            .unwrap_or_default()
            .conditions
            .unwrap_or_default();
        conditions
            .iter()
            .any(|c| serde_json::to_value(c).unwrap() == theirs)
    };
    ns.is_pending("a", "POOL_EXHAUSTED").await;
    assert!(has_theirs(&ns.get("a").await));
    ns.delete("holder").await;
    let service = ns.gets("a", ["192.0.2.1"]).await;
    assert!(has_theirs(&service));
    ns.edit("a", json!({"spec": {"type": "ClusterIP"}})).await;
    let service = ns
        .sees("our condition is gone", "a", |service| {
            condition(service).is_none()
        })
        .await;
    assert!(has_theirs(&service));
}

#[tokio::test]
async fn an_edit_that_changes_nothing_for_us_costs_no_write() {
    let (ns, site) = served().await;
    ns.was_written("a", 1).await;
    ns.annotate("a", "example.org/colour", Some("blue")).await;
    ns.edit(
        "a",
        json!({"spec": {"ports": [{"port": 443}], "selector": {"app": "a"}}}),
    )
    .await;
    ns.create(site.service("b")).await;
    ns.gets("b", ["192.0.2.2"]).await;
    ns.was_written("a", 1).await;
}

#[tokio::test]
async fn a_condition_changes_its_transition_time_only_with_its_status() {
    let (ns, _site) = served().await;
    let before = condition(&ns.get("a").await).unwrap();
    ns.annotate("a", "lb-allocator.io/ips", Some("192.0.2.2"))
        .await;
    ns.gets("a", ["192.0.2.2"]).await;
    let after = condition(&ns.get("a").await).unwrap();
    assert_eq!(
        (after.type_.as_str(), after.status.as_str()),
        (CONDITION, "True")
    );
    assert_eq!(after.last_transition_time, before.last_transition_time);
    assert_eq!(addresses(&ns.get("a").await), ["192.0.2.2"]);
}

#[tokio::test]
async fn a_status_is_not_written_to_a_service_that_changed_since_it_was_looked_at() {
    // The workers wait for the allocator: other tests' Services may not keep them busy.
    let control_plane = ControlPlane::start("changed").await.unwrap();
    let ns = control_plane.namespace().await;
    let mut site = Site::start(&control_plane, format!("{ns}:192.0.2.1")).await;
    site.allocator.process().stop().await;
    ns.create(site.service("b")).await;
    // It is refused without the allocator, and after its turn "b" had its own.
    ns.create(site.service("last").ips("nonsense")).await;
    ns.is_pending("last", "INVALID_REQUEST").await;
    ns.annotate("b", "example.org/x", Some("y")).await;
    site.allocator.process().signal(Signal::CONT);
    ns.gets("b", ["192.0.2.1"]).await;
    let writes = ns.was_written("b", 2).await;
    let codes: Vec<_> = writes.iter().map(|write| write.code).collect();
    assert_eq!(codes, [409, 200]);
    ns.was_told("b", ["AddressAssigned"]).await;
}
