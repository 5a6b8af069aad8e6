//! What a Service shows and does not hold.

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

fn is_shown() -> Result<Vec<String>, Refusal> {
    is_shown_by(None)
}

fn is_shown_by(by: Option<Arc<ServiceKey>>) -> Result<Vec<String>, Refusal> {
    Err(Refusal::AddressShown {
        address: "192.0.2.1".parse().unwrap(),
        pool: name("p"),
        by,
    })
}

fn reserve(key: Option<Arc<ServiceKey>>, expires: Option<Timestamp>) -> Command {
    Command::Reserve(Reserve {
        address: "192.0.2.1".parse().unwrap(),
        key,
        expires,
        comment: String::new(),
    })
}

fn resolve(service: &Acquire, winner: Winner) -> Command {
    Command::Resolve(Resolve {
        address: "192.0.2.1".parse().unwrap(),
        key: Arc::clone(&service.key),
        winner,
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
    /// Which goes on to show what the request says.
    fn release_of(&mut self, service: &Acquire) {
        self.run(&Command::Release(Release {
            key: (*service.key).clone(),
            uid: service.uid.clone(),
            current: service.wish.current.clone(),
        }));
    }
}

#[test]
fn what_is_still_shown_goes_to_nobody_else_until_it_is_not() {
    let mut h = moved();
    assert_eq!(first(&mut h), is_shown());
    assert_eq!(h.get(of("b", "s2")), ok(&["192.0.2.3"]), "nor unasked");
    h.engine = h.tables.restart(&h.pools);
    h.get(moves()).unwrap();
    assert_eq!(first(&mut h), is_shown());
    let (_, outcome) = h.run(&Command::Acquire(told()));
    assert_eq!(outcome.freed(), ["192.0.2.1"], "is told");
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}

#[test]
fn a_request_from_before_the_move_does_not_tell_that_it_is_over() {
    let mut h = moved();
    h.get(of("a", "s1").asking("192.0.2.2")).unwrap();
    h.sync("a", vec![of("a", "s1")]);
    assert_eq!(first(&mut h), is_shown());
}

#[test]
fn who_goes_back_holds_what_it_shows() {
    let mut h = moved();
    let back = of("a", "s1").showing("192.0.2.1").asking("192.0.2.1");
    assert_eq!(h.get(back), ok(&["192.0.2.1"]));
    assert_eq!(h.engine.conflicts().count(), 0);
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
    assert_eq!(h.engine.conflicts().count(), 0);
    let (again, more) = h.run(&Command::Acquire(shown));
    assert_eq!((again, more.changes), (reply, vec![]));
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}

#[test]
fn the_release_of_its_service_ends_a_move_and_a_late_one_does_not() {
    let mut h = moved();
    h.release_of(&of("a", "s1").uid("old"));
    assert_eq!(first(&mut h), is_shown());
    h.release_of(&of("a", "s1"));
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}

#[test]
fn a_release_keeps_what_the_service_goes_on_to_show_from_others() {
    let mut h = four();
    h.get(of("a", "s1")).unwrap();
    let shows = || of("a", "s1").showing("192.0.2.1").showing("192.0.2.2");
    h.sync("a", vec![shows()]);
    for _ in 0..2 {
        h.release_of(&shows());
        assert_eq!(h.holder_of("192.0.2.1"), [""; 0]);
        assert_eq!(first(&mut h), is_shown(), "what it held");
        let other = of("b", "s1").asking("192.0.2.2");
        h.get(other).unwrap_err();
    }
    h.engine = h.tables.restart(&h.pools);
    assert_eq!(first(&mut h), is_shown());
    h.release_of(&of("a", "s1"));
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
    assert_eq!(h.engine.conflicts().count(), 0);
}

#[test]
fn a_service_that_lost_all_is_done_when_it_shows_nothing() {
    let mut h = four();
    h.get(of("a", "s1")).unwrap();
    let mut other_family = of("a", "s1").showing("192.0.2.1");
    other_family.wish.families = vec![Family::V6];
    h.get(other_family.clone()).unwrap_err();
    assert_eq!(first(&mut h), is_shown());
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
    assert_eq!(first(&mut h), is_shown());
    h.sync("a", vec![told()]);
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));

    let mut h = moved();
    h.sync("a", vec![]);
    h.sync("a", vec![moves()]);
    h.now = h.now.after(GRACE);
    assert_eq!(first(&mut h), is_shown(), "it was seen again");
    h.sync("a", vec![]);
    assert_eq!(first(&mut h), is_shown());
    h.now = h.now.after(GRACE);
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}

#[test]
fn an_administrator_can_end_a_move_and_cannot_overlook_it() {
    let mut h = moved();
    for key in [None, Some(of("b", "s1").key)] {
        let (reply, _) = h.run(&reserve(key, None));
        let refusal = Refusal::AddressInUse {
            address: "192.0.2.1".parse().unwrap(),
            pool: name("p"),
            holder: Some(of("a", "s1").key),
        };
        assert_eq!(reply, Reply::Refused(refusal));
    }
    h.run(&Command::Unreserve("192.0.2.1".parse().unwrap()));
    assert_eq!(first(&mut h), is_shown(), "it is no reservation");
    for _ in 0..2 {
        h.run(&resolve(&of("a", "s1"), Winner::Holder));
        assert_eq!(first(&mut h), is_shown(), "nor is it decided by that");
    }
    h.run(&resolve(&of("a", "s1"), Winner::Nobody));
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}

#[test]
fn nobody_joins_an_address_that_one_of_its_group_is_leaving() {
    let mut h = four();
    let joins = || shares("s3", 80).asking("192.0.2.1");
    h.get(shares("s1", 80)).unwrap();
    h.get(shares("s2", 81)).unwrap();
    h.get(moves()).unwrap();
    assert_eq!(h.get(joins()), is_shown_by(Some(of("a", "s1").key)));
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
    h.run(&reserve(Some(of("a", "s1").key), None));
    let joins = || shares("s2", 81).asking("192.0.2.1");
    assert_eq!(
        h.get(joins()),
        Err(Refusal::AddressReserved {
            address: "192.0.2.1".parse().unwrap(),
            pool: name("p"),
        })
    );
    let (_, outcome) = h.run(&Command::Unreserve("192.0.2.1".parse().unwrap()));
    assert_eq!(outcome.freed(), ["192.0.2.1"]);
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
    assert_eq!(first(&mut h), is_shown());
    h.now = release_at;
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}

#[test]
fn what_two_sharers_move_away_from_is_nobodys_until_neither_shows_it() {
    let mut h = four();
    h.get(shares("s1", 80)).unwrap();
    h.get(shares("s2", 81)).unwrap();
    h.get(moves()).unwrap();
    let second = |shown: &str| of("a", "s2").showing(shown).asking("192.0.2.3");
    assert_eq!(h.get(second("192.0.2.1")), ok(&["192.0.2.3"]));
    h.get(told()).unwrap();
    assert_eq!(first(&mut h), is_shown(), "the second one shows it");
    h.engine = h.tables.restart(&h.pools);
    assert_eq!(first(&mut h), is_shown());
    h.get(second("192.0.2.3")).unwrap();
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}

#[test]
fn what_is_shown_goes_to_nobody_when_a_reservation_of_it_ends() {
    let ends: [fn(&mut Harness); 2] = [
        |h| {
            h.run(&Command::Unreserve("192.0.2.1".parse().unwrap()));
        },
        |h| h.now = h.now.after(GRACE),
    ];
    for end in ends {
        let mut h = four();
        h.get(of("a", "s1")).unwrap();
        let expires = Some(h.now.after(GRACE));
        h.run(&reserve(Some(of("a", "s1").key), expires));
        h.get(moves()).unwrap();
        end(&mut h);
        assert_eq!(first(&mut h), is_shown());
        h.get(told()).unwrap();
        assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
    }
}

#[test]
fn a_free_address_that_a_hand_writes_into_a_status_goes_to_nobody_while_it_is_shown() {
    let mut h = four();
    h.get(of("a", "s1").asking("192.0.2.2")).unwrap();
    let shows = |address| of("a", "s1").showing(address).asking("192.0.2.2");
    assert_eq!(h.get(shows("192.0.2.1")), ok(&["192.0.2.2"]));
    let kinds: Vec<_> = h.engine.conflicts().map(|conflict| conflict.kind).collect();
    assert_eq!(kinds, [ConflictKind::Shown], "it is listed");
    assert_eq!(first(&mut h), is_shown());
    assert_eq!(h.get(of("b", "s2")), ok(&["192.0.2.3"]), "nor unasked");
    h.sync("a", vec![shows("192.0.2.1")]);
    assert_eq!(first(&mut h), is_shown());
    h.get(shows("192.0.2.2")).unwrap();
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}

#[test]
fn what_a_refused_service_shows_is_kept_for_it() {
    let mut h = Harness::new(&[("p", &["web"], &["192.0.2.1"])]);
    let shows = || of("a", "s1").showing("192.0.2.1");
    h.get(shows()).unwrap_err();
    let other = Acquire {
        key: Arc::new(ServiceKey::parse("b", "web", "s1").unwrap()),
        ..of("b", "s1")
    };
    h.get(other.clone()).unwrap_err();
    h.sync("a", vec![shows()]);
    assert_eq!(h.holder_of("192.0.2.1"), ["a/s1"], "it is stranded");
    h.sync("a", vec![]);
    h.now = h.now.after(GRACE);
    assert_eq!(h.get(other), ok(&["192.0.2.1"]));
}

#[test]
fn what_a_hand_wrote_over_a_held_address_is_kept_from_others_and_moves_nobody() {
    let mut h = four();
    h.get(of("a", "s1")).unwrap();
    let edited = Acquire {
        shown_by_others: true,
        ..of("a", "s1").showing("192.0.2.2")
    };
    h.sync("a", vec![edited]);
    assert_eq!(h.holder_of("192.0.2.1"), ["a/s1"]);
    assert_eq!(h.get(of("b", "s2")), ok(&["192.0.2.3"]));
    h.sync("a", vec![of("a", "s1").showing("192.0.2.1")]);
    assert_eq!(h.get(of("b", "s3")), ok(&["192.0.2.2"]));
}

#[test]
fn what_is_shown_beside_what_is_held_is_kept_from_others() {
    let mut h = four();
    h.get(of("a", "s1")).unwrap();
    let both = of("a", "s1").showing("192.0.2.1").showing("192.0.2.2");
    h.sync("a", vec![both]);
    assert_eq!(h.get(of("b", "s2")), ok(&["192.0.2.3"]));
    h.sync("a", vec![of("a", "s1").showing("192.0.2.1")]);
    assert_eq!(h.get(of("b", "s3").asking("192.0.2.2")), ok(&["192.0.2.2"]));
}

#[test]
fn what_a_liar_shows_of_another_cluster_neither_moves_its_services_nor_stops_them_sharing() {
    let mut h = four();
    h.get(shares("s1", 80)).unwrap();
    let lies = || of("b", "liar").showing("192.0.2.1");
    h.sync("b", vec![lies()]);
    h.get(lies()).unwrap_err();
    let joins = shares("s2", 81).asking("192.0.2.1");
    assert_eq!(h.get(joins), ok(&["192.0.2.1"]));
    let holds = shares("s1", 80).showing("192.0.2.1");
    assert_eq!(h.get(holds), ok(&["192.0.2.1"]));
}

/// What others showed first is theirs to come back to.
#[test]
fn nobody_is_kept_from_what_it_showed_before_others_said_so() {
    let mut h = moved();
    h.now = Timestamp(h.now.0 + 1);
    h.sync("b", vec![of("b", "liar").showing("192.0.2.1")]);
    assert_eq!(h.holder_of("192.0.2.1"), [""; 0]);
    let back = of("a", "s1").showing("192.0.2.1").asking("192.0.2.1");
    assert_eq!(h.get(back), ok(&["192.0.2.1"]));
}

#[test]
fn what_a_service_in_conflict_shows_beside_that_is_kept_from_others() {
    let mut h = four();
    h.get(of("a", "s1").asking("192.0.2.4")).unwrap();
    h.sync("b", vec![of("b", "s1").showing("192.0.2.4")]);
    let both = of("b", "s1").showing("192.0.2.4").showing("192.0.2.1");
    assert_eq!(h.get(both).unwrap_err().reason(), "ADDRESS_CONFLICT");
    assert_eq!(h.get(of("c", "s1")), ok(&["192.0.2.2"]));
}

#[test]
fn what_a_service_showed_is_free_after_the_grace_when_another_one_has_its_name() {
    let mut h = moved();
    let mut again = of("a", "s1").uid("another");
    again.wish.families = Vec::new();
    h.sync("a", vec![again.clone()]);
    assert_eq!(first(&mut h), is_shown(), "it may be seen again");
    h.now = h.now.after(GRACE);
    h.sync("a", vec![again]);
    assert_eq!(first(&mut h), ok(&["192.0.2.1"]));
}

#[test]
fn what_a_service_held_is_kept_from_others_when_it_gets_what_it_claims() {
    let mut h = four();
    let held = h.get(of("b", "holder").asking("192.0.2.1"));
    assert_eq!(held, ok(&["192.0.2.1"]));
    h.sync("a", vec![of("a", "s1").showing("192.0.2.1")]);
    h.get(of("a", "s1").asking("192.0.2.2")).unwrap();
    h.sync("a", vec![of("a", "s1").showing("192.0.2.1")]);
    h.run(&gone(&of("b", "holder").key, None));
    assert_eq!(h.holder_of("192.0.2.1"), ["a/s1"]);
    let newcomer = of("c", "s").asking("192.0.2.2");
    assert_eq!(
        h.get(newcomer.clone()).unwrap_err().reason(),
        "ADDRESS_IN_USE"
    );
    h.get(of("a", "s1").showing("192.0.2.1")).unwrap();
    assert_eq!(h.get(newcomer), ok(&["192.0.2.2"]));
}
