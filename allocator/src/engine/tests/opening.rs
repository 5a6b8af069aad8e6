//! A database that knows nothing.

use super::{
    syncing::{cluster, four, of},
    *,
};

fn sync(name: &str, services: Vec<Acquire>) -> Command {
    Command::Sync(Sync {
        cluster: cluster(name),
        services,
        seen: None,
        proves: None,
    })
}

fn attach(name: &str) -> Command {
    Command::Attach(Attach {
        cluster: cluster(name),
        is_vacant: true,
    })
}

fn was_given(cluster: &str, name: &str, address: &str) -> Acquire {
    Acquire {
        was_allocated: true,
        ..of(cluster, name).showing(address)
    }
}

fn empty() -> Harness {
    let mut h = four();
    h.tables.is_new = true;
    h.engine = h.tables.restart(&h.pools);
    h
}

impl Harness {
    fn seconds(&mut self, seconds: i64) {
        self.now = Timestamp(self.now.0 + seconds * 1_000);
    }

    /// A cluster with a uid opens a session.
    fn comes(&mut self, name: &str) {
        let claim = Claim {
            cluster: cluster(name),
            uid: Uid::parse(name).unwrap(),
        };
        let (_, outcome) = self.engine.plan_as(Some(&claim), &attach(name), self.now);
        for change in &outcome.changes {
            self.tables.apply(change);
        }
    }

    /// What ended by itself by now.
    fn pass(&mut self) -> Outcome {
        let outcome = self.engine.pass(self.now);
        for change in &outcome.changes {
            self.tables.apply(change);
        }
        outcome
    }

    fn waits_for(&mut self, clusters: &[&str], until: Option<Timestamp>) {
        let clusters = clusters.iter().map(|name| cluster(name)).collect();
        let refused = Err(Refusal::AwaitingSync { clusters, until });
        assert_eq!(self.get(of("a", "new")), refused);
    }
}

#[test]
fn a_new_database_gives_nothing_before_clusters_had_the_time_to_tell_what_they_have() {
    let mut h = empty();
    assert_eq!(h.engine.next_end(), None, "nobody has come");
    let window = |h: &Harness| Some(h.now.after(Duration::from_secs(2)));
    // As long as there is no session the first request counts.
    let until = window(&h);
    h.waits_for(&[], until);
    h.seconds(1);
    h.waits_for(&[], until);
    h.comes("a");
    let until = window(&h);
    h.waits_for(&[], until);
    h.comes("b");
    h.run(&sync("b", vec![of("b", "old").showing("192.0.2.1")]));
    assert_eq!(h.get(of("b", "old")), ok(&["192.0.2.1"]), "it shows it");
    assert_eq!(h.engine.next_end(), until);
    h.seconds(2);
    let passed = h.pass();
    assert!(
        passed.notices.contains(&Notice::AllMayAsk),
        "who waits is told"
    );
    assert_eq!(h.engine.next_end(), None);
    assert_eq!(h.get(of("a", "new")), ok(&["192.0.2.2"]));
    assert!(!h.tables.is_new);
}

#[test]
fn a_request_without_any_session_does_not_wait_for_ever() {
    let mut h = empty();
    let until = h.now.after(Duration::from_secs(2));
    h.waits_for(&[], Some(until));
    h.seconds(2);
    assert_eq!(h.get(of("a", "new")), ok(&["192.0.2.1"]));
}

#[test]
fn a_crash_while_a_new_database_waits_does_not_end_the_wait() {
    let mut h = empty();
    h.comes("a");
    h.run(&sync("a", vec![of("a", "old").showing("192.0.2.1")]));
    h.seconds(60);
    h.engine = h.tables.restart(&h.pools);
    let until = h.now.after(Duration::from_secs(2));
    h.waits_for(&[], Some(until));
    // And other pools do not, either.
    h.engine = h.engine.with_pools(Arc::clone(&h.pools)).unwrap();
    h.waits_for(&[], Some(until));
    h.seconds(2);
    h.pass();
    h.engine = h.tables.restart(&h.pools);
    assert_eq!(h.get(of("a", "new")), ok(&["192.0.2.2"]));
}

#[test]
fn without_a_window_a_new_database_gives_at_once() {
    let mut h = empty();
    let settings = Settings {
        adoption_window: Duration::ZERO,
        ..Settings::default()
    };
    h.pools = Arc::new((*h.pools).clone().with_settings(settings));
    h.engine = h.tables.restart(&h.pools);
    assert_eq!(h.get(of("a", "new")), ok(&["192.0.2.1"]));
    assert_eq!(h.engine.revision(), Revision(1));
}

#[test]
fn where_a_database_was_lost_all_clusters_that_come_are_waited_for() {
    let mark_of_another = Command::Sync(Sync {
        cluster: cluster("a"),
        services: vec![],
        seen: None,
        proves: Some(Loss::Another),
    });
    for evidence in [
        sync("a", vec![was_given("a", "old", "192.0.2.1")]),
        Command::Acquire(was_given("a", "old", "192.0.2.1")),
        mark_of_another,
    ] {
        let mut h = empty();
        h.comes("a");
        h.comes("b");
        h.run(&sync("b", vec![]));
        h.comes("late");
        let (_, outcome) = h.run(&evidence);
        assert_eq!(outcome.notices, [Notice::LossProved(cluster("a"))]);
        h.run(&sync("a", vec![was_given("a", "old", "192.0.2.1")]));
        let until = h.now.after(Duration::from_secs(30));
        h.waits_for(&["late"], Some(until));
        h.seconds(29);
        h.comes("later");
        h.waits_for(&["late", "later"], Some(until));
        h.seconds(2);
        h.comes("too-late");
        h.waits_for(&["late", "later"], None);
        h.run(&sync("later", vec![]));
        let shows = || vec![was_given("late", "old", "192.0.2.2")];
        let (_, outcome) = h.run(&sync("late", shows()));
        assert!(outcome.notices.contains(&Notice::AllMayAsk));
        assert_eq!(h.get(of("a", "new")), ok(&["192.0.2.3"]));
    }
}

#[test]
fn a_service_that_shows_an_address_of_no_pool_proves_nothing() {
    let mut h = empty();
    h.comes("a");
    let (_, outcome) = h.run(&sync("a", vec![was_given("a", "old", "198.51.100.1")]));
    assert_eq!(outcome.notices, []);
    // Nor does one that was given nothing by an allocator.
    h.run(&sync("a", vec![of("a", "old").showing("192.0.2.1")]));
    h.seconds(2);
    assert_eq!(h.get(of("a", "new")), ok(&["192.0.2.2"]));
}

#[test]
fn a_cluster_that_is_taken_back_into_service_tells_a_new_database_what_it_has_first() {
    let mut h = empty();
    h.comes("a");
    h.comes("b");
    h.run(&Command::Decommission(Decommission {
        cluster: cluster("b"),
        release_at: Timestamp(i64::MAX),
    }));
    h.run(&Command::Recommission(cluster("b")));
    h.seconds(60);
    h.pass();
    h.waits_for(&["b"], None);
    h.run(&sync("b", vec![of("b", "old").showing("192.0.2.1")]));
    assert_eq!(h.get(of("a", "new")), ok(&["192.0.2.2"]));
}
