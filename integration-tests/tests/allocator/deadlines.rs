//! What a caller is told whose own deadline passes first.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use integration_tests::{
    allocator::{Allocator, Options},
    rpc::acquire,
    unfinished::{ACQUIRE, unfinished},
};
use prost::Message;
use tokio::net::TcpStream;
use tonic::{Code, Status, body::Body};

use crate::write_lock::WriteLock;

/// Calls without a timer of its own, as a caller does whose clock is slow, and returns
/// how the answer begins.
async fn call(allocator: &Allocator, deadline: &str, body: Body) -> Option<Status> {
    let stream = TcpStream::connect(allocator.address()).await.unwrap();
    let connected = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{}{ACQUIRE}", allocator.address()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", deadline)
        .body(body);
    let response = sender.send_request(request.unwrap()).await.unwrap();
    Status::from_header_map(response.headers())
}

#[tokio::test]
async fn a_caller_whose_deadline_passes_is_told_so() {
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1")).await;
    // Whether it waits for the caller's own message or for the disk.
    for deadline in ["1n", "300m", "300000u"] {
        let begun = Instant::now();
        let status = call(&allocator, deadline, unfinished(100, 5)).await;
        let status = status.expect("a status");
        assert_eq!(
            status.code(),
            Code::DeadlineExceeded,
            "{deadline}: {status}"
        );
        assert!(begun.elapsed() < Duration::from_secs(5), "{deadline}");
    }
    let lock = WriteLock::take(&allocator.database()).await;
    let message = acquire("web", "a").encode_to_vec();
    let length = u32::try_from(message.len()).unwrap();
    let framed = [&[0], &length.to_be_bytes()[..], &message].concat();
    let body = Body::new(Full::new(Bytes::from(framed)));
    let status = call(&allocator, "300m", body).await.expect("a status");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    lock.give_back().await;
}
