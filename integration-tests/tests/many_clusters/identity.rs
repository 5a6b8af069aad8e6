//! A cluster is its name and the uid of its namespace kube-system: whoever comes with a
//! name that is another's is refused, hears why, and changes nothing.

use std::time::Duration;

use integration_tests::{
    eventually::{DEADLINE, eventually},
    watcher::{self, Watcher},
};

use crate::fleet::{Cluster, Fleet, plane, uid};

const POOL: &str = "pools: [{name: p, addresses: [192.0.2.1], stickyFor: 0s}]\norphanGrace: 1s\n";

/// Readiness, metric and the condition of a Service that waits say why.
async fn is_refused(cluster: &Cluster, service: &str, reason: &str, words: &str) {
    let admin = cluster.watcher.admin();
    admin
        .sees("lb_watcher_refused", &[], |refused| refused == 1.0)
        .await;
    eventually(
        DEADLINE,
        "it is not ready, and says why",
        async || match admin.get("/readyz").await {
            Err(error) if error.to_string().contains(words) => Ok(()),
            seen => Err(format!("{seen:?}")),
        },
    )
    .await;
    let condition = cluster.ns.is_pending(service, reason).await;
    assert!(condition.message.contains(words), "{}", condition.message);
    let told = cluster.ns.was_told(service, ["AllocationFailed"]).await;
    assert!(told[0].note.contains(words), "{told:?}");
}

#[tokio::test]
async fn a_second_cluster_of_one_name_changes_nothing_until_an_administrator_lets_it_take_over() {
    let fleet = Fleet::start(POOL).await;
    let blue = fleet.cluster("a", 0).await;
    blue.ns.create(fleet.service("s")).await;
    blue.ns.gets("s", ["192.0.2.1"]).await;

    let mut green = fleet.prepare("a", 1, &fleet.identity("a")).await;
    green.ns.create(fleet.service("t")).await;
    green.watcher.start_unready();
    let command = format!("\"cluster_uid\":\"{}\"", uid(1).await);
    is_refused(&green, "t", "CLUSTER_NAME_IN_USE", &command).await;
    // Longer than the grace after which what a cluster has no more is taken back.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let held = [("192.0.2.1".to_owned(), "a/s".to_owned())];
    assert_eq!(fleet.holders().await, held);
    blue.ns.gets("s", ["192.0.2.1"]).await;

    fleet.replace("a", 1).await;
    green.ns.gets("t", ["192.0.2.1"]).await;
    let admin = green.watcher.admin();
    admin
        .sees("lb_watcher_refused", &[], |refused| refused == 0.0)
        .await;
    admin.get("/readyz").await.unwrap();
    blue.ns.create(fleet.service("late")).await;
    is_refused(&blue, "late", "CLUSTER_NAME_IN_USE", "ReplaceCluster").await;
}

#[tokio::test]
async fn of_two_watchers_of_one_cluster_with_two_names_the_second_is_refused_and_writes_once() {
    let fleet = Fleet::start(POOL).await;
    let first = fleet.cluster("a", 0).await;
    first.ns.create(fleet.service("s")).await;
    first.ns.gets("s", ["192.0.2.1"]).await;
    first.ns.create(fleet.service("waits")).await;
    first.ns.is_pending("waits", "POOL_EXHAUSTED").await;

    let identity = fleet.identity("b");
    let secret = integration_tests::secret::Secret::new(&identity, &fleet.authority.certificate);
    let options = watcher::Options::cluster("b")
        .class(fleet.class())
        .tls(secret.files());
    let mut second = Watcher::prepare(plane(0).await, &fleet.allocator.url(), options);
    second.start_unready();
    let admin = second.admin();
    admin
        .sees("lb_watcher_refused", &[], |refused| refused == 1.0)
        .await;
    eventually(
        DEADLINE,
        "it is not ready, and says why",
        async || match admin.get("/readyz").await {
            Err(error) if error.to_string().contains("the name a") => Ok(()),
            seen => Err(format!("{seen:?}")),
        },
    )
    .await;
    eventually(DEADLINE, "the Service that waits is told", async || {
        let told = first.ns.told("waits").await;
        let words = "CLUSTER_HAS_OTHER_NAME";
        if told.iter().any(|told| told.note.contains(words)) {
            Ok(())
        } else {
            Err(format!("{told:?}"))
        }
    })
    .await;
    first.ns.is_pending("waits", "POOL_EXHAUSTED").await;
    first.ns.create(fleet.service("later")).await;
    first.ns.is_pending("later", "POOL_EXHAUSTED").await;
    first.ns.delete("s").await;
    let served = eventually(DEADLINE, "one of the two is served", async || {
        for name in ["waits", "later"] {
            if !integration_tests::namespace::addresses(&first.ns.get(name).await).is_empty() {
                return Ok(name);
            }
        }
        Err("none")
    })
    .await;
    let writes = first.ns.status_writes(served).len();
    assert!(writes <= 6, "the two write in turns: {writes}");
    assert_eq!(
        fleet.holders().await,
        [("192.0.2.1".to_owned(), format!("a/{served}"))]
    );
}
