//! IPv6 and dual stack from `IP_LIST`.

use integration_tests::{
    namespace::{addresses, condition},
    site::Site,
};
use serde_json::json;

#[tokio::test]
async fn an_ipv6_service_gets_an_ipv6_address_in_canonical_text() {
    let (ns, site) = Site::of("192.0.2.1 [2001:0DB8:0::0001]").await;
    ns.create(site.service("six").families("SingleStack", &["IPv6"]))
        .await;
    ns.gets("six", ["2001:db8::1"]).await;
    ns.create(site.service("more").families("SingleStack", &["IPv6"]))
        .await;
    ns.is_pending("more", "POOL_EXHAUSTED").await;
}

#[tokio::test]
async fn a_dual_stack_service_gets_one_address_per_family_in_the_order_of_its_families() {
    let list = "192.0.2.1 192.0.2.2 2001:db8::1 2001:db8::2";
    let (ns, site) = Site::of(list).await;
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
    let list = "192.0.2.1 192.0.2.2 2001:db8::1";
    let (ns, site) = Site::of(list).await;
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
    let list = "192.0.2.1 192.0.2.2 2001:db8::1";
    let (ns, site) = Site::of(list).await;
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
    let list = "192.0.2.1 192.0.2.2 2001:db8::1";
    let (ns, site) = Site::of(list).await;
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
    let list = "192.0.2.1 192.0.2.2 2001:db8::1 2001:db8::2";
    let (ns, site) = Site::of(list).await;
    let dual = site
        .service("a")
        .families("RequireDualStack", &["IPv4", "IPv6"]);
    ns.create(dual.ips("2001:db8::2, 192.0.2.2")).await;
    ns.gets("a", ["192.0.2.2", "2001:db8::2"]).await;
}

#[tokio::test]
async fn both_families_come_from_one_pool_if_one_has_both_else_from_the_best_for_each() {
    let pools = "pools:\n\
                 - {name: four, addresses: [192.0.2.4], priority: 1}\n\
                 - {name: six, addresses: ['2001:db8::6'], priority: 2}\n\
                 - {name: both, addresses: [192.0.2.46, '2001:db8::46'], priority: 3}\n";
    let (ns, site) = Site::of_pools(pools).await;
    let dual = |name| {
        site.service(name)
            .families("RequireDualStack", &["IPv4", "IPv6"])
    };
    ns.create(dual("first")).await;
    ns.gets("first", ["192.0.2.46", "2001:db8::46"]).await;
    ns.create(dual("second")).await;
    ns.gets("second", ["192.0.2.4", "2001:db8::6"]).await;
    ns.create(dual("third")).await;
    ns.is_pending("third", "POOL_EXHAUSTED").await;
}

#[tokio::test]
async fn a_service_that_prefers_both_families_keeps_its_first_whichever_it_is() {
    let pools = |four: &str| format!("pools: [{{name: p, addresses: ['2001:db8::/126'{four}]}}]");
    let (ns, site) = Site::of_pools(&pools("")).await;
    let dual = |name, families: &[&str]| site.service(name).families("PreferDualStack", families);
    ns.create(dual("four-first", &["IPv4", "IPv6"])).await;
    let service = ns.gets("four-first", ["2001:db8::"]).await;
    let message = condition(&service).unwrap().message;
    assert!(message.contains("not yet all"), "{message}");
    ns.create(dual("six-first", &["IPv6", "IPv4"])).await;
    ns.gets("six-first", ["2001:db8::1"]).await;
    site.allocator.write_config(&pools(", 192.0.2.0-192.0.2.1"));
    for (name, first) in [("four-first", "2001:db8::"), ("six-first", "2001:db8::1")] {
        let what = format!("{name} has both");
        let service = ns
            .sees(what, name, |service| addresses(service).len() == 2)
            .await;
        let at = usize::from(name == "four-first");
        assert_eq!(addresses(&service)[at], first, "the first stays");
    }
    ns.was_told("six-first", ["AddressAssigned", "AddressChanged"])
        .await;
}
