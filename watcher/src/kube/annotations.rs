//! What annotations mean, by which names, and which of them counts: our own first,
//! then those of other load balancers that were asked for. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use clap::ValueEnum;

use crate::denial::{Denial, Reason};

/// The prefix of our own annotations.
const PREFIX: &str = "lb-allocator.io/";
/// In kube-vip's words "ask DHCP", which for us is no request.
const KUBE_VIP_IPS: &str = "kube-vip.io/loadbalancerIPs";

/// Another load balancer, whose annotations can be read as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// MetalLB.
    Metallb,
    /// Cilium LB-IPAM.
    Cilium,
    /// PureLB.
    Purelb,
    /// kube-vip.
    KubeVip,
}

/// One thing that a Service can say, by its names.
#[derive(Debug)]
pub struct Meaning {
    /// Our own name for it.
    pub own: &'static str,
    peers: &'static [(Peer, &'static str)],
}

/// Addresses asked for, a comma list, at most one per family.
pub const IPS: Meaning = Meaning {
    own: "lb-allocator.io/ips",
    peers: &[
        (Peer::Metallb, "metallb.io/loadBalancerIPs"),
        (Peer::Metallb, "metallb.universe.tf/loadBalancerIPs"),
        (Peer::Cilium, "lbipam.cilium.io/ips"),
        (Peer::Cilium, "io.cilium/lb-ipam-ips"),
        (Peer::Purelb, "purelb.io/addresses"),
        (Peer::KubeVip, KUBE_VIP_IPS),
    ],
};
/// The only pool to take addresses from.
pub const POOL: Meaning = Meaning {
    own: "lb-allocator.io/pool",
    peers: &[
        (Peer::Metallb, "metallb.io/address-pool"),
        (Peer::Metallb, "metallb.universe.tf/address-pool"),
        (Peer::Purelb, "purelb.io/service-group"),
    ],
};
/// Services of the same key may share addresses.
pub const SHARING_KEY: Meaning = Meaning {
    own: "lb-allocator.io/sharing-key",
    peers: &[
        (Peer::Metallb, "metallb.io/allow-shared-ip"),
        (Peer::Metallb, "metallb.universe.tf/allow-shared-ip"),
        (Peer::Cilium, "lbipam.cilium.io/sharing-key"),
        (Peer::Cilium, "io.cilium/lb-ipam-sharing-key"),
        (Peer::Purelb, "purelb.io/allow-shared-ip"),
    ],
};
/// Other namespaces to share with, a comma list or `*`.
pub const SHARING_NAMESPACES: Meaning = Meaning {
    own: "lb-allocator.io/sharing-namespaces",
    peers: &[
        (Peer::Cilium, "lbipam.cilium.io/sharing-cross-namespace"),
        (Peer::Cilium, "io.cilium/lb-ipam-sharing-cross-namespace"),
    ],
};

const ALL: [&Meaning; 4] = [&IPS, &POOL, &SHARING_KEY, &SHARING_NAMESPACES];

/// Whether an annotation may mean something to us.
pub fn is_known(name: &str) -> bool {
    let mut peers = ALL.iter().flat_map(|meaning| meaning.peers);
    name.starts_with(PREFIX) || peers.any(|(_, peer)| *peer == name)
}

/// What was asked for, and the annotation that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said<T> {
    /// The annotation's name.
    pub by: &'static str,
    /// What it says.
    pub value: T,
}

/// What a Service says, in our own annotation or else in those of the peers.
/// `parse` gets the annotation's name and its value, which is not blank.
///
/// # Errors
/// What `parse` refuses, and peers that contradict each other.
pub fn said<T: PartialEq>(
    annotations: &BTreeMap<String, String>,
    peers: &[Peer],
    meaning: &Meaning,
    parse: impl Fn(&'static str, &str) -> Result<T, Denial>,
) -> Result<Option<Said<T>>, Denial> {
    let read = |name: &'static str| match text(annotations, name) {
        Some(text) => parse(name, text).map(|value| Some(Said { by: name, value })),
        None => Ok(None),
    };
    if let Some(own) = read(meaning.own)? {
        return Ok(Some(own));
    }
    let mut found: Option<Said<T>> = None;
    for (_, name) in meaning
        .peers
        .iter()
        .filter(|(peer, _)| peers.contains(peer))
    {
        match (&found, read(name)?) {
            (_, None) => {}
            (None, said) => found = said,
            (Some(first), Some(other)) if first.value != other.value => {
                return Err(Denial::new(
                    Reason::ConflictingRequest,
                    format_args!("annotations {} and {} disagree", first.by, other.by),
                ));
            }
            (Some(_), Some(_)) => {}
        }
    }
    Ok(found)
}

/// The value of an annotation, where one that says nothing is the same as none.
fn text<'a>(annotations: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    let text = annotations.get(name)?.trim();
    let asks_dhcp = name == KUBE_VIP_IPS
        && text.split(',').all(|item| {
            let address = item.trim().parse::<IpAddr>();
            address.is_ok_and(|address| address.is_unspecified())
        });
    (!text.is_empty() && !asks_dhcp).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYBODY: &[Peer] = &[Peer::Metallb, Peer::Cilium, Peer::Purelb, Peer::KubeVip];

    fn read(
        peers: &[Peer],
        meaning: &Meaning,
        annotations: &[(&str, &str)],
    ) -> Result<Option<Said<String>>, Denial> {
        let text = |text: &&str| (*text).to_owned();
        let annotations = annotations.iter();
        let annotations = annotations.map(|(name, value)| (text(name), text(value)));
        said(&annotations.collect(), peers, meaning, |_, text| {
            Ok(text.to_owned())
        })
    }

    #[test]
    fn each_name_counts_when_its_load_balancer_was_asked_for_and_only_then() {
        for meaning in ALL {
            for (peer, name) in meaning.peers {
                let annotations = [(*name, " x ")];
                let expected = Said {
                    by: name,
                    value: "x".to_owned(),
                };
                assert_eq!(read(&[*peer], meaning, &annotations), Ok(Some(expected)));
                let others: Vec<_> = EVERYBODY.iter().copied().filter(|p| p != peer).collect();
                assert_eq!(read(&others, meaning, &annotations), Ok(None), "{name}");
                assert!(is_known(name));
            }
            assert!(is_known(meaning.own));
        }
        assert!(!is_known("metallb.io/ip-allocated-from-pool"));
    }

    #[test]
    fn our_own_annotation_comes_first_and_peers_must_agree() {
        let metallb = "metallb.io/loadBalancerIPs";
        let old = "metallb.universe.tf/loadBalancerIPs";
        let cilium = "lbipam.cilium.io/ips";
        for (annotations, expected) in [
            (
                &[(IPS.own, "a"), (metallb, "b"), (cilium, "c")][..],
                IPS.own,
            ),
            (&[(IPS.own, " "), (metallb, "b")], metallb),
            (&[(metallb, "b"), (cilium, "b")], metallb),
            (&[(metallb, ""), (cilium, "c")], cilium),
        ] {
            let said = read(EVERYBODY, &IPS, annotations).unwrap().unwrap();
            assert_eq!(said.by, expected, "{annotations:?}");
        }
        for (one, other) in [(metallb, old), (metallb, cilium), (cilium, KUBE_VIP_IPS)] {
            let denial = read(EVERYBODY, &IPS, &[(one, "a"), (other, "b")]).unwrap_err();
            assert_eq!(denial.reason, "CONFLICTING_REQUEST");
            assert!(denial.message.contains(one) && denial.message.contains(other));
        }
    }

    #[test]
    fn the_unspecified_address_of_kube_vip_is_no_request() {
        for none in ["0.0.0.0", "::", "0.0.0.0, ::"] {
            assert_eq!(read(EVERYBODY, &IPS, &[(KUBE_VIP_IPS, none)]), Ok(None));
            let with_other = [(KUBE_VIP_IPS, none), ("lbipam.cilium.io/ips", "192.0.2.1")];
            assert!(read(EVERYBODY, &IPS, &with_other).unwrap().is_some());
            assert!(read(EVERYBODY, &IPS, &[(IPS.own, none)]).unwrap().is_some());
        }
    }
}
