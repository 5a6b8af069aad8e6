//! What the original controller did with `IP_LIST`.

use integration_tests::{
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    namespace::{addresses, condition},
    site::Site,
};

#[tokio::test]
async fn a_service_gets_the_first_free_address_of_its_namespace() {
    let (ns, site) = Site::of("192.0.2.2 192.0.2.1").await;
    ns.create(site.service("first")).await;
    let service = ns.gets("first", ["192.0.2.1"]).await;
    let condition = condition(&service).unwrap();
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_str()),
        ("True", "Satisfied")
    );
    ns.create(site.service("second")).await;
    ns.gets("second", ["192.0.2.2"]).await;
}

#[tokio::test]
async fn what_was_there_before_the_watcher_is_served_as_well() {
    let (ns, mut site) = Site::of("192.0.2.1 192.0.2.2").await;
    site.watcher.kill();
    ns.create(site.service("early")).await;
    site.watcher.start_again().await;
    ns.gets("early", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn the_address_of_a_deleted_service_goes_to_the_one_that_waits_without_an_edit() {
    let (ns, site) = Site::of("192.0.2.1").await;
    ns.create(site.service("holder")).await;
    ns.gets("holder", ["192.0.2.1"]).await;
    ns.create(site.service("waiting")).await;
    let condition = ns.is_pending("waiting", "POOL_EXHAUSTED").await;
    assert!(!condition.message.is_empty());

    ns.delete("holder").await;
    ns.gets("waiting", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn as_many_services_as_addresses_are_served_and_no_address_is_given_twice() {
    let list: Vec<_> = (1..=10).map(|host| format!("192.0.2.{host}")).collect();
    let (ns, site) = Site::of(&list.join(" ")).await;
    for number in 0..15 {
        ns.create(site.service(&format!("s{number}"))).await;
    }
    let given = eventually(
        DEADLINE,
        "ten of fifteen are served and five are told why not",
        async || {
            let (mut given, mut refused) = (Vec::new(), 0);
            for number in 0..15 {
                let service = ns.get(&format!("s{number}")).await;
                given.extend(addresses(&service));
                refused +=
                    usize::from(condition(&service).is_some_and(|c| c.reason == "POOL_EXHAUSTED"));
            }
            if (given.len(), refused) == (10, 5) {
                Ok(given)
            } else {
                Err(format!("{given:?}, {refused} refused"))
            }
        },
    )
    .await;
    let mut distinct = given.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 10, "{given:?}");
}

#[tokio::test]
async fn namespaces_are_kept_apart() {
    let control_plane = ControlPlane::shared().await;
    let (ns, other) = (
        control_plane.namespace().await,
        control_plane.namespace().await,
    );
    let site = Site::start(control_plane, format!("{ns}:192.0.2.1 {other}:192.0.2.2")).await;
    other.create(site.service("a")).await;
    other.gets("a", ["192.0.2.2"]).await;
    other.create(site.service("b")).await;
    other.is_pending("b", "POOL_EXHAUSTED").await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn a_namespace_without_a_list_gets_nothing_and_is_told_so() {
    let control_plane = ControlPlane::shared().await;
    let (ns, other) = (
        control_plane.namespace().await,
        control_plane.namespace().await,
    );
    let site = Site::start(control_plane, format!("{ns}:192.0.2.1")).await;
    other.create(site.service("a")).await;
    let condition = other.is_pending("a", "NO_POOL").await;
    assert!(
        condition.message.contains(&other.to_string()),
        "{}",
        condition.message
    );
}

#[tokio::test]
async fn a_service_deleted_and_created_again_gets_its_address_back() {
    let list: Vec<_> = (1..=5).map(|host| format!("192.0.2.{host}")).collect();
    let (ns, site) = Site::of(&list.join(" ")).await;
    for (name, address) in [("a", "192.0.2.1"), ("b", "192.0.2.2"), ("c", "192.0.2.3")] {
        ns.create(site.service(name)).await;
        ns.gets(name, [address]).await;
    }
    for name in ["a", "b"] {
        ns.delete(name).await;
    }
    site.allocator.holds(&[("c", "192.0.2.3")]).await;
    ns.create(site.service("b")).await;
    ns.gets("b", ["192.0.2.2"]).await;
    ns.create(site.service("d")).await;
    ns.gets("d", ["192.0.2.4"]).await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn a_service_replaced_at_once_keeps_its_address() {
    let (ns, site) = Site::of("192.0.2.1 192.0.2.2").await;
    ns.create(site.service("a")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    for _ in 0..5 {
        ns.delete("a").await;
        ns.create(site.service("a")).await;
        ns.gets("a", ["192.0.2.1"]).await;
    }
    assert_eq!(site.allocator.allocations().await.len(), 1);
}

#[tokio::test]
async fn the_allocator_is_told_what_the_routes_table_shows() {
    let (ns, site) = Site::of("192.0.2.1").await;
    let created = ns.create(site.service("front")).await;
    ns.gets("front", ["192.0.2.1"]).await;
    let cluster_ip = created.spec.unwrap().cluster_ip.unwrap();
    let allocation = site.allocator.allocations().await.remove(0);
    assert_eq!(allocation.cluster_ip, cluster_ip);
    assert_eq!(allocation.uid, created.metadata.uid.unwrap());
    eventually(DEADLINE, "the table shows it", async || {
        let table = std::fs::read_to_string(site.allocator.routes_file()).unwrap();
        if table.contains(&cluster_ip) && table.contains("front") {
            Ok(())
        } else {
            Err(table)
        }
    })
    .await;
}
