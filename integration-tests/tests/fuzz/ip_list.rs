//! `IP_LIST`: each namespace gets the addresses that are listed for it and no
//! others, and what is wrong is quoted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_allocator::{
    config::ip_list::parse,
    engine::{AddressRange, Namespace, PoolSpec},
};

use crate::{MAX_LEN, TEST_TIME, is_canonical, mutation::Material};

const MATERIAL: Material = Material {
    examples: &[
        "default:192.0.2.1 default:192.0.2.2\nweb:[2001:db8::1] web:2001:db8::2",
        "a:192.0.2.1\tb:192.0.2.2  a:192.0.2.1 ",
        "a:::1 b:::",
        "",
    ],
    words: &[
        "",
        " ",
        "\n",
        ":",
        "::",
        "[",
        "]",
        ".",
        "-",
        "a",
        "b",
        "web",
        "a.b",
        "A",
        "-a",
        "ü",
        "a:192.0.2.1",
        "b:192.0.2.1",
        "web:192.0.2.1",
        "b:::ffff:192.0.2.1",
        "a:[192.0.2.1]",
        "a:[::ffff:c000:201]",
        "a:2001:DB8:0::1",
        "a:192.0.2.0/24",
        "a:192.0.2.1-192.0.2.3",
        "a:192.0.2.01",
        "a:fe80::1%eth0",
        "a:[::1]:80",
        "a:[[::1]]",
        ":192.0.2.1",
        "a:",
        "a:[]",
        "\u{a0}",
        "\u{85}",
        "\u{0}",
        "a23456789-123456789-123456789-123456789-123456789-123456789-123",
    ],
};

#[test]
fn an_ip_list_gives_each_namespace_what_is_listed_for_it_or_quotes_what_is_wrong() {
    bolero::check!()
        .with_test_time(TEST_TIME)
        .with_max_len(MAX_LEN)
        .for_each(|bytes| {
            MATERIAL.texts(bytes).for_each(|text| check(&text));
        });
}

fn check(text: &str) {
    match parse(text) {
        Ok(pools) => {
            let given: BTreeMap<_, _> = pools.iter().map(given).collect();
            assert_eq!(given, listed(text), "{text:?}");
            let all = given.iter().flat_map(|(namespace, addresses)| {
                addresses
                    .iter()
                    .map(move |address| (namespace.clone(), *address))
            });
            let written = all
                .clone()
                .map(|(namespace, address)| format!("{namespace}:{address}"));
            assert_eq!(
                parse(&written.collect::<Vec<_>>().join(" ")),
                Ok(pools),
                "{text:?}"
            );
            let mut seen = BTreeSet::new();
            for (_, address) in all {
                assert!(is_canonical(address), "{text:?} gives {address}");
                assert!(seen.insert(address), "{text:?} gives {address} twice");
            }
        }
        Err(error) => {
            let told = error.to_string();
            let quoted = |item: &&str| told.contains(&format!("{item:?}"));
            assert!(
                text.split_whitespace().any(|item| quoted(&item)),
                "{text:?}: {told}"
            );
        }
    }
}

/// The namespace of a pool and its addresses; everything else is as by default.
fn given(pool: &PoolSpec) -> (String, BTreeSet<IpAddr>) {
    let name = pool
        .name
        .as_str()
        .strip_prefix("ip-list-")
        .unwrap()
        .to_owned();
    let plain = PoolSpec {
        namespaces: Some(BTreeSet::from([Namespace::parse(&name).unwrap()])),
        ..PoolSpec::new(pool.name.clone(), pool.addresses.clone())
    };
    assert_eq!(*pool, plain);
    let single = |range: &AddressRange| {
        assert_eq!(range.first(), range.last());
        range.first()
    };
    (name, pool.addresses.iter().map(single).collect())
}

/// As the text says, for a text that is known to be right.
fn listed(text: &str) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let mut listed = BTreeMap::<_, BTreeSet<_>>::new();
    for item in text.split_whitespace() {
        let (namespace, address) = item.split_once(':').unwrap();
        let address: IpAddr = address.trim_matches(['[', ']']).parse().unwrap();
        let addresses = listed.entry(namespace.to_owned()).or_default();
        addresses.insert(address.to_canonical());
    }
    listed
}
