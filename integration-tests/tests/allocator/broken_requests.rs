//! Requests that no watcher sends are refused, and harm nobody.

use std::time::Duration;

use integration_tests::{
    allocator::{Allocator, Options},
    rpc::{Asking, acquire, held, refusal, release},
};
use lb_proto::v1::{
    AcquireRequest, GetAllocationRequest, ListAllocationsRequest, ListHistoryRequest,
    ReleaseRequest, ServicePort, WatchRequest, get_allocation_request::Of,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, Status};

async fn start() -> Allocator {
    Allocator::start(Options::ip_list("web:192.0.2.1 web:192.0.2.2")).await
}

fn is_invalid(what: &str, status: &Status) {
    let told = refusal(status);
    assert_eq!(
        (told.code, told.reason.as_str()),
        (Code::InvalidArgument, "INVALID_REQUEST"),
        "{what}: {status}"
    );
    assert!(
        told.metadata.contains_key("field"),
        "{what}: the field is not named: {told:?}"
    );
}

async fn still_serves(allocator: &Allocator) {
    let answer = allocator
        .client()
        .await
        .acquire(acquire("web", "good"))
        .await
        .unwrap();
    assert_eq!(held(answer.get_ref()).len(), 1);
    allocator.admin().get("/healthz").await.unwrap();
    allocator.admin().get("/readyz").await.unwrap();
}

fn of(cluster: &str, namespace: &str, name: &str) -> AcquireRequest {
    let mut request = acquire(namespace, name);
    request.service.as_mut().unwrap().cluster = cluster.to_owned();
    request
}

fn wishes() -> Vec<(&'static str, AcquireRequest)> {
    let good = || acquire("web", "a");
    let ports = |ports: Vec<ServicePort>| good().wishing(|wish| wish.ports = ports);
    let port = |port| ServicePort { protocol: 1, port };
    let mut no_service = good();
    no_service.service = None;
    let mut no_wish = good();
    no_wish.wish = None;
    vec![
        ("no service", no_service),
        ("no wish", no_wish),
        ("nothing", AcquireRequest::default()),
        ("no cluster", of("", "web", "a")),
        ("a cluster with spaces", of("a b", "web", "a")),
        (
            "a cluster that is too long",
            of(&"a".repeat(254), "web", "a"),
        ),
        ("no namespace", of("one", "", "a")),
        ("a namespace with a slash", of("one", "a/b", "a")),
        (
            "a namespace that is too long",
            of("one", &"a".repeat(64), "a"),
        ),
        ("no name", of("one", "web", "")),
        ("a name in capitals", of("one", "web", "Web")),
        ("a name with a zero byte", of("one", "web", "a\0b")),
        ("a name that is too long", of("one", "web", &"a".repeat(64))),
        ("a uid that is too long", good().uid(&"u".repeat(129))),
        ("a uid with a line break", good().uid("a\nb")),
        ("no family", good().wishing(|wish| wish.families.clear())),
        (
            "the unspecified family",
            good().wishing(|wish| wish.families = vec![0]),
        ),
        (
            "an unknown family",
            good().wishing(|wish| wish.families = vec![7]),
        ),
        (
            "a family twice",
            good().wishing(|wish| wish.families = vec![1, 1]),
        ),
        (
            "three families",
            good().wishing(|wish| wish.families = vec![1, 2, 1]),
        ),
        (
            "an unknown policy",
            good().wishing(|wish| wish.ip_family_policy = 9),
        ),
        ("an address that is none", good().addresses(&["192.0.2"])),
        (
            "an address with a mask",
            good().addresses(&["192.0.2.1/32"]),
        ),
        (
            "a current address that is none",
            good().wishing(|wish| wish.current_addresses = vec!["x".into()]),
        ),
        (
            "too many current addresses",
            good().wishing(|wish| wish.current_addresses = vec!["192.0.2.1".into(); 17]),
        ),
        (
            "a cluster IP that is none",
            good().wishing(|wish| wish.cluster_ip = "None".into()),
        ),
        ("port 0", ports(vec![port(0)])),
        ("port 65536", ports(vec![port(65_536)])),
        (
            "an unknown protocol",
            ports(vec![ServicePort {
                protocol: 17,
                port: 1,
            }]),
        ),
        ("too many ports", ports((1..=10_001).map(port).collect())),
        (
            "an unknown traffic policy",
            good().wishing(|wish| wish.external_traffic_policy = 9),
        ),
        (
            "too many labels",
            good().wishing(|wish| {
                wish.service_labels = (0..1001)
                    .map(|i| (format!("l{i}"), String::new()))
                    .collect();
            }),
        ),
        (
            "too many selectors",
            good().wishing(|wish| {
                wish.selector = (0..1001)
                    .map(|i| (format!("l{i}"), String::new()))
                    .collect();
            }),
        ),
    ]
}

#[tokio::test]
async fn a_wish_with_a_bad_field_is_refused_and_the_field_is_named() {
    let allocator = start().await;
    let mut client = allocator.client().await;
    for (what, request) in wishes() {
        let answer = client.acquire(request).await;
        let Err(status) = answer else {
            panic!("{what} was granted: {answer:?}")
        };
        is_invalid(what, &status);
    }
    assert!(allocator.allocations().await.is_empty());
    still_serves(&allocator).await;
}

#[tokio::test]
async fn other_requests_with_a_bad_field_are_refused_and_the_field_is_named() {
    let allocator = start().await;
    let mut client = allocator.client().await;
    let mut pools = allocator.pool_client().await;
    is_invalid(
        "no service",
        &client.release(ReleaseRequest::default()).await.unwrap_err(),
    );
    is_invalid(
        "a bad name",
        &client.release(release("web", "A")).await.unwrap_err(),
    );
    is_invalid(
        "no cluster",
        &client.watch(WatchRequest::default()).await.unwrap_err(),
    );
    is_invalid(
        "nothing",
        &pools
            .get_allocation(GetAllocationRequest::default())
            .await
            .unwrap_err(),
    );
    let of = Some(Of::Address("x".to_owned()));
    is_invalid(
        "a bad address",
        &pools
            .get_allocation(GetAllocationRequest { of })
            .await
            .unwrap_err(),
    );
    let request = ListAllocationsRequest {
        page_token: "made up".to_owned(),
        ..Default::default()
    };
    is_invalid(
        "a bad token",
        &pools.list_allocations(request).await.unwrap_err(),
    );
    let request = ListAllocationsRequest {
        page_size: -1,
        ..Default::default()
    };
    is_invalid(
        "a negative page",
        &pools.list_allocations(request).await.unwrap_err(),
    );
    let request = ListHistoryRequest {
        page_token: "made up".to_owned(),
        ..Default::default()
    };
    is_invalid(
        "a bad token",
        &pools.list_history(request).await.unwrap_err(),
    );
    still_serves(&allocator).await;
}

#[tokio::test]
async fn the_largest_valid_wish_is_granted() {
    let allocator = start().await;
    let request = of(
        &[
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(61),
        ]
        .join("."),
        "web",
        &"a".repeat(63),
    )
    .uid(&"u".repeat(128))
    .wishing(|wish| {
        wish.ports = (1..=10_000)
            .map(|port| ServicePort { protocol: 2, port })
            .collect();
        wish.service_labels = (0..1000)
            .map(|i| (format!("label-{i}"), "x".repeat(63)))
            .collect();
    });
    assert_eq!(
        held(
            allocator
                .client()
                .await
                .acquire(request)
                .await
                .unwrap()
                .get_ref()
        ),
        ["192.0.2.1"]
    );
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused() {
    let allocator = start().await;
    let mut client = allocator.client().await;
    for size in [300 << 10, 5 << 20] {
        let request = acquire("web", "a").wishing(|wish| wish.pool = "x".repeat(size));
        let status = client.acquire(request).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    }
    still_serves(&allocator).await;
}

#[tokio::test]
async fn random_bytes_on_the_port_harm_nobody() {
    let allocator = start().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for round in 0..50 {
        let mut bytes: Vec<u8> = if round % 2 == 0 {
            preface.to_vec()
        } else {
            Vec::new()
        };
        bytes.extend((0..4096).map(|_| fastrand::u8(..)));
        let mut stream = TcpStream::connect(allocator.address()).await.unwrap();
        // The server may close while we still write.
        let _ = stream.write_all(&bytes).await;
        let mut answer = Vec::new();
        let closed = timeout(Duration::from_millis(100), stream.read_to_end(&mut answer)).await;
        // A frame header may announce more than we sent: then the server waits, and we hang up.
        drop(closed);
    }
    still_serves(&allocator).await;
}
