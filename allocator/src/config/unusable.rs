//! Addresses that no Service can have: whoever connected to one would end up
//! elsewhere, or nowhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::engine::AddressRange;

/// First, last, and what they are.
const IPV4: [(Ipv4Addr, Ipv4Addr, &str); 5] = [
    (
        Ipv4Addr::new(0, 0, 0, 0),
        Ipv4Addr::new(0, 255, 255, 255),
        "0.0.0.0/8 means this host, and is no destination",
    ),
    (
        Ipv4Addr::new(127, 0, 0, 0),
        Ipv4Addr::new(127, 255, 255, 255),
        "127.0.0.0/8 is loopback, and does not leave a host",
    ),
    (
        Ipv4Addr::new(169, 254, 0, 0),
        Ipv4Addr::new(169, 254, 255, 255),
        "169.254.0.0/16 is link-local, and is not routed",
    ),
    (
        Ipv4Addr::new(224, 0, 0, 0),
        Ipv4Addr::new(239, 255, 255, 255),
        "224.0.0.0/4 is multicast",
    ),
    (
        Ipv4Addr::new(240, 0, 0, 0),
        Ipv4Addr::new(255, 255, 255, 255),
        "240.0.0.0/4 is reserved, and 255.255.255.255 is broadcast",
    ),
];

const MAPPED: (Ipv6Addr, Ipv6Addr, &str) = (
    Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0),
    Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xffff, 0xffff),
    "::ffff:0:0/96 is IPv4 written as IPv6; list it as IPv4",
);

const IPV6: [(Ipv6Addr, Ipv6Addr, &str); 5] = [
    (
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::UNSPECIFIED,
        ":: is no destination",
    ),
    (
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::LOCALHOST,
        "::1 is loopback, and does not leave a host",
    ),
    MAPPED,
    (
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0),
        Ipv6Addr::new(
            0xfebf, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff,
        ),
        "fe80::/10 is link-local, and is not routed",
    ),
    (
        Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0),
        Ipv6Addr::new(
            0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff,
        ),
        "ff00::/8 is multicast",
    ),
];

/// Why a range has addresses that no Service can have, if it does.
pub fn reason(range: &AddressRange) -> Option<&'static str> {
    let v4 = IPV4.map(|(first, last, why)| (IpAddr::from(first), IpAddr::from(last), why));
    let v6 = IPV6.map(|(first, last, why)| (IpAddr::from(first), IpAddr::from(last), why));
    let mut all = v4.into_iter().chain(v6);
    all.find_map(|(first, last, why)| overlap(range, first, last).then_some(why))
}

/// The reason if a range has IPv4-mapped addresses: each of them is an IPv4 address, which the
/// range does not have.
pub fn mapped(range: &AddressRange) -> Option<&'static str> {
    let (first, last, why) = MAPPED;
    overlap(range, first.into(), last.into()).then_some(why)
}

fn overlap(range: &AddressRange, first: IpAddr, last: IpAddr) -> bool {
    AddressRange::new(first, last).is_some_and(|other| other.overlaps(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_service_can_have_are_known_up_to_their_ends() {
        let refused = |text: &str| {
            let address = text.parse().unwrap();
            reason(&AddressRange::single(address)).is_some()
        };
        for text in [
            "0.0.0.0",
            "0.255.255.255",
            "127.0.0.0",
            "127.255.255.255",
            "169.254.0.0",
            "169.254.255.255",
            "224.0.0.0",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:192.0.2.1",
            "fe80::",
            "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "ff00::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            assert!(refused(text), "{text}");
        }
        for text in [
            "1.0.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "223.255.255.255",
            "10.0.0.0",
            "::2",
            "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fec0::",
            "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fd00::1",
            "64:ff9b::c000:201",
        ] {
            assert!(!refused(text), "{text}");
        }
    }
}
