//! The bodies of requests and answers, and what they hold meanwhile.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tonic::{Status, body::Body, codegen::Bytes};

use super::{fault, shares::Share};

/// What an RPC has taken; given back when nothing of it is left.
#[derive(Debug)]
pub struct Taken {
    pub _place: Share,
    pub bytes: Mutex<Share>,
}

/// A request, of which no more is read than there is room for in all.
pub struct Asked {
    body: Body,
    taken: Arc<Taken>,
}

impl Asked {
    pub const fn new(body: Body, taken: Arc<Taken>) -> Self {
        Self { body, taken }
    }
}

impl http_body::Body for Asked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && !self.taken.bytes.lock().take(data.len())
        {
            return Poll::Ready(Some(Err(fault::overloaded())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer, whose RPC has its place until it is sent: who does not read answers
/// fills only its own share.
pub struct Answered {
    body: Body,
    _taken: Arc<Taken>,
}

impl Answered {
    pub const fn new(body: Body, taken: Arc<Taken>) -> Self {
        Self {
            body,
            _taken: taken,
        }
    }
}

impl http_body::Body for Answered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
