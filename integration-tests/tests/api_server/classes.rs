//! Which classes a watcher serves. Watchers without a class see every
//! Service that names none, so these tests have an API server to themselves.

use integration_tests::{
    allocator::{Allocator, Options as AllocatorOptions},
    control_plane::ControlPlane,
    namespace::addresses,
    service::service,
    watcher::{Options, Watcher},
};

const OURS: &str = "example.org/ours";
const THEIRS: &str = "example.org/theirs";

#[tokio::test]
async fn the_class_rule_decides_who_is_served() {
    let control_plane = ControlPlane::start("classes").await.unwrap();
    for (options, served) in [
        (Options::cluster("one"), &["none"][..]),
        (Options::cluster("one").class(OURS), &["ours"]),
        (
            Options::cluster("one").class(OURS).handle_unclassed(),
            &["none", "ours"],
        ),
    ] {
        let ns = control_plane.namespace().await;
        let list: Vec<_> = (1..=9).map(|host| format!("{ns}:192.0.2.{host}")).collect();
        let allocator = Allocator::start(AllocatorOptions::ip_list(list.join(" "))).await;
        let _watcher = Watcher::start(&control_plane, &allocator.url(), options.clone()).await;
        ns.create(service("theirs").class(THEIRS)).await;
        ns.create(service("none")).await;
        ns.create(service("ours").class(OURS)).await;
        ns.create(service("internal").kind("ClusterIP")).await;
        for name in served {
            ns.gets_any(name).await;
        }
        // Served in turn: once the last one is, the others were looked at.
        let last = if served.contains(&"ours") {
            service("last").class(OURS)
        } else {
            service("last")
        };
        ns.create(last).await;
        ns.gets_any("last").await;
        for name in ["theirs", "none", "ours", "internal"] {
            let is_served = served.contains(&name);
            assert_eq!(
                !addresses(&ns.get(name).await).is_empty(),
                is_served,
                "{options:?}: {name}"
            );
            assert_eq!(
                !ns.status_writes(name).is_empty(),
                is_served,
                "{options:?}: {name}"
            );
        }
        for name in ["theirs", "none", "ours", "last"] {
            ns.delete(name).await;
        }
    }
}
