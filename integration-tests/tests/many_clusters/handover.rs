//! An address moves from a Service of one cluster to one of another.

use integration_tests::{
    eventually::{DEADLINE, eventually},
    namespace::addresses,
};
use lb_proto::v1::HandoverRequest;

use crate::{
    fleet::Fleet,
    record::{Record, shown},
};

#[tokio::test]
async fn an_address_handed_over_is_never_shown_by_both_nor_by_a_third() {
    let fleet = Fleet::start("pools: [{name: p, addresses: [192.0.2.1-192.0.2.5]}]").await;
    let (a, b) = (fleet.cluster("a", 0).await, fleet.cluster("b", 1).await);
    let wants = |name: &str| fleet.service(name).ips("192.0.2.1");
    a.ns.create(fleet.service("source").ips("192.0.2.1")).await;
    a.ns.gets("source", ["192.0.2.1"]).await;
    // Without an address of its own that it asks for, it can be given another one.
    a.ns.annotate("source", "lb-allocator.io/ips", None).await;
    let (of_a, of_b) = (Record::of(&a.ns).await, Record::of(&b.ns).await);
    for ns in [&a.ns, &b.ns] {
        ns.create(wants("third")).await;
        ns.is_pending("third", "ADDRESS_IN_USE").await;
    }
    b.ns.create(wants("target")).await;
    b.ns.is_pending("target", "ADDRESS_IN_USE").await;

    let request = HandoverRequest {
        address: "192.0.2.1".to_owned(),
        from: Some(fleet.key("a", "source")),
        to: Some(fleet.key("b", "target")),
        ..HandoverRequest::default()
    };
    fleet.admin().await.handover(request).await.unwrap();
    // The target is looked at first: what the source still shows after that, it
    // showed at the same time.
    let both = eventually(DEADLINE, "the target gets it", async || {
        let target = addresses(&b.ns.get("target").await);
        let source = addresses(&a.ns.get("source").await);
        if target == ["192.0.2.1"] {
            Ok(source)
        } else {
            Err(format!("target {target:?}, source {source:?}"))
        }
    })
    .await;
    assert!(!both.contains(&"192.0.2.1".to_owned()), "both show it");
    let what = "the source gets another one";
    let source = a.ns.sees(what, "source", |service| {
        let shown = addresses(service);
        !shown.is_empty() && shown != ["192.0.2.1"]
    });
    let other = addresses(&source.await);

    let (of_a, of_b) = (of_a.end(&a.ns).await, of_b.end(&b.ns).await);
    let once = vec!["192.0.2.1".to_owned()];
    assert_eq!(shown(&of_a, "source"), [once.clone(), other]);
    assert_eq!(shown(&of_b, "target"), [once]);
    for story in [&of_a, &of_b] {
        assert!(shown(story, "third").is_empty());
    }
    let holders = fleet.holders().await;
    assert_eq!(holders[0], ("192.0.2.1".to_owned(), "b/target".to_owned()));
    assert_eq!(holders.len(), 2, "{holders:?}");
}
