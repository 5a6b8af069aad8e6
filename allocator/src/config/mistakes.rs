//! What people get wrong in a pools file, and what they are told.

use std::path::PathBuf;

use lb_process::in_one_line;

use super::Source;

const POOL: &str = "pools:\n- name: web\n  addresses: [192.0.2.0/28]\n";

fn told(text: &str) -> String {
    let source = Source::new(None, Some(PathBuf::from("pools.yaml")));
    match source.with_file(Some(text)) {
        Ok(configuration) => panic!("{text:?} is taken: {}", configuration.json),
        Err(error) => in_one_line(&error),
    }
}

/// What is told starts with the file, and has no word of the parser's that means
/// nothing to people.
fn check(text: &str, expected: &str) -> Result<(), String> {
    let told = told(text);
    let words = [
        "Option",
        "Spanned",
        "from_str",
        "Policy",
        "sequence",
        "scalar start",
    ];
    let is_plain = words.iter().all(|word| !told.contains(word));
    if is_plain && told == format!("pools file pools.yaml: {expected}") {
        return Ok(());
    }
    Err(format!(
        "{text:?}\n  told     {told}\n  expected {expected}\n"
    ))
}

fn with(lines: &str) -> String {
    format!("{POOL}{lines}")
}

#[test]
fn each_mistake_is_told_with_file_line_pool_key_and_what_was_expected() {
    let one = |addresses: &str| format!("pools:\n- name: web\n  addresses: [{addresses}]\n");
    let rows = [
        // Indentation.
        (
            "pools:\n- name: web\n   addresses: [192.0.2.1]\n".to_owned(),
            "line 3: pool \"web\": addresses: a key stands where none can be: keys that belong \
             together start in the same column, and a text with ': ' in it needs quotes (not \
             YAML: mapping values are not allowed in this context)",
        ),
        (
            with(" cooldown: 5m\n"),
            "line 4: pool \"web\": cooldown: the indentation does not fit: keys that belong \
             together start in the same column (not YAML: while parsing a block mapping, did \
             not find expected key)",
        ),
        (
            with("\tcooldown: 5m\n"),
            "line 4: pool \"web\": cooldown: a tab in the indentation; YAML takes spaces",
        ),
        (
            with("  namespaces: [a, b\n  priority: 1\n"),
            "line 5: pool \"web\": priority: a key stands where none can be; is a '[' or '{' \
             before it left open? (not YAML: illegal placement of ':' indicator)",
        ),
        (
            with("---\npools: []\n"),
            "line 5: pool \"web\": pools: a second document begins with '---'; a pools file is one \
             (not YAML: multiple YAML documents detected)",
        ),
        // Keys.
        (
            with("  autoasign: false\n"),
            "line 4: pool \"web\": autoasign: there is no such key in a pool; is it autoAssign?",
        ),
        (
            with("  announce: bgp\n"),
            "line 4: pool \"web\": announce: there is no such key in a pool; it has name, \
             addresses, exclude, namespaces, namespaceSelector, serviceSelector, clusters, \
             priority, autoAssign, avoidBuggyIPs, fenced, cooldown, stickyFor, maxPerNamespace, \
             maxPerCluster, disabled",
        ),
        (
            "pool: []\n".to_owned(),
            "line 1: pool: there is no such key in a pools file; is it pools?",
        ),
        (
            with("  name: mail\n"),
            "line 4: pool \"mail\": name: the key is there twice (not YAML: duplicate mapping \
             key: name)",
        ),
        (
            "pools:\n- addresses: [192.0.2.1]\n".to_owned(),
            "line 2: pool 1: name: it is missing; a pool needs it",
        ),
        (
            "pools:\n- name: web\n".to_owned(),
            "line 2: pool \"web\": addresses: it is missing; a pool needs it",
        ),
        (
            "".to_owned(),
            "line 1: the file is empty; it needs pools, as in \
             pools: [{name: web, addresses: [192.0.2.0/28]}]",
        ),
        (
            "pools:\n  name: web\n  addresses: [192.0.2.1]\n".to_owned(),
            "line 2: pools: expected a list, with '- ' before each; each is a pool; found keys \
             with values",
        ),
        // Values.
        (
            "pools:\n- name: web\n  addresses: 192.0.2.1\n".to_owned(),
            "line 3: pool \"web\": addresses: expected a list, as in [192.0.2.1]; found the text \
             \"192.0.2.1\"",
        ),
        (
            with("  namespaces:\n"),
            "line 4: pool \"web\": namespaces: expected a list, as in [a]; found nothing",
        ),
        (
            with("  namespaces:\n  - name: shop\n"),
            "line 5: pool \"web\": namespaces: expected a text in each place of the list; found \
             keys with values",
        ),
        (
            with("  autoAssign: \"false\"\n"),
            "line 4: pool \"web\": autoAssign: expected true or false, without quotes; found the \
             text \"false\"",
        ),
        (
            with("  cooldown: 300\n"),
            "line 4: pool \"web\": cooldown: expected a duration such as 30s, 5m or 24h; found \
             the number 300",
        ),
        (
            with("  cooldown: 5 minuts\n"),
            "line 4: pool \"web\": cooldown: \"5 minuts\" is not a duration such as 30s, 5m or \
             24h",
        ),
        (
            with("  stickyFor: 99999999999h\n"),
            "line 4: pool \"web\": stickyFor: \"99999999999h\" is more than ten years, 87600h, \
             which is the longest duration",
        ),
        (
            with("  maxPerCluster: 99999999999999999999\n"),
            "line 4: pool \"web\": maxPerCluster: expected a whole number up to \
             9223372036854775807; found a number that is too large, or no whole one",
        ),
        (
            with("  serviceSelector: {matchLabels: [tier]}\n"),
            "line 4: pool \"web\": serviceSelector: matchLabels: expected labels, as in \
             {tier: web}; found a list",
        ),
        (
            with("  namespaceSelector: {tier: web}\n"),
            "line 4: pool \"web\": namespaceSelector: tier: there is no such key in a selector; \
             it has matchLabels, matchExpressions",
        ),
        (
            with("  serviceSelector:\n    matchExpressions:\n    - key: a\n"),
            "line 6: pool \"web\": serviceSelector: matchExpressions 1: operator: it is missing; \
             an expression needs it",
        ),
        // Addresses.
        (
            one("192.0.2.300"),
            "line 3: pool \"web\": addresses: \"192.0.2.300\" is not an address, a range \
             FIRST-LAST or a CIDR",
        ),
        (
            one("192.0.2.5/28"),
            "line 3: pool \"web\": addresses: \"192.0.2.5/28\" begins inside its network; write \
             192.0.2.0/28 for all of the network, or 192.0.2.5 for one address",
        ),
        (
            one("192.0.2.9-192.0.2.1"),
            "line 3: pool \"web\": addresses: the range \"192.0.2.9-192.0.2.1\" ends before it \
             begins; write 192.0.2.1-192.0.2.9",
        ),
        (
            one("192.0.2.1-2001:db8::1"),
            "line 3: pool \"web\": addresses: the range \"192.0.2.1-2001:db8::1\" begins with one \
             family of addresses and ends with the other",
        ),
        (
            one("127.0.0.1"),
            "line 3: pool \"web\": addresses: \"127.0.0.1\" has addresses that no Service can \
             have: 127.0.0.0/8 is loopback, and does not leave a host",
        ),
        (
            one("\"::ffff:192.0.2.1\""),
            "line 3: pool \"web\": addresses: \"::ffff:192.0.2.1\" has addresses that no Service \
             can have: ::ffff:0:0/96 is IPv4 written as IPv6; list it as IPv4",
        ),
        (
            with("  exclude: [192.0.2.1, \"::ffff:192.0.2.2\"]\n"),
            "line 4: pool \"web\": exclude: \"::ffff:192.0.2.2\" has addresses that no Service \
             can have: ::ffff:0:0/96 is IPv4 written as IPv6; list it as IPv4",
        ),
        (
            with("  exclude: [\"::fffe:ffff:ffff-::1:0:0:0\"]\n"),
            "line 4: pool \"web\": exclude: \"::fffe:ffff:ffff-::1:0:0:0\" has addresses that no \
             Service can have: ::ffff:0:0/96 is IPv4 written as IPv6; list it as IPv4",
        ),
        (
            with("- name: web\n  addresses: [192.0.2.99]\n"),
            "line 4: pool \"web\": name: two pools have the name web",
        ),
        (
            with("- name: mail\n  addresses: [192.0.2.7]\n"),
            "line 5: pool \"mail\": addresses: pools web and mail overlap: web has 192.0.2.0-192.0.2.15, mail \
             has 192.0.2.7",
        ),
    ];
    let wrong = rows
        .into_iter()
        .filter_map(|(text, expected)| check(&text, expected).err());
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

#[test]
fn ends_of_a_network_are_warned_of_unless_nobody_gets_them() {
    let source = Source::new(None, Some(PathBuf::from("pools.yaml")));
    let warnings = |pool: &str| {
        let text = format!("pools:\n- name: web\n{pool}");
        source.with_file(Some(&text)).unwrap().warnings
    };
    assert_eq!(
        warnings("  addresses: [192.0.2.16/28]\n"),
        [
            "pools file pools.yaml: line 3: pool \"web\": addresses: 192.0.2.16 is the address of \
             the network itself and 192.0.2.31 is its broadcast address, which no host answers on \
             where 192.0.2.16/28 is the network of a link; exclude what it has there, unless the \
             addresses are routed"
        ]
    );
    let one_end = warnings("  addresses: [192.0.2.0/28]\n  avoidBuggyIPs: true\n");
    assert!(
        one_end[0].contains(": 192.0.2.15 is its broadcast"),
        "{one_end:?}"
    );
    for quiet in [
        "  addresses: [192.0.2.0/24]\n  avoidBuggyIPs: true\n",
        "  addresses: [192.0.2.16/28]\n  exclude: [192.0.2.16, 192.0.2.31]\n",
        "  addresses: [192.0.2.16-192.0.2.31, 192.0.2.4/31, 192.0.2.6/32, \"2001:db8::/64\"]\n",
    ] {
        assert_eq!(warnings(quiet), Vec::<String>::new(), "{quiet}");
    }
}
