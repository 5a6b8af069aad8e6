//! Whose name it is.

use super::{
    syncing::{GRACE, cluster, four, of},
    *,
};

fn claim(name: &str, uid: &str) -> Claim {
    Claim {
        cluster: cluster(name),
        uid: Uid::parse(uid).unwrap(),
    }
}

fn sync(name: &str, services: Vec<Acquire>) -> Command {
    Command::Sync(Sync {
        cluster: cluster(name),
        services,
        seen: None,
        proves: None,
    })
}

fn attach(name: &str, is_vacant: bool) -> Command {
    Command::Attach(Attach {
        cluster: cluster(name),
        is_vacant,
    })
}

fn replace(name: &str, uid: &str) -> Command {
    Command::ReplaceCluster(ReplaceCluster {
        cluster: cluster(name),
        uid: Uid::parse(uid).unwrap(),
    })
}

fn reason(reply: &Reply) -> &'static str {
    let Reply::Refused(refusal) = reply else {
        panic!("{reply:?}");
    };
    refusal.reason()
}

impl Harness {
    fn run_as(&mut self, name: &str, uid: &str, command: &Command) -> (Reply, Outcome) {
        let claim = claim(name, uid);
        let (reply, outcome) = self.engine.plan_as(Some(&claim), command, self.now);
        for change in &outcome.changes {
            self.tables.apply(change);
        }
        (reply, outcome)
    }

    fn holders(&self) -> Vec<(String, String)> {
        let held = self.tables.allocations.values();
        held.map(|held| {
            let uid = held.holder.uid.as_ref().map(ToString::to_string);
            (held.key.name.to_string(), uid.unwrap_or_default())
        })
        .collect()
    }
}

#[test]
fn what_comes_with_another_uid_than_the_first_is_refused_and_changes_nothing() {
    let release = gone(&of("a", "s1").key, None);
    for first in [
        attach("a", true),
        sync("a", vec![]),
        Command::Acquire(of("a", "s1")),
    ] {
        let mut h = four();
        h.run_as("a", "blue", &first);
        h.run_as("a", "blue", &Command::Acquire(of("a", "s1")));
        h.engine = h.tables.restart(&h.pools);
        for command in [
            attach("a", true),
            sync("a", vec![]),
            Command::Acquire(of("a", "s1")),
            Command::Acquire(of("a", "s2").asking("192.0.2.1")),
            release.clone(),
        ] {
            let (reply, outcome) = h.run_as("a", "green", &command);
            assert_eq!(reason(&reply), "CLUSTER_NAME_IN_USE");
            assert_eq!(outcome, Outcome::default(), "{command:?}");
        }
        // People do not say which cluster they are.
        assert_eq!(h.get(of("a", "s1")), ok(&["192.0.2.1"]));
        h.run_as("a", "blue", &release);
        assert!(h.tables.allocations.is_empty());
    }
}

#[test]
fn a_release_binds_no_name() {
    let mut h = four();
    let release = gone(&of("a", "s1").key, None);
    h.run_as("a", "green", &release);
    h.run_as("a", "blue", &attach("a", true));
    assert_eq!(
        h.engine.clusters().next().unwrap().identity,
        Some(Identity {
            uid: Uid::parse("blue").unwrap(),
            since: h.now,
            took_over_at: None
        })
    );
}

#[test]
fn a_cluster_has_one_name_until_that_is_decommissioned() {
    let mut h = four();
    h.run_as("a", "blue", &sync("a", vec![]));
    for command in [
        attach("b", true),
        sync("b", vec![]),
        Command::Acquire(of("b", "s1")),
    ] {
        let (reply, outcome) = h.run_as("b", "blue", &command);
        assert_eq!(reason(&reply), "CLUSTER_HAS_OTHER_NAME");
        assert_eq!(outcome, Outcome::default());
    }
    assert_eq!(
        reason(&h.run(&replace("b", "blue")).0),
        "CLUSTER_NOT_FOUND",
        "a slip of the pen"
    );
    h.run(&sync("b", vec![]));
    assert_eq!(
        reason(&h.run(&replace("b", "blue")).0),
        "CLUSTER_HAS_OTHER_NAME"
    );
    h.run(&Command::Decommission(Decommission {
        cluster: cluster("a"),
        release_at: h.now,
    }));
    assert_eq!(h.run_as("b", "blue", &attach("b", true)).0, Reply::Attached);
    assert_eq!(
        reason(&h.run(&replace("a", "green")).0),
        "PERMISSION_DENIED"
    );
    // It has the other name by now.
    h.run(&Command::Recommission(cluster("a")));
    assert_eq!(
        h.run_as("a", "green", &attach("a", true)).0,
        Reply::Attached
    );
}

#[test]
fn who_takes_over_a_name_keeps_what_it_shows_or_asks_for_and_the_rest_goes_after_the_grace() {
    let mut h = four();
    for name in ["asked", "asked-later", "gone", "shown"] {
        let acquire = of("a", name).uid("blue-s").created(5_000);
        h.run_as("a", "blue", &Command::Acquire(acquire));
    }
    let (reply, _) = h.run(&replace("a", "green"));
    let before = Some(Uid::parse("blue").unwrap());
    assert_eq!(reply, Reply::Replaced { before });
    let again = h.run(&replace("a", "green"));
    assert_eq!(again.1, Outcome::default(), "idempotent");
    let (reply, _) = h.run_as("a", "blue", &sync("a", vec![]));
    assert_eq!(reason(&reply), "CLUSTER_NAME_IN_USE");

    // Its Services may be older than those of the cluster before.
    let green = |name: &str| of("a", name).uid("green-s").created(1_000);
    let asked = Command::Acquire(green("asked"));
    h.run_as("a", "green", &asked);
    let services = vec![
        green("asked").showing("192.0.2.1"),
        green("asked-later"),
        green("shown").showing("192.0.2.4"),
    ];
    h.run_as("a", "green", &sync("a", services.clone()));
    h.engine = h.tables.restart(&h.pools);
    h.run_as("a", "green", &sync("a", services));
    h.run_as("a", "green", &Command::Acquire(green("asked-later")));
    h.now = h.now.after(GRACE);
    h.run(&replace("a", "green"));
    let green = |name: &str| (name.to_owned(), "green-s".to_owned());
    let expected = [green("asked"), green("asked-later"), green("shown")];
    assert_eq!(h.holders(), expected);
}

#[test]
fn a_cluster_that_is_made_anew_all_the_time_takes_over_by_itself_when_the_last_one_is_away() {
    let mut h = four();
    let settings = Settings {
        clusters: BTreeSet::from([cluster("ci"), cluster("prod")]),
        ephemeral: BTreeSet::from([cluster("ci")]),
        ..Settings::default()
    };
    h.pools = Arc::new((*h.pools).clone().with_settings(settings));
    h.engine = h.tables.restart(&h.pools);
    for name in ["ci", "prod"] {
        h.run_as(name, &format!("{name}-1"), &attach(name, true));
    }
    let (reply, _) = h.run_as("ci", "ci-2", &attach("ci", false));
    assert_eq!(reason(&reply), "CLUSTER_NAME_IN_USE");
    let (reply, _) = h.run_as("ci", "ci-2", &sync("ci", vec![]));
    assert_eq!(reason(&reply), "CLUSTER_NAME_IN_USE", "it has no session");
    let (reply, _) = h.run_as("ci", "ci-2", &attach("ci", true));
    assert_eq!(reply, Reply::Attached);
    let (reply, _) = h.run_as("ci", "ci-1", &attach("ci", false));
    assert_eq!(reason(&reply), "CLUSTER_NAME_IN_USE", "it was replaced");
    let (reply, _) = h.run_as("prod", "prod-2", &attach("prod", true));
    assert_eq!(reason(&reply), "CLUSTER_NAME_IN_USE");
}
