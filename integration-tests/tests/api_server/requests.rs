//! Addresses that the user asked for.

use integration_tests::{
    control_plane::ControlPlane,
    namespace::{Namespace, condition},
    service::ServiceBuilder,
    site::Site,
};
use serde_json::json;

const IPS: &str = "lb-allocator.io/ips";

/// Both ways to ask for one address.
fn ways(service: impl Fn(&str) -> ServiceBuilder, address: &str) -> [ServiceBuilder; 2] {
    [
        service("by-annotation").ips(address),
        service("by-field").load_balancer_ip(address),
    ]
}

async fn start(addresses: u8) -> (Namespace, Site) {
    let list: Vec<_> = (1..=addresses)
        .map(|host| format!("192.0.2.{host}"))
        .collect();
    Site::of(&list.join(" ")).await
}

#[tokio::test]
async fn a_free_address_that_was_asked_for_is_granted() {
    let (ns, site) = start(9).await;
    ns.create(site.service("annotated").ips("192.0.2.7")).await;
    ns.gets("annotated", ["192.0.2.7"]).await;
    ns.create(site.service("field").load_balancer_ip("192.0.2.5"))
        .await;
    ns.gets("field", ["192.0.2.5"]).await;
    ns.create(
        site.service("both")
            .ips("192.0.2.3")
            .load_balancer_ip("192.0.2.3"),
    )
    .await;
    ns.gets("both", ["192.0.2.3"]).await;
}

#[tokio::test]
async fn a_taken_address_is_taken_from_nobody_and_granted_when_it_is_free() {
    let (ns, site) = start(3).await;
    ns.create(site.service("holder")).await;
    ns.gets("holder", ["192.0.2.1"]).await;
    ns.create(site.service("asking").ips("192.0.2.1")).await;
    let condition = ns.is_pending("asking", "ADDRESS_IN_USE").await;
    assert!(
        condition.message.contains("192.0.2.1"),
        "{}",
        condition.message
    );
    ns.gets("holder", ["192.0.2.1"]).await;
    ns.delete("holder").await;
    ns.gets("asking", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn an_address_outside_the_list_is_refused_and_nothing_else_is_given_instead() {
    let (ns, site) = start(3).await;
    for service in ways(|name| site.service(name), "203.0.113.9") {
        let name = ns.create(service).await.metadata.name.unwrap();
        let condition = ns.is_pending(&name, "ADDRESS_NOT_IN_POOL").await;
        assert!(
            condition.message.contains("203.0.113.9"),
            "{}",
            condition.message
        );
    }
    assert!(site.allocator.allocations().await.is_empty());
}

#[tokio::test]
async fn an_address_of_another_namespace_is_refused() {
    let control_plane = ControlPlane::shared().await;
    let (ns, other) = (
        control_plane.namespace().await,
        control_plane.namespace().await,
    );
    let site = Site::start(control_plane, format!("{ns}:192.0.2.1 {other}:192.0.2.2")).await;
    ns.create(site.service("a").ips("192.0.2.2")).await;
    ns.is_pending("a", "POOL_NOT_ALLOWED").await;
    other.create(site.service("a")).await;
    other.gets("a", ["192.0.2.2"]).await;
}

#[tokio::test]
async fn requests_that_contradict_themselves_or_cannot_be_read_are_refused_and_block_nobody() {
    let (ns, site) = start(3).await;
    let rows = [
        (
            "conflict",
            site.service("conflict")
                .ips("192.0.2.1")
                .load_balancer_ip("192.0.2.2"),
            "CONFLICTING_REQUEST",
        ),
        (
            "words",
            site.service("words").ips("the first one"),
            "INVALID_REQUEST",
        ),
        (
            "zeros",
            site.service("zeros").ips("192.0.2.001"),
            "INVALID_REQUEST",
        ),
        (
            "mask",
            site.service("mask").ips("192.0.2.1/32"),
            "INVALID_REQUEST",
        ),
        (
            "two",
            site.service("two").ips("192.0.2.1,192.0.2.2"),
            "INVALID_REQUEST",
        ),
        (
            "family",
            site.service("family").ips("2001:db8::1"),
            "INVALID_REQUEST",
        ),
    ];
    for (name, service, reason) in rows {
        ns.create(service).await;
        ns.is_pending(name, reason).await;
    }
    ns.create(site.service("good")).await;
    ns.gets("good", ["192.0.2.1"]).await;
    ns.annotate("words", IPS, Some(" 192.0.2.3 ")).await;
    ns.gets("words", ["192.0.2.3"]).await;
}

#[tokio::test]
async fn a_request_edited_on_a_live_service_moves_it() {
    let (ns, site) = start(3).await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.annotate("a", IPS, Some("192.0.2.3")).await;
    ns.gets("a", ["192.0.2.3"]).await;
    ns.edit(
        "a",
        json!({"metadata": {"annotations": {IPS: null}}, "spec": {"loadBalancerIP": "192.0.2.2"}}),
    )
    .await;
    ns.gets("a", ["192.0.2.2"]).await;
    assert_eq!(
        site.allocator.allocations().await.len(),
        1,
        "what it left is free"
    );
    ns.edit("a", json!({"spec": {"loadBalancerIP": null}}))
        .await;
    ns.create(site.service("b").ips("192.0.2.1")).await;
    ns.gets("b", ["192.0.2.1"]).await;
    ns.gets("a", ["192.0.2.2"]).await;
}

#[tokio::test]
async fn a_request_that_cannot_be_granted_leaves_a_live_service_its_address_and_says_why() {
    let (ns, site) = start(3).await;
    ns.create(site.service("other")).await;
    ns.gets("other", ["192.0.2.1"]).await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.2"]).await;
    for (request, reason) in [
        ("192.0.2.1", "ADDRESS_IN_USE"),
        ("203.0.113.9", "ADDRESS_NOT_IN_POOL"),
        ("nonsense", "INVALID_REQUEST"),
    ] {
        ns.annotate("a", IPS, Some(request)).await;
        ns.has_condition("a", "False", reason).await;
        ns.gets("a", ["192.0.2.2"]).await;
    }
    ns.annotate("a", IPS, Some("192.0.2.1")).await;
    ns.has_condition("a", "False", "ADDRESS_IN_USE").await;
    ns.delete("other").await;
    ns.gets("a", ["192.0.2.1"]).await;

    ns.annotate("a", IPS, Some("nonsense")).await;
    ns.has_condition("a", "False", "INVALID_REQUEST").await;
    ns.annotate("a", IPS, None).await;
    let service = ns.has_condition("a", "True", "Satisfied").await;
    assert_eq!(
        integration_tests::namespace::addresses(&service),
        ["192.0.2.1"]
    );
}

#[tokio::test]
async fn an_address_asked_for_in_another_spelling_is_the_same_address() {
    let list = "2001:db8::1 2001:db8::2 192.0.2.1 192.0.2.2";
    let (ns, site) = Site::of(list).await;
    let six = site
        .service("six")
        .families("SingleStack", &["IPv6"])
        .ips("2001:0DB8:0:0::0002");
    ns.create(six).await;
    let service = ns.gets("six", ["2001:db8::2"]).await;
    assert_eq!(condition(&service).unwrap().reason, "Satisfied");
    ns.create(site.service("mapped").ips("::ffff:192.0.2.2"))
        .await;
    ns.gets("mapped", ["192.0.2.2"]).await;
}
