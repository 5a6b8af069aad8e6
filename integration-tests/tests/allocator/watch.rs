//! The stream that tells when it is worth asking again.

use std::{collections::HashSet, time::Duration};

use integration_tests::{
    allocator::{Allocator, Options},
    rpc::{Asking, acquire, of_cluster, release, sync_of},
};
use lb_proto::v1::{
    DecommissionClusterRequest, IpFamily, WatchRequest, WatchResponse,
    allocator_service_client::AllocatorServiceClient, watch_response::Event,
};
use tokio::time::timeout;
use tonic::{Code, Streaming, transport::Endpoint};

/// A stream that has begun, and whether its replica acts.
async fn begin(allocator: &Allocator, request: WatchRequest) -> (Streaming<WatchResponse>, bool) {
    let stream = allocator.client().await.watch(request).await;
    let mut stream = stream.unwrap().into_inner();
    match next(&mut stream).await.event {
        Some(Event::Started(started)) => (stream, started.acting),
        other => panic!("{other:?}"),
    }
}

/// A stream that only listens.
async fn watch(allocator: &Allocator, cluster: &str) -> Streaming<WatchResponse> {
    let request = WatchRequest {
        cluster: cluster.to_owned(),
        ..WatchRequest::default()
    };
    let (stream, acting) = begin(allocator, request).await;
    assert!(!acting);
    stream
}

/// The next message, but for those that tell how far the database has come.
async fn next(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    loop {
        let message = timeout(Duration::from_secs(10), stream.message()).await;
        let message = message.expect("a message in time").unwrap();
        let message = message.expect("a message before the end");
        if !matches!(message.event, Some(Event::Progress(_))) {
            return message;
        }
    }
}

/// Who should ask, of the next message.
async fn offered(stream: &mut Streaming<WatchResponse>) -> Vec<String> {
    let services = match next(stream).await.event {
        Some(Event::Freed(freed)) => freed.services,
        Some(Event::AskAgain(ask_again)) => ask_again.services,
        other => panic!("{other:?}"),
    };
    services.into_iter().map(|service| service.name).collect()
}

#[tokio::test]
async fn a_freed_address_is_offered_to_the_one_that_has_waited_longest() {
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1 mail:192.0.2.2")).await;
    let mut client = allocator.client().await;
    let mut one = watch(&allocator, "one").await;
    let mut two = watch(&allocator, "two").await;
    client.acquire(acquire("web", "holder")).await.unwrap();
    client.acquire(acquire("mail", "holder")).await.unwrap();
    client.acquire(acquire("mail", "other")).await.unwrap_err();
    let first = of_cluster("two", acquire("web", "first"));
    client.acquire(first.clone()).await.unwrap_err();
    client.acquire(acquire("web", "second")).await.unwrap_err();

    let released = client.release(release("web", "holder")).await.unwrap();
    let message = next(&mut two).await;
    assert_eq!(message.revision, released.into_inner().revision);
    let Some(Event::Freed(freed)) = message.event else {
        panic!("{message:?}")
    };
    assert_eq!(
        (freed.pool.as_str(), freed.family()),
        ("ip-list-web", IpFamily::Ipv4)
    );
    assert_eq!(freed.services, [first.service.unwrap()]);
    // It does not ask: after a while it is the other one's turn, and nobody else's.
    assert_eq!(offered(&mut one).await, ["second"]);
}

#[tokio::test]
async fn an_offer_that_cannot_be_used_goes_on_at_once() {
    let allocator = Allocator::start(Options::config(
        "pools:\n- name: p\n  addresses: [192.0.2.1-192.0.2.2]\n  maxPerNamespace: 1\n",
    ))
    .await;
    let mut client = allocator.client().await;
    let mut stream = watch(&allocator, "one").await;
    client.acquire(acquire("a", "holder")).await.unwrap();
    client.acquire(acquire("b", "holder")).await.unwrap();
    let limited = acquire("b", "limited");
    client.acquire(limited.clone()).await.unwrap_err();
    client.acquire(acquire("c", "waits")).await.unwrap_err();
    client.release(release("a", "holder")).await.unwrap();
    let mut asked = offered(&mut stream).await;
    if asked == ["limited"] {
        client.acquire(limited).await.unwrap_err();
        asked = offered(&mut stream).await;
    }
    assert_eq!(asked, ["waits"]);
    client.acquire(acquire("c", "waits")).await.unwrap();
}

#[tokio::test]
async fn one_freed_address_wakes_one_of_two_hundred_clusters() {
    const CLUSTERS: usize = 200;
    const WAITING: usize = 50;
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1")).await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "holder")).await.unwrap();
    let mut streams = Vec::new();
    for cluster in 0..CLUSTERS {
        let name = format!("c{cluster}");
        streams.push(watch(&allocator, &name).await);
        for service in 0..WAITING {
            let request = of_cluster(&name, acquire("web", &format!("s{service}")));
            client.acquire(request).await.unwrap_err();
        }
    }
    client.release(release("web", "holder")).await.unwrap();
    assert_eq!(offered(&mut streams[0]).await, ["s0"]);
    client
        .acquire(of_cluster("c0", acquire("web", "s0")))
        .await
        .unwrap();
    // The next one is told when it is free again, and nobody was in between.
    let mut request = release("web", "s0");
    request.service.as_mut().unwrap().cluster = "c0".to_owned();
    client.release(request).await.unwrap();
    assert_eq!(offered(&mut streams[0]).await, ["s1"]);
    for stream in &mut streams[1..] {
        while let Ok(message) = timeout(Duration::ZERO, stream.message()).await {
            let event = message.unwrap().unwrap().event;
            let is_progress = matches!(event, Some(Event::Progress(_)));
            assert!(is_progress, "told without need: {event:?}");
        }
    }
}

#[tokio::test]
async fn one_replica_acts_and_is_followed_by_the_one_that_has_been_there_longest() {
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1")).await;
    // Each has a connection of its own, as processes do.
    let session = async |replica: &str, serves: &str| {
        let request = WatchRequest {
            cluster: "one".to_owned(),
            replica: replica.to_owned(),
            serves: serves.to_owned(),
            ..WatchRequest::default()
        };
        begin(&allocator, request).await
    };
    let (first, first_acts) = session("first", "all").await;
    let (mut second, second_acts) = session("second", "all").await;
    let (_third, third_acts) = session("third", "all").await;
    assert_eq!([first_acts, second_acts, third_acts], [true, false, false]);
    assert!(session("of-another-class", "another class").await.1);
    let _listener = watch(&allocator, "one").await;
    drop(first);
    let event = next(&mut second).await.event;
    assert!(matches!(event, Some(Event::Acting(_))), "{event:?}");

    let clusters = allocator.clusters().await;
    let shown = clusters[0]
        .sessions
        .iter()
        .filter(|one| one.serves != "another class");
    let shown: Vec<_> = shown
        .map(|one| (one.replica.as_str(), one.acting))
        .collect();
    assert_eq!(shown, [("second", true), ("third", false), ("", false)]);
    assert!(clusters[0].sessions.iter().all(|one| one.since.is_some()));
}

#[tokio::test]
async fn what_a_replica_is_called_is_printable_and_short() {
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1")).await;
    for (replica, serves) in [
        ("a\n".to_owned(), ""),
        ("a".repeat(129), ""),
        ("a".into(), "ä"),
    ] {
        let request = WatchRequest {
            cluster: "one".to_owned(),
            replica,
            serves: serves.to_owned(),
            ..WatchRequest::default()
        };
        let refused = allocator.client().await.watch(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_cut_off_and_told_so() {
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1")).await;
    let mut client = allocator.client().await;
    // So little that what is not read soon stays with the allocator.
    let endpoint = Endpoint::from_shared(allocator.url()).unwrap();
    let channel = endpoint.initial_stream_window_size(1024).connect().await;
    let request = WatchRequest {
        cluster: "one".to_owned(),
        ..WatchRequest::default()
    };
    let mut reader = AllocatorServiceClient::new(channel.unwrap());
    let mut stream = reader.watch(request).await.unwrap().into_inner();
    // Each release is offered to the one that waits, and to nobody who reads.
    for round in 0..4_000u32 {
        let (holder, waits) = (format!("s{round}"), format!("s{}", round + 1));
        client.acquire(acquire("web", &holder)).await.unwrap();
        client.acquire(acquire("web", &waits)).await.unwrap_err();
        client.release(release("web", &holder)).await.unwrap();
        if round % 100 == 0 {
            let clusters = allocator.clusters().await;
            if clusters.iter().all(|cluster| cluster.sessions.is_empty()) {
                break;
            }
        }
    }
    let end = loop {
        match timeout(Duration::from_secs(10), stream.message()).await {
            Ok(Ok(Some(_))) => {}
            Ok(end) => break end.unwrap_err(),
            Err(_) => panic!("the stream was not cut"),
        }
    };
    assert_eq!(end.code(), Code::ResourceExhausted);
    assert!(end.message().contains("too slowly"), "{end}");
}

#[tokio::test]
async fn what_was_freed_before_the_stream_began_is_seen_by_asking_when_it_began() {
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1")).await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    client.acquire(acquire("web", "b")).await.unwrap_err();
    client.release(release("web", "a")).await.unwrap();
    let _stream = watch(&allocator, "one").await;
    client.acquire(acquire("web", "b")).await.unwrap();
}

#[tokio::test]
async fn two_thousand_addresses_freed_at_once_do_not_cut_an_honest_stream() {
    const MANY: usize = 2_000;
    let pools = "pools: [{name: p, addresses: [10.0.0.1-10.0.7.208]}]";
    let allocator = Allocator::start(Options::config(pools)).await;
    let mut client = allocator.client().await;
    let held = (0..MANY).map(|number| {
        let address = format!("10.0.{}.{}", (number + 1) / 256, (number + 1) % 256);
        of_cluster(
            "two",
            acquire("web", &format!("s{number}")).showing(&address),
        )
    });
    let messages = sync_of("two", held.collect());
    client.sync(futures::stream::iter(messages)).await.unwrap();
    let mut stream = watch(&allocator, "one").await;
    for number in 0..MANY {
        let request = acquire("web", &format!("waits{number}"));
        client.acquire(request).await.unwrap_err();
    }
    let request = DecommissionClusterRequest {
        cluster: "two".to_owned(),
        dry_run: false,
        grace: Some(prost_types::Duration::default()),
    };
    let mut admin = allocator.admin_client().await;
    let answer = admin.decommission_cluster(request).await.unwrap();
    assert_eq!(answer.into_inner().allocation_count, MANY as u64);
    let (mut told, mut messages) = (HashSet::new(), 0);
    while told.len() < MANY {
        messages += 1;
        let message = timeout(Duration::from_secs(60), stream.message()).await;
        let message = message.expect("a message in time").unwrap();
        match message.expect("a message before the end").event {
            Some(Event::Freed(freed)) => told.extend(freed.services.into_iter().map(|s| s.name)),
            Some(Event::PoolsChanged(_) | Event::Progress(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(messages < 100, "{messages} messages");
    assert_eq!(
        allocator.clusters().await[0].sessions.len(),
        1,
        "it is not cut"
    );
}
