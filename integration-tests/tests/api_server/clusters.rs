//! Two clusters, one allocator: the same address never goes to both.

use integration_tests::{
    allocator::{Allocator, Options as AllocatorOptions},
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    namespace::random_name,
    service::service,
    watcher::{Options, Watcher},
};

#[tokio::test]
async fn two_clusters_share_a_pool_and_hand_addresses_over() {
    let (first, second) = tokio::join!(ControlPlane::start("first"), ControlPlane::start("second"));
    let (first, second) = (first.unwrap(), second.unwrap());
    let name = random_name("shared");
    let (ns_first, ns_second) = (
        first.namespace_called(&name).await,
        second.namespace_called(&name).await,
    );
    let list: Vec<_> = (1..=10)
        .map(|host| format!("{name}:192.0.2.{host}"))
        .collect();
    let allocator = Allocator::start(AllocatorOptions::ip_list(list.join(" "))).await;
    let _watchers = [
        Watcher::start(&first, &allocator.url(), Options::cluster("first")).await,
        Watcher::start(&second, &allocator.url(), Options::cluster("second")).await,
    ];

    for number in 0..10 {
        let service = service(&format!("s{number}"));
        tokio::join!(ns_first.create(service.clone()), ns_second.create(service));
    }
    let given = eventually(DEADLINE, "ten of twenty are served", async || {
        let mut given = Vec::new();
        for ns in [&ns_first, &ns_second] {
            for number in 0..10 {
                let service = ns.get(&format!("s{number}")).await;
                given.extend(integration_tests::namespace::addresses(&service));
            }
        }
        if given.len() == 10 {
            Ok(given)
        } else {
            Err(format!("{given:?}"))
        }
    })
    .await;
    let mut distinct = given.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 10, "{given:?}");

    for number in 0..10 {
        let ns = &ns_first;
        ns.delete(&format!("s{number}")).await;
    }
    for number in 0..10 {
        ns_second.gets_any(&format!("s{number}")).await;
    }
    let allocations = allocator.allocations().await;
    assert_eq!(allocations.len(), 10);
    assert!(
        allocations
            .iter()
            .all(|a| a.service.as_ref().unwrap().cluster == "second")
    );
    let routes = std::fs::read_to_string(allocator.routes_file()).unwrap();
    assert!(!routes.is_empty());
}
