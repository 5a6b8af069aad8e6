//! etcd is restored from a backup: the API server is an earlier one, and its versions
//! begin again from there.

use std::time::Duration;

use integration_tests::{
    control_plane::ControlPlane, eventually::eventually, namespace::addresses, site::Site,
};
use kube::ResourceExt;

/// Within which it has to be noticed, on a busy machine too.
const NOTICED: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_api_server_that_was_restored_from_a_backup_is_listed_anew_within_a_minute() {
    let mut control_plane = ControlPlane::start("restored").await.unwrap();
    let ns = control_plane.namespace().await;
    let pool = format!("{ns}:192.0.2.1 {ns}:192.0.2.2 {ns}:192.0.2.3 {ns}:192.0.2.4");
    let site = Site::start(&control_plane, pool).await;
    ns.create(site.service("kept")).await;
    ns.gets("kept", ["192.0.2.1"]).await;
    control_plane.back_up().await.unwrap();

    let version = ns.get("kept").await.resource_version().unwrap();
    for name in ["later1", "later2"] {
        ns.create(site.service(name)).await;
        ns.gets_any(name).await;
    }
    // Far enough that nothing which comes soon after has a version that was seen.
    for number in 0..200 {
        ns.annotate("kept", "example.org/edit", Some(&number.to_string()))
            .await;
    }
    control_plane.restore().await.unwrap();
    assert_eq!(ns.get("kept").await.resource_version().unwrap(), version);

    ns.create(site.service("new")).await;
    eventually(NOTICED, "the new one is served", async || {
        let shown = addresses(&ns.get("new").await);
        if shown.is_empty() {
            Err("pending")
        } else {
            Ok(())
        }
    })
    .await;
    eventually(
        NOTICED,
        "what is not there any more is released",
        async || {
            let held = site.allocator.allocations().await;
            let names: Vec<_> = held
                .into_iter()
                .filter_map(|held| Some(held.service?.name))
                .collect();
            if names.len() == 2 && names.iter().all(|name| name == "kept" || name == "new") {
                Ok(())
            } else {
                Err(format!("{names:?}"))
            }
        },
    )
    .await;
    ns.gets("kept", ["192.0.2.1"]).await;
    ns.edit(
        "kept",
        serde_json::json!({"spec": {"type": "ClusterIP", "loadBalancerClass": null,
            "allocateLoadBalancerNodePorts": null}}),
    )
    .await;
    ns.sees("its condition goes", "kept", |service| {
        integration_tests::namespace::condition(service).is_none()
    })
    .await;
}
