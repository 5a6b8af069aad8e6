//! What a Sync may claim, and what it costs.

use std::cell::Cell;

use super::{syncing::*, *};

thread_local! {
    /// Claims that the last Sync found stuck: each is looked at once.
    pub static STEPS: Cell<usize> = const { Cell::new(0) };
}

fn limited(limit: u64) -> Harness {
    Harness::with_rules(&[("p", &[], &["192.0.2.1-192.0.2.9"])], |spec| {
        spec.max_per_cluster = Some(limit);
    })
}

fn shows(name: &str, address: &str) -> Acquire {
    of("a", name).showing(address)
}

fn kinds(h: &Harness) -> Vec<(String, ConflictKind)> {
    let all = h.engine.conflicts();
    all.map(|conflict| (conflict.address.to_string(), conflict.kind))
        .collect()
}

/// Every Service shows what the next one holds, and the last one what is another
/// cluster's.
#[test]
fn a_chain_of_stuck_claims_costs_a_step_for_each() {
    const LENGTH: u32 = 20_000;
    let mut h = Harness::new(&[("p", &[], &["10.0.0.0-10.0.255.255"])]);
    let address = |number: u32| {
        format!(
            "10.{}.{}.{}",
            number >> 16,
            (number >> 8) & 255,
            number & 255
        )
    };
    let service = |number: u32| of("a", &format!("s{number}"));
    let mut engine = h.engine.clone();
    for number in 0..LENGTH {
        let acquire = service(number).asking(&address(number));
        engine.plan(&Command::Acquire(acquire), h.now);
    }
    let other = of("b", "s").asking(&address(LENGTH));
    engine.plan(&Command::Acquire(other), h.now);
    let services = (0..LENGTH).map(|number| service(number).showing(&address(number + 1)));
    h.engine = engine;
    let sync = Sync {
        cluster: cluster("a"),
        services: services.collect(),
        seen: None,
        proves: None,
    };
    h.engine.plan(&Command::Sync(sync), h.now);
    assert_eq!(STEPS.get(), LENGTH as usize);
    assert_eq!(h.engine.conflicts().count(), LENGTH as usize);
}

#[test]
fn a_claim_does_not_depend_on_what_else_a_service_asks_for() {
    let mut h = four();
    let mut unreadable = shows("s1", "192.0.2.1");
    unreadable.wish.families.clear();
    h.sync("a", vec![unreadable.clone()]);
    assert_eq!(h.holder_of("192.0.2.1"), ["a/s1"]);

    // Nor is anything forgotten of a Service that holds it already.
    let tier = Requirement::In("tier".to_owned(), BTreeSet::from(["web".to_owned()]));
    let mut h = Harness::with_rules(&[("p", &[], &["192.0.2.1"])], |spec| {
        spec.service_selector = Some(Selector(vec![tier.clone()]));
    });
    let mut labelled = shows("s1", "192.0.2.1");
    labelled.wish.labels = Arc::new(Labels {
        service: LabelMap::from([("tier".to_owned(), "web".to_owned())]),
        ..Labels::default()
    });
    h.get(labelled.clone()).unwrap();
    h.sync("a", vec![]);
    h.sync("a", vec![unreadable]);
    let held = h.engine.allocations().next().unwrap();
    assert_eq!(held.holder.labels, Some(labelled.wish.labels));
    assert_eq!(held.holder.transition.release_at(), None);
}

#[test]
fn what_a_pool_does_not_serve_is_stranded_and_goes_to_nobody_while_it_is_shown() {
    let mut h = Harness::new(&[("p", &["web"], &["192.0.2.1"])]);
    h.sync("a", vec![shows("s1", "192.0.2.1")]);
    assert_eq!(h.holder_of("192.0.2.1"), ["a/s1"]);
    let held = h.engine.allocations().next().unwrap();
    assert!(is_stranded(&h.pools, held));
    let mut other = of("b", "s1");
    other.key = Arc::new(ServiceKey::parse("b", "web", "s1").unwrap());
    assert_eq!(h.get(other).unwrap_err().reason(), "POOL_EXHAUSTED");
}

#[test]
fn a_sync_claims_no_more_than_quotas_allow_unless_the_cluster_is_awaited() {
    let set = || {
        let names = ["s1", "s2", "s3"].into_iter().zip(1..);
        names
            .map(|(name, number)| shows(name, &format!("192.0.2.{number}")))
            .collect::<Vec<_>>()
    };
    let mut h = limited(2);
    h.sync("a", set());
    assert_eq!(h.engine.allocations().count(), 2);
    let claimed = [("192.0.2.3".to_owned(), ConflictKind::Claimed)];
    assert_eq!(kinds(&h), claimed);
    let conflict = h.get(shows("s3", "192.0.2.3")).unwrap_err();
    assert_eq!(conflict.reason(), "ADDRESS_CONFLICT", "it goes on with it");
    let others = of("b", "s1").asking("192.0.2.3");
    assert_eq!(h.get(others).unwrap_err().reason(), "ADDRESS_IN_USE");

    let mut h = limited(2);
    h.begin(&["a"], &[]);
    h.sync("a", set());
    assert_eq!(h.engine.allocations().count(), 3);
}

#[test]
fn what_was_beyond_a_quota_is_claimed_when_there_is_room() {
    let mut h = limited(1);
    h.sync(
        "a",
        vec![shows("s1", "192.0.2.1"), shows("s2", "192.0.2.2")],
    );
    assert_eq!(h.holder_of("192.0.2.2"), [""; 0]);
    h.run(&gone(&of("a", "s1").key, None));
    h.sync("a", vec![shows("s2", "192.0.2.2")]);
    assert_eq!(h.holder_of("192.0.2.2"), ["a/s2"]);
    assert_eq!(kinds(&h), []);
}

#[test]
fn conflicts_keep_no_more_from_others_than_a_quota_allows_and_bring_no_more() {
    let mut h = limited(2);
    for (name, address) in [("s1", "192.0.2.1"), ("s2", "192.0.2.2")] {
        h.get(of("b", name).asking(address)).unwrap();
    }
    h.get(of("c", "s3").asking("192.0.2.3")).unwrap();
    let liar = |number: u32| shows(&format!("liar{number}"), &format!("192.0.2.{number}"));
    h.sync("a", (1..=3).map(liar).collect());
    let claimed = |number: u32, kind| (format!("192.0.2.{number}"), kind);
    assert_eq!(
        kinds(&h),
        [
            claimed(1, ConflictKind::Claimed),
            claimed(2, ConflictKind::Claimed),
            claimed(3, ConflictKind::BeyondQuota),
        ]
    );
    for name in ["x1", "x2"] {
        h.get(of("a", name)).unwrap();
    }
    h.run(&gone(&of("b", "s1").key, None));
    assert_eq!(
        h.holder_of("192.0.2.1"),
        [""; 0],
        "it has as many as it may"
    );
    let waits = of("c", "s4").asking("192.0.2.1");
    assert_eq!(h.get(waits).unwrap_err().reason(), "ADDRESS_IN_USE");
    h.run(&gone(&of("c", "s3").key, None));
    let waits = of("c", "s4").asking("192.0.2.3");
    assert_eq!(h.get(waits), ok(&["192.0.2.3"]), "that is kept from nobody");
}

#[test]
fn a_cluster_keeps_no_more_from_others_by_moving_one_service_after_the_other() {
    let mut h = limited(1);
    let mut kept = 0;
    for number in 2..=9 {
        let name = format!("s{number}");
        h.get(of("a", &name)).unwrap();
        let shown = format!("192.0.2.{number}");
        let both = of("a", &name).showing(&shown);
        let _ = h.get(both);
        kept = h.engine.conflicts().filter(|of| of.keeps_away()).count();
        h.run(&Command::Release(Release {
            key: (*of("a", &name).key).clone(),
            uid: None,
            current: vec![shown.parse().unwrap()],
        }));
    }
    assert_eq!(kept, 2, "its quota, and one in exchange for what it holds");
}

#[test]
fn an_administrator_gives_no_more_than_quotas_allow() {
    let mut h = limited(1);
    h.sync(
        "a",
        vec![shows("s1", "192.0.2.1"), shows("s2", "192.0.2.2")],
    );
    let resolve = Command::Resolve(Resolve {
        address: "192.0.2.2".parse().unwrap(),
        key: of("a", "s2").key,
        winner: Winner::Shower {
            expires: Timestamp(i64::MAX),
        },
    });
    let (reply, _) = h.run(&resolve);
    let refusal = reply.refusals().next().map(Refusal::reason);
    assert_eq!(refusal, Some("QUOTA_EXCEEDED"));
    h.run(&gone(&of("a", "s1").key, None));
    assert!(matches!(h.run(&resolve).0, Reply::Resolved(_)));
    assert_eq!(h.holder_of("192.0.2.2"), ["a/s2"]);
}

#[test]
fn a_cluster_that_proves_a_restored_backup_gets_what_it_shows_whatever_its_quota() {
    let mut h = limited(1);
    h.begin(&[], &[]);
    h.sync("a", vec![shows("s1", "192.0.2.1")]);
    let services = vec![shows("s1", "192.0.2.1"), shows("s2", "192.0.2.2")];
    h.run(&Command::Sync(Sync {
        cluster: cluster("a"),
        services,
        seen: None,
        proves: Some(Loss::Restored),
    }));
    assert_eq!(h.holder_of("192.0.2.2"), ["a/s2"]);
}

#[test]
fn of_two_addresses_that_break_a_limit_only_together_one_is_given() {
    let pools: [(&str, &[&str], &[&str]); 1] = [(
        "p",
        &[],
        &["192.0.2.1-192.0.2.9", "2001:db8::1-2001:db8::9"],
    )];
    let mut h = Harness::with_rules(&pools, |spec| spec.max_per_cluster = Some(2));
    let families = vec![Family::V4, Family::V6];
    let mut target = of("a", "target");
    target.wish.families = vec![Family::V6];
    h.get(target.clone()).unwrap();
    h.get(of("a", "other")).unwrap();
    let mut source = of("b", "source");
    source.wish.families = families.clone();
    for address in h.get(source.clone()).unwrap() {
        h.run(&Command::Handover(Handover {
            address: address.parse().unwrap(),
            from: Arc::clone(&source.key),
            to: Arc::clone(&target.key),
            expires: Timestamp(i64::MAX),
            comment: String::new(),
        }));
    }
    h.run(&gone(&source.key, None));
    target.wish.families = families;
    target.wish.policy = Policy::Any;
    h.get(target.clone()).unwrap();
    let held = h.engine.allocations();
    assert_eq!(
        held.filter(|held| held.key.cluster == target.key.cluster)
            .count(),
        2
    );
}

#[test]
fn of_two_who_claim_an_address_the_one_gets_it_that_did_so_first() {
    let mut h = four();
    h.get(of("c", "holds")).unwrap();
    h.sync("b", vec![of("b", "first").showing("192.0.2.1")]);
    h.now = Timestamp(h.now.0 + 1);
    h.sync("a", vec![shows("second", "192.0.2.1")]);
    h.run(&gone(&of("c", "holds").key, None));
    assert_eq!(h.holder_of("192.0.2.1"), ["b/first"]);
    h.run(&gone(&of("b", "first").key, None));
    assert_eq!(h.holder_of("192.0.2.1"), ["a/second"]);
}

#[test]
fn a_cluster_takes_nothing_from_a_service_of_another_one_within_its_grace() {
    let mut h = four();
    h.get(of("b", "s1")).unwrap();
    h.sync("b", vec![]);
    h.sync("a", vec![shows("liar", "192.0.2.1")]);
    h.sync("b", vec![of("b", "s1").showing("192.0.2.1")]);
    assert_eq!(h.holder_of("192.0.2.1"), ["b/s1"]);
}

#[test]
fn who_asks_to_share_is_told_what_is_in_the_way_also_when_the_pool_is_full() {
    let shares = |name: &str, port: u16| {
        let mut acquire = of("a", name);
        acquire.wish.sharing = Some(Arc::new(Terms {
            key: SharingKey::parse("web").unwrap(),
            permitted: Permitted::All,
            ports: BTreeSet::from([Port {
                protocol: Protocol::Tcp,
                number: port,
            }]),
            backend: Backend::Cluster,
        }));
        acquire
    };
    let mut h = Harness::new(&[("p", &[], &["192.0.2.1"])]);
    h.get(shares("s1", 80)).unwrap();
    let clash = Refusal::SharingPortClash {
        address: "192.0.2.1".parse().unwrap(),
        port: Port {
            protocol: Protocol::Tcp,
            number: 80,
        },
        holder: of("a", "s1").key,
    };
    assert_eq!(h.get(shares("s2", 80)), Err(clash));
    let mut local = shares("s2", 81);
    local.wish.sharing = local.wish.sharing.map(|terms| {
        Arc::new(Terms {
            backend: Backend::Local(LabelMap::new()),
            ..(*terms).clone()
        })
    });
    assert_eq!(h.get(local).unwrap_err().reason(), "SHARING_NOT_PERMITTED");
    assert_eq!(h.get(shares("s2", 81)), ok(&["192.0.2.1"]));
}
