//! Nobody is held up by a client that is slow, silent or greedy.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use integration_tests::{
    allocator::{Allocator, Options},
    eventually::{DEADLINE, eventually},
    rpc::{acquire, refusal},
    unfinished,
};
use lb_proto::v1::{
    ListPoolsRequest, WatchRequest, allocator_service_client::AllocatorServiceClient,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tonic::{Code, body::Body};

use crate::write_lock::WriteLock;

const POOLS: &str = "pools: [{name: big, addresses: [10.0.0.0/8]}]";

async fn is_served_promptly(allocator: &Allocator, name: &str) {
    let begun = Instant::now();
    allocator
        .client()
        .await
        .acquire(acquire("web", name))
        .await
        .unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn silent_and_slow_connections_do_not_hold_up_others() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let mut connections = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(allocator.address()).await.unwrap();
        let spoken: &[u8] = match number % 3 {
            0 => b"",
            1 => b"PRI * HTTP/2.0\r\n",
            _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        };
        stream.write_all(spoken).await.unwrap();
        connections.push(stream);
    }
    is_served_promptly(&allocator, "a").await;
    drop(connections);
    is_served_promptly(&allocator, "b").await;
}

#[tokio::test]
async fn a_watch_that_nobody_reads_does_not_hold_up_others() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let request = WatchRequest {
            cluster: "one".to_owned(),
            ..WatchRequest::default()
        };
        streams.push(allocator.client().await.watch(request).await.unwrap());
    }
    let mut client = allocator.client().await;
    for number in 0..500 {
        let name = format!("s{number}");
        client.acquire(acquire("web", &name)).await.unwrap();
        client
            .release(integration_tests::rpc::release("web", &name))
            .await
            .unwrap();
    }
    is_served_promptly(&allocator, "a").await;
}

#[tokio::test]
async fn reads_are_answered_while_a_change_waits_for_the_disk() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let lock = WriteLock::take(&allocator.database()).await;
    let mut client = allocator.client().await;
    let waiting = tokio::spawn(async move { client.acquire(acquire("web", "a")).await });

    let pools = allocator.pools().await;
    assert_eq!(
        pools[0].usage[0].used, 0,
        "what is not durable is not shown"
    );
    assert!(!waiting.is_finished());

    lock.give_back().await;
    waiting.await.unwrap().unwrap();
    assert_eq!(allocator.pools().await[0].usage[0].used, 1);
}

#[tokio::test]
async fn more_requests_than_it_takes_at_once_are_refused_and_the_others_are_answered() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(allocator.client().await);
    }
    let lock = WriteLock::take(&allocator.database()).await;
    let (answers, mut answered) = mpsc::unbounded_channel();
    for (connection, client) in clients.iter().enumerate() {
        for number in 0..200 {
            let (mut client, answers) = (client.clone(), answers.clone());
            let request = acquire("web", &format!("s{connection}-{number}"));
            tokio::spawn(async move { answers.send(client.acquire(request).await) });
        }
    }
    drop(answers);

    let first = answered.recv().await.unwrap().unwrap_err();
    let told = refusal(&first);
    assert_eq!(
        (told.code, told.reason.as_str()),
        (Code::ResourceExhausted, "OVERLOADED")
    );
    lock.give_back().await;

    let (mut granted, mut refused) = (0, 1);
    while let Some(answer) = answered.recv().await {
        match answer {
            Ok(_) => granted += 1,
            Err(status) => {
                assert_eq!(refusal(&status).reason, "OVERLOADED", "{status}");
                refused += 1;
            }
        }
    }
    assert!(
        granted > 0 && refused > 0,
        "granted {granted}, refused {refused}"
    );
    assert_eq!(allocator.allocations().await.len(), granted);
    is_served_promptly(&allocator, "afterwards").await;
}

#[tokio::test]
async fn a_change_that_cannot_be_made_durable_in_time_is_refused_and_not_made() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let mut client = allocator.client().await;
    let lock = WriteLock::take(&allocator.database()).await;
    let status = client.acquire(acquire("web", "a")).await.unwrap_err();
    let told = refusal(&status);
    assert_eq!(
        (told.code, told.reason.as_str()),
        (Code::Unavailable, "STORE_UNAVAILABLE")
    );
    assert!(allocator.allocations().await.is_empty());

    lock.give_back().await;
    eventually(DEADLINE, "it recovers by itself", async || {
        client.acquire(acquire("web", "a")).await
    })
    .await;
    assert_eq!(allocator.allocations().await.len(), 1);
}

#[tokio::test]
async fn a_caller_that_hung_up_costs_nothing_but_its_own_answer() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let lock = WriteLock::take(&allocator.database()).await;
    for number in 0..50 {
        let mut client = AllocatorServiceClient::new(allocator.channel().await);
        let mut request = tonic::Request::new(acquire("web", &format!("gone-{number}")));
        request.set_timeout(Duration::from_millis(50));
        client.acquire(request).await.unwrap_err();
    }
    lock.give_back().await;
    is_served_promptly(&allocator, "a").await;
    let mut pools = allocator.pool_client().await;
    pools.list_pools(ListPoolsRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_does_not_begin_is_closed() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for spoken in [&b""[..], &preface[..23]] {
        let mut stream = TcpStream::connect(allocator.address()).await.unwrap();
        stream.write_all(spoken).await.unwrap();
        let closed = timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await;
        // With a reset or without one.
        let _ = closed.expect("it is closed");
    }
    let admin = allocator.admin();
    admin
        .sees("lb_allocator_connections", &[], |open| open == 0.0)
        .await;
    let _client = allocator.client().await;
    admin
        .sees("lb_allocator_connections", &[], |open| open == 1.0)
        .await;
}

/// Streams over connections of their own, whose bodies do not end: what has come back
/// so far, and comes.
async fn unfinished_streams(
    allocator: &Allocator,
    (connections, streams): (usize, usize),
    body: fn() -> Body,
) -> mpsc::UnboundedReceiver<String> {
    let (answers, answered) = mpsc::unbounded_channel();
    for _ in 0..connections {
        let channel = allocator.channel().await;
        for _ in 0..streams {
            let (mut channel, answers) = (channel.clone(), answers.clone());
            tokio::spawn(async move {
                let ended = unfinished::call(&mut channel, unfinished::ACQUIRE, body());
                answers.send(ended.await)
            });
        }
    }
    answered
}

async fn all(mut answered: mpsc::UnboundedReceiver<String>) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    while let Some(answer) = answered.recv().await {
        *all.entry(answer).or_default() += 1;
    }
    all
}

#[tokio::test]
async fn streams_whose_body_never_comes_are_ended() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let answered = unfinished_streams(&allocator, (1, 20), unfinished::never).await;
    is_served_promptly(&allocator, "a").await;
    let ended = timeout(DEADLINE, all(answered)).await.expect("they end");
    assert_eq!(
        ended,
        BTreeMap::from([("DEADLINE_EXCEEDED".to_owned(), 20)])
    );
}

#[tokio::test]
async fn who_takes_every_place_leaves_some_to_others() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let mut greedy = unfinished_streams(&allocator, (10, 500), unfinished::never).await;
    let first = greedy.recv().await.unwrap();
    assert_eq!(first, "RESOURCE_EXHAUSTED");
    for name in ["a", "b", "c", "d"] {
        is_served_promptly(&allocator, name).await;
    }
    // The places come back with the end of the streams.
    let ended = all(greedy).await;
    assert!(ended["DEADLINE_EXCEEDED"] >= 2048, "{ended:?}");
    assert!(ended["DEADLINE_EXCEEDED"] <= 4096, "{ended:?}");
    let admin = allocator.admin();
    admin
        .sees("lb_allocator_rpc_in_flight", &[], |in_flight| {
            in_flight == 0.0
        })
        .await;
}

#[tokio::test]
async fn many_who_want_little_leave_places_to_who_was_there_before() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let mut before = allocator.client().await;
    before.acquire(acquire("web", "before")).await.unwrap();
    // Enough to take 3,072 places even if none has more than eight.
    let many = unfinished_streams(&allocator, (450, 10), unfinished::never).await;
    eventually(DEADLINE, "there is no room for a new one", async || {
        let mut new = allocator.client().await;
        match new.acquire(acquire("web", "new")).await {
            Err(status) if refusal(&status).reason == "OVERLOADED" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for name in ["a", "b", "c", "d"] {
        before.acquire(acquire("web", name)).await.unwrap();
    }
    drop(many);
}

#[tokio::test]
async fn what_unfinished_messages_may_fill_is_limited_and_others_are_served() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let body = || unfinished::unfinished(200 * 1024, 199 * 1024);
    let mut greedy = unfinished_streams(&allocator, (3, 400), body).await;
    assert_eq!(greedy.recv().await.unwrap(), "RESOURCE_EXHAUSTED");
    is_served_promptly(&allocator, "a").await;
    let ended = all(greedy).await;
    assert!(ended["DEADLINE_EXCEEDED"] <= 256 * 1024 / 199, "{ended:?}");
}

#[tokio::test]
async fn one_cluster_cannot_open_watch_streams_without_end() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let mut client = allocator.client().await;
    let watch = |cluster: &str| WatchRequest {
        cluster: cluster.to_owned(),
        ..WatchRequest::default()
    };
    let mut streams = Vec::new();
    for _ in 0..32 {
        streams.push(client.watch(watch("one")).await.unwrap());
    }
    let refused = client.watch(watch("one")).await.unwrap_err();
    let told = refusal(&refused);
    assert_eq!(
        (told.code, told.reason.as_str()),
        (Code::ResourceExhausted, "OVERLOADED")
    );
    client.watch(watch("two")).await.unwrap();
    drop(streams);
    eventually(DEADLINE, "closed streams do not count", async || {
        client.watch(watch("one")).await
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_gives_up_much_at_once_keeps_its_connection() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let mut stream = TcpStream::connect(allocator.address()).await.unwrap();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for number in 0..100_u32 {
        let id = (2 * number + 1).to_be_bytes();
        // HEADERS: POST, http, /; then RST_STREAM: CANCEL.
        sent.extend([&[0, 0, 3, 1, 4], &id[..], &[0x83, 0x86, 0x84]].concat());
        sent.extend([&[0, 0, 4, 3, 0], &id[..], &[0, 0, 0, 8]].concat());
    }
    // PING
    sent.extend([0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    stream.write_all(&sent).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.expect("it stays open");
        let mut payload = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
        stream.read_exact(&mut payload).await.unwrap();
        assert_ne!(head[3], 7, "GOAWAY: {}", String::from_utf8_lossy(&payload));
        if head[3] == 6 && head[4] == 1 {
            break;
        }
    }
}
