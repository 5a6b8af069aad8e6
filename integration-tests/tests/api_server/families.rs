//! IPv6 and dual stack from `IP_LIST`.

use integration_tests::{
    control_plane::ControlPlane,
    namespace::{addresses, condition},
    site::Site,
};
use serde_json::json;

#[tokio::test]
async fn an_ipv6_service_gets_an_ipv6_address_in_canonical_text() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let site = Site::start(
        control_plane,
        format!("{ns}:192.0.2.1 {ns}:[2001:0DB8:0::0001]"),
    )
    .await;
    ns.create(site.service("six").families("SingleStack", &["IPv6"]))
        .await;
    ns.gets("six", ["2001:db8::1"]).await;
    ns.create(site.service("more").families("SingleStack", &["IPv6"]))
        .await;
    ns.is_pending("more", "POOL_EXHAUSTED").await;
}

#[tokio::test]
async fn a_dual_stack_service_gets_one_address_per_family_in_the_order_of_its_families() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let list = format!("{ns}:192.0.2.1 {ns}:192.0.2.2 {ns}:2001:db8::1 {ns}:2001:db8::2");
    let site = Site::start(control_plane, list).await;
    ns.create(
        site.service("four-first")
            .families("RequireDualStack", &["IPv4", "IPv6"]),
    )
    .await;
    ns.gets("four-first", ["192.0.2.1", "2001:db8::1"]).await;
    ns.create(
        site.service("six-first")
            .families("RequireDualStack", &["IPv6", "IPv4"]),
    )
    .await;
    ns.gets("six-first", ["2001:db8::2", "192.0.2.2"]).await;
}

#[tokio::test]
async fn a_service_that_requires_both_families_gets_both_or_none() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let list = format!("{ns}:192.0.2.1 {ns}:192.0.2.2 {ns}:2001:db8::1");
    let site = Site::start(control_plane, list).await;
    let dual = |name| {
        site.service(name)
            .families("RequireDualStack", &["IPv4", "IPv6"])
    };
    ns.create(dual("first")).await;
    ns.gets("first", ["192.0.2.1", "2001:db8::1"]).await;
    ns.create(dual("second")).await;
    ns.is_pending("second", "POOL_EXHAUSTED").await;
    assert_eq!(
        site.allocator.allocations().await.len(),
        2,
        "nothing leaked"
    );
    ns.delete("first").await;
    ns.sees("the second gets both", "second", |service| {
        addresses(service).len() == 2
    })
    .await;
}

#[tokio::test]
async fn a_service_that_prefers_both_families_gets_the_second_when_it_becomes_possible() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let list = format!("{ns}:192.0.2.1 {ns}:192.0.2.2 {ns}:2001:db8::1");
    let site = Site::start(control_plane, list).await;
    let dual = |name| {
        site.service(name)
            .families("PreferDualStack", &["IPv4", "IPv6"])
    };
    ns.create(dual("first")).await;
    ns.gets("first", ["192.0.2.1", "2001:db8::1"]).await;
    ns.create(dual("second")).await;
    let service = ns.gets("second", ["192.0.2.2"]).await;
    assert_eq!(condition(&service).unwrap().status, "True", "one is fine");
    ns.delete("first").await;
    ns.gets("second", ["192.0.2.2", "2001:db8::1"]).await;
}

#[tokio::test]
async fn a_family_added_or_removed_in_place_changes_only_the_difference() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let list = format!("{ns}:192.0.2.1 {ns}:192.0.2.2 {ns}:2001:db8::1");
    let site = Site::start(control_plane, list).await;
    ns.create(site.service("a").families("SingleStack", &["IPv4"]))
        .await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.edit(
        "a",
        json!({"spec": {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]}}),
    )
    .await;
    ns.gets("a", ["192.0.2.1", "2001:db8::1"]).await;
    let cluster_ip = ns.get("a").await.spec.unwrap().cluster_ip;
    ns.edit(
        "a",
        json!({"spec": {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIPs": [cluster_ip]}}),
    )
    .await;
    ns.gets("a", ["192.0.2.1"]).await;
    assert_eq!(site.allocator.allocations().await.len(), 1);
}

#[tokio::test]
async fn a_dual_stack_service_gets_the_addresses_it_asked_for() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let list = format!("{ns}:192.0.2.1 {ns}:192.0.2.2 {ns}:2001:db8::1 {ns}:2001:db8::2");
    let site = Site::start(control_plane, list).await;
    let dual = site
        .service("a")
        .families("RequireDualStack", &["IPv4", "IPv6"]);
    ns.create(dual.ips("2001:db8::2, 192.0.2.2")).await;
    ns.gets("a", ["192.0.2.2", "2001:db8::2"]).await;
}
