//! Which cluster a name belongs to, and what a cluster proves about the database.

use std::{fs, time::Duration};

use integration_tests::{
    allocator::{Allocator, Options},
    eventually::{DEADLINE, eventually},
    rpc::{Asking, Refusal, acquire, held, of_cluster, refusal, release, sync_of},
    scratch::Scratch,
};
use lb_proto::v1::{
    AcquireRequest, ChangeKind, Cluster, ReplaceClusterRequest, SyncRequest, WatchRequest,
    WatchResponse, sync_request::Part, watch_response::Event,
};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use crate::backup::{back_up, put_in_place};

const POOL: &str = "pools: [{name: p, addresses: [192.0.2.1-192.0.2.4]}]\norphanGrace: 1s\n";
const STOP: Duration = Duration::from_secs(20);

async fn watch(
    allocator: &Allocator,
    cluster: &str,
    uid: &str,
) -> Result<Streaming<WatchResponse>, Status> {
    let request = WatchRequest {
        cluster: cluster.to_owned(),
        cluster_uid: uid.to_owned(),
        ..WatchRequest::default()
    };
    let stream = allocator.client().await.watch(request).await?;
    Ok(stream.into_inner())
}

async fn next(stream: &mut Streaming<WatchResponse>) -> Result<Event, Status> {
    let message = timeout(DEADLINE, stream.message()).await;
    let message = message.expect("a message in time")?;
    Ok(message.expect("it does not just end").event.unwrap())
}

/// With what `begin` says besides the name.
fn with(
    mut messages: Vec<SyncRequest>,
    uid: &str,
    seen_revision: i64,
    mark: &str,
) -> Vec<SyncRequest> {
    if let Some(Part::Begin(begin)) = &mut messages[0].part {
        uid.clone_into(&mut begin.cluster_uid);
        begin.seen_revision = seen_revision;
        mark.clone_into(&mut begin.mark);
    }
    messages
}

/// The mark at the end of the answer.
async fn sync(allocator: &Allocator, messages: Vec<SyncRequest>) -> Result<String, Status> {
    let messages = futures::stream::iter(messages);
    let answer = allocator.client().await.sync(messages).await?;
    let mut pages = answer.into_inner();
    let mut mark = String::new();
    while let Some(page) = pages.message().await? {
        mark = page.mark;
    }
    Ok(mark)
}

fn of(cluster: &str, uid: &str, name: &str) -> AcquireRequest {
    AcquireRequest {
        cluster_uid: uid.to_owned(),
        ..of_cluster(cluster, acquire("web", name))
    }
}

fn was_given(request: AcquireRequest, address: &str) -> AcquireRequest {
    AcquireRequest {
        was_allocated: true,
        ..request.showing(address)
    }
}

async fn cluster(allocator: &Allocator, name: &str) -> Cluster {
    let clusters = allocator.clusters().await;
    let found = clusters.into_iter().find(|cluster| cluster.name == name);
    found.expect("the cluster is listed")
}

async fn gets(allocator: &Allocator, request: AcquireRequest) -> Result<String, Refusal> {
    let answer = allocator.client().await.acquire(request).await;
    let answer = answer.map_err(|status| refusal(&status))?;
    Ok(held(answer.get_ref())[0].to_owned())
}

#[tokio::test]
async fn a_second_cluster_under_one_name_is_refused_though_its_services_have_older_versions() {
    let allocator = Allocator::start(Options::config(POOL)).await;
    let at = |uid: &str, version: &str| AcquireRequest {
        resource_version: version.to_owned(),
        ..of("prod", uid, "s")
    };
    gets(&allocator, at("blue", "429")).await.unwrap();
    let refused = gets(&allocator, at("green", "238")).await.unwrap_err();
    assert_eq!(refused.reason, "CLUSTER_NAME_IN_USE");
    let shown = cluster(&allocator, "prod").await;
    assert_eq!(shown.refused.unwrap().count, 1);
}

#[tokio::test]
async fn a_second_cluster_under_one_name_changes_nothing_until_it_takes_over() {
    let allocator = Allocator::start(Options::config(POOL)).await;
    let mut client = allocator.client().await;
    let mut blue = watch(&allocator, "prod", "blue").await.unwrap();
    let address = gets(&allocator, of("prod", "blue", "s1")).await.unwrap();
    gets(&allocator, of("prod", "blue", "s2")).await.unwrap();

    let mut let_go = release("web", "s1");
    let_go.service = of("prod", "green", "s1").service;
    let_go.cluster_uid = "green".to_owned();
    let empty = || with(sync_of("prod", vec![]), "green", 0, "");
    for answer in [
        watch(&allocator, "prod", "green").await.map(drop),
        sync(&allocator, empty()).await.map(drop),
        client.acquire(of("prod", "green", "s1")).await.map(drop),
        client.release(let_go).await.map(drop),
    ] {
        let Refusal {
            code,
            reason,
            metadata,
        } = refusal(&answer.unwrap_err());
        assert_eq!(code, Code::FailedPrecondition);
        assert_eq!(reason, "CLUSTER_NAME_IN_USE");
        assert_eq!(metadata["cluster"], "prod");
        for time in ["since", "last_heard"] {
            assert!(metadata.contains_key(time), "{metadata:?}");
        }
        let command = &metadata["command"];
        assert!(command.contains("ReplaceCluster") && command.contains("green"));
    }
    let shown = cluster(&allocator, "prod").await;
    let refused = shown.refused.unwrap();
    assert_eq!((&*shown.uid, shown.allocations), ("blue", 2));
    assert_eq!((&*refused.uid, refused.count), ("green", 4));
    let labels = [("cluster", "prod")];
    let metric = "lb_allocator_cluster_identity_refused_total";
    let admin = allocator.admin();
    admin.sees(metric, &labels, |count| count == 4.0).await;

    let request = ReplaceClusterRequest {
        cluster: "prod".to_owned(),
        cluster_uid: "green".to_owned(),
    };
    let mut admin = allocator.admin_client().await;
    let answer = admin.replace_cluster(request).await.unwrap();
    assert_eq!(answer.get_ref().replaced_uid, "blue");
    let end = loop {
        if let Err(status) = next(&mut blue).await {
            break status;
        }
    };
    assert_eq!(refusal(&end).reason, "CLUSTER_NAME_IN_USE");
    let _green = watch(&allocator, "prod", "green").await.unwrap();
    let shown = of("prod", "", "s1").uid("another").showing(&address);
    let messages = with(sync_of("prod", vec![shown]), "green", 0, "");
    sync(&allocator, messages).await.unwrap();
    let what = "the rest is taken back after the grace";
    eventually(DEADLINE, what, async || {
        match allocator.allocations().await.as_slice() {
            [left] if left.address == address && left.uid == "another" => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_second_name_for_one_cluster_is_refused() {
    let allocator = Allocator::start(Options::config(POOL)).await;
    let _stream = watch(&allocator, "prod", "blue").await.unwrap();
    let refused = refusal(&watch(&allocator, "other", "blue").await.unwrap_err());
    assert_eq!(refused.reason, "CLUSTER_HAS_OTHER_NAME");
    assert_eq!(refused.metadata["cluster"], "prod");
    let listed = cluster(&allocator, "prod").await.refused.unwrap();
    assert_eq!((&*listed.uid, &*listed.name), ("blue", "other"));
}

#[tokio::test]
async fn an_ephemeral_cluster_that_is_made_anew_takes_over_when_the_last_one_is_away() {
    let config = format!("{POOL}clusters: [{{name: ci, ephemeral: true}}]\n");
    let allocator = Allocator::start(Options::config(config)).await;
    sync(&allocator, with(sync_of("ci", vec![]), "ci-1", 0, ""))
        .await
        .unwrap();
    let first = watch(&allocator, "ci", "ci-1").await.unwrap();
    let refused = refusal(&watch(&allocator, "ci", "ci-2").await.unwrap_err());
    assert_eq!(refused.reason, "CLUSTER_NAME_IN_USE");
    drop(first);
    let away = tokio::time::Instant::now();
    eventually(DEADLINE, "it takes over", async || {
        let stream = watch(&allocator, "ci", "ci-2").await;
        stream.map(drop).map_err(|status| status.to_string())
    })
    .await;
    assert!(away.elapsed() >= Duration::from_secs(9), "too early");
    assert_eq!(cluster(&allocator, "ci").await.uid, "ci-2");
}

#[tokio::test]
async fn a_number_or_a_false_mark_stops_nobody_and_opens_no_pool() {
    let config = "pools: [{name: p, addresses: [192.0.2.1]}, \
                  {name: q, addresses: [192.0.2.9], clusters: [a]}]\n";
    let allocator = Allocator::start(Options::config(config)).await;
    for name in ["a", "b", "away"] {
        sync(&allocator, sync_of(name, vec![])).await.unwrap();
    }
    let mark = sync(&allocator, sync_of("b", vec![])).await.unwrap();
    let (told, mac) = mark.rsplit_once('.').unwrap();
    let (id, _) = told.split_once('.').unwrap();
    let forged = format!("{id}.9223372036854775807.{mac}");
    for mark in [&*forged, "", "9223372036854775807"] {
        let lie = of_cluster("b", acquire("web", "lies")).showing("192.0.2.9");
        let messages = with(sync_of("b", vec![lie]), "", i64::MAX, mark);
        sync(&allocator, messages).await.unwrap();
    }
    let got = gets(&allocator, of("a", "", "new")).await;
    assert_eq!(
        got.as_deref(),
        Ok("192.0.2.9"),
        "nobody waits for a cluster"
    );
    assert_eq!(allocator.allocations().await.len(), 1, "nothing is adopted");
    let listed = cluster(&allocator, "b").await;
    assert_eq!(listed.false_marks.unwrap().count, 2);
    assert_eq!(listed.proved_loss_at, None);
}

#[tokio::test]
async fn a_true_mark_proves_that_a_backup_was_restored_and_all_others_tell_what_they_have() {
    let folder = Scratch::new("backup").unwrap();
    let mut allocator = Allocator::start(Options::config(POOL)).await;
    for name in ["a", "b"] {
        sync(&allocator, sync_of(name, vec![])).await.unwrap();
    }
    let file = folder.path().join("lb.db");
    back_up(&allocator.database(), &file).await.unwrap();
    let mut stream = watch(&allocator, "a", "").await.unwrap();
    let address = gets(&allocator, of("b", "", "s1")).await.unwrap();
    let mark = loop {
        if let Event::Progress(progress) = next(&mut stream).await.unwrap() {
            break progress.mark;
        }
    };
    allocator.terminate(STOP).await;
    put_in_place(&allocator, &file);
    allocator.start_again().await;

    let mut stream = watch(&allocator, "b", "").await.unwrap();
    sync(&allocator, with(sync_of("a", vec![]), "", 0, &mark))
        .await
        .unwrap();
    let refused = gets(&allocator, of("a", "", "new")).await.unwrap_err();
    assert_eq!(refused.reason, "AWAITING_SYNC");
    assert_eq!(refused.metadata["clusters"], "b");
    assert!(cluster(&allocator, "a").await.proved_loss_at.is_some());
    while !matches!(next(&mut stream).await.unwrap(), Event::Lagged(_)) {}
    let shown = of("b", "", "s1").showing(&address);
    sync(&allocator, sync_of("b", vec![shown])).await.unwrap();
    let new = gets(&allocator, of("a", "", "new")).await.unwrap();
    assert_ne!(new, address);
}

#[tokio::test]
async fn a_new_database_gives_addresses_two_seconds_after_the_first_who_comes() {
    let options = Options::config(POOL).waits_for_clusters();
    let mut allocator = Allocator::start(options).await;
    let refused = gets(&allocator, of("a", "", "new")).await.unwrap_err();
    assert_eq!(refused.code, Code::Unavailable);
    assert_eq!(refused.reason, "AWAITING_SYNC");
    assert!(refused.metadata.contains_key("until"), "{refused:?}");
    // A crash does not end the wait.
    sync(&allocator, sync_of("a", vec![])).await.unwrap();
    allocator.kill();
    allocator.start_again().await;
    let mut stream = watch(&allocator, "a", "uid-of-a").await.unwrap();
    let began = tokio::time::Instant::now();
    let refused = gets(&allocator, of("a", "", "new")).await.unwrap_err();
    assert_eq!(refused.reason, "AWAITING_SYNC");
    while !matches!(next(&mut stream).await.unwrap(), Event::PoolsChanged(_)) {}
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    gets(&allocator, of("a", "", "new")).await.unwrap();
    let history = allocator.history("").await;
    let kinds: Vec<_> = history.iter().map(|entry| entry.kind()).collect();
    assert!(kinds.contains(&ChangeKind::Opened), "{kinds:?}");
}

#[tokio::test]
async fn a_lost_database_without_named_clusters_gives_nothing_before_all_who_come_have_told() {
    let options = Options::config(POOL).waits_for_clusters();
    let mut allocator = Allocator::start(options).await;
    let address = eventually(DEADLINE, "a gets its address", async || {
        gets(&allocator, of("a", "", "s1"))
            .await
            .map_err(|refusal| format!("{refusal:?}"))
    })
    .await;
    allocator.kill();
    let database = allocator.database();
    for file in fs::read_dir(database.parent().unwrap()).unwrap() {
        let file = file.unwrap().path();
        if file.to_str().unwrap().contains("allocator.db") {
            fs::remove_file(file).unwrap();
        }
    }
    allocator.start_again().await;

    // Who wants something new comes first, and another cluster is slow.
    let _b = watch(&allocator, "b", "uid-of-b").await.unwrap();
    sync(&allocator, with(sync_of("b", vec![]), "uid-of-b", 0, ""))
        .await
        .unwrap();
    let new = of("b", "uid-of-b", "new").addresses(&[&address]);
    let refused = gets(&allocator, new.clone()).await.unwrap_err();
    assert_eq!(refused.reason, "AWAITING_SYNC");
    let _slow = watch(&allocator, "slow", "uid-of-slow").await.unwrap();
    let _a = watch(&allocator, "a", "uid-of-a").await.unwrap();
    let shown = was_given(of("a", "", "s1"), &address);
    sync(
        &allocator,
        with(sync_of("a", vec![shown]), "uid-of-a", 0, ""),
    )
    .await
    .unwrap();
    let refused = gets(&allocator, of("b", "uid-of-b", "any"))
        .await
        .unwrap_err();
    assert_eq!(refused.reason, "AWAITING_SYNC");
    assert_eq!(refused.metadata["clusters"], "slow");
    assert!(refused.metadata.contains_key("until"));
    assert!(cluster(&allocator, "a").await.proved_loss_at.is_some());
    let holders = allocator.allocations().await;
    assert_eq!(holders.len(), 1);
    assert_eq!(holders[0].address, address);
    assert_eq!(holders[0].service.as_ref().unwrap().cluster, "a");
}
