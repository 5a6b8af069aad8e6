//! What a Service asks for: a request that the contract takes and that can be written
//! as annotations again, or a denial of the contract, and then nothing instead.

use std::{collections::BTreeMap, net::IpAddr};

use lb_allocator::engine::{Namespace, SharingKey};
use lb_proto::v1;
use lb_watcher::{
    denial::{Denial, Retry},
    kube::{
        annotations::{IPS, POOL, Peer, SHARING_KEY, SHARING_NAMESPACES, is_known},
        service::Service,
    },
    request::{Labels, ParsedRequest, join, read},
};
use serde_json::{Value, json};

use crate::{MAX_LEN, TEST_TIME, is_canonical, mutation::Material};

/// One annotation a line, or a field of the Service.
const MATERIAL: Material = Material {
    examples: &[
        "spec.ipFamilies: IPv4,IPv6\nlb-allocator.io/ips: 192.0.2.1, 2001:db8::1\n\
         lb-allocator.io/pool: public\nlb-allocator.io/sharing-key: web\n\
         lb-allocator.io/sharing-namespaces: a, b\n",
        "spec.ipFamilies: IPv6,IPv4\nspec.loadBalancerIP: 192.0.2.1\n\
         metallb.io/loadBalancerIPs: 192.0.2.1\nmetallb.universe.tf/loadBalancerIPs: 192.0.2.1\n",
        "spec.ipFamilies: IPv4\nkube-vip.io/loadbalancerIPs: 0.0.0.0\nlbipam.cilium.io/ips: 192.0.2.1\n\
         lbipam.cilium.io/sharing-key: x\nlbipam.cilium.io/sharing-cross-namespace: *\n",
        "spec.ipFamilies: IPv6\npurelb.io/addresses: 2001:db8::1\npurelb.io/service-group: p\n\
         purelb.io/allow-shared-ip: k\nmetallb.io/address-pool: p\nmetallb.io/allow-shared-ip: k\n",
        "lb-allocator.io/ips: 192.0.2.1\n",
    ],
    words: &[
        "",
        " ",
        ",",
        ":",
        "\n",
        "*",
        "*,a",
        "a,,b",
        "a,",
        "A",
        "-a",
        "a.b",
        "ü",
        "\u{0}",
        "\u{a0}",
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.1,192.0.2.2",
        "2001:db8::1,192.0.2.1",
        "::ffff:192.0.2.1",
        "2001:DB8:0::1",
        "[2001:db8::1]",
        "192.0.2.0/24",
        "192.0.2.01",
        "0.0.0.0",
        "::",
        "0.0.0.0,::",
        "fe80::1%eth0",
        "IPv4",
        "IPv6",
        "IPv4,IPv6",
        "web",
        "two words",
        "spec.ipFamilies:",
        "spec.loadBalancerIP:",
        "lb-allocator.io/ips:",
        "lb-allocator.io/pool:",
        "lb-allocator.io/sharing-key:",
        "lb-allocator.io/sharing-namespaces:",
        "metallb.io/loadBalancerIPs:",
        "metallb.universe.tf/loadBalancerIPs:",
        "metallb.io/address-pool:",
        "metallb.universe.tf/address-pool:",
        "metallb.io/allow-shared-ip:",
        "metallb.universe.tf/allow-shared-ip:",
        "lbipam.cilium.io/ips:",
        "lbipam.cilium.io/sharing-key:",
        "lbipam.cilium.io/sharing-cross-namespace:",
        "purelb.io/addresses:",
        "purelb.io/service-group:",
        "purelb.io/allow-shared-ip:",
        "kube-vip.io/loadbalancerIPs:",
    ],
};

const PEERS: &[Peer] = &[Peer::Metallb, Peer::Cilium, Peer::Purelb, Peer::KubeVip];

#[test]
fn annotations_make_a_wish_that_can_be_written_again_or_a_refusal_with_a_reason() {
    bolero::check!()
        .with_test_time(TEST_TIME)
        .with_max_len(MAX_LEN)
        .for_each(|bytes| {
            MATERIAL.texts(bytes).for_each(|text| check(&text));
        });
}

fn check(text: &str) {
    let (fields, annotations) = parts(text);
    let service = service(&fields, &annotations);
    for peers in [&[][..], PEERS] {
        let reading = read(&service, peers, &Labels::default());
        let message = reading.request.message(&[]);
        check_message(&message, text);
        match &reading.denial {
            Some(denial) => check_denial(&reading, denial, &message, text),
            None => {
                assert!(reading.askable, "{text:?}");
                let again = self::service(&fields, &written(&message));
                let again = read(&again, &[], &Labels::default());
                let message_again = again.request.message(&[]);
                assert_eq!((again.denial, message_again), (None, message), "{text:?}");
            }
        }
    }
}

/// The contract takes it.
fn check_message(message: &v1::Wish, text: &str) {
    let mut families = Vec::new();
    for address in &message.addresses {
        let parsed: IpAddr = address.parse().unwrap();
        assert!(
            is_canonical(parsed) && parsed.to_string() == *address,
            "{text:?}: {address}"
        );
        let family = if parsed.is_ipv4() {
            v1::IpFamily::Ipv4
        } else {
            v1::IpFamily::Ipv6
        };
        families.push(i32::from(family));
    }
    let wished = message.families.iter();
    let in_order: Vec<_> = wished.filter(|f| families.contains(f)).copied().collect();
    assert_eq!(families, in_order, "{text:?}");
    if let Some(sharing) = &message.sharing {
        assert!(SharingKey::parse(&sharing.key).is_ok(), "{text:?}");
        let all = sharing.namespaces == ["*"];
        let named = || {
            sharing
                .namespaces
                .iter()
                .all(|name| Namespace::parse(name).is_ok())
        };
        assert!(all || named(), "{text:?}: {sharing:?}");
    }
}

/// A person can find what is meant, and nothing else is asked for in its place.
fn check_denial(reading: &ParsedRequest, denial: &Denial, message: &v1::Wish, text: &str) {
    let words = &denial.message;
    assert!(
        ["INVALID_REQUEST", "CONFLICTING_REQUEST"].contains(&&*denial.reason),
        "{text:?}: {denial:?}"
    );
    assert_eq!(denial.retry, Retry::AfterEdit, "{text:?}");
    let about_annotation = words.split([' ', ':']).any(|word| {
        is_known(word) && (word.starts_with("lb-allocator.io/") || text.contains(word))
    });
    let about_families = words.contains("IP family") || words.contains("spec.ipFamilies");
    assert!(
        about_annotation || about_families || words.contains("spec.loadBalancerIP"),
        "{text:?}: {words}"
    );
    let about_sharing = words.contains("sharing") || words.contains("allow-shared-ip");
    assert!(reading.askable || message.sharing.is_none(), "{text:?}");
    assert!(
        about_sharing || message.addresses.is_empty() || message.pool.is_empty(),
        "{text:?}: {words}"
    );
}

type Texts = BTreeMap<String, String>;

fn parts(text: &str) -> (Texts, Texts) {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let pairs = lines.map(|(name, value)| (name.trim().to_owned(), value.to_owned()));
    pairs.partition(|(name, _)| name.starts_with("spec."))
}

/// As the API server would take it: families are IPv4 or IPv6, each once.
fn service(fields: &Texts, annotations: &Texts) -> Service {
    let families = fields
        .get("spec.ipFamilies")
        .map_or("", |text| text.as_str());
    let mut listed: Vec<&str> = Vec::new();
    for family in families.split(',').map(str::trim) {
        if ["IPv4", "IPv6"].contains(&family) && !listed.contains(&family) {
            listed.push(family);
        }
    }
    let address = fields
        .get("spec.loadBalancerIP")
        .map_or(Value::Null, |text| json!(text));
    serde_json::from_value(json!({
        "metadata": {"name": "svc", "namespace": "ns", "annotations": annotations},
        "spec": {"ipFamilies": listed, "loadBalancerIP": address},
    }))
    .unwrap()
}

/// The same request in our own annotations.
fn written(message: &v1::Wish) -> Texts {
    let addresses: Vec<IpAddr> = message
        .addresses
        .iter()
        .map(|a| a.parse().unwrap())
        .collect();
    let sharing = message.sharing.clone().unwrap_or_default();
    let all = [
        (IPS.own, join(&addresses)),
        (POOL.own, message.pool.clone()),
        (SHARING_KEY.own, sharing.key),
        (SHARING_NAMESPACES.own, sharing.namespaces.join(",")),
    ];
    all.into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
