//! Answers of the API server.

use std::{io, pin::Pin};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use serde_json::{Value, json};

/// The body of an answer, which may break off.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What the API server says of a write that carries an old version.
pub const MODIFIED: &str = "the object has been modified; please apply your changes to the \
                            latest version and try again";

/// A `Status` that tells of a failure.
#[derive(Debug)]
pub struct Failure {
    code: u16,
    reason: &'static str,
    message: String,
    /// What kind of object it is about, where that is told.
    pub kind: &'static str,
    pub causes: Vec<Value>,
}

impl Failure {
    pub fn new(code: u16, reason: &'static str, message: &str) -> Self {
        Self {
            code,
            reason,
            message: message.to_owned(),
            kind: "",
            causes: Vec::new(),
        }
    }

    /// What was asked for is forgotten.
    pub fn gone() -> Self {
        Self::new(410, "Expired", "too old resource version")
    }

    pub fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "code": self.code, "reason": self.reason, "message": self.message,
            "details": {"kind": self.kind, "causes": self.causes},
        })
    }

    pub fn response(&self) -> Response<Body> {
        respond(self.code, &self.status())
    }
}

pub fn respond(code: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string()));
    with_code(code, body.map_err(|never| match never {}).boxed_unsync())
}

/// The beginning of an answer, and then the connection breaks.
pub fn cut_short(value: &Value) -> Response<Body> {
    let text = value.to_string();
    let half = Bytes::from(text.into_bytes()).slice(..8);
    let frames = stream::iter([
        Ok(Frame::data(half)),
        Err(io::Error::from(io::ErrorKind::ConnectionReset)),
    ]);
    with_code(200, StreamBody::new(frames).boxed_unsync())
}

/// Lines as they come.
pub fn streamed(lines: Pin<Box<dyn Stream<Item = io::Result<Value>> + Send>>) -> Response<Body> {
    let frames = lines.map(|line| line.map(|line| Frame::data(Bytes::from(format!("{line}\n")))));
    with_code(200, StreamBody::new(frames).boxed_unsync())
}

fn with_code(code: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}
