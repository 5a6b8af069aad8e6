//! What a cluster tells of itself, and what becomes of it.

use integration_tests::{
    allocator::{Allocator, Options},
    eventually::{DEADLINE, eventually},
    rpc::{Asking, acquire, held, key, of_cluster, refusal, sync_of},
};
use lb_proto::v1::{
    ConflictWinner, DecommissionClusterRequest, HandoverRequest, RecommissionClusterRequest,
    ResolveConflictRequest, SyncOutcome, SyncedService, sync_request::Part,
};
use tonic::Code;

const POOL: &str = "pools:\n- name: p\n  addresses: [192.0.2.1-192.0.2.4]\n";

async fn allocator(more: &str) -> Allocator {
    Allocator::start(Options::config(format!("{POOL}{more}"))).await
}

fn outcomes(synced: &[SyncedService]) -> Vec<(String, SyncOutcome, String)> {
    let one = |one: &SyncedService| {
        let name = one.service.as_ref().unwrap().name.clone();
        let addresses: Vec<_> = one.addresses.iter().map(|held| &*held.address).collect();
        (name, one.outcome(), addresses.join(","))
    };
    synced.iter().map(one).collect()
}

async fn holders(allocator: &Allocator) -> Vec<(String, String)> {
    let held = allocator.allocations().await.into_iter();
    held.map(|held| {
        let key = held.service.unwrap();
        (held.address, format!("{}/{}", key.cluster, key.name))
    })
    .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    pairs.iter().map(own).collect()
}

#[tokio::test]
async fn each_service_of_a_cluster_gets_its_answer_and_what_is_gone_goes_after_its_grace() {
    let allocator = allocator("orphanGrace: 1s\n").await;
    let mut client = allocator.client().await;
    for name in ["gone", "kept"] {
        client.acquire(acquire("web", name)).await.unwrap();
    }
    let services = vec![
        acquire("web", "adopted").showing("192.0.2.4"),
        acquire("web", "kept").showing("192.0.2.2"),
        acquire("web", "new"),
    ];
    let synced = allocator.sync(sync_of("one", services)).await.unwrap();
    assert_eq!(
        outcomes(&synced),
        [
            ("adopted", SyncOutcome::Adopted, "192.0.2.4"),
            ("gone", SyncOutcome::ReleasedAfterGrace, "192.0.2.1"),
            ("kept", SyncOutcome::Kept, "192.0.2.2"),
            ("new", SyncOutcome::Reassign, ""),
        ]
        .map(|(name, outcome, address)| (name.to_owned(), outcome, address.to_owned()))
    );
    assert!(synced[1].release_at.is_some());
    eventually(DEADLINE, "what is gone is taken back", async || {
        let holders = holders(&allocator).await;
        let expected = pairs(&[("192.0.2.2", "one/kept"), ("192.0.2.4", "one/adopted")]);
        if holders == expected {
            Ok(())
        } else {
            Err(format!("{holders:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_cut_short_or_contradicts_itself_changes_nothing() {
    let allocator = allocator("orphanGrace: 0s\n").await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "held")).await.unwrap();
    let whole = || sync_of("one", vec![acquire("web", "a").showing("192.0.2.2")]);
    let mut short = whole();
    short.pop();
    let mut headless = whole();
    headless.remove(0);
    let mut twice = whole();
    twice.insert(1, twice[1].clone());
    let mut miscounted = whole();
    if let Some(Part::End(end)) = &mut miscounted[2].part {
        end.count = 7;
    }
    let foreign = sync_of("two", vec![acquire("web", "a")]);
    for (messages, field) in [
        (short, "end"),
        (headless, "begin"),
        (twice, "services.services"),
        (miscounted, "end.count"),
        (foreign, "services.services"),
    ] {
        let status = allocator.sync(messages).await.unwrap_err();
        let refusal = refusal(&status);
        assert_eq!(
            (refusal.reason.as_str(), refusal.metadata["field"].as_str()),
            ("INVALID_REQUEST", field)
        );
        assert_eq!(
            holders(&allocator).await,
            pairs(&[("192.0.2.1", "one/held")])
        );
    }
}

#[tokio::test]
async fn a_wish_that_cannot_be_read_says_that_the_service_is_there() {
    let allocator = allocator("orphanGrace: 0s\n").await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "bad")).await.unwrap();
    let bad = acquire("web", "bad").addresses(&["nonsense"]);
    let good = acquire("web", "good").showing("192.0.2.3");
    allocator
        .sync(sync_of("one", vec![bad, good]))
        .await
        .unwrap();
    assert_eq!(
        holders(&allocator).await,
        pairs(&[("192.0.2.1", "one/bad"), ("192.0.2.3", "one/good")])
    );
}

#[tokio::test]
async fn a_new_database_waits_for_the_known_clusters_and_adopts_what_they_have() {
    let options = Options::config(format!("{POOL}clusters: [one, two]\n"));
    let mut allocator = Allocator::start(options).await;
    let mut client = allocator.client().await;
    let awaiting = async |clusters: &str| {
        let status = allocator
            .client()
            .await
            .acquire(acquire("web", "new"))
            .await;
        let refusal = refusal(&status.unwrap_err());
        assert_eq!(refusal.code, Code::Unavailable);
        assert_eq!(refusal.reason, "AWAITING_SYNC");
        assert_eq!(refusal.metadata["clusters"], clusters);
    };
    awaiting("one,two").await;
    let shows = acquire("web", "old").showing("192.0.2.1");
    allocator.sync(sync_of("one", vec![shows])).await.unwrap();
    awaiting("two").await;
    // Also over a restart.
    allocator.kill();
    allocator.start_again().await;
    let status = client.acquire(acquire("web", "new")).await;
    drop(status);
    let shows = of_cluster("two", acquire("web", "old").showing("192.0.2.2"));
    allocator.sync(sync_of("two", vec![shows])).await.unwrap();
    let mut client = allocator.client().await;
    let new = client.acquire(acquire("web", "new")).await.unwrap();
    assert_eq!(held(&new.into_inner()), ["192.0.2.3"]);
}

#[tokio::test]
async fn a_cluster_that_is_assumed_absent_is_not_waited_for() {
    let options = Options::config(format!("{POOL}clusters: [one, two]\n"));
    let allocator = Allocator::start(options.arg("--assume-absent=two")).await;
    allocator.sync(sync_of("one", vec![])).await.unwrap();
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "new")).await.unwrap();
}

#[tokio::test]
async fn two_clusters_on_one_address_are_listed_and_decided_by_an_administrator() {
    let allocator = allocator("").await;
    let mut client = allocator.client().await;
    let mut admin = allocator.admin_client().await;
    let shows = || of_cluster("two", acquire("web", "shows").showing("192.0.2.1"));
    let resolve = |winner: ConflictWinner| ResolveConflictRequest {
        address: "192.0.2.1".to_owned(),
        service: shows().service,
        winner: winner.into(),
    };
    client.acquire(acquire("web", "holds")).await.unwrap();
    let unknown = admin
        .resolve_conflict(resolve(ConflictWinner::Holder))
        .await;
    assert_eq!(refusal(&unknown.unwrap_err()).reason, "CONFLICT_NOT_FOUND");

    allocator.sync(sync_of("two", vec![shows()])).await.unwrap();
    let conflicts = allocator.conflicts().await;
    assert_eq!(conflicts.len(), 1);
    assert_eq!(conflicts[0].address, "192.0.2.1");
    assert_eq!(conflicts[0].service, shows().service);
    assert_eq!(conflicts[0].holders, [key("web", "holds")]);
    let status = client.acquire(shows()).await.unwrap_err();
    assert_eq!(refusal(&status).reason, "ADDRESS_CONFLICT");
    assert!(
        !refusal(&status).metadata.contains_key("holder"),
        "another cluster's"
    );

    admin
        .resolve_conflict(resolve(ConflictWinner::Shower))
        .await
        .unwrap();
    let other = client.acquire(acquire("web", "holds")).await.unwrap();
    assert_eq!(held(&other.into_inner()), ["192.0.2.2"]);
    assert_eq!(
        holders(&allocator).await,
        pairs(&[("192.0.2.1", "two/shows"), ("192.0.2.2", "one/holds")])
    );
    assert_eq!(allocator.conflicts().await, []);
}

#[tokio::test]
async fn an_address_is_handed_over_when_its_holder_shows_it_no_more_also_over_a_restart() {
    let mut allocator = allocator("").await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "source")).await.unwrap();
    let target = || of_cluster("two", acquire("web", "target"));
    let request = |from: &str| HandoverRequest {
        address: "192.0.2.1".to_owned(),
        from: Some(key("web", from)),
        to: target().service,
        comment: "moving".to_owned(),
        ..HandoverRequest::default()
    };
    let mut admin = allocator.admin_client().await;
    let wrong = admin.handover(request("other")).await.unwrap_err();
    assert_eq!(refusal(&wrong).reason, "ALLOCATION_NOT_FOUND");
    let promise = admin
        .handover(request("source"))
        .await
        .unwrap()
        .into_inner();
    let promise = promise.reservation.unwrap();
    assert_eq!(promise.from, Some(key("web", "source")));
    assert!(promise.expires_at.is_some());
    allocator.kill();
    allocator.start_again().await;

    let mut client = allocator.client().await;
    let not_yet = client.acquire(target().addresses(&["192.0.2.1"])).await;
    assert_eq!(refusal(&not_yet.unwrap_err()).reason, "ADDRESS_IN_USE");
    let shows = acquire("web", "source").showing("192.0.2.1");
    let other = client.acquire(shows).await.unwrap();
    assert_eq!(held(&other.into_inner()), ["192.0.2.2"]);
    let not_yet = client.acquire(target().addresses(&["192.0.2.1"])).await;
    assert_eq!(refusal(&not_yet.unwrap_err()).reason, "ADDRESS_IN_USE");
    let shows = acquire("web", "source").showing("192.0.2.2");
    client.acquire(shows).await.unwrap();
    let got = client.acquire(target()).await.unwrap().into_inner();
    assert_eq!(held(&got), ["192.0.2.1"]);
}

#[tokio::test]
async fn a_decommissioned_cluster_is_refused_and_gives_its_addresses_back_after_a_grace() {
    let allocator = allocator("").await;
    let mut client = allocator.client().await;
    let mut admin = allocator.admin_client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    let request = |dry_run, seconds| DecommissionClusterRequest {
        cluster: "one".to_owned(),
        dry_run,
        grace: Some(prost_types::Duration { seconds, nanos: 0 }),
    };
    let tried = admin.decommission_cluster(request(true, 0)).await.unwrap();
    assert_eq!(tried.into_inner().allocation_count, 1);
    client.acquire(acquire("web", "a")).await.unwrap();

    let told = admin
        .decommission_cluster(request(false, 3600))
        .await
        .unwrap();
    assert!(told.into_inner().release_at.is_some());
    let status = client.acquire(acquire("web", "a")).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(refusal(&status).reason, "PERMISSION_DENIED");
    let status = allocator.sync(sync_of("one", vec![])).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let undo = RecommissionClusterRequest {
        cluster: "one".to_owned(),
    };
    admin.recommission_cluster(undo).await.unwrap();
    let same = client.acquire(acquire("web", "a")).await.unwrap();
    assert_eq!(held(&same.into_inner()), ["192.0.2.1"]);

    admin.decommission_cluster(request(false, 0)).await.unwrap();
    eventually(DEADLINE, "all is taken back", async || {
        let holders = holders(&allocator).await;
        if holders.is_empty() {
            Ok(())
        } else {
            Err(format!("{holders:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_cluster_that_says_nothing_is_reported_and_keeps_what_it_has() {
    let mut allocator = allocator("clusterSilence: 1s\norphanGrace: 0s\n").await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    allocator
        .sync(sync_of("one", vec![acquire("web", "a")]))
        .await
        .unwrap();
    eventually(DEADLINE, "its silence is told", async || {
        let clusters = allocator.clusters().await;
        if clusters[0].silent {
            Ok(())
        } else {
            Err(format!("{clusters:?}"))
        }
    })
    .await;
    let labels = [("cluster", "one")];
    let admin = allocator.admin();
    admin
        .sees("lb_allocator_cluster_silent", &labels, |value| value == 1.0)
        .await;
    assert_eq!(holders(&allocator).await, pairs(&[("192.0.2.1", "one/a")]));
    eventually(DEADLINE, "it is logged", async || {
        let log = allocator.process().errors();
        if log.contains("no Sync from the cluster") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
}
