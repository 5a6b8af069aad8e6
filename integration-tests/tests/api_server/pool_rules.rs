//! The rules of pools.

use integration_tests::{control_plane::ControlPlane, site::Site};

#[tokio::test]
async fn a_namespace_gets_addresses_of_a_pool_that_selects_its_labels() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let pools = format!(
        "pools: [{{name: p, addresses: [192.0.2.1], namespaceSelector: {{matchLabels: {{of: {ns}}}}}}}]"
    );
    let site = Site::with_pools(control_plane, &pools).await;
    // A label of the Service is the tenant's own, and opens nothing.
    ns.create(site.service("web").label("of", &ns.to_string()))
        .await;
    ns.is_pending("web", "NO_POOL").await;
    ns.label("of", &ns.to_string()).await;
    ns.gets("web", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn bound_pools_come_first_then_priority_then_name() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let pools = format!(
        "pools:\n\
         - {{name: a, addresses: [192.0.2.4]}}\n\
         - {{name: b, addresses: [192.0.2.3], priority: 2}}\n\
         - {{name: c, addresses: [192.0.2.2], priority: 1}}\n\
         - {{name: d, addresses: [192.0.2.1], namespaces: [{ns}]}}\n"
    );
    let site = Site::with_pools(control_plane, &pools).await;
    for host in 1..=4 {
        let name = format!("s{host}");
        ns.create(site.service(&name)).await;
        ns.gets(&name, [format!("192.0.2.{host}").as_str()]).await;
    }
}

#[tokio::test]
async fn a_service_is_served_by_a_pool_that_selects_its_labels() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let pools = "pools: [{name: p, addresses: [192.0.2.1], \
                 serviceSelector: {matchExpressions: [{key: public, operator: Exists}]}}]";
    let site = Site::with_pools(control_plane, pools).await;
    ns.create(site.service("inside")).await;
    ns.is_pending("inside", "NO_POOL").await;
    ns.create(site.service("outside").label("public", "yes"))
        .await;
    ns.gets("outside", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn a_pool_that_is_not_auto_assigned_gives_only_on_request() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let pools = "pools: [{name: p, addresses: [192.0.2.1-192.0.2.2], autoAssign: false}]";
    let site = Site::with_pools(control_plane, pools).await;
    ns.create(site.service("unasked")).await;
    ns.is_pending("unasked", "NO_POOL").await;
    let pool = "lb-allocator.io/pool";
    ns.create(site.service("pool").annotation(pool, "p")).await;
    ns.gets("pool", ["192.0.2.1"]).await;
    ns.create(site.service("address").ips("192.0.2.2")).await;
    ns.gets("address", ["192.0.2.2"]).await;
}

#[tokio::test]
async fn a_fenced_namespace_uses_no_other_pool() {
    let control_plane = ControlPlane::shared().await;
    let (fenced, free) = (
        control_plane.namespace().await,
        control_plane.namespace().await,
    );
    let pools = format!(
        "pools:\n\
         - {{name: fence, addresses: [192.0.2.1], namespaces: [{fenced}], fenced: true}}\n\
         - {{name: open, addresses: [192.0.2.2]}}\n"
    );
    let site = Site::with_pools(control_plane, &pools).await;
    fenced.create(site.service("first")).await;
    fenced.gets("first", ["192.0.2.1"]).await;
    fenced.create(site.service("second")).await;
    fenced.is_pending("second", "POOL_EXHAUSTED").await;
    fenced.create(site.service("asking").ips("192.0.2.2")).await;
    fenced.is_pending("asking", "POOL_NOT_ALLOWED").await;
    free.create(site.service("other")).await;
    free.gets("other", ["192.0.2.2"]).await;
}

#[tokio::test]
async fn a_quota_is_kept_and_room_in_it_is_used() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let pools = "pools: [{name: p, addresses: [192.0.2.0/28], maxPerNamespace: 1}]";
    let site = Site::with_pools(control_plane, pools).await;
    ns.create(site.service("first")).await;
    ns.gets("first", ["192.0.2.0"]).await;
    ns.create(site.service("second")).await;
    ns.is_pending("second", "QUOTA_EXCEEDED").await;
    ns.delete("first").await;
    ns.gets_any("second").await;
}

#[tokio::test]
async fn a_released_address_cools_down_for_others() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let pools = "pools: [{name: p, addresses: [192.0.2.1], cooldown: 3s}]";
    let site = Site::with_pools(control_plane, pools).await;
    ns.create(site.service("first")).await;
    ns.gets("first", ["192.0.2.1"]).await;
    ns.delete("first").await;
    ns.create(site.service("other")).await;
    ns.is_pending("other", "POOL_COOLING_DOWN").await;
    ns.gets("other", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn addresses_that_end_in_0_and_255_are_avoided_where_that_is_asked() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let pools = "pools: [{name: p, addresses: [192.0.2.0-192.0.2.1], avoidBuggyIPs: true}]";
    let site = Site::with_pools(control_plane, pools).await;
    ns.create(site.service("web")).await;
    ns.gets("web", ["192.0.2.1"]).await;
    ns.create(site.service("asking").ips("192.0.2.0")).await;
    ns.is_pending("asking", "ADDRESS_EXCLUDED").await;
}
