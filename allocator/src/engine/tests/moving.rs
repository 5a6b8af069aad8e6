//! What a Service gives up while its status shows it.

use super::{syncing::*, *};

/// `a/s1` holds .2 and its status still shows .1.
fn moved() -> Harness {
    let mut h = four();
    h.get(of("a", "s1")).unwrap();
    assert_eq!(h.get(moves()), ok(&["192.0.2.2"]));
    h
}

fn moves() -> Acquire {
    of("a", "s1").showing("192.0.2.1").asking("192.0.2.2")
}

fn told() -> Acquire {
    of("a", "s1").showing("192.0.2.2").asking("192.0.2.2")
}

fn first(h: &mut Harness) -> Result<Vec<String>, Refusal> {
    let answer = h.get(of("b", "s1").asking("192.0.2.1"));
    h.release_of(&of("b", "s1"));
    answer
}

fn is_reserved() -> Result<Vec<String>, Refusal> {
    Err(Refusal::AddressReserved {
        address: "192.0.2.1".parse().unwrap(),
        pool: name("p"),
    })
}

fn shares(name: &str, port: u16) -> Acquire {
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
}

impl Harness {
    fn release_of(&mut self, service: &Acquire) {
        self.run(&Command::Release(Release {
            key: (*service.key).clone(),
            uid: service.uid.clone(),
        }));
    }
}

#[test]
fn what_is_still_shown_goes_to_nobody_else_until_it_is_not() {
    let mut h = moved();
    assert_eq!(first(&mut h), is_reserved());
    assert_eq!(h.get(of("b", "s2")), ok(&["192.0.2.3"]), "nor unasked");
    h.engine = h.tables.restart(&h.pools);
    h.get(moves()).unwrap();
    assert_eq!(first(&mut h), is_reserved());
    let (_, outcome) = h.run(&Command::Acquire(told()));
    let freed: Vec<_> = outcome.freed.iter().map(|freed| freed.address).collect();
    assert_eq!(freed, ["192.0.2.1".parse::<IpAddr>().unwrap()], "is told");
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}

#[test]
fn a_request_from_before_the_move_does_not_tell_that_it_is_over() {
    let mut h = moved();
    h.get(of("a", "s1").asking("192.0.2.2")).unwrap();
    h.sync("a", vec![of("a", "s1")]);
    assert_eq!(first(&mut h), is_reserved());
}

#[test]
fn who_goes_back_holds_what_it_shows() {
    let mut h = moved();
    let back = of("a", "s1").showing("192.0.2.1").asking("192.0.2.1");
    assert_eq!(h.get(back), ok(&["192.0.2.1"]));
    assert_eq!(h.engine.reservations().count(), 0);
    assert_eq!(
        h.get(of("b", "s1").asking("192.0.2.2")),
        ok(&["192.0.2.2"]),
        "nobody was told of it"
    );
}

/// Asked once more it would end the move, of which it says nothing new.
#[test]
fn who_gets_what_it_shows_already_ends_its_moves_in_one_request() {
    let mut h = moved();
    let shown = of("a", "s1").showing("192.0.2.3").asking("192.0.2.3");
    let (reply, _) = h.run(&Command::Acquire(shown.clone()));
    assert_eq!(h.engine.reservations().count(), 0);
    let (again, more) = h.run(&Command::Acquire(shown));
    assert_eq!((again, more.changes), (reply, vec![]));
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}

#[test]
fn the_release_of_its_service_ends_a_move_and_a_late_one_does_not() {
    let mut h = moved();
    h.release_of(&of("a", "s1").uid("old"));
    assert_eq!(first(&mut h), is_reserved());
    h.release_of(&of("a", "s1"));
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}

#[test]
fn a_service_that_lost_all_is_done_when_it_shows_nothing() {
    let mut h = four();
    h.get(of("a", "s1")).unwrap();
    let mut other_family = of("a", "s1").showing("192.0.2.1");
    other_family.wish.families = vec![Family::V6];
    h.get(other_family.clone()).unwrap_err();
    assert_eq!(first(&mut h), is_reserved());
    other_family.wish.current.clear();
    h.get(other_family).unwrap_err();
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}

#[test]
fn a_request_that_ends_a_move_is_answered_as_when_it_is_repeated() {
    let mut h = Harness::with_rules(&[("p", &[], &["192.0.2.1-192.0.2.2"])], |spec| {
        spec.max_per_cluster = Some(1);
    });
    h.get(of("a", "s1")).unwrap();
    let mut other_family = of("a", "s1").showing("192.0.2.1");
    other_family.wish.families = vec![Family::V6];
    h.get(other_family).unwrap_err();
    h.get(of("a", "s2")).unwrap();
    let first = h.get(of("a", "s1"));
    assert!(matches!(first, Err(Refusal::QuotaExceeded { .. })));
    assert_eq!(h.get(of("a", "s1")), first);
}

#[test]
fn a_sync_ends_moves_that_are_over_and_after_the_grace_those_of_services_that_are_gone() {
    let mut h = moved();
    h.sync("a", vec![moves()]);
    assert_eq!(first(&mut h), is_reserved());
    h.sync("a", vec![told()]);
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));

    let mut h = moved();
    h.sync("a", vec![]);
    h.sync("a", vec![moves()]);
    h.now = h.now.after(GRACE);
    assert_eq!(first(&mut h), is_reserved(), "it was seen again");
    h.sync("a", vec![]);
    assert_eq!(first(&mut h), is_reserved());
    h.now = h.now.after(GRACE);
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}

#[test]
fn an_administrator_can_end_a_move_and_cannot_overlook_it() {
    let mut h = moved();
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    let reserve = |key: Option<Arc<ServiceKey>>| {
        Command::Reserve(Reserve {
            address,
            key,
            expires: None,
            comment: String::new(),
        })
    };
    for key in [None, Some(of("b", "s1").key)] {
        let (reply, _) = h.run(&reserve(key));
        let refusal = Refusal::AddressInUse {
            address,
            pool: name("p"),
            holder: Some(of("a", "s1").key),
        };
        assert_eq!(reply, Reply::Refused(refusal));
    }
    h.run(&Command::Unreserve(address));
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}

#[test]
fn nobody_joins_an_address_that_one_of_its_group_is_leaving() {
    let mut h = four();
    let joins = || shares("s3", 80).asking("192.0.2.1");
    h.get(shares("s1", 80)).unwrap();
    h.get(shares("s2", 81)).unwrap();
    h.get(moves()).unwrap();
    assert_eq!(h.get(joins()), is_reserved());
    assert_eq!(
        h.get(shares("s2", 81).showing("192.0.2.1")),
        ok(&["192.0.2.1"])
    );
    h.get(told()).unwrap();
    assert_eq!(h.get(joins()), ok(&["192.0.2.1"]));
}

#[test]
fn who_may_join_a_held_address_is_told_when_it_is_reserved_no_more() {
    let mut h = four();
    h.get(shares("s1", 80)).unwrap();
    h.run(&Command::Reserve(Reserve {
        address: "192.0.2.1".parse().unwrap(),
        key: Some(of("a", "s1").key),
        expires: None,
        comment: String::new(),
    }));
    let joins = || shares("s2", 81).asking("192.0.2.1");
    assert_eq!(h.get(joins()), is_reserved());
    let (_, outcome) = h.run(&Command::Unreserve("192.0.2.1".parse().unwrap()));
    let told: Vec<_> = outcome.freed.iter().map(|freed| freed.address).collect();
    assert_eq!(told, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(h.get(joins()), ok(&["192.0.2.1"]));
}

#[test]
fn a_cluster_that_is_taken_out_of_service_leaves_nothing_reserved() {
    let mut h = moved();
    let release_at = h.now.after(GRACE);
    h.run(&Command::Decommission(Decommission {
        cluster: cluster("a"),
        release_at,
    }));
    assert_eq!(first(&mut h), is_reserved());
    h.now = release_at;
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}
