//! Every refusal tells what, why and what to do, in the condition and in the
//! Event, and ends when what it waits for happens.

use integration_tests::{
    eventually::{DEADLINE, eventually},
    namespace::Namespace,
    service::ServiceBuilder,
    site::Site,
};
use serde_json::{Value, json};

const POOL: &str = "lb-allocator.io/pool";
const KEY: &str = "lb-allocator.io/sharing-key";

const POOLS: &str = "pools:
- {name: full, addresses: [192.0.2.1], autoAssign: false}
- {name: cooling, addresses: [192.0.2.2], autoAssign: false, cooldown: 1h}
- {name: quota, addresses: [192.0.2.8/30], autoAssign: false, maxPerNamespace: 1}
- {name: others, addresses: [192.0.2.16], namespaces: [of-others]}
- {name: off, addresses: [192.0.2.17], autoAssign: false, disabled: true}
- {name: rules, addresses: [192.0.2.32/28], autoAssign: false, exclude: [192.0.2.32]}
";

/// The same names, with nothing in the way any more but holders.
const OPEN: &str = "pools:
- {name: full, addresses: [192.0.2.1], autoAssign: false}
- {name: cooling, addresses: [192.0.2.2], autoAssign: false, cooldown: 1h}
- {name: quota, addresses: [192.0.2.8/30], autoAssign: false, maxPerNamespace: 2}
- {name: others, addresses: [192.0.2.16], autoAssign: false}
- {name: off, addresses: [192.0.2.17], autoAssign: false}
- {name: rules, addresses: [192.0.2.32/28], autoAssign: false}
- {name: nowhere, addresses: [203.0.113.0/24]}
";

/// A Service that is refused.
struct Row {
    service: ServiceBuilder,
    reason: &'static str,
    /// What and why, and what to do.
    words: &'static [&'static str],
    /// Whether [`OPEN`] lets it have an address, and if not, which edit does.
    unless: Option<Value>,
}

async fn start() -> (Namespace, Site) {
    let (ns, site) = Site::of_pools(POOLS).await;
    for (name, pool) in [
        ("holder", "full"),
        ("gone", "cooling"),
        ("quota-holder", "quota"),
    ] {
        ns.create(site.service(name).annotation(POOL, pool)).await;
        ns.gets_any(name).await;
    }
    let sharing = site.service("sharing").annotation(KEY, "k");
    ns.create(sharing.ips("192.0.2.33")).await;
    ns.gets("sharing", ["192.0.2.33"]).await;
    ns.delete("gone").await;
    ns.was_told("gone", ["AddressAssigned", "AddressReleased"])
        .await;
    (ns, site)
}

fn rows(site: &Site) -> Vec<Row> {
    let pool = |name: &str, pool| site.service(name).annotation(POOL, pool);
    let shared = |name: &str, key| site.service(name).annotation(KEY, key).ips("192.0.2.33");
    let annotations = |name: &str, value: &str| json!({"metadata": {"annotations": {name: value}}});
    let ips = |value: &str| annotations("lb-allocator.io/ips", value);
    let row = |service, reason, words, unless| Row {
        service,
        reason,
        words,
        unless,
    };
    vec![
        row(
            pool("pool-exhausted", "full"),
            "POOL_EXHAUSTED",
            &[
                "no free IPv4 address in pool full",
                "release a Service or add addresses",
            ],
            Some(annotations(POOL, "rules")),
        ),
        row(
            pool("pool-cooling-down", "cooling"),
            "POOL_COOLING_DOWN",
            &[
                "pool cooling",
                "IPv4",
                "free at 20",
                "served when the time is over",
            ],
            Some(annotations(POOL, "rules")),
        ),
        row(
            pool("quota-exceeded", "quota"),
            "QUOTA_EXCEEDED",
            &[
                "maxPerNamespace of pool quota is 1",
                "release a Service or raise it",
            ],
            None,
        ),
        row(
            site.service("no-pool"),
            "NO_POOL",
            &[
                "no pool has IPv4 addresses for namespace",
                "ask for a pool by name",
            ],
            None,
        ),
        row(
            pool("pool-not-found", "nowhere"),
            "POOL_NOT_FOUND",
            &[
                "pool nowhere does not exist",
                "correct the annotation, or add the pool",
            ],
            None,
        ),
        row(
            pool("pool-not-allowed", "others"),
            "POOL_NOT_ALLOWED",
            &["pool others does not serve", "name another pool or address"],
            None,
        ),
        row(
            pool("pool-disabled", "off"),
            "POOL_DISABLED",
            &[
                "pool off is disabled",
                "name another pool, or enable this one",
            ],
            None,
        ),
        row(
            site.service("address-in-use").ips("192.0.2.1"),
            "ADDRESS_IN_USE",
            &[
                "192.0.2.1 of pool full is held by Service",
                "/holder",
                "ask for another one",
            ],
            Some(ips("192.0.2.40")),
        ),
        row(
            site.service("address-not-in-pool").ips("203.0.113.9"),
            "ADDRESS_NOT_IN_POOL",
            &["203.0.113.9 is not in any pool", "add this one to a pool"],
            None,
        ),
        row(
            site.service("address-excluded").ips("192.0.2.32"),
            "ADDRESS_EXCLUDED",
            &[
                "pool rules excludes address 192.0.2.32",
                "ask for another address",
            ],
            None,
        ),
        row(
            shared("sharing-port-clash", "k"),
            "SHARING_PORT_CLASH",
            &[
                "port TCP/80",
                "192.0.2.33",
                "/sharing",
                "use another port or another sharing key",
            ],
            Some(json!({"spec": {"ports": [{"port": 81, "protocol": "TCP"}]}})),
        ),
        row(
            shared("sharing-key-mismatch", "other").port(82),
            "SHARING_KEY_MISMATCH",
            &[
                "192.0.2.33",
                "another sharing key",
                "use the same sharing key on both",
            ],
            Some(annotations(KEY, "k")),
        ),
        row(
            shared("sharing-not-permitted", "k")
                .port(83)
                .traffic_policy("Local"),
            "SHARING_NOT_PERMITTED",
            &[
                "192.0.2.33",
                "external traffic policies",
                "use the same externalTrafficPolicy",
            ],
            Some(json!({"spec": {"externalTrafficPolicy": "Cluster"}})),
        ),
        row(
            site.service("invalid-request").ips("192.0.2.300"),
            "INVALID_REQUEST",
            &[
                "lb-allocator.io/ips",
                "\"192.0.2.300\" is not an IP address",
                "correct the Service",
            ],
            Some(ips("192.0.2.41")),
        ),
        row(
            site.service("conflicting-request")
                .ips("192.0.2.42")
                .load_balancer_ip("192.0.2.43"),
            "CONFLICTING_REQUEST",
            &[
                "spec.loadBalancerIP asks for 192.0.2.43",
                "192.0.2.42",
                "remove one of the two",
            ],
            Some(json!({"spec": {"loadBalancerIP": null}})),
        ),
    ]
}

#[tokio::test]
async fn every_refusal_says_what_and_why_and_what_to_do_and_ends_when_that_is_done() {
    let (ns, site) = start().await;
    let held = site.allocator.allocations().await.len();
    for row in rows(&site) {
        let name = ns.create(row.service).await.metadata.name.unwrap();
        let message = ns.is_pending(&name, row.reason).await.message;
        for words in row.words {
            assert!(
                message.contains(words),
                "{}: {words}: {message}",
                row.reason
            );
        }
        let told = ns.was_told(&name, ["AllocationFailed"]).await;
        assert_eq!(told[0].note, format!("{}: {message}", row.reason));
        assert_eq!(told[0].kind, "Warning");
    }
    assert_eq!(site.allocator.allocations().await.len(), held);

    // One edit for each that waits for one, one configuration for all others.
    site.allocator.write_config(OPEN);
    eventually(DEADLINE, "the other pools are in force", async || {
        let pools = site.allocator.pools().await;
        let known = pools.iter().any(|pool| pool.name == "nowhere");
        if known { Ok(()) } else { Err("not yet") }
    })
    .await;
    for row in rows(&site) {
        let name = row.service.build().metadata.name.unwrap();
        if let Some(edit) = row.unless {
            ns.has_condition(&name, "False", row.reason).await;
            ns.edit(&name, edit).await;
        }
        ns.has_condition(&name, "True", "Satisfied").await;
        ns.gets_any(&name).await;
        ns.was_told(&name, ["AllocationFailed", "AddressAssigned"])
            .await;
    }
}

#[tokio::test]
async fn a_holder_of_another_cluster_is_not_named() {
    let (ns, site) = start().await;
    let mut client = site.allocator.client().await;
    let mut request = integration_tests::rpc::acquire("secret-place", "secret-name");
    let wish = request.wish.as_mut().unwrap();
    wish.addresses = vec!["192.0.2.45".to_owned()];
    request.service.as_mut().unwrap().cluster = "two".to_owned();
    client.acquire(request).await.unwrap();
    ns.create(site.service("web").ips("192.0.2.45")).await;
    let message = ns.is_pending("web", "ADDRESS_IN_USE").await.message;
    assert!(
        message.contains("another cluster") && !message.contains("secret"),
        "{message}"
    );
}
