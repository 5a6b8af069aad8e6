//! The pools file: what it means can be written down and read again, and what is
//! wrong with it is said with its place.

use std::net::IpAddr;

use lb_allocator::{
    config::{Configuration, Source, explain},
    engine::{AddressRange, Family, PoolSpec},
};

use crate::{MAX_LEN, TEST_TIME, is_canonical, mutation::Material, told};

const MATERIAL: Material = Material {
    examples: &[
        "pools:\n- name: a\n  addresses: [192.0.2.0/28, 2001:db8::/64]\n  exclude: [192.0.2.1]\n",
        "pools:\n- name: public.eu\n  addresses:\n  - 192.0.2.0/28\n  - 192.0.2.32-192.0.2.40\n  \
         - 2001:db8::1\n  namespaces: [default, web]\n  clusters: [prod.eu]\n  priority: -1\n  \
         cooldown: 30s\n  stickyFor: 1h\n  maxPerNamespace: 2\n  maxPerCluster: 20\n- name: b\n  \
         addresses: ['198.51.100.0/24']\n  autoAssign: false\n  avoidBuggyIPs: true\n  disabled: true\n",
        "pools:\n- name: fence\n  addresses: [203.0.113.7]\n  fenced: true\n  namespaceSelector:\n    \
         matchLabels: {tier: web, example.org/x: y}\n  serviceSelector:\n    matchExpressions:\n    \
         - {key: public, operator: Exists}\n    - {key: zone, operator: NotIn, values: [a, b]}\n",
        "pools: [{name: a, addresses: [10.0.0.0/8]}, {name: b, addresses: [11.0.0.1-11.0.0.9]}]",
        r#"{"pools": [{"name": "j", "addresses": ["2001:db8::-2001:db8::ff"], "stickyFor": "1500ms"}]}"#,
    ],
    words: &[
        "",
        "~",
        "null",
        "true",
        "no",
        "0",
        "1",
        "-1",
        "9223372036854775807",
        "9223372036854775808",
        "1e3",
        "0x10",
        "pools:",
        "name:",
        "addresses:",
        "exclude:",
        "namespaces:",
        "clusters:",
        "namespaceSelector:",
        "serviceSelector:",
        "matchLabels:",
        "matchExpressions:",
        "key:",
        "operator:",
        "values:",
        "priority:",
        "autoAssign:",
        "avoidBuggyIPs:",
        "fenced:",
        "cooldown:",
        "stickyFor:",
        "maxPerNamespace:",
        "maxPerCluster:",
        "disabled:",
        "In",
        "NotIn",
        "Exists",
        "DoesNotExist",
        "a",
        "b",
        "public.eu",
        "A",
        "-a",
        "a_b",
        "*",
        "0.0.0.0/0",
        "::/0",
        "::",
        "0.0.0.0",
        "255.255.255.255",
        "192.0.2.0/28",
        "192.0.2.9-192.0.2.1",
        "192.0.2.1-2001:db8::1",
        "192.0.2.1-192.0.2.1",
        "::ffff:192.0.2.0/120",
        "::ffff:0:0/95",
        "::ffff:192.0.2.7",
        "::1-::ffff:192.0.2.1",
        "::fffe:ffff:ffff-::1:0:0:0",
        "2001:DB8::0001",
        "[2001:db8::1]",
        "192.0.2.1/33",
        "192.0.2.01",
        "0s",
        "5m",
        "1h 30m",
        "-5s",
        "PT5M",
        "500us",
        "1ns",
        "9223372036854775807s",
        "106751991167300d",
        "24h",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        ": ",
        "\n",
        "\n  ",
        "# ",
        "\"",
        "'",
        "\\u0000",
        "\u{7f}",
        "\u{85}",
        "\u{feff}",
        "\u{2028}",
        "ü",
        "&x ",
        "*x",
        "<<: ",
        "!!str ",
        "--- ",
        "|\n   ",
    ],
};

#[test]
fn a_pools_file_reads_back_as_it_is_described_or_its_fault_is_placed() {
    bolero::check!()
        .with_test_time(TEST_TIME)
        .with_max_len(MAX_LEN)
        .for_each(|bytes| {
            MATERIAL.texts(bytes).for_each(|text| check(&text));
        });
}

fn check(text: &str) {
    let source = Source::new(None, Some("pools.yaml".into()));
    match source.with_file(Some(text)) {
        Ok(configuration) => {
            let again = source.with_file(Some(&configuration.json));
            let again = again.unwrap_or_else(|error| {
                let json = &configuration.json;
                panic!("{text:?} is described as {json}, but: {}", told(&error))
            });
            assert_eq!(specs(&again), specs(&configuration), "{text:?}");
            assert_eq!(again.json, configuration.json, "{text:?}");
            let explained = explain(&configuration.pools);
            for spec in specs(&configuration) {
                assert!(explained.contains(&format!("pool {}: ", spec.name)));
                for range in spec.addresses.iter().chain(&spec.exclude) {
                    assert!(is_canonical_range(range), "{text:?} gives {range}");
                }
            }
        }
        Err(error) => {
            let told = told(&error);
            assert!(told.starts_with("pools file pools.yaml: "), "{told}");
            // As YAML counts them.
            let lines = text.replace("\r\n", "\n").split(['\n', '\r']).count();
            assert!(
                line_of(&told).is_some_and(|line| (1..=lines).contains(&line)),
                "{text:?} has {lines} lines, but: {told}"
            );
        }
    }
}

fn specs(configuration: &Configuration) -> Vec<&PoolSpec> {
    let pools = &configuration.pools;
    pools.indexes().map(|index| pools.spec(index)).collect()
}

/// Every address of it is written in one way only.
fn is_canonical_range(range: &AddressRange) -> bool {
    let (first, last) = (range.first(), range.last());
    first <= last
        && Family::of(first) == Family::of(last)
        && is_canonical(first)
        && is_canonical(last)
        && (first.is_ipv4() || !spans_mapped(first, last))
}

fn spans_mapped(first: IpAddr, last: IpAddr) -> bool {
    let mapped = |text: &str| text.parse::<IpAddr>().unwrap();
    first <= mapped("::ffff:255.255.255.255") && mapped("::ffff:0.0.0.0") <= last
}

fn line_of(told: &str) -> Option<usize> {
    told.match_indices("line ").find_map(|(at, word)| {
        let rest = &told[at + word.len()..];
        let end = rest.find(|c: char| !c.is_ascii_digit());
        rest[..end.unwrap_or(rest.len())].parse().ok()
    })
}
