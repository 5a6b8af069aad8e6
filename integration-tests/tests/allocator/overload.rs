//! Nobody is held up by a client that is slow, silent or greedy.

use std::time::{Duration, Instant};

use integration_tests::{
    allocator::{Allocator, Options},
    eventually::{DEADLINE, eventually},
    rpc::{acquire, refusal},
};
use lb_proto::v1::{
    ListPoolsRequest, WatchRequest, allocator_service_client::AllocatorServiceClient,
};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::mpsc};
use tonic::Code;

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
    let lock = WriteLock::take(&allocator.database()).await;
    let (answers, mut answered) = mpsc::unbounded_channel();
    for connection in 0..40 {
        let client = allocator.client().await;
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
