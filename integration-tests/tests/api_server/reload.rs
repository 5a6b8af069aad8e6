//! Pools that change while Services hold addresses.

use integration_tests::{
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    site::Site,
};
use lb_proto::v1::{ListAllocationsRequest, ListPoolsRequest};

#[tokio::test]
async fn who_waits_is_served_when_the_pools_file_gets_an_address() {
    let pools = "pools: [{name: p, addresses: [192.0.2.1], disabled: true}]";
    let (ns, site) = Site::of_pools(pools).await;
    ns.create(site.service("web")).await;
    ns.is_pending("web", "POOL_DISABLED").await;
    site.allocator
        .write_config("pools: [{name: p, addresses: [192.0.2.1]}]");
    ns.gets("web", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn an_address_that_left_its_pool_stays_with_its_holder_as_stranded() {
    let pools = "pools: [{name: p, addresses: [192.0.2.1-192.0.2.2]}]";
    let (ns, site) = Site::of_pools(pools).await;
    ns.create(site.service("web")).await;
    ns.gets("web", ["192.0.2.1"]).await;

    for (pools, stranded) in [
        ("pools: [{name: p, addresses: [192.0.2.2]}]", true),
        (
            "pools: [{name: q, addresses: [192.0.2.1-192.0.2.2]}]",
            false,
        ),
        (
            "pools: [{name: q, addresses: [192.0.2.1-192.0.2.2], exclude: [192.0.2.1]}]",
            true,
        ),
        (
            "pools: [{name: q, addresses: [192.0.2.1-192.0.2.2], disabled: true}]",
            true,
        ),
    ] {
        site.allocator.write_config(pools);
        eventually(DEADLINE, "the address is stranded or not", async || {
            let mut reader = site.allocator.pool_client().await;
            let listed = reader
                .list_allocations(ListAllocationsRequest::default())
                .await?;
            let held = listed.into_inner().allocations;
            let counted = reader
                .list_pools(ListPoolsRequest {})
                .await?
                .into_inner()
                .stranded;
            let as_expected = held.len() == 1
                && held[0].address == "192.0.2.1"
                && held[0].stranded == stranded
                && counted == u64::from(stranded);
            anyhow::ensure!(as_expected, "{held:?}, {counted} stranded");
            anyhow::Ok(())
        })
        .await;
        ns.gets("web", ["192.0.2.1"]).await;
        let metrics = site.allocator.admin();
        let expected = f64::from(u8::from(stranded));
        metrics
            .sees("lb_allocator_stranded_addresses", &[], |value| {
                value == expected
            })
            .await;
    }
    // It goes when its holder goes, and nobody gets it from a pool that gives none.
    ns.delete("web").await;
    ns.was_told("web", ["AddressAssigned", "AddressReleased"])
        .await;
    ns.create(site.service("asking").ips("192.0.2.1")).await;
    ns.is_pending("asking", "POOL_DISABLED").await;
    assert!(site.allocator.allocations().await.is_empty());
}

#[tokio::test]
async fn an_address_whose_pool_serves_its_holder_no_more_stays_as_stranded() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let pools = format!(
        "pools:\n\
         - {{name: by-namespace, addresses: [192.0.2.1], priority: 1, \
            namespaceSelector: {{matchLabels: {{of: {ns}}}}}}}\n\
         - {{name: by-service, addresses: [192.0.2.2], priority: 2, \
            serviceSelector: {{matchLabels: {{public: 'yes'}}}}}}\n"
    );
    let site = Site::with_pools(control_plane, &pools).await;
    ns.label("of", &ns.to_string()).await;
    ns.create(site.service("a").label("public", "yes")).await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.create(site.service("b").label("public", "yes")).await;
    ns.gets("b", ["192.0.2.2"]).await;
    is_stranded(&site, [false, false]).await;
    ns.edit(
        "b",
        serde_json::json!({"metadata": {"labels": {"public": "no"}}}),
    )
    .await;
    is_stranded(&site, [false, true]).await;
    ns.label("of", "somebody-else").await;
    is_stranded(&site, [true, true]).await;
    ns.label("of", &ns.to_string()).await;
    is_stranded(&site, [false, true]).await;
    site.fence(&ns).await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.gets("b", ["192.0.2.2"]).await;
    ns.was_told("a", ["AddressAssigned"]).await;
    ns.was_told("b", ["AddressAssigned"]).await;
}

/// Waits until the held addresses, in their order, are stranded or not.
async fn is_stranded<const N: usize>(site: &Site, expected: [bool; N]) {
    eventually(DEADLINE, format!("stranded: {expected:?}"), async || {
        let held = site.allocator.allocations().await;
        if held.iter().map(|held| held.stranded).eq(expected) {
            Ok(())
        } else {
            Err(format!("{held:#?}"))
        }
    })
    .await;
}
