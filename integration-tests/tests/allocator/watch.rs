//! The stream that tells when it is worth asking again.

use std::time::Duration;

use integration_tests::{
    allocator::{Allocator, Options},
    rpc::{acquire, release},
};
use lb_proto::v1::{IpFamily, WatchRequest, WatchResponse, watch_response::Event};
use tokio::time::timeout;
use tonic::Streaming;

async fn watch(allocator: &Allocator) -> Streaming<WatchResponse> {
    let request = WatchRequest {
        cluster: "one".to_owned(),
    };
    let mut stream = allocator
        .client()
        .await
        .watch(request)
        .await
        .unwrap()
        .into_inner();
    assert!(matches!(
        next(&mut stream).await.event,
        Some(Event::Started(_))
    ));
    stream
}

async fn next(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    let message = timeout(Duration::from_secs(10), stream.message()).await;
    message
        .expect("a message in time")
        .unwrap()
        .expect("a message before the end")
}

#[tokio::test]
async fn a_freed_address_is_told_to_everyone_with_its_pool_family_and_revision() {
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1 mail:192.0.2.2")).await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    let mut streams = [watch(&allocator).await, watch(&allocator).await];
    client.acquire(acquire("mail", "a")).await.unwrap();
    let released = client
        .release(release("web", "a"))
        .await
        .unwrap()
        .into_inner();
    for stream in &mut streams {
        let message = next(stream).await;
        let Some(Event::Freed(freed)) = message.event else {
            panic!("{message:?}")
        };
        assert_eq!(
            (freed.pool.as_str(), freed.family()),
            ("ip-list-web", IpFamily::Ipv4)
        );
        assert_eq!(message.revision, released.revision);
    }
}

#[tokio::test]
async fn what_was_freed_before_the_stream_began_is_seen_by_asking_when_it_began() {
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1")).await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    client.acquire(acquire("web", "b")).await.unwrap_err();
    client.release(release("web", "a")).await.unwrap();
    let _stream = watch(&allocator).await;
    client.acquire(acquire("web", "b")).await.unwrap();
}
