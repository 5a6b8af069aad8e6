//! Services that share an address.

use integration_tests::{
    control_plane::ControlPlane,
    rpc::{Asking, acquire, held, of_cluster, refusal},
    service::ServiceBuilder,
    site::Site,
};
use lb_proto::v1::{Protocol, ServicePort, Sharing};
use serde_json::json;

const KEY: &str = "lb-allocator.io/sharing-key";
const NAMESPACES: &str = "lb-allocator.io/sharing-namespaces";

#[tokio::test]
async fn services_of_one_key_share_an_address_unless_their_ports_clash() {
    let (ns, site) = Site::of("192.0.2.1 192.0.2.2").await;
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
    let (ns, site) = Site::of("192.0.2.1 192.0.2.2").await;
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
    let (ns, site) = Site::of("192.0.2.1").await;
    let web = |name: &str, port| site.service(name).annotation(KEY, "web").port(port);
    ns.create(web("stays", 80)).await;
    ns.gets("stays", ["192.0.2.1"]).await;
    ns.create(web("goes", 443)).await;
    ns.gets("goes", ["192.0.2.1"]).await;
    let clash = json!({"spec": {"ports": [{"port": 80, "protocol": "TCP"}]}});
    ns.edit("goes", clash).await;
    ns.is_pending("goes", "SHARING_PORT_CLASH").await;
    ns.gets("stays", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn two_services_share_an_address_exactly_when_every_rule_allows_it() {
    let pools = "pools: [{name: p, addresses: [192.0.2.0/24]}]";
    let (ns, site) = Site::of_pools(pools).await;
    let web = |name: &str| site.service(name).port(80);
    let next = |name: &str| site.service(name).port(81);
    let local = |service: ServiceBuilder| service.traffic_policy("Local");
    let app = |service: ServiceBuilder, app: &str| service.selector("app", app);
    let keyed = |service: ServiceBuilder| service.annotation(KEY, "k");
    let rows = [
        (keyed(web("1")), keyed(next("2")), None),
        (keyed(web("1")), keyed(web("2")), Some("SHARING_PORT_CLASH")),
        (keyed(web("1")), keyed(web("2").ports(&[("UDP", 80)])), None),
        (
            keyed(web("1").ports(&[("TCP", 80), ("TCP", 443)])),
            keyed(web("2").ports(&[("UDP", 443), ("TCP", 443)])),
            Some("SHARING_PORT_CLASH"),
        ),
        (
            keyed(web("1")),
            next("2").annotation(KEY, "other"),
            Some("SHARING_KEY_MISMATCH"),
        ),
        (keyed(web("1")), next("2"), Some("ADDRESS_IN_USE")),
        (web("1"), keyed(next("2")), Some("SHARING_KEY_MISMATCH")),
        (web("1"), next("2"), Some("ADDRESS_IN_USE")),
        (
            keyed(web("1")),
            keyed(local(next("2"))),
            Some("SHARING_NOT_PERMITTED"),
        ),
        (
            keyed(app(local(web("1")), "a")),
            keyed(app(local(next("2")), "a")),
            None,
        ),
        (
            keyed(app(local(web("1")), "a")),
            keyed(app(local(next("2")), "b")),
            Some("SHARING_NOT_PERMITTED"),
        ),
        (
            keyed(local(web("1"))),
            keyed(local(next("2"))),
            Some("SHARING_NOT_PERMITTED"),
        ),
        (keyed(app(web("1"), "a")), keyed(app(next("2"), "b")), None),
    ];
    for (number, (first, second, refusal)) in rows.into_iter().enumerate() {
        let address = format!("192.0.2.{number}");
        ns.create(first.ips(&address)).await;
        ns.gets("1", [address.as_str()]).await;
        ns.create(second.ips(&address)).await;
        match refusal {
            None => drop(ns.gets("2", [address.as_str()]).await),
            Some(reason) => drop(ns.is_pending("2", reason).await),
        }
        ns.gets("1", [address.as_str()]).await;
        ns.delete("1").await;
        // The last one out frees it: whoever was refused gets it now.
        ns.gets("2", [address.as_str()]).await;
        ns.delete("2").await;
    }
    site.allocator.holds(&[]).await;
}

#[tokio::test]
async fn who_waits_to_share_is_served_when_the_holder_lets_it() {
    let pools = "pools: [{name: p, addresses: [192.0.2.0/24]}]";
    let (ns, site) = Site::of_pools(pools).await;
    let holder = || site.service("1").annotation(KEY, "k").port(80);
    let other = || site.service("2").annotation(KEY, "k").port(81);
    let key = |value: Option<&str>| json!({"metadata": {"annotations": {KEY: value}}});
    let rows = [
        (
            holder().port(81),
            other(),
            "SHARING_PORT_CLASH",
            json!({"spec": {"ports": [{"port": 80, "protocol": "TCP"}]}}),
        ),
        (
            holder().annotation(KEY, "other"),
            other(),
            "SHARING_KEY_MISMATCH",
            key(Some("k")),
        ),
        (
            site.service("1").port(80),
            other(),
            "SHARING_KEY_MISMATCH",
            key(Some("k")),
        ),
        (
            holder().traffic_policy("Local"),
            other(),
            "SHARING_NOT_PERMITTED",
            json!({"spec": {"externalTrafficPolicy": "Cluster"}}),
        ),
        (
            holder().traffic_policy("Local").selector("app", "a"),
            other().traffic_policy("Local").selector("app", "b"),
            "SHARING_NOT_PERMITTED",
            json!({"spec": {"selector": {"app": "b"}}}),
        ),
    ];
    for (number, (holder, other, reason, edit)) in rows.into_iter().enumerate() {
        let address = format!("192.0.2.{number}");
        ns.create(holder.ips(&address)).await;
        ns.gets("1", [address.as_str()]).await;
        ns.create(other.ips(&address)).await;
        ns.is_pending("2", reason).await;
        ns.edit("1", edit).await;
        ns.gets("2", [address.as_str()]).await;
        ns.gets("1", [address.as_str()]).await;
        ns.delete("1").await;
        ns.delete("2").await;
    }
}

#[tokio::test]
async fn a_service_prefers_the_address_of_its_key_over_a_lower_one() {
    let pools = "pools: [{name: p, addresses: [192.0.2.0/24]}]";
    let (ns, site) = Site::of_pools(pools).await;
    let web = |name: &str, port| site.service(name).annotation(KEY, "web").port(port);
    ns.create(web("http", 80).ips("192.0.2.9")).await;
    ns.gets("http", ["192.0.2.9"]).await;
    ns.create(web("https", 443)).await;
    ns.gets("https", ["192.0.2.9"]).await;
    ns.create(web("clashing", 80)).await;
    ns.gets("clashing", ["192.0.2.0"]).await;
    // Without the one it clashed with it stays where it is.
    ns.delete("http").await;
    ns.was_told("http", ["AddressAssigned", "AddressReleased"])
        .await;
    ns.gets("clashing", ["192.0.2.0"]).await;
    ns.gets("https", ["192.0.2.9"]).await;
}

#[tokio::test]
async fn clusters_do_not_share() {
    let pools = "pools: [{name: p, addresses: [192.0.2.0/24]}]";
    let (ns, site) = Site::of_pools(pools).await;
    let keyed = site.service("one").port(80);
    ns.create(keyed.annotation(KEY, "web").annotation(NAMESPACES, "*"))
        .await;
    ns.gets("one", ["192.0.2.0"]).await;
    // The same words from the same namespace of another cluster.
    let mut client = site.allocator.client().await;
    let request = |name: &str, port: u32| {
        let request = of_cluster("two", acquire(&ns.to_string(), name));
        request.wishing(|wish| {
            let protocol = Protocol::Tcp.into();
            wish.ports = vec![ServicePort { protocol, port }];
            wish.sharing = Some(Sharing {
                key: "web".to_owned(),
                namespaces: vec!["*".to_owned()],
            });
        })
    };
    let granted = client.acquire(request("two", 81)).await.unwrap();
    assert_eq!(held(granted.get_ref()), ["192.0.2.1"]);
    let asking = request("asking", 82).addresses(&["192.0.2.0"]);
    let status = client.acquire(asking).await.unwrap_err();
    assert_eq!(refusal(&status).reason, "SHARING_NOT_PERMITTED");
}

#[tokio::test]
async fn another_namespace_shares_only_if_both_name_each_other() {
    let control_plane = ControlPlane::shared().await;
    let (one, two) = (
        control_plane.namespace().await,
        control_plane.namespace().await,
    );
    let pools = "pools: [{name: p, addresses: [192.0.2.0/24]}]";
    let site = Site::with_pools(control_plane, pools).await;
    let (of_one, of_two) = (one.to_string(), two.to_string());
    let list = format!("of-others, {of_two}");
    for (number, (first, second, shares)) in [
        ("", "", false),
        (&*of_two, "", false),
        ("", &*of_one, false),
        ("*", "", false),
        ("of-others", "*", false),
        (&*of_one, &*of_two, false),
        (&*of_two, &*of_one, true),
        (&*list, "*", true),
        ("*", "*", true),
    ]
    .into_iter()
    .enumerate()
    {
        let address = format!("192.0.2.{number}");
        let web = |port, namespaces: &str| {
            let web = site.service("web").port(port).ips(&address);
            web.annotation(KEY, "web")
                .annotation(NAMESPACES, namespaces)
        };
        one.create(web(80, first)).await;
        one.gets("web", [address.as_str()]).await;
        two.create(web(443, second)).await;
        if shares {
            two.gets("web", [address.as_str()]).await;
        } else {
            two.is_pending("web", "SHARING_NOT_PERMITTED").await;
            // Each side may be what has to change.
            one.annotate("web", NAMESPACES, Some(&of_two)).await;
            two.annotate("web", NAMESPACES, Some("*")).await;
            two.gets("web", [address.as_str()]).await;
            // A permission that is taken back moves the one that changed.
            two.annotate("web", NAMESPACES, None).await;
            two.is_pending("web", "SHARING_NOT_PERMITTED").await;
            one.gets("web", [address.as_str()]).await;
        }
        one.delete("web").await;
        two.gets("web", [address.as_str()]).await;
        two.delete("web").await;
    }
}
