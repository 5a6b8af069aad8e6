//! Sync, adoption, conflicts, handovers and clusters that go.

use super::*;

pub const GRACE: Duration = Duration::from_secs(120);

pub fn of(cluster: &str, name: &str) -> Acquire {
    Acquire {
        key: Arc::new(ServiceKey::parse(cluster, "default", name).unwrap()),
        ..acquire(name).uid("u1")
    }
}

pub fn cluster(name: &str) -> ClusterName {
    ClusterName::parse(name).unwrap()
}

fn sync(cluster_name: &str, services: Vec<Acquire>) -> Command {
    Command::Sync(Sync {
        cluster: cluster(cluster_name),
        services,
        seen: None,
        proves: None,
    })
}

impl Harness {
    /// What became of each Service, with what it holds.
    pub fn sync(
        &mut self,
        cluster: &str,
        services: Vec<Acquire>,
    ) -> Vec<(String, Verdict, String)> {
        let Reply::Synced(synced) = self.run(&sync(cluster, services)).0 else {
            panic!("a Sync was not answered as one");
        };
        let one = |one: Synced| {
            let held = texts(&one.held).join(",");
            (one.key.name.to_string(), one.verdict, held)
        };
        synced.into_iter().map(one).collect()
    }

    pub fn begin(&mut self, known: &[&str], absent: &[&str]) {
        let settings = Settings {
            clusters: known.iter().map(|name| cluster(name)).collect(),
            ..Settings::default()
        };
        self.pools = Arc::new((*self.pools).clone().with_settings(settings));
        self.engine = self.tables.restart(&self.pools);
        let absent: Vec<_> = absent.iter().map(|name| cluster(name)).collect();
        for change in self.engine.begin(&absent, self.now).changes {
            self.tables.apply(&change);
        }
    }

    pub fn holder_of(&self, address: &str) -> Vec<String> {
        let address: IpAddr = address.parse().unwrap();
        let held = self.tables.allocations.values();
        held.filter(|held| held.address == address)
            .map(|held| format!("{}/{}", held.key.cluster, held.key.name))
            .collect()
    }

    fn lose_the_database(&mut self) {
        self.tables = Tables::default();
        self.engine = self.tables.restart(&self.pools);
    }
}

pub fn four() -> Harness {
    Harness::new(&[("p", &[], &["192.0.2.1-192.0.2.4"])])
}

fn kept(name: &str, address: &str) -> (String, Verdict, String) {
    (name.to_owned(), Verdict::Kept, address.to_owned())
}

#[test]
fn a_service_that_is_not_in_the_set_keeps_its_address_for_a_grace() {
    let mut h = four();
    h.get(of("a", "s1")).unwrap();
    h.get(of("a", "s2")).unwrap();
    h.get(of("b", "s1")).unwrap();
    let gone_at = h.now.after(GRACE);
    assert_eq!(
        h.sync("a", vec![of("a", "s2").showing("192.0.2.2")]),
        [
            (
                "s1".to_owned(),
                Verdict::Leaving(gone_at),
                "192.0.2.1".to_owned()
            ),
            kept("s2", "192.0.2.2"),
        ]
    );
    assert_eq!(h.engine.next_end(), Some(gone_at));
    h.now = Timestamp(gone_at.0 - 1);
    h.run(&nothing());
    assert_eq!(h.holder_of("192.0.2.1"), ["a/s1"]);
    h.now = gone_at;
    h.run(&nothing());
    assert_eq!(h.holder_of("192.0.2.1"), [""; 0]);
    assert_eq!(h.holder_of("192.0.2.3"), ["b/s1"], "not of that cluster");
}

#[test]
fn what_a_selector_begins_to_look_at_is_learnt_at_the_next_sync() {
    let mut h = four();
    let labelled = || {
        let mut service = of("a", "s1").showing("192.0.2.1");
        let labels = Arc::make_mut(&mut service.wish.labels);
        labels.service = [("tier", "web"), ("note", "x")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        service
    };
    h.get(labelled()).unwrap();
    let kept = |h: &Harness| h.tables.allocations.values().next().unwrap().clone();
    assert_eq!(kept(&h).holder.labels, None, "nobody looks at them");

    let mut spec = h.pools.spec(h.pools.by_name("p").unwrap()).clone();
    let web = Requirement::In("tier".to_owned(), ["web".to_owned()].into());
    spec.service_selector = Some(Selector(vec![web]));
    h.pools = Arc::new(Pools::new(vec![spec]).unwrap());
    h.engine = h.engine.with_pools(Arc::clone(&h.pools)).unwrap();
    assert!(is_stranded(&h.pools, &kept(&h)), "not known yet");
    h.sync("a", vec![labelled()]);
    let labels = kept(&h).holder.labels.clone().unwrap();
    assert_eq!(Vec::from_iter(labels.service.keys()), ["tier"]);
    assert!(!is_stranded(&h.pools, &kept(&h)));
    let before = h.engine.revision();
    h.sync("a", vec![labelled()]);
    assert_eq!(h.engine.revision(), before, "once is enough");
}

#[test]
fn what_a_service_of_the_same_name_held_goes_unless_the_new_one_shows_it() {
    let mut h = four();
    let of = |name, uid, created| of("a", name).uid(uid).created(created);
    h.get(of("s1", "old", 1_000)).unwrap();
    h.get(of("s2", "old", 1_000)).unwrap();
    h.get(of("s3", "new", 2_000)).unwrap();
    let live = vec![
        of("s1", "new", 2_000),
        of("s2", "new", 2_000).showing("192.0.2.2"),
        of("s3", "old", 1_000),
    ];
    h.sync("a", live);
    h.now = h.now.after(GRACE);
    h.run(&nothing());
    assert_eq!(h.holder_of("192.0.2.1"), [""; 0], "nobody has it");
    assert_eq!(h.holder_of("192.0.2.2"), ["a/s2"]);
    assert_eq!(h.release("s2", Some("old")), [""; 0], "taken over");
    assert_eq!(h.holder_of("192.0.2.3"), ["a/s3"], "the set is older");
}

#[test]
fn of_two_services_of_one_second_the_one_is_there_that_a_cluster_tells_of() {
    let mut h = four();
    let of = |uid: &str| of("a", "s1").uid(uid).created(1_000);
    h.get(of("old")).unwrap();
    h.get(of("new")).unwrap();
    h.release("s1", Some("new"));
    h.get(of("new").showing("192.0.2.1")).unwrap();
    // One of its requests was under way for long.
    h.get(of("old")).unwrap();
    h.sync("a", vec![of("new").showing("192.0.2.1")]);
    h.now = h.now.after(GRACE);
    h.run(&nothing());
    assert_eq!(h.release("s1", Some("old")), [""; 0], "it is gone");
    assert_eq!(h.holder_of("192.0.2.1"), ["a/s1"]);
}

#[test]
fn a_shared_address_is_not_taken_over_on_terms_that_the_others_did_not_agree_to() {
    let terms = |port| Terms {
        key: SharingKey::parse("k").unwrap(),
        permitted: Permitted::Only(BTreeSet::new()),
        ports: BTreeSet::from([Port {
            protocol: Protocol::Tcp,
            number: port,
        }]),
        backend: Backend::Cluster,
    };
    let sharing = |name, uid: &str, created, port| {
        let mut acquire = of("a", name).uid(uid).created(created);
        acquire.wish.sharing = Some(Arc::new(terms(port)));
        acquire.showing("192.0.2.1")
    };
    for again in [
        sharing("s1", "new", 2_000, 81),
        of("a", "s1").uid("new").created(2_000).showing("192.0.2.1"),
    ] {
        let mut h = four();
        h.get(sharing("s1", "old", 1_000, 80)).unwrap();
        h.get(sharing("s2", "u1", 1_000, 81)).unwrap();
        h.sync("a", vec![again, sharing("s2", "u1", 1_000, 81)]);
        h.engine = h.tables.restart(&h.pools);
        h.now = h.now.after(GRACE);
        h.run(&nothing());
        assert_eq!(h.holder_of("192.0.2.1"), ["a/s2"]);
    }
}

#[test]
fn a_service_that_is_seen_again_within_the_grace_loses_nothing() {
    for again in [
        |h: &mut Harness| {
            h.sync("a", vec![of("a", "s1").showing("192.0.2.1")]);
        },
        |h: &mut Harness| {
            h.get(of("a", "s1")).unwrap();
        },
    ] {
        let mut h = four();
        h.get(of("a", "s1")).unwrap();
        h.sync("a", vec![]);
        again(&mut h);
        h.now = h.now.after(GRACE).after(GRACE);
        h.run(&nothing());
        assert_eq!(h.holder_of("192.0.2.1"), ["a/s1"]);
    }
}

#[test]
fn what_a_person_acquired_without_a_uid_is_not_taken_for_gone() {
    let mut h = four();
    let mut by_hand = of("a", "s1");
    by_hand.uid = None;
    h.get(by_hand).unwrap();
    assert_eq!(h.sync("a", vec![]), []);
    h.now = h.now.after(GRACE);
    h.run(&nothing());
    assert_eq!(h.holder_of("192.0.2.1"), ["a/s1"]);
}

#[test]
fn a_lost_database_learns_what_services_show_before_it_gives_anything() {
    let mut h = four();
    h.begin(&["a", "b"], &[]);
    let refused = |clusters: &[&str]| {
        Err(Refusal::AwaitingSync {
            clusters: clusters.iter().map(|name| cluster(name)).collect(),
            until: None,
        })
    };
    assert_eq!(h.get(of("a", "new")), refused(&["a", "b"]));
    let verdicts = h.sync(
        "a",
        vec![of("a", "s1").showing("192.0.2.1"), of("a", "new")],
    );
    assert_eq!(
        verdicts,
        [
            ("new".to_owned(), Verdict::Reassign, String::new()),
            ("s1".to_owned(), Verdict::Adopted, "192.0.2.1".to_owned()),
        ]
    );
    assert_eq!(h.get(of("a", "new")), refused(&["b"]));
    assert_eq!(
        h.get(of("a", "s1")),
        ok(&["192.0.2.1"]),
        "who holds one may ask"
    );

    let (_, outcome) = h.run(&sync("b", vec![of("b", "s1").showing("192.0.2.2")]));
    assert!(outcome.notices.contains(&Notice::AllMayAsk));
    assert_eq!(h.get(of("a", "new")), ok(&["192.0.2.3"]));
    let repeated = h.run(&sync("b", vec![of("b", "s1").showing("192.0.2.2")]));
    assert_eq!(repeated.1, Outcome::default(), "idempotent");
}

#[test]
fn an_administrator_may_say_that_a_cluster_is_gone_for_good() {
    let mut h = four();
    h.begin(&["a", "b"], &["b"]);
    h.sync("a", vec![]);
    assert_eq!(h.get(of("a", "new")), ok(&["192.0.2.1"]));
    // A cluster that is named later does not hold up a database that is in use.
    h.begin(&["a", "b", "c"], &[]);
    assert_eq!(h.get(of("a", "other")), ok(&["192.0.2.2"]));
}

#[test]
fn only_addresses_of_pools_that_the_cluster_may_use_are_adopted() {
    let mut h = Harness::with_rules(
        &[("p", &[], &["192.0.2.1-192.0.2.4", "!192.0.2.4"])],
        |spec| {
            spec.clusters = Some(BTreeSet::from([cluster("a")]));
        },
    );
    for (who, shown, held) in [
        ("b", "192.0.2.1", ""),
        ("a", "192.0.2.4", ""),
        ("a", "198.51.100.1", ""),
        ("a", "192.0.2.2", "192.0.2.2"),
    ] {
        let synced = h.sync(who, vec![of(who, "s1").showing(shown)]);
        assert_eq!(synced[0].2, held, "{who} shows {shown}");
    }
    // Nor does a new database take the word of a cluster for it.
    h.lose_the_database();
    h.begin(&["a", "b"], &[]);
    let synced = h.sync("b", vec![of("b", "s1").showing("192.0.2.1")]);
    assert_eq!(synced[0].2, "");
}

#[test]
fn an_address_of_another_cluster_is_a_conflict_and_nobody_is_moved() {
    let mut h = four();
    h.get(of("a", "s1")).unwrap();
    let shows = || of("b", "s1").showing("192.0.2.1");
    let conflict = [("s1".to_owned(), Verdict::Conflict, String::new())];
    assert_eq!(h.sync("b", vec![shows()]), conflict);
    assert_eq!(h.sync("b", vec![shows()]), conflict);
    assert_eq!(h.tables.conflicts.len(), 1);
    assert!(matches!(
        h.get(shows()),
        Err(Refusal::AddressConflict { holder: None, .. })
    ));
    assert_eq!(h.get(of("a", "s1")), ok(&["192.0.2.1"]));

    // The holder goes, and nobody comes in between.
    let (_, outcome) = h.run(&gone(&of("a", "s1").key, None));
    assert_eq!(outcome.asked_again(), [of("b", "s1").key]);
    assert_eq!(h.holder_of("192.0.2.1"), ["b/s1"]);
    assert_eq!(h.get(shows()), ok(&["192.0.2.1"]));
    assert!(h.tables.conflicts.is_empty());
}

#[test]
fn a_service_that_was_not_told_of_its_move_shows_what_is_not_its_own_any_more() {
    let mut h = four();
    h.get(of("a", "s1")).unwrap();
    // The answer to this one is lost.
    let moved = of("a", "s1").showing("192.0.2.1").asking("192.0.2.2");
    assert_eq!(h.get(moved.clone()), ok(&["192.0.2.2"]));
    h.engine = h.tables.restart(&h.pools);
    let reassign = ("s1".to_owned(), Verdict::Reassign, "192.0.2.2".to_owned());
    assert_eq!(h.sync("a", vec![moved.clone()]), [reassign]);
    assert!(h.engine.conflicts().all(|conflict| !conflict.is_claim()));
    assert_eq!(h.get(moved), ok(&["192.0.2.2"]));

    // Once told, it is as any other Service of a database that may be old.
    h.get(of("a", "s1").showing("192.0.2.2")).unwrap();
    assert_eq!(h.get(of("b", "s1").asking("192.0.2.1")), ok(&["192.0.2.1"]));
    h.sync("a", vec![of("a", "s1").showing("192.0.2.1")]);
    assert_eq!(h.engine.conflicts().count(), 1);
}

#[test]
fn what_a_service_was_given_after_its_cluster_made_up_the_set_is_not_taken_for_what_it_had() {
    let mut h = four();
    h.get(of("a", "s1")).unwrap();
    let seen = Some(h.engine.revision());
    let moved = of("a", "s1").asking("192.0.2.3");
    assert_eq!(h.get(moved).unwrap(), ["192.0.2.3"]);
    for (seen, holds) in [
        (seen, "192.0.2.3"),
        (Some(h.engine.revision()), "192.0.2.1"),
    ] {
        let Command::Sync(sync) = sync("a", vec![of("a", "s1").showing("192.0.2.1")]) else {
            panic!("a Sync is one");
        };
        h.run(&Command::Sync(Sync { seen, ..sync }));
        assert_eq!(h.holder_of(holds), ["a/s1"], "{seen:?}");
    }
}

#[test]
fn a_service_created_again_keeps_what_it_shows_and_not_what_an_old_backup_says() {
    let mut h = four();
    let of = |uid, created| of("a", "s1").uid(uid).created(created);
    h.get(of("old", 1_000)).unwrap();
    let Command::Sync(sync) = sync("a", vec![of("new", 2_000).showing("192.0.2.3")]) else {
        panic!("a Sync is one");
    };
    let seen = Some(h.engine.revision());
    h.run(&Command::Sync(Sync { seen, ..sync }));
    assert_eq!(h.holder_of("192.0.2.3"), ["a/s1"]);
    assert_eq!(h.holder_of("192.0.2.1"), [""; 0]);
}

#[test]
fn a_conflict_is_over_when_the_service_is_gone_or_shows_something_else() {
    let ends: [fn(&mut Harness); 4] = [
        |h| {
            h.sync("b", vec![]);
            assert_eq!(h.tables.conflicts.len(), 1, "not before the grace");
            h.now = h.now.after(GRACE);
            h.run(&nothing());
        },
        |h| {
            h.sync("b", vec![of("b", "s1")]);
        },
        |h| {
            assert_eq!(h.get(of("b", "s1")), ok(&["192.0.2.2"]));
        },
        |h| {
            h.run(&gone(&of("b", "s1").key, Some(Uid::parse("u1").unwrap())));
        },
    ];
    for end in ends {
        let mut h = four();
        h.get(of("a", "s1")).unwrap();
        h.sync("b", vec![of("b", "s1").showing("192.0.2.1")]);
        assert_eq!(h.tables.conflicts.len(), 1);
        end(&mut h);
        assert!(h.tables.conflicts.is_empty());
        assert_eq!(h.holder_of("192.0.2.1"), ["a/s1"]);
    }
}

#[test]
fn an_administrator_decides_a_conflict_either_way() {
    let resolve = |winner| {
        Command::Resolve(Resolve {
            address: "192.0.2.1".parse().unwrap(),
            key: of("b", "s1").key,
            winner,
        })
    };
    let shows = || of("b", "s1").showing("192.0.2.1");
    let in_conflict = || {
        let mut h = four();
        h.get(of("a", "s1")).unwrap();
        h.sync("b", vec![shows()]);
        h
    };
    let mut h = in_conflict();
    assert!(matches!(
        h.run(&resolve(Winner::Holder)).0,
        Reply::Resolved(_)
    ));
    assert_eq!(h.get(shows()), ok(&["192.0.2.2"]));
    h.release("s1", None);
    h.run(&gone(&of("a", "s1").key, None));
    let third = h.get(of("c", "s1").asking("192.0.2.1"));
    assert!(third.is_err(), "its status shows it still");

    let mut h = in_conflict();
    let expires = h.now.after(GRACE);
    let (reply, outcome) = h.run(&resolve(Winner::Shower { expires }));
    assert!(matches!(reply, Reply::Resolved(_)));
    assert_eq!(outcome.asked_again(), [of("a", "s1").key]);
    let source = |shown| of("a", "s1").showing(shown);
    assert_eq!(h.get(source("192.0.2.1")), ok(&["192.0.2.2"]));
    assert_eq!(h.holder_of("192.0.2.1"), [""; 0], "not with both");
    h.get(source("192.0.2.2")).unwrap();
    assert_eq!(h.holder_of("192.0.2.1"), ["b/s1"]);
    assert!(h.tables.reservations.is_empty() && h.tables.conflicts.is_empty());
}

#[test]
fn what_services_show_wins_over_an_old_backup() {
    let mut h = four();
    h.get(of("a", "s1")).unwrap();
    h.get(of("a", "s2")).unwrap();
    // After the backup these two changed places, and s3 took what s4 had.
    h.get(of("a", "s4")).unwrap();
    let verdicts = h.sync(
        "a",
        vec![
            of("a", "s1").showing("192.0.2.2"),
            of("a", "s2").showing("192.0.2.1"),
            of("a", "s3").showing("192.0.2.3"),
        ],
    );
    let adopted =
        |name: &str, address: &str| (name.to_owned(), Verdict::Adopted, address.to_owned());
    assert_eq!(
        verdicts,
        [
            adopted("s1", "192.0.2.2"),
            adopted("s2", "192.0.2.1"),
            adopted("s3", "192.0.2.3"),
        ]
    );
}

#[test]
fn a_cluster_that_proves_that_a_backup_was_restored_makes_the_others_tell_what_they_have() {
    let mut h = four();
    h.sync("a", vec![]);
    h.sync("b", vec![]);
    let proves = |proves| {
        Command::Sync(Sync {
            cluster: cluster("a"),
            services: vec![],
            seen: Some(Revision(i64::MAX)),
            proves,
        })
    };
    for nothing in [None, Some(Loss::Another)] {
        let (_, outcome) = h.run(&proves(nothing));
        assert_eq!(outcome, Outcome::default(), "a number stops nobody");
    }
    let (_, outcome) = h.run(&proves(Some(Loss::Restored)));
    let notices = [
        Notice::SyncAgain(cluster("b")),
        Notice::LossProved(cluster("a")),
    ];
    assert_eq!(outcome.notices, notices);
    assert_eq!(
        h.get(of("a", "new")),
        Err(Refusal::AwaitingSync {
            clusters: vec![cluster("b")],
            until: None,
        })
    );
    h.sync("b", vec![of("b", "s1").showing("192.0.2.1")]);
    assert_eq!(h.get(of("a", "new")), ok(&["192.0.2.2"]));
}

fn handover(h: &Harness) -> Command {
    Command::Handover(Handover {
        address: "192.0.2.1".parse().unwrap(),
        from: of("a", "s1").key,
        to: of("b", "s2").key,
        expires: h.now.after(GRACE),
        comment: String::new(),
    })
}

#[test]
fn a_handover_gives_the_address_to_its_target_when_the_source_has_let_go() {
    let mut h = four();
    h.get(of("a", "s1")).unwrap();
    h.get(of("b", "s2")).unwrap();
    let command = handover(&h);
    let (first, _) = h.run(&command);
    let (second, outcome) = h.run(&command);
    assert_eq!(first, second);
    assert_eq!(outcome.changes, []);
    assert_eq!(h.get(of("b", "s2")), ok(&["192.0.2.2"]), "not both");
    assert_eq!(
        h.get(of("c", "s3").asking("192.0.2.1"))
            .unwrap_err()
            .reason(),
        "ADDRESS_IN_USE",
        "not a third"
    );
    let source = |shown| of("a", "s1").showing(shown);
    assert_eq!(h.get(source("192.0.2.1")), ok(&["192.0.2.3"]));
    assert_eq!(h.get(source("192.0.2.1")), ok(&["192.0.2.3"]));
    assert_eq!(h.get(of("b", "s2")), ok(&["192.0.2.2"]), "still shown");
    let (_, outcome) = h.run(&Command::Acquire(source("192.0.2.3")));
    assert_eq!(outcome.asked_again(), [of("b", "s2").key]);
    assert_eq!(
        h.get(of("c", "s3").asking("192.0.2.1"))
            .unwrap_err()
            .reason(),
        "ADDRESS_IN_USE"
    );
    assert_eq!(h.get(of("b", "s2")), ok(&["192.0.2.1"]));
    assert!(h.tables.reservations.is_empty());
}

#[test]
fn what_a_third_service_shows_is_handed_over_only_when_that_conflict_is_decided() {
    let mut h = four();
    h.get(of("a", "s1")).unwrap();
    h.get(of("b", "s2")).unwrap();
    h.sync("c", vec![of("c", "s3").showing("192.0.2.1")]);
    let command = handover(&h);
    let (reply, outcome) = h.run(&command);
    let Reply::Refused(refusal) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(refusal.reason(), "ADDRESS_IN_USE");
    assert!(refusal.to_string().contains("s3"), "{refusal}");
    assert_eq!(outcome.changes, []);
    h.sync("c", vec![of("c", "s3")]);
    let (reply, _) = h.run(&command);
    assert!(matches!(reply, Reply::Reserved(_)), "{reply:?}");
}

#[test]
fn a_handover_of_one_family_leaves_the_source_its_other_address() {
    for shows in [true, false] {
        let mut h = Harness::new(&[("p", &[], &["192.0.2.1", "2001:db8::1"])]);
        let source = || of("a", "s1").dual(Policy::Any);
        assert_eq!(h.get(source()), ok(&["192.0.2.1", "2001:db8::1"]));
        let mut waits = of("c", "s1");
        waits.wish.families = vec![Family::V6];
        h.get(waits.clone()).unwrap_err();
        let command = handover(&h);
        h.run(&command);
        let asks = if shows {
            source().showing("192.0.2.1").showing("2001:db8::1")
        } else {
            source()
        };
        assert_eq!(h.get(asks), ok(&["2001:db8::1"]));
        assert_eq!(h.holder_of("2001:db8::1"), ["a/s1"]);
        h.get(waits).unwrap_err();
        h.get(source().showing("2001:db8::1")).unwrap();
        assert_eq!(h.get(of("b", "s2")), ok(&["192.0.2.1"]));
    }
}

#[test]
fn a_handover_to_a_service_that_the_pool_does_not_serve_is_refused() {
    let served = || pool("p", &[], &["192.0.2.1-192.0.2.4"]);
    let of_another_namespace = pool("p", &["web"], &["192.0.2.1-192.0.2.4"]);
    let of_another_cluster = PoolSpec {
        clusters: Some(BTreeSet::from([cluster("a")])),
        ..served()
    };
    let disabled = PoolSpec {
        disabled: true,
        ..served()
    };
    let rules = [
        (of_another_namespace, "POOL_NOT_ALLOWED"),
        (of_another_cluster, "POOL_NOT_ALLOWED"),
        (disabled, "POOL_DISABLED"),
        (served(), ""),
    ];
    for (spec, reason) in rules {
        let mut h = four();
        h.get(of("a", "s1")).unwrap();
        h.pools = Arc::new(Pools::new(vec![spec]).unwrap());
        h.engine = h.tables.restart(&h.pools);
        let command = handover(&h);
        let reply = h.run(&command).0;
        let refused = match &reply {
            Reply::Refused(refusal) => refusal.reason(),
            Reply::Acquired(_)
            | Reply::Released(_)
            | Reply::Reserved(_)
            | Reply::Unreserved(_)
            | Reply::Synced(_)
            | Reply::Resolved(_)
            | Reply::Decommissioned(_)
            | Reply::Recommissioned
            | Reply::Attached
            | Reply::Replaced { .. } => "",
        };
        assert_eq!(refused, reason, "{reply:?}");
    }
}

#[test]
fn a_handover_that_does_not_happen_in_time_changes_nothing() {
    let mut h = four();
    h.get(of("a", "s1")).unwrap();
    let command = handover(&h);
    h.run(&command);
    h.now = h.now.after(GRACE);
    assert_eq!(h.get(of("a", "s1")), ok(&["192.0.2.1"]));
    assert_eq!(h.get(of("b", "s2")), ok(&["192.0.2.2"]));
    let Reply::Refused(refusal) = h
        .run(&Command::Handover(Handover {
            address: "192.0.2.2".parse().unwrap(),
            from: of("a", "s1").key,
            to: of("b", "s2").key,
            expires: h.now.after(GRACE),
            comment: String::new(),
        }))
        .0
    else {
        panic!("the source does not hold it");
    };
    assert_eq!(refusal.reason(), "ALLOCATION_NOT_FOUND");
}

#[test]
fn a_decommissioned_cluster_is_refused_at_once_and_loses_its_addresses_after_a_grace() {
    let decommission = |h: &Harness| {
        Command::Decommission(Decommission {
            cluster: cluster("a"),
            release_at: h.now.after(GRACE),
        })
    };
    let mut h = four();
    h.get(of("a", "s1")).unwrap();
    let command = decommission(&h);
    h.run(&command);
    let refused = Err(Refusal::ClusterDecommissioned {
        cluster: cluster("a"),
    });
    assert_eq!(h.get(of("a", "s1")), refused);
    assert!(matches!(h.run(&sync("a", vec![])).0, Reply::Refused(_)));
    h.run(&Command::Recommission(cluster("a")));
    assert_eq!(h.get(of("a", "s1")), ok(&["192.0.2.1"]), "nothing was lost");

    let command = decommission(&h);
    h.run(&command);
    h.now = h.now.after(GRACE);
    let (reply, _) = h.run(&command);
    assert_eq!(
        reply,
        Reply::Decommissioned(ClusterState::Decommissioned { release_at: None })
    );
    assert_eq!(h.holder_of("192.0.2.1"), [""; 0]);
    assert_eq!(h.get(of("a", "s2")), refused);
}

/// Services of two clusters, and what their statuses show.
struct World {
    h: Harness,
    live: BTreeMap<Arc<ServiceKey>, (String, Option<IpAddr>)>,
    /// Clusters that must not ask before they have told what they have.
    unsynced: BTreeSet<String>,
    uids: u32,
}

#[derive(Clone, Debug)]
enum Deed {
    Create(usize),
    Delete(usize, bool),
    Ask(usize),
    Sync(usize),
    Pass(i64),
    Restart,
    Lose,
}

fn any_deed() -> impl Strategy<Value = Deed> {
    let service = 0usize..8;
    prop_oneof![
        4 => service.clone().prop_map(Deed::Create),
        2 => (service.clone(), any::<bool>()).prop_map(|(service, told)| Deed::Delete(service, told)),
        8 => service.prop_map(Deed::Ask),
        3 => (0usize..2).prop_map(Deed::Sync),
        2 => (0i64..200_000).prop_map(Deed::Pass),
        1 => Just(Deed::Restart),
        1 => Just(Deed::Lose),
    ]
}

impl World {
    fn new() -> Self {
        let mut h = Harness::new(&[("p", &[], &["192.0.2.1-192.0.2.5"])]);
        h.begin(&["a", "b"], &[]);
        Self {
            h,
            live: BTreeMap::new(),
            unsynced: BTreeSet::from(["a".to_owned(), "b".to_owned()]),
            uids: 0,
        }
    }

    fn key(service: usize) -> Arc<ServiceKey> {
        let cluster = ["a", "b"][service % 2];
        of(cluster, &format!("s{}", service / 2)).key
    }

    fn acquire(&self, key: &Arc<ServiceKey>) -> Option<Acquire> {
        let (uid, shown) = self.live.get(key)?;
        let mut acquire = of(key.cluster.as_str(), key.name.as_str()).uid(uid);
        acquire.wish.current.extend(*shown);
        Some(acquire)
    }

    fn do_it(&mut self, deed: &Deed) -> Result<(), TestCaseError> {
        match deed {
            Deed::Create(service) => {
                self.uids += 1;
                let uid = format!("u{}", self.uids);
                self.live.entry(Self::key(*service)).or_insert((uid, None));
            }
            Deed::Delete(service, told) => {
                let key = Self::key(*service);
                if let Some((uid, _)) = self.live.remove(&key)
                    && *told
                {
                    self.h.run(&gone(&key, Some(Uid::parse(&uid).unwrap())));
                }
            }
            Deed::Ask(service) => {
                let key = Self::key(*service);
                let Some(acquire) = self.acquire(&key) else {
                    return Ok(());
                };
                if self.unsynced.contains(key.cluster.as_str()) {
                    return Ok(());
                }
                if let Ok(got) = self.h.get(acquire) {
                    let got: IpAddr = got[0].parse().unwrap();
                    let (_, shown) = self.live.get_mut(&key).unwrap();
                    prop_assert!(shown.is_none_or(|shown| shown == got), "moved silently");
                    *shown = Some(got);
                }
            }
            Deed::Sync(index) => {
                let name = ["a", "b"][*index];
                let keys: Vec<_> = self.live.keys().cloned().collect();
                let of_cluster = keys.iter().filter(|key| key.cluster.as_str() == name);
                let services = of_cluster.filter_map(|key| self.acquire(key)).collect();
                self.h.run(&sync(name, services));
                self.unsynced.remove(name);
            }
            Deed::Pass(millis) => {
                self.h.now = Timestamp(self.h.now.0 + millis);
                self.h.run(&nothing());
            }
            Deed::Restart => self.h.engine = self.h.tables.restart(&self.h.pools),
            Deed::Lose => {
                self.h.lose_the_database();
                self.h.begin(&["a", "b"], &[]);
                self.unsynced = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let mut shown: Vec<_> = self.live.values().filter_map(|(_, shown)| *shown).collect();
        let count = shown.len();
        shown.sort_unstable();
        shown.dedup();
        prop_assert_eq!(shown.len(), count, "one address on two Services");
        prop_assert!(self.h.tables.conflicts.is_empty());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_loss_of_the_database_gives_an_address_to_two_live_services(
        deeds in prop::collection::vec(any_deed(), 1..80),
    ) {
        let mut world = World::new();
        for deed in &deeds {
            world.do_it(deed)?;
            world.check()?;
        }
        // When all is told, each address belongs to the Service that shows it, and
        // what is gone is free.
        for deed in [Deed::Sync(0), Deed::Sync(1), Deed::Pass(GRACE.as_millis() as i64)] {
            world.do_it(&deed)?;
        }
        for allocation in world.h.tables.allocations.values() {
            let (_, shown) = world.live.get(&allocation.key).cloned().unwrap_or_default();
            prop_assert!(world.live.contains_key(&allocation.key), "leaked: {:?}", allocation);
            prop_assert!(shown.is_none_or(|shown| shown == allocation.address));
        }
        for (key, (_, shown)) in &world.live {
            if let Some(shown) = shown {
                prop_assert_eq!(world.h.holder_of(&shown.to_string()), [format!("{}/{}", key.cluster, key.name)]);
            }
        }
    }
}

#[test]
fn a_service_waits_for_one_handover_of_a_family() {
    let mut h = four();
    for name in ["one", "two"] {
        h.get(of("a", name)).unwrap();
    }
    let hand_over = |from: &str, address: &str| {
        Command::Handover(Handover {
            address: address.parse().unwrap(),
            from: of("a", from).key,
            to: of("a", "target").key,
            expires: Timestamp(i64::MAX),
            comment: String::new(),
        })
    };
    assert!(matches!(
        h.run(&hand_over("one", "192.0.2.1")).0,
        Reply::Reserved(_)
    ));
    let Reply::Refused(refusal) = h.run(&hand_over("two", "192.0.2.2")).0 else {
        panic!("it waits for two");
    };
    assert!(refusal.to_string().contains("192.0.2.1"), "{refusal}");
    h.get(of("a", "one")).unwrap();
    assert_eq!(h.get(of("a", "target")), ok(&["192.0.2.1"]));
    assert!(matches!(
        h.run(&hand_over("two", "192.0.2.2")).0,
        Reply::Reserved(_)
    ));
}
