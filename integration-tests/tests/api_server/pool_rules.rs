//! The rules of pools.

use integration_tests::{control_plane::ControlPlane, site::Site};
use serde_json::json;

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
    let pools = "pools: [{name: p, addresses: [192.0.2.1], \
                 serviceSelector: {matchExpressions: [{key: public, operator: Exists}]}}]";
    let (ns, site) = Site::of_pools(pools).await;
    ns.create(site.service("inside")).await;
    ns.is_pending("inside", "NO_POOL").await;
    ns.create(site.service("outside").label("public", "yes"))
        .await;
    ns.gets("outside", ["192.0.2.1"]).await;
    ns.delete("outside").await;
    ns.edit("inside", json!({"metadata": {"labels": {"public": ""}}}))
        .await;
    ns.gets("inside", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn a_pool_that_is_not_auto_assigned_gives_only_on_request() {
    let pools = "pools: [{name: p, addresses: [192.0.2.1-192.0.2.2], autoAssign: false}]";
    let (ns, site) = Site::of_pools(pools).await;
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
    let pools = "pools: [{name: p, addresses: [192.0.2.0/28], maxPerNamespace: 1}]";
    let (ns, site) = Site::of_pools(pools).await;
    ns.create(site.service("first")).await;
    ns.gets("first", ["192.0.2.0"]).await;
    ns.create(site.service("second")).await;
    ns.is_pending("second", "QUOTA_EXCEEDED").await;
    ns.delete("first").await;
    ns.gets_any("second").await;
}

#[tokio::test]
async fn addresses_that_end_in_0_and_255_are_avoided_where_that_is_asked() {
    let pools = "pools: [{name: p, addresses: [192.0.2.0-192.0.2.1], avoidBuggyIPs: true}]";
    let (ns, site) = Site::of_pools(pools).await;
    ns.create(site.service("web")).await;
    ns.gets("web", ["192.0.2.1"]).await;
    ns.create(site.service("asking").ips("192.0.2.0")).await;
    ns.is_pending("asking", "ADDRESS_EXCLUDED").await;
}

#[tokio::test]
async fn excluded_addresses_are_given_to_nobody() {
    let pools = "pools: [{name: p, addresses: [192.0.2.0/29, '2001:db8::/126'], \
                 exclude: [192.0.2.0-192.0.2.4, 192.0.2.6/31, '2001:db8::']}]";
    let (ns, site) = Site::of_pools(pools).await;
    let dual = |name| {
        site.service(name)
            .families("PreferDualStack", &["IPv4", "IPv6"])
    };
    ns.create(dual("web")).await;
    ns.gets("web", ["192.0.2.5", "2001:db8::1"]).await;
    ns.create(site.service("more")).await;
    ns.is_pending("more", "POOL_EXHAUSTED").await;
    ns.create(site.service("asking").ips("192.0.2.7")).await;
    ns.is_pending("asking", "ADDRESS_EXCLUDED").await;
}

#[tokio::test]
async fn every_selector_that_is_set_must_match() {
    let control_plane = ControlPlane::shared().await;
    let (ns, other) = (
        control_plane.namespace().await,
        control_plane.namespace().await,
    );
    for ns in [&ns, &other] {
        ns.label("tier", "web").await;
    }
    let services = "serviceSelector: {matchLabels: {public: yes-please}}";
    let labels =
        "namespaceSelector: {matchExpressions: [{key: tier, operator: In, values: [web]}]}";
    let pool = |name: &str, last: u8, rules: &str| {
        format!("- {{name: {name}, addresses: [192.0.2.{last}], {rules}}}\n")
    };
    let pools = [
        "pools:\n".to_owned(),
        pool(
            "a",
            1,
            &format!("namespaces: [{ns}], {services}, {labels}, clusters: [one]"),
        ),
        pool(
            "b",
            2,
            &format!("namespaces: [{other}], {services}, {labels}, clusters: [two]"),
        ),
    ];
    let site = Site::with_pools(control_plane, &pools.concat()).await;
    let public = |name: &str| site.service(name).label("public", "yes-please");
    // Without the Service's label, of another namespace, of another cluster.
    ns.create(site.service("unlabelled")).await;
    ns.is_pending("unlabelled", "NO_POOL").await;
    other.create(public("of-cluster-one")).await;
    other.is_pending("of-cluster-one", "NO_POOL").await;
    other.create(public("asking").ips("192.0.2.1")).await;
    other.is_pending("asking", "POOL_NOT_ALLOWED").await;
    ns.label("tier", "mail").await;
    ns.create(public("web")).await;
    ns.is_pending("web", "NO_POOL").await;
    ns.label("tier", "web").await;
    ns.gets("web", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn a_cluster_holds_no_more_than_its_quota_in_all_namespaces() {
    let control_plane = ControlPlane::shared().await;
    let (ns, other) = (
        control_plane.namespace().await,
        control_plane.namespace().await,
    );
    let pools = "pools: [{name: p, addresses: [192.0.2.0/28], maxPerCluster: 2}]";
    let site = Site::with_pools(control_plane, pools).await;
    ns.create(site.service("a")).await;
    ns.gets_any("a").await;
    other.create(site.service("a")).await;
    other.gets_any("a").await;
    ns.create(site.service("b")).await;
    let message = ns.is_pending("b", "QUOTA_EXCEEDED").await.message;
    assert!(
        message.contains("maxPerCluster of pool p is 2"),
        "{message}"
    );
    // Another cluster has a quota of its own.
    let mut request = integration_tests::rpc::acquire("default", "web");
    request.service.as_mut().unwrap().cluster = "two".to_owned();
    let answer = site.allocator.client().await.acquire(request).await;
    assert!(answer.unwrap().get_ref().satisfied);
    other.delete("a").await;
    ns.gets_any("b").await;
}
