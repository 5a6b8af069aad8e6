//! Requests that no gRPC library sends: without a body, or with a part of one.

use std::{convert::Infallible, future::poll_fn, iter};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tonic::{Code, Status, body::Body, codegen::Service, transport::Channel};

/// The RPC that everybody calls.
pub const ACQUIRE: &str = "/lballocator.v1.AllocatorService/Acquire";

/// Headers, and then nothing.
#[must_use]
pub fn never() -> Body {
    body(stream::pending())
}

/// The beginning of a message that announces `announced` bytes, and then nothing.
#[must_use]
pub fn unfinished(announced: u32, sent: usize) -> Body {
    let mut head = BytesMut::with_capacity(sent + 5);
    head.put_u8(0);
    head.put_u32(announced);
    head.put_bytes(0, sent);
    body(stream::iter(iter::once(head.freeze())).chain(stream::pending()))
}

fn body(bytes: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    let frames = bytes.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    Body::new(StreamBody::new(frames))
}

/// Sends it, and tells how it ended.
pub async fn call(channel: &mut Channel, path: &str, body: Body) -> String {
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body);
    let Ok(request) = request else {
        return "not sent".to_owned();
    };
    if let Err(error) = poll_fn(|context| channel.poll_ready(context)).await {
        return connection(&error);
    }
    match channel.call(request).await {
        Err(error) => connection(&error),
        Ok(response) => {
            let (head, mut body) = response.into_parts();
            if let Some(status) = Status::from_header_map(&head.headers) {
                return code(status.code());
            }
            while let Some(frame) = body.frame().await {
                match frame {
                    Err(status) => return code(status.code()),
                    Ok(frame) => {
                        let status = frame.trailers_ref().and_then(Status::from_header_map);
                        if let Some(status) = status {
                            return code(status.code());
                        }
                    }
                }
            }
            "an answer without a code".to_owned()
        }
    }
}

/// The end of a connection, without what differs from one to the next.
fn connection(error: &tonic::transport::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    format!("no answer: {text}")
}

/// As it is written everywhere.
#[must_use]
pub fn code(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
