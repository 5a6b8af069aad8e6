//! A Sync over a slow network: what counts is that it goes on, not how long all of it
//! takes.

use std::time::{Duration, Instant};

use futures::stream;
use integration_tests::{
    allocator::{Allocator, Options, connect},
    relay::Relay,
    rpc::{Asking, acquire},
    site::CLUSTER,
};
use lb_proto::v1::{
    AcquireRequest, SyncRequest,
    allocator_service_client::AllocatorServiceClient,
    sync_request::{Begin, End, Part, Services},
};
use tonic::Code;

const POOL: &str = "pools: [{name: p, addresses: [10.0.0.0/16]}]";

/// About 1.5 kB each.
fn services(count: u32) -> Vec<AcquireRequest> {
    let service = |number: u32| {
        let address = std::net::Ipv4Addr::from(0x0a00_0100 + number);
        let request = acquire("slow", &format!("s{number}")).showing(&address.to_string());
        request.wishing(|wish| {
            for label in 0..18 {
                let value = "v".repeat(63);
                wish.service_labels.insert(format!("label-{label}"), value);
            }
        })
    };
    (0..count).map(service).collect()
}

/// A hundred of them in a message, which is within 256 KiB.
fn sync_of(services: Vec<AcquireRequest>) -> Vec<SyncRequest> {
    let begin = Begin {
        cluster: CLUSTER.to_owned(),
        ..Begin::default()
    };
    let end = End {
        count: i64::try_from(services.len()).unwrap(),
    };
    let pages = services.chunks(100).map(|page| {
        let services = page.to_vec();
        Part::Services(Services { services })
    });
    let parts = std::iter::once(Part::Begin(begin)).chain(pages);
    let parts = parts.chain([Part::End(end)]);
    parts.map(|part| SyncRequest { part: Some(part) }).collect()
}

#[tokio::test]
async fn a_sync_of_1500_services_is_served_over_150_kilobytes_per_second() {
    let allocator = Allocator::start(Options::config(POOL)).await;
    let port = allocator.address().rsplit_once(':').unwrap().1.parse();
    let relay = Relay::slow(port.unwrap(), 150_000).await.unwrap();
    let url = format!("http://127.0.0.1:{}", relay.port);
    let mut client = AllocatorServiceClient::new(connect(&url).await.unwrap());
    let begun = Instant::now();
    let answer = client.sync(stream::iter(sync_of(services(1500)))).await;
    let mut pages = answer.unwrap().into_inner();
    let mut told = 0;
    while let Some(page) = pages.message().await.unwrap() {
        told += page.services.len();
    }
    assert_eq!(told, 1500);
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(12), "it was not slow: {took:?}");
    assert_eq!(allocator.allocations().await.len(), 1500);
}

#[tokio::test]
async fn a_sync_of_which_nothing_comes_any_more_ends_and_holds_nothing_up() {
    let allocator = Allocator::start(Options::config(POOL)).await;
    let mut client = allocator.client().await;
    let mut messages = sync_of(services(10));
    messages.pop();
    let begun = Instant::now();
    let stalls = futures::StreamExt::chain(stream::iter(messages), stream::pending());
    let status = client.sync(stalls).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(allocator.allocations().await.is_empty());
}
