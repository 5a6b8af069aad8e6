//! Annotations of other load balancers, read where `--annotation-aliases` asks for
//! them.

use integration_tests::{
    control_plane::ControlPlane,
    namespace::{Namespace, addresses, condition},
    site::Site,
};

const EVERYBODY: &str = "metallb,cilium,purelb,kube-vip";
const POOLS: &str = "pools:\n\
                     - {name: p, addresses: [192.0.2.0/24]}\n\
                     - {name: side, addresses: [198.51.100.0/24], autoAssign: false}\n";

const IPS: &[&str] = &[
    "metallb.io/loadBalancerIPs",
    "metallb.universe.tf/loadBalancerIPs",
    "lbipam.cilium.io/ips",
    "purelb.io/addresses",
    "kube-vip.io/loadbalancerIPs",
    "io.cilium/lb-ipam-ips",
];
const POOL: &[&str] = &[
    "metallb.io/address-pool",
    "metallb.universe.tf/address-pool",
    "purelb.io/service-group",
];
const SHARING_KEY: &[&str] = &[
    "metallb.io/allow-shared-ip",
    "metallb.universe.tf/allow-shared-ip",
    "lbipam.cilium.io/sharing-key",
    "purelb.io/allow-shared-ip",
    "io.cilium/lb-ipam-sharing-key",
];
const SHARING_NAMESPACES: &str = "lbipam.cilium.io/sharing-cross-namespace";

async fn start(peers: &str) -> (Namespace, Site) {
    Site::of_aliases(POOLS, peers).await
}

#[tokio::test]
async fn each_peers_annotation_means_what_ours_means() {
    let (ns, site) = start(EVERYBODY).await;
    for (number, annotation) in IPS.iter().enumerate() {
        let (name, address) = (format!("ips-{number}"), format!("192.0.2.{}", 200 + number));
        ns.create(site.service(&name).annotation(annotation, &address))
            .await;
        ns.gets(&name, [address.as_str()]).await;
    }
    for (number, annotation) in POOL.iter().enumerate() {
        let name = format!("pool-{number}");
        ns.create(site.service(&name).annotation(annotation, "side"))
            .await;
        ns.gets(&name, [format!("198.51.100.{number}").as_str()])
            .await;
    }
    for (number, annotation) in SHARING_KEY.iter().enumerate() {
        let (one, two) = (format!("key-{number}-own"), format!("key-{number}-peer"));
        let key = format!("key-{number}");
        let own = "lb-allocator.io/sharing-key";
        ns.create(site.service(&one).annotation(own, &key).port(80))
            .await;
        let address = ns.gets_any(&one).await;
        ns.create(site.service(&two).annotation(annotation, &key).port(443))
            .await;
        ns.gets(&two, [address.as_str()]).await;
    }

    let other = ControlPlane::shared().await.namespace().await;
    let shared = |port, with: &Namespace| {
        let service = site.service("cross").port(port);
        let service = service.annotation("lbipam.cilium.io/sharing-key", "cross");
        service.annotation(SHARING_NAMESPACES, &with.to_string())
    };
    ns.create(shared(80, &other)).await;
    let address = ns.gets_any("cross").await;
    other.create(shared(443, &ns)).await;
    other.gets("cross", [address.as_str()]).await;
}

#[tokio::test]
async fn a_peer_that_was_not_asked_for_is_not_read() {
    let (ns, site) = start("kube-vip").await;
    let every = IPS.iter().map(|name| (*name, "192.0.2.200"));
    let every = every.chain(POOL.iter().map(|name| (*name, "side")));
    for (number, (annotation, value)) in every.enumerate() {
        let name = format!("s{number}");
        ns.create(site.service(&name).annotation(annotation, value))
            .await;
        let expected = match annotation {
            "kube-vip.io/loadbalancerIPs" => "192.0.2.200".to_owned(),
            _ => format!("192.0.2.{}", if number > 4 { number - 1 } else { number }),
        };
        ns.gets(&name, [expected.as_str()]).await;
    }
}

#[tokio::test]
async fn our_own_annotation_comes_first_and_peers_that_agree_are_one_request() {
    let (ns, site) = start(EVERYBODY).await;
    let own = site.service("own").ips("192.0.2.50");
    let own = own.annotation("metallb.io/loadBalancerIPs", "192.0.2.51");
    ns.create(own.annotation("lbipam.cilium.io/ips", "192.0.2.52"))
        .await;
    let service = ns.gets("own", ["192.0.2.50"]).await;
    assert_eq!(condition(&service).unwrap().status, "True");

    let mut agreeing = site.service("agreeing");
    for annotation in IPS {
        agreeing = agreeing.annotation(annotation, " 192.0.2.60 ");
    }
    ns.create(agreeing).await;
    ns.gets("agreeing", ["192.0.2.60"]).await;
}

#[tokio::test]
async fn peers_that_disagree_are_refused_by_name_until_one_is_removed() {
    let (ns, site) = start(EVERYBODY).await;
    let rows = [
        (IPS[0], "192.0.2.70", IPS[1], "192.0.2.71"),
        (IPS[2], "192.0.2.72", IPS[4], "192.0.2.73"),
        (IPS[2], "192.0.2.74", IPS[5], "192.0.2.75"),
        (POOL[0], "p", POOL[2], "side"),
        (SHARING_KEY[0], "one", SHARING_KEY[3], "two"),
    ];
    for (number, (one, this, other, that)) in rows.into_iter().enumerate() {
        let name = format!("s{number}");
        let service = site.service(&name).annotation(one, this);
        ns.create(service.annotation(other, that)).await;
        let message = ns.is_pending(&name, "CONFLICTING_REQUEST").await.message;
        assert!(
            message.contains(one) && message.contains(other) && message.contains("remove one"),
            "{message}"
        );
        ns.annotate(&name, other, None).await;
        ns.gets_any(&name).await;
        // A live Service keeps its address, and is told.
        ns.annotate(&name, other, Some(that)).await;
        let service = ns
            .has_condition(&name, "False", "CONFLICTING_REQUEST")
            .await;
        assert_eq!(addresses(&service).len(), 1);
    }
}
