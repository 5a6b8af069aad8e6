//! The annotation `pool`: only from there, or not at all.

use integration_tests::{
    namespace::{Namespace, addresses},
    site::Site,
};

const POOL: &str = "lb-allocator.io/pool";

async fn start() -> (Namespace, Site) {
    let pools = "pools:\n\
                 - {name: open, addresses: [192.0.2.0/28]}\n\
                 - {name: side, addresses: [192.0.2.32]}\n\
                 - {name: others, addresses: [192.0.2.48], namespaces: [of-others]}\n\
                 - {name: off, addresses: [192.0.2.64], disabled: true}\n";
    Site::of_pools(pools).await
}

#[tokio::test]
async fn a_pool_that_was_asked_for_is_the_only_one_and_there_is_no_fall_back() {
    let (ns, site) = start().await;
    ns.create(site.service("side").annotation(POOL, "side"))
        .await;
    ns.gets("side", ["192.0.2.32"]).await;
    for (name, pool, ips, reason) in [
        ("full", "side", "", "POOL_EXHAUSTED"),
        ("unknown", "nowhere", "", "POOL_NOT_FOUND"),
        ("not-allowed", "others", "", "POOL_NOT_ALLOWED"),
        ("disabled", "off", "", "POOL_DISABLED"),
        (
            "not-its-address",
            "side",
            "192.0.2.1",
            "ADDRESS_NOT_IN_POOL",
        ),
    ] {
        ns.create(site.service(name).annotation(POOL, pool).ips(ips))
            .await;
        ns.is_pending(name, reason).await;
    }
    assert_eq!(site.allocator.allocations().await.len(), 1);
    ns.delete("side").await;
    ns.gets("full", ["192.0.2.32"]).await;
}

#[tokio::test]
async fn a_pool_edited_on_a_live_service_moves_it_or_leaves_it_and_says_why() {
    let (ns, site) = start().await;
    ns.create(site.service("web")).await;
    ns.gets("web", ["192.0.2.0"]).await;
    ns.annotate("web", POOL, Some("side")).await;
    ns.gets("web", ["192.0.2.32"]).await;
    ns.was_told("web", ["AddressAssigned", "AddressChanged"])
        .await;
    for (pool, reason) in [
        ("nowhere", "POOL_NOT_FOUND"),
        ("others", "POOL_NOT_ALLOWED"),
        ("off", "POOL_DISABLED"),
    ] {
        ns.annotate("web", POOL, Some(pool)).await;
        let service = ns.has_condition("web", "False", reason).await;
        assert_eq!(addresses(&service), ["192.0.2.32"], "{pool}");
    }
    // Nobody is moved for asking less.
    ns.annotate("web", POOL, None).await;
    let service = ns.has_condition("web", "True", "Satisfied").await;
    assert_eq!(addresses(&service), ["192.0.2.32"]);

    // Full for the moment: it moves when there is room.
    ns.create(site.service("other")).await;
    ns.gets("other", ["192.0.2.1"]).await;
    ns.annotate("other", POOL, Some("side")).await;
    let service = ns.has_condition("other", "False", "POOL_EXHAUSTED").await;
    assert_eq!(addresses(&service), ["192.0.2.1"]);
    ns.annotate("web", POOL, Some("open")).await;
    ns.gets("other", ["192.0.2.32"]).await;
}
