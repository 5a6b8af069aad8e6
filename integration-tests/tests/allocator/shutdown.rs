//! SIGTERM: nothing new, an answer for what is there, and the end within 10 s.

use std::time::{Duration, Instant};

use integration_tests::{
    allocator::{Allocator, Options, connect},
    eventually::{DEADLINE, eventually},
    rpc::{acquire, held, refusal},
};
use lb_proto::v1::{
    ListPoolsRequest, WatchRequest, allocator_service_client::AllocatorServiceClient,
    pool_service_client::PoolServiceClient,
};
use rustix::process::Signal;
use tokio::net::TcpStream;
use tonic::Code;

use crate::write_lock::WriteLock;

const AT_MOST: Duration = Duration::from_secs(10);

#[tokio::test]
async fn what_was_taken_is_answered_and_nothing_new_is_taken() {
    let mut allocator = Allocator::start(Options::ip_list("web:192.0.2.1 web:192.0.2.2")).await;
    let lock = WriteLock::take(&allocator.database()).await;
    let channel = allocator.channel().await;
    let mut client = AllocatorServiceClient::new(channel.clone());
    let url = allocator.url();
    let process = allocator.process();
    let end_it = async {
        // Sent behind the other on the same connection, and answered: so that one has arrived.
        let mut reader = PoolServiceClient::new(channel);
        reader.list_pools(ListPoolsRequest {}).await.unwrap();
        process.signal(Signal::TERM);
        eventually(
            DEADLINE,
            "it takes no new connection",
            async || match connect(&url).await {
                Ok(_) => Err("connected"),
                Err(_) => Ok(()),
            },
        )
        .await;
        lock.give_back().await;
    };
    let (answer, ()) = tokio::join!(client.acquire(acquire("web", "a")), end_it);
    assert_eq!(held(answer.unwrap().get_ref()), ["192.0.2.1"]);
    let status = allocator.process().ends(AT_MOST).await.unwrap();
    assert!(status.success(), "{status}");

    allocator.start_again().await;
    assert_eq!(
        allocator.allocations().await.len(),
        1,
        "what was answered at the end was durable"
    );
}

#[tokio::test]
async fn it_ends_in_time_whatever_its_clients_do() {
    let mut allocator = Allocator::start(Options::ip_list("web:192.0.2.1")).await;
    let silent = TcpStream::connect(allocator.address()).await.unwrap();
    let silent_admin = TcpStream::connect(("127.0.0.1", allocator.admin().port))
        .await
        .unwrap();
    let unread = allocator
        .client()
        .await
        .watch(WatchRequest {
            cluster: "one".to_owned(),
            ..WatchRequest::default()
        })
        .await
        .unwrap();
    let mut read = allocator
        .client()
        .await
        .watch(WatchRequest {
            cluster: "two".to_owned(),
            ..WatchRequest::default()
        })
        .await
        .unwrap()
        .into_inner();
    assert!(read.message().await.unwrap().is_some());
    let idle = allocator.client().await;

    let begun = Instant::now();
    let status = allocator.terminate(AT_MOST).await;
    assert!(status.success(), "{status}");
    assert!(begun.elapsed() < AT_MOST);

    let end = loop {
        match read.message().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    let status = end.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(refusal(&status).reason, "SHUTTING_DOWN");
    drop((silent, silent_admin, unread, idle));
}

#[tokio::test]
async fn sigint_ends_it_as_well() {
    let mut allocator = Allocator::start(Options::ip_list("web:192.0.2.1")).await;
    allocator.process().signal(Signal::INT);
    let status = allocator.process().ends(AT_MOST).await.unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn sighup_ends_nothing_where_there_is_no_file_to_read_again() {
    let mut allocator = Allocator::start(Options::ip_list("web:192.0.2.1")).await;
    allocator.process().signal(Signal::HUP);
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    allocator.process().signal(Signal::HUP);
    client.acquire(acquire("web", "a")).await.unwrap();
    assert_eq!(allocator.process().status().unwrap(), None);
}
