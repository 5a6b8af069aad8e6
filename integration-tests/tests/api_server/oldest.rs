//! The API server of the oldest Kubernetes that is supported. It is older than `ipMode`,
//! and stores a status without it.

use integration_tests::{
    control_plane::ControlPlane,
    namespace::{Namespace, condition},
    readme,
    site::Site,
};
use serde_json::json;

async fn served() -> (Namespace, Site) {
    let control_plane = ControlPlane::oldest().await;
    let ns = control_plane.namespace().await;
    let pool = format!("{ns}:192.0.2.1 {ns}:192.0.2.2");
    let site = Site::start(control_plane, pool).await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    (ns, site)
}

#[tokio::test]
async fn the_oldest_api_server_stores_a_service_s_address_condition_and_event() {
    let (ns, _site) = served().await;
    let service = ns.has_condition("a", "True", "Satisfied").await;
    assert_eq!(
        serde_json::to_value(service.status.unwrap().load_balancer).unwrap(),
        json!({"ingress": [{"ip": "192.0.2.1"}]}),
        "it is old enough to drop ipMode"
    );
    ns.was_told("a", ["AddressAssigned"]).await;
}

#[tokio::test]
async fn what_the_oldest_api_server_dropped_is_not_written_again_at_rest() {
    let (ns, mut site) = served().await;
    ns.create(site.service("waits").ips("203.0.113.1")).await;
    ns.is_pending("waits", "ADDRESS_NOT_IN_POOL").await;
    for round in 0..4 {
        match round % 3 {
            // Lists and tells the allocator all that there is.
            0 => {
                site.watcher.kill();
                site.watcher.start_again().await;
            }
            1 => {
                site.allocator.kill();
                site.allocator.start_again().await;
            }
            _ => {
                for name in ["a", "waits"] {
                    ns.annotate(name, "example.org/colour", Some("blue")).await;
                }
            }
        }
        // Once a fresh one is served, the others were looked at.
        let fresh = format!("fresh-{round}");
        ns.create(site.service(&fresh)).await;
        ns.gets(&fresh, ["192.0.2.2"]).await;
        ns.delete(&fresh).await;
        // A watcher that is killed before it sees the deletion leaves the address to its grace.
        site.allocator.holds(&[("a", "192.0.2.1")]).await;
        for name in ["a", "waits"] {
            ns.was_written(name, 1).await;
        }
    }
}

#[tokio::test]
async fn a_service_that_is_gone_from_the_oldest_api_server_gives_its_address_back() {
    let (ns, site) = served().await;
    ns.delete("a").await;
    site.allocator.holds(&[]).await;
    ns.create(site.service("b")).await;
    ns.gets_any("b").await;
    ns.edit(
        "b",
        json!({"spec": {"type": "ClusterIP", "loadBalancerClass": null,
            "allocateLoadBalancerNodePorts": null}}),
    )
    .await;
    ns.sees("its condition goes", "b", |service| {
        condition(service).is_none()
    })
    .await;
    ns.was_told("b", ["AddressAssigned", "AddressReleased"])
        .await;
}

#[tokio::test]
async fn the_versions_that_are_supported_are_those_that_the_tests_run() {
    let mut minors = Vec::new();
    for control_plane in [ControlPlane::oldest().await, ControlPlane::shared().await] {
        let version = control_plane.client().await.apiserver_version().await;
        minors.push(version.unwrap().minor);
    }
    let supported = format!("It needs Kubernetes 1.{} to 1.{};", minors[0], minors[1]);
    assert!(readme::text().contains(&supported), "{supported}");
}
