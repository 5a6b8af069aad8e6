//! Pools that change while Services hold addresses.

use integration_tests::{
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    site::Site,
};
use lb_proto::v1::{ListAllocationsRequest, ListPoolsRequest};

#[tokio::test]
async fn who_waits_is_served_when_the_pools_file_gets_an_address() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let pools = "pools: [{name: p, addresses: [192.0.2.1], disabled: true}]";
    let site = Site::with_pools(control_plane, pools).await;
    ns.create(site.service("web")).await;
    ns.is_pending("web", "POOL_DISABLED").await;
    site.allocator
        .write_config("pools: [{name: p, addresses: [192.0.2.1]}]");
    ns.gets("web", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn an_address_that_left_its_pool_stays_with_its_holder_as_stranded() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let pools = "pools: [{name: p, addresses: [192.0.2.1-192.0.2.2]}]";
    let site = Site::with_pools(control_plane, pools).await;
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
    }
    ns.delete("web").await;
}

#[tokio::test]
async fn a_bad_pools_file_leaves_the_last_good_one_in_force() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let pools = "pools: [{name: p, addresses: [192.0.2.1]}]";
    let site = Site::with_pools(control_plane, pools).await;
    site.allocator
        .write_config("pools: [{name: p, adresses: [192.0.2.1]}]");
    eventually(DEADLINE, "the refusal is told", async || {
        let ready = site.allocator.admin().get("/readyz?verbose").await?;
        anyhow::ensure!(
            ready.contains("[-]config failed") && ready.contains("adresses"),
            "{ready}"
        );
        let metrics = site.allocator.admin().get("/metrics").await?;
        let bad = "lb_allocator_config_last_reload_successful 0";
        anyhow::ensure!(metrics.contains(bad), "{metrics}");
        anyhow::Ok(())
    })
    .await;
    ns.create(site.service("web")).await;
    ns.gets("web", ["192.0.2.1"]).await;
}
