//! Another controller writes the same list: it is left alone, and people are
//! told. Only where the class is explicitly ours is the status taken back.

use integration_tests::{
    allocator::{Allocator, Options as AllocatorOptions},
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    namespace::Namespace,
    rpc::acquire,
    service::service,
    watcher::{Options, Watcher},
};
use serde_json::{Value, json};

fn ingress(address: &str) -> Value {
    json!({"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}})
}

async fn was_warned(ns: &Namespace, name: &str) {
    eventually(DEADLINE, format!("a warning about {name}"), async || {
        let told = ns.told(name).await;
        if told.iter().any(|told| told.kind == "Warning") {
            Ok(())
        } else {
            Err(format!("{told:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_list_that_another_controller_wrote_is_left_alone() {
    let control_plane = ControlPlane::start("conflicts").await.unwrap();
    let ns = control_plane.namespace().await;
    ns.create(service("foreign")).await;
    ns.apply_status("foreign", "another-controller", ingress("203.0.113.7"))
        .await;

    let list = format!("{ns}:192.0.2.1 {ns}:192.0.2.2");
    let allocator = Allocator::start(AllocatorOptions::ip_list(list)).await;
    let _watcher = Watcher::start(&control_plane, &allocator.url(), Options::cluster("one")).await;
    was_warned(&ns, "foreign").await;
    ns.create(service("ours")).await;
    ns.gets_any("ours").await;
    ns.gets("foreign", ["203.0.113.7"]).await;
    let told = ns.told("foreign").await;
    assert_eq!(told.len(), 1, "told once");
    let note = &told[0].note;
    for words in ["STATUS_CONFLICT", "another-controller", "loadBalancerClass"] {
        assert!(note.contains(words), "{words}: {note}");
    }

    // It gives up: then the Service is ours.
    ns.apply_status("foreign", "another-controller", json!({}))
        .await;
    let address = ns.gets_any("foreign").await;
    assert!(address.starts_with("192.0.2."), "{address}");
}

#[tokio::test]
async fn a_service_that_gets_nothing_and_shows_the_list_of_another_controller_waits() {
    let control_plane = ControlPlane::start("foreign-waits").await.unwrap();
    let ns = control_plane.namespace().await;
    ns.create(service("foreign")).await;
    ns.apply_status("foreign", "another-controller", ingress("203.0.113.7"))
        .await;
    let allocator = Allocator::start(AllocatorOptions::ip_list(format!("{ns}:192.0.2.1"))).await;
    let taken = acquire(&ns.to_string(), "elsewhere");
    allocator.client().await.acquire(taken).await.unwrap();
    let watcher = Watcher::start(&control_plane, &allocator.url(), Options::cluster("one")).await;
    ns.has_condition("foreign", "False", "POOL_EXHAUSTED").await;
    for number in 0..5 {
        let name = format!("beside-{number}");
        ns.create(service(&name)).await;
        ns.is_pending(&name, "POOL_EXHAUSTED").await;
    }
    ns.gets("foreign", ["203.0.113.7"]).await;
    let of = [("method", "Acquire")];
    let name = "lb_watcher_allocator_rpcs_total";
    let asked = watcher.admin().metric(name, &of).await.unwrap();
    assert!(asked <= 12.0, "asked {asked} times for six Services");
}

#[tokio::test]
async fn a_hand_edit_of_a_service_without_a_class_is_written_back_as_well() {
    let control_plane = ControlPlane::start("hand-edit").await.unwrap();
    let ns = control_plane.namespace().await;
    let list = format!("{ns}:192.0.2.1 {ns}:192.0.2.2");
    let allocator = Allocator::start(AllocatorOptions::ip_list(list)).await;
    let _watcher = Watcher::start(&control_plane, &allocator.url(), Options::cluster("one")).await;
    ns.create(service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.edit_status("a", json!({"loadBalancer": {"ingress": null}}))
        .await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.edit_status("a", ingress("192.0.2.2")).await;
    ns.gets("a", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn a_list_of_a_service_that_names_our_class_is_taken_back() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let class = integration_tests::site::random_class();
    ns.create(service("a").class(&class)).await;
    ns.apply_status("a", "another-controller", ingress("203.0.113.7"))
        .await;
    let allocator = Allocator::start(AllocatorOptions::ip_list(format!("{ns}:192.0.2.1"))).await;
    let options = Options::cluster("one").class(&class);
    let _watcher = Watcher::start(control_plane, &allocator.url(), options).await;
    ns.gets("a", ["192.0.2.1"]).await;
}
