//! Another controller writes the same list: it is left alone, and people are told. A list
//! that was ours, or of a class of ours, is taken back a few times before.

use integration_tests::{
    allocator::{Allocator, Options as AllocatorOptions},
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    namespace::{Namespace, condition},
    rpc::acquire,
    service::service,
    site::Site,
    watcher::{Options, Watcher},
};
use serde_json::{Value, json};

fn ingress(address: &str) -> Value {
    json!({"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}})
}

fn cleared() -> Value {
    json!({"loadBalancer": {"ingress": null}})
}

async fn holders(allocator: &Allocator) -> Vec<String> {
    let allocations = allocator.allocations().await;
    let key = |held: lb_proto::v1::Allocation| held.service.unwrap_or_default().name;
    allocations.into_iter().map(key).collect()
}

fn ours(ns: &Namespace, name: &str) -> usize {
    let writes = ns.status_writes(name);
    writes
        .iter()
        .filter(|write| write.is_by("lb-watcher"))
        .count()
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
    ns.has_condition("foreign", "False", "STATUS_CONFLICT")
        .await;
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

#[tokio::test]
async fn who_writes_a_list_of_our_class_again_and_again_gets_it_after_three_put_backs() {
    let (ns, site) = Site::of("192.0.2.1 192.0.2.2").await;
    for (name, address, theirs) in [
        ("edited", "192.0.2.1", ingress("203.0.113.7")),
        ("emptied", "192.0.2.2", cleared()),
    ] {
        ns.create(site.service(name)).await;
        for _ in 0..3 {
            ns.gets(name, [address]).await;
            ns.edit_status(name, theirs.clone()).await;
        }
        ns.gets(name, [address]).await;
        ns.edit_status(name, theirs.clone()).await;
        ns.has_condition(name, "False", "STATUS_CONFLICT").await;
        let told = ns
            .was_told(name, ["AddressAssigned", "AllocationFailed"])
            .await;
        let note = &told[1].note;
        assert!(note.contains("3 times in 10 minutes"), "{note}");
        // Its first write, three put-backs, and the condition that says so.
        assert_eq!(ours(&ns, name), 5, "{:?}", ns.status_writes(name));
    }
    let told = ns.told("edited").await;
    assert!(told[1].note.contains("kubectl-edit"), "{told:?}");
    let name = "lb_watcher_services_not_written";
    let admin = site.watcher.admin();
    admin
        .sees(name, &[("cause", "conflict")], |count| count == 2.0)
        .await;

    // However often they write, the list is theirs now, and the address stays its own.
    for number in 0..20 {
        let address = format!("203.0.113.{number}");
        ns.edit_status("edited", ingress(&address)).await;
    }
    ns.edit_status("emptied", json!({"conditions": null})).await;
    ns.has_condition("emptied", "False", "STATUS_CONFLICT")
        .await;
    ns.create(site.service("fence")).await;
    ns.is_pending("fence", "POOL_EXHAUSTED").await;
    ns.gets("edited", ["203.0.113.19"]).await;
    ns.gets("emptied", []).await;
    assert_eq!(ours(&ns, "edited"), 5);
    assert_eq!(holders(&site.allocator).await, ["edited", "emptied"]);
}

#[tokio::test]
async fn a_service_that_another_controller_serves_takes_no_address_of_the_pool() {
    let control_plane = ControlPlane::start("served-by-others").await.unwrap();
    let ns = control_plane.namespace().await;
    for number in 0..5 {
        let name = format!("foreign-{number}");
        ns.create(service(&name)).await;
        let nodes = json!([{"ip": "203.0.113.7", "ipMode": "VIP"}, {"ip": "203.0.113.8"}]);
        ns.apply_status(
            &name,
            "servicelb",
            json!({"loadBalancer": {"ingress": nodes}}),
        )
        .await;
    }
    let allocator = Allocator::start(AllocatorOptions::ip_list(format!("{ns}:192.0.2.1"))).await;
    let _watcher = Watcher::start(&control_plane, &allocator.url(), Options::cluster("one")).await;
    ns.has_condition("foreign-0", "False", "STATUS_CONFLICT")
        .await;
    ns.create(service("ours")).await;
    ns.gets("ours", ["192.0.2.1"]).await;

    // One that waits, and is served by the other one meanwhile, waits no more.
    ns.create(service("waits")).await;
    ns.is_pending("waits", "POOL_EXHAUSTED").await;
    ns.apply_status("waits", "servicelb", ingress("203.0.113.7"))
        .await;
    ns.has_condition("waits", "False", "STATUS_CONFLICT").await;
    ns.delete("ours").await;
    ns.create(service("next")).await;
    ns.gets("next", ["192.0.2.1"]).await;
    assert_eq!(holders(&allocator).await, ["next"]);
    for name in ["foreign-0", "foreign-4", "waits"] {
        was_warned(&ns, name).await;
        let told = ns.told(name).await;
        assert!(told.last().unwrap().note.contains("servicelb"), "{told:?}");
    }
}

#[tokio::test]
async fn an_address_of_a_pool_that_another_controller_wrote_becomes_ours_with_its_service() {
    let control_plane = ControlPlane::start("migrant").await.unwrap();
    let ns = control_plane.namespace().await;
    for (name, address) in [("migrant", "192.0.2.3"), ("taken", "192.0.2.1")] {
        ns.create(service(name)).await;
        ns.apply_status(name, "controller", ingress(address)).await;
    }
    let list = format!("{ns}:192.0.2.1 {ns}:192.0.2.2 {ns}:192.0.2.3");
    let allocator = Allocator::start(AllocatorOptions::ip_list(list)).await;
    let mut other = acquire(&ns.to_string(), "elsewhere");
    other.service.as_mut().unwrap().cluster = "two".to_owned();
    other.wish.as_mut().unwrap().addresses = vec!["192.0.2.1".to_owned()];
    allocator.client().await.acquire(other).await.unwrap();
    let _watcher = Watcher::start(&control_plane, &allocator.url(), Options::cluster("one")).await;
    ns.has_condition("migrant", "True", "Satisfied").await;
    ns.gets("migrant", ["192.0.2.3"]).await;
    assert_eq!(ours(&ns, "migrant"), 1, "the list was right");
    ns.was_told("migrant", ["AddressAssigned"]).await;
    let not_ours = ns
        .sees("a condition", "taken", |service| {
            condition(service).is_some()
        })
        .await;
    assert_eq!(condition(&not_ours).unwrap().status, "False");
    ns.gets("taken", ["192.0.2.1"]).await;

    // From now on it is a Service like any other.
    ns.annotate("migrant", "lb-allocator.io/ips", Some("192.0.2.2"))
        .await;
    ns.gets("migrant", ["192.0.2.2"]).await;
}

#[tokio::test]
async fn an_empty_list_is_nobodys_though_its_last_writer_is_still_on_record() {
    let control_plane = ControlPlane::start("empty-list").await.unwrap();
    let ns = control_plane.namespace().await;
    ns.create(service("a")).await;
    ns.apply_status("a", "uninstalled", ingress("203.0.113.7"))
        .await;
    ns.edit(
        "a",
        json!({"spec": {"type": "ClusterIP", "allocateLoadBalancerNodePorts": null}}),
    )
    .await;
    let service = ns
        .edit("a", json!({"spec": {"type": "LoadBalancer"}}))
        .await;
    let record = format!("{:?}", service.metadata.managed_fields);
    assert!(record.contains("uninstalled"), "{record}");
    let allocator = Allocator::start(AllocatorOptions::ip_list(format!("{ns}:192.0.2.1"))).await;
    let _watcher = Watcher::start(&control_plane, &allocator.url(), Options::cluster("one")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.was_told("a", ["AddressAssigned"]).await;
}

#[tokio::test]
async fn a_host_name_beside_our_address_stays() {
    let (ns, site) = Site::of("192.0.2.1 192.0.2.2").await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    let both = json!([{"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "a.example.org"}]);
    ns.edit_status("a", json!({"loadBalancer": {"ingress": both}}))
        .await;
    ns.annotate("a", "lb-allocator.io/ips", Some("192.0.2.2"))
        .await;
    let service = ns.gets("a", ["192.0.2.2"]).await;
    let list = service
        .status
        .unwrap()
        .load_balancer
        .unwrap()
        .ingress
        .unwrap();
    assert_eq!(list[1].hostname.as_deref(), Some("a.example.org"));
    assert_eq!(list.len(), 2);
}
