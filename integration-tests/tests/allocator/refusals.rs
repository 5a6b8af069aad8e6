//! What cannot be granted is refused with a reason that a program can read.

use integration_tests::{
    allocator::{Allocator, Options},
    rpc::{Asking, Refusal, acquire, held, refusal, release},
};
use lb_proto::v1::{AcquireRequest, IpFamily, IpFamilyPolicy, ServicePort, Sharing};
use tonic::Code::{self, FailedPrecondition, InvalidArgument, ResourceExhausted};

const POOLS: &str = "
pools:
- name: web
  addresses: [192.0.2.1-192.0.2.2, 192.0.2.9]
  exclude: [192.0.2.9]
  namespaces: [web]
- name: mail
  addresses: [192.0.2.20]
  namespaces: [mail]
";

/// The request, and the code, reason and metadata it is refused with.
type Row = (
    AcquireRequest,
    Code,
    &'static str,
    &'static [(&'static str, &'static str)],
);

#[tokio::test]
async fn each_refusal_carries_its_code_reason_and_metadata() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "first")).await.unwrap();
    client.acquire(acquire("web", "second")).await.unwrap();
    let elsewhere = |request: AcquireRequest| {
        let mut request = request;
        request.service.as_mut().unwrap().cluster = "two".to_owned();
        request
    };

    let rows: [Row; 12] = [
        (
            acquire("web", "x"),
            ResourceExhausted,
            "POOL_EXHAUSTED",
            &[("pools", "web")],
        ),
        (
            acquire("other", "x"),
            FailedPrecondition,
            "NO_POOL",
            &[("namespace", "other")],
        ),
        (
            acquire("web", "x").wishing(|wish| wish.families = vec![IpFamily::Ipv6.into()]),
            FailedPrecondition,
            "NO_POOL",
            &[("namespace", "web")],
        ),
        (
            acquire("web", "x").wishing(|wish| wish.pool = "nowhere".to_owned()),
            FailedPrecondition,
            "POOL_NOT_FOUND",
            &[("pool", "nowhere")],
        ),
        (
            acquire("web", "x").wishing(|wish| wish.pool = "mail".to_owned()),
            FailedPrecondition,
            "POOL_NOT_ALLOWED",
            &[("pool", "mail"), ("namespace", "web")],
        ),
        (
            acquire("web", "x").addresses(&["192.0.2.20"]),
            FailedPrecondition,
            "POOL_NOT_ALLOWED",
            &[("pool", "mail"), ("namespace", "web")],
        ),
        (
            acquire("web", "x").addresses(&["192.0.2.1"]),
            FailedPrecondition,
            "ADDRESS_IN_USE",
            &[
                ("address", "192.0.2.1"),
                ("pool", "web"),
                ("holder", "web/first"),
            ],
        ),
        (
            acquire("web", "x").addresses(&["203.0.113.1"]),
            FailedPrecondition,
            "ADDRESS_NOT_IN_POOL",
            &[("address", "203.0.113.1")],
        ),
        (
            acquire("web", "x").addresses(&["192.0.2.9"]),
            FailedPrecondition,
            "ADDRESS_EXCLUDED",
            &[("address", "192.0.2.9"), ("pool", "web")],
        ),
        (
            acquire("web", "x").addresses(&["not-an-address"]),
            InvalidArgument,
            "INVALID_REQUEST",
            &[],
        ),
        (
            acquire("web", "x").addresses(&["192.0.2.1", "192.0.2.2"]),
            InvalidArgument,
            "INVALID_REQUEST",
            &[],
        ),
        (
            acquire("web", "x").families(
                IpFamilyPolicy::SingleStack,
                &[IpFamily::Ipv4, IpFamily::Ipv6],
            ),
            InvalidArgument,
            "CONFLICTING_REQUEST",
            &[],
        ),
    ];
    for (request, code, reason, metadata) in rows {
        let wish = format!("{:?}", request.wish);
        let status = client.acquire(request).await.unwrap_err();
        let told = refusal(&status);
        assert_eq!(
            (told.code, told.reason.as_str()),
            (code, reason),
            "{wish}: {status}"
        );
        for (name, value) in metadata {
            let told = told.metadata.get(*name).map(String::as_str);
            assert!(
                told.is_some_and(|told| told.contains(value)),
                "{wish}: {name} is {told:?}"
            );
        }
        assert!(!status.message().is_empty(), "{wish}");
    }

    let status = client
        .acquire(elsewhere(acquire("web", "x").addresses(&["192.0.2.1"])))
        .await;
    let Refusal {
        reason, metadata, ..
    } = refusal(&status.unwrap_err());
    assert_eq!(reason, "ADDRESS_IN_USE");
    assert!(
        !metadata.contains_key("holder"),
        "the holder is told only within its own cluster"
    );

    assert_eq!(
        allocator.allocations().await.len(),
        2,
        "a refusal changes nothing"
    );
}

const RULES: &str = "
pools:
- {name: full, addresses: [192.0.2.1], namespaces: [full], maxPerNamespace: 1}
- {name: cooling, addresses: [192.0.2.2], namespaces: [cooling], cooldown: 1h}
- {name: quota, addresses: [192.0.2.8/30], namespaces: [quota], maxPerCluster: 1}
- {name: off, addresses: [192.0.2.17], namespaces: ['off'], disabled: true}
- {name: shared, addresses: [192.0.2.33]}
";

#[tokio::test]
async fn refusals_for_rules_of_pools_and_sharing_carry_theirs_too() {
    let allocator = Allocator::start(Options::config(RULES)).await;
    let mut client = allocator.client().await;
    let shared = |namespace, name, key: &str, port| {
        acquire(namespace, name)
            .addresses(&["192.0.2.33"])
            .wishing(|wish| {
                wish.sharing = Some(Sharing {
                    key: key.to_owned(),
                    namespaces: Vec::new(),
                });
                wish.ports = vec![ServicePort { protocol: 0, port }];
            })
    };
    for namespace in ["full", "cooling", "quota"] {
        client.acquire(acquire(namespace, "first")).await.unwrap();
    }
    client.release(release("cooling", "first")).await.unwrap();
    client.acquire(shared("a", "first", "k", 80)).await.unwrap();

    let rows: [Row; 8] = [
        (
            acquire("full", "x"),
            ResourceExhausted,
            "POOL_EXHAUSTED",
            &[("pools", "full,shared"), ("family", "IPv4")],
        ),
        (
            acquire("cooling", "x").wishing(|wish| wish.pool = "cooling".to_owned()),
            ResourceExhausted,
            "POOL_COOLING_DOWN",
            &[("pools", "cooling"), ("family", "IPv4"), ("until", "20")],
        ),
        (
            acquire("quota", "x").wishing(|wish| wish.pool = "quota".to_owned()),
            ResourceExhausted,
            "QUOTA_EXCEEDED",
            &[
                ("pool", "quota"),
                ("quota", "maxPerCluster"),
                ("limit", "1"),
                ("used", "1"),
            ],
        ),
        (
            acquire("off", "x").addresses(&["192.0.2.17"]),
            FailedPrecondition,
            "POOL_DISABLED",
            &[("pool", "off")],
        ),
        (
            shared("a", "x", "k", 80),
            FailedPrecondition,
            "SHARING_PORT_CLASH",
            &[
                ("address", "192.0.2.33"),
                ("port", "TCP/80"),
                ("holder", "a/first"),
            ],
        ),
        (
            shared("a", "x", "other", 81),
            FailedPrecondition,
            "SHARING_KEY_MISMATCH",
            &[("address", "192.0.2.33")],
        ),
        (
            shared("b", "x", "k", 81),
            FailedPrecondition,
            "SHARING_NOT_PERMITTED",
            &[("address", "192.0.2.33")],
        ),
        (
            acquire("a", "x").addresses(&["192.0.2.33"]),
            FailedPrecondition,
            "ADDRESS_IN_USE",
            &[("address", "192.0.2.33"), ("holder", "a/first")],
        ),
    ];
    for (request, code, reason, metadata) in rows {
        let status = client.acquire(request).await.unwrap_err();
        let told = refusal(&status);
        assert_eq!(
            (told.code, told.reason.as_str()),
            (code, reason),
            "{status}"
        );
        for (name, value) in metadata {
            let told = told.metadata.get(*name).map(String::as_str);
            assert!(
                told.is_some_and(|told| told.contains(value)),
                "{reason}: {name} is {told:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_service_that_holds_an_address_keeps_it_when_its_new_wish_cannot_be_granted() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "first")).await.unwrap();
    client.acquire(acquire("web", "second")).await.unwrap();

    let kept = client
        .acquire(acquire("web", "first").addresses(&["192.0.2.2"]))
        .await
        .unwrap();
    let kept = kept.into_inner();
    assert_eq!(held(&kept), ["192.0.2.1"]);
    assert!(!kept.satisfied);
    assert_eq!(kept.unmet.len(), 1);
    assert_eq!(kept.unmet[0].reason, "ADDRESS_IN_USE");
    assert_eq!(kept.unmet[0].family(), IpFamily::Ipv4);

    client.release(release("web", "second")).await.unwrap();
    let moved = client
        .acquire(acquire("web", "first").addresses(&["192.0.2.2"]))
        .await
        .unwrap();
    assert_eq!(held(moved.get_ref()), ["192.0.2.2"]);
    assert!(moved.get_ref().satisfied);
    assert_eq!(allocator.allocations().await.len(), 1);
}

#[tokio::test]
async fn one_family_of_two_is_enough_where_dual_stack_is_only_preferred() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let mut client = allocator.client().await;
    let both = [IpFamily::Ipv4, IpFamily::Ipv6];
    let wish = acquire("web", "a").families(IpFamilyPolicy::PreferDualStack, &both);
    let answer = client.acquire(wish).await.unwrap().into_inner();
    assert_eq!(held(&answer), ["192.0.2.1"]);
    assert!(answer.satisfied);
    assert_eq!(answer.unmet.len(), 1);
    assert_eq!(
        (answer.unmet[0].family(), answer.unmet[0].reason.as_str()),
        (IpFamily::Ipv6, "NO_POOL")
    );
}
