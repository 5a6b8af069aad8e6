//! Services that share an address.

use integration_tests::{control_plane::ControlPlane, site::Site};
use serde_json::json;

const KEY: &str = "lb-allocator.io/sharing-key";
const NAMESPACES: &str = "lb-allocator.io/sharing-namespaces";

#[tokio::test]
async fn services_of_one_key_share_an_address_unless_their_ports_clash() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let site = Site::start(control_plane, format!("{ns}:192.0.2.1 {ns}:192.0.2.2")).await;
    let web = |name: &str, port| site.service(name).annotation(KEY, "web").port(port);
    ns.create(web("http", 80)).await;
    ns.gets("http", ["192.0.2.1"]).await;
    ns.create(web("https", 443)).await;
    ns.gets("https", ["192.0.2.1"]).await;
    ns.create(web("clashing", 80)).await;
    ns.gets("clashing", ["192.0.2.2"]).await;
    ns.create(site.service("alone")).await;
    ns.is_pending("alone", "POOL_EXHAUSTED").await;

    ns.delete("http").await;
    ns.delete("https").await;
    ns.gets("alone", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn a_change_that_breaks_the_rule_moves_only_the_service_that_changed() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let site = Site::start(control_plane, format!("{ns}:192.0.2.1 {ns}:192.0.2.2")).await;
    let web = |name: &str, port| site.service(name).annotation(KEY, "web").port(port);
    ns.create(web("stays", 80)).await;
    ns.gets("stays", ["192.0.2.1"]).await;
    ns.create(web("moves", 443)).await;
    ns.gets("moves", ["192.0.2.1"]).await;
    ns.annotate("moves", KEY, Some("other")).await;
    ns.gets("moves", ["192.0.2.2"]).await;
    ns.gets("stays", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn a_service_that_may_not_share_any_more_and_finds_no_other_address_loses_it() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let site = Site::start(control_plane, format!("{ns}:192.0.2.1")).await;
    let web = |name: &str, port| site.service(name).annotation(KEY, "web").port(port);
    ns.create(web("stays", 80)).await;
    ns.gets("stays", ["192.0.2.1"]).await;
    ns.create(web("goes", 443)).await;
    ns.gets("goes", ["192.0.2.1"]).await;
    let clash = json!({"spec": {"ports": [{"port": 80, "protocol": "TCP"}]}});
    ns.edit("goes", clash).await;
    ns.is_pending("goes", "POOL_EXHAUSTED").await;
    ns.gets("stays", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn another_namespace_shares_only_if_both_name_each_other() {
    let control_plane = ControlPlane::shared().await;
    let (one, two) = (
        control_plane.namespace().await,
        control_plane.namespace().await,
    );
    let pools = "pools: [{name: p, addresses: [192.0.2.1]}]";
    let site = Site::with_pools(control_plane, pools).await;
    let web = |name: &str, port| site.service(name).annotation(KEY, "web").port(port);
    let first = web("first", 80).annotation(NAMESPACES, &two.to_string());
    one.create(first.ips("192.0.2.1")).await;
    one.gets("first", ["192.0.2.1"]).await;
    two.create(web("second", 443).ips("192.0.2.1")).await;
    two.is_pending("second", "SHARING_NOT_PERMITTED").await;
    two.annotate("second", NAMESPACES, Some("*")).await;
    two.gets("second", ["192.0.2.1"]).await;
}
