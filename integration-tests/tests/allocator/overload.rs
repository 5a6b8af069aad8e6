//! Nobody is held up by a client that is slow, silent or greedy.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use integration_tests::{
    admin::Admin,
    allocator::{Allocator, Options, Secured},
    eventually::{DEADLINE, eventually},
    rpc::{acquire, of_cluster, refusal},
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
use tonic::{Code, Status, body::Body, transport::Channel};

use crate::{planning::memory, write_lock::WriteLock};

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
    for _ in 0..10 {
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

/// Streams over each of these connections whose bodies do not end: what has come back
/// so far, and comes.
fn unfinished_streams(
    channels: &[Channel],
    streams: usize,
    body: fn() -> Body,
) -> mpsc::UnboundedReceiver<String> {
    let (answers, answered) = mpsc::unbounded_channel();
    for channel in channels {
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
    let channels = [allocator.channel().await];
    let answered = unfinished_streams(&channels, 20, unfinished::never);
    is_served_promptly(&allocator, "a").await;
    let ended = timeout(DEADLINE, all(answered)).await.expect("they end");
    assert_eq!(
        ended,
        BTreeMap::from([("DEADLINE_EXCEEDED".to_owned(), 20)])
    );
}

const GREEDY: &str = "spiffe://test/cluster/greedy/role/watcher";
const NEIGHBOUR: &str = "spiffe://test/cluster/neighbour/role/watcher";

async fn connections(allocator: &Secured, uri: &str, many: usize) -> Vec<Channel> {
    let identity = allocator.authority.caller(uri).unwrap();
    let mut channels = Vec::new();
    for _ in 0..many {
        channels.push(allocator.connect(&identity).await.unwrap());
    }
    channels
}

async fn acquires(channel: &Channel, cluster: &str, name: &str) -> Result<Duration, Status> {
    let begun = Instant::now();
    let mut client = AllocatorServiceClient::new(channel.clone());
    let request = of_cluster(cluster, acquire("web", name));
    client.acquire(request).await.map(|_| begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_takes_all_it_may_is_refused_and_a_neighbour_is_served() {
    let allocator = Secured::start(Options::config(POOLS)).await;
    let neighbour = allocator.caller(NEIGHBOUR).await;
    let channels = connections(&allocator, GREEDY, 10).await;
    let mut greedy = unfinished_streams(&channels, 500, unfinished::never);
    let in_flight = async |admin: Admin, wanted: f64| {
        let name = "lb_allocator_rpc_in_flight";
        admin.sees(name, &[], |seen| seen == wanted).await;
    };
    let admin = allocator.allocator.admin();
    in_flight(admin, 256.0).await;
    let one_more = channels[0].clone();
    let one_more = tokio::spawn(async move { acquires(&one_more, "greedy", "a").await });
    while greedy.is_empty() {
        let took = acquires(&neighbour, "neighbour", "a").await.unwrap();
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
    assert_eq!(greedy.recv().await.unwrap(), "RESOURCE_EXHAUSTED");
    let status = one_more.await.unwrap().unwrap_err();
    assert_eq!(refusal(&status).reason, "OVERLOADED");

    let ended = all(greedy).await;
    assert!(ended["DEADLINE_EXCEEDED"] >= 256, "{ended:?}");
    in_flight(admin, 0.0).await;
    acquires(&channels[0], "greedy", "a")
        .await
        .expect("it may come again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_with_too_many_connections_gets_no_more_and_a_neighbour_does() {
    let allocator = Secured::start(Options::config(POOLS)).await;
    let mut open = connections(&allocator, GREEDY, 64).await;
    for channel in &open {
        acquires(channel, "greedy", "a").await.unwrap();
    }
    let one_more = connections(&allocator, GREEDY, 1).await.remove(0);
    let refused = tokio::spawn(async move { acquires(&one_more, "greedy", "b").await });
    let neighbour = allocator.caller(NEIGHBOUR).await;
    let took = acquires(&neighbour, "neighbour", "a").await.unwrap();
    assert!(took < Duration::from_secs(4), "{took:?}");
    refused.await.unwrap().unwrap_err();
    let metric = "lb_allocator_refused_connections_total";
    let admin = allocator.allocator.admin();
    admin.sees(metric, &[], |refused| refused >= 1.0).await;

    open.pop();
    let next = connections(&allocator, GREEDY, 1).await.remove(0);
    acquires(&next, "greedy", "b").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_messages_fill_no_more_memory_than_a_certificate_may_have() {
    let mut allocator = Secured::start(Options::config(POOLS)).await;
    let neighbour = allocator.caller(NEIGHBOUR).await;
    let channels = connections(&allocator, GREEDY, 4).await;
    acquires(&channels[0], "greedy", "a").await.unwrap();
    let id = allocator.allocator.process().id();
    let before = memory(id);
    let body = || unfinished::unfinished(200 * 1024, 199 * 1024);
    let mut greedy = unfinished_streams(&channels, 500, body);
    let mut most = 0;
    while greedy.is_empty() {
        acquires(&neighbour, "neighbour", "a").await.unwrap();
        most = memory(id).max(most);
    }
    assert_eq!(greedy.recv().await.unwrap(), "RESOURCE_EXHAUSTED");
    // 256 messages, and what HTTP/2 holds of four connections: 53 MiB. All 2,000
    // would be 389.
    let grown = most.saturating_sub(before) / 1024;
    assert!(grown < 150, "{grown} MiB more than {before} KiB");
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
