//! `AllocatorService`: requests become commands, and word of what was freed
//! goes out.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt, stream};
use lb_proto::v1::{
    self, allocator_service_server::AllocatorService, watch_response::Event as Message,
};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{convert, fault, gate::Gate, request};
use crate::{
    auth::{Rpc, Target},
    engine::{Command, Reply},
    published::{Event, Published},
    writer::{Answer, Writer},
};

/// See the module.
pub struct Allocator {
    writer: Writer,
    published: Arc<Published>,
    gate: Gate,
    shutdown: CancellationToken,
}

impl Allocator {
    pub const fn new(
        writer: Writer,
        published: Arc<Published>,
        gate: Gate,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            writer,
            published,
            gate,
            shutdown,
        }
    }

    async fn submit(&self, command: Command) -> Result<Answer, Status> {
        self.writer
            .submit(command)
            .await
            .map_err(fault::not_written)
    }
}

#[tonic::async_trait]
impl AllocatorService for Allocator {
    async fn acquire(
        &self,
        request: Request<v1::AcquireRequest>,
    ) -> Result<Response<v1::AcquireResponse>, Status> {
        let (caller, message) = self.gate.enter(request);
        let acquire = request::acquire(message)?;
        let target = Target::Cluster(&acquire.key.cluster);
        self.gate.admit(&caller, Rpc::Acquire, target)?;
        let Answer { reply, revision } = self.submit(Command::Acquire(acquire)).await?;
        match reply {
            Reply::Acquired(acquired) => Ok(Response::new(convert::acquired(&acquired, revision))),
            Reply::Refused(refusal) => Err(fault::refused(&refusal)),
            Reply::Released(_) | Reply::Reserved(_) | Reply::Unreserved(_) => {
                Err(fault::wrong_reply())
            }
        }
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        let (caller, message) = self.gate.enter(request);
        let release = request::release(message)?;
        let target = Target::Cluster(&release.key.cluster);
        self.gate.admit(&caller, Rpc::Release, target)?;
        let Answer { reply, revision } = self.submit(Command::Release(release)).await?;
        match reply {
            Reply::Released(released) => Ok(Response::new(v1::ReleaseResponse {
                revision: revision.0,
                released: released
                    .iter()
                    .map(|held| convert::held_address(held))
                    .collect(),
            })),
            Reply::Acquired(_) | Reply::Refused(_) | Reply::Reserved(_) | Reply::Unreserved(_) => {
                Err(fault::wrong_reply())
            }
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (caller, v1::WatchRequest { cluster }) = self.gate.enter(request);
        let cluster = request::cluster("cluster", &cluster)?;
        self.gate
            .admit(&caller, Rpc::Watch, Target::Cluster(&cluster))?;
        let published = Arc::clone(&self.published);
        // Subscribed before the revision is read: nothing falls between the two.
        let events = BroadcastStream::new(published.events());
        let revision = published.read().revision().0;
        let started = message(revision, Message::Started(v1::watch_response::Started {}));
        let told = events.map(move |event| {
            Ok(match event {
                Ok(event) => tell(event),
                Err(BroadcastStreamRecvError::Lagged(_)) => {
                    let revision = published.read().revision().0;
                    message(revision, Message::Lagged(v1::watch_response::Lagged {}))
                }
            })
        });
        let end = stream::once(async { Err(fault::shutting_down()) });
        let stream = stream::once(async { Ok(started) })
            .chain(told)
            .take_until(self.shutdown.clone().cancelled_owned())
            .chain(end);
        Ok(Response::new(Box::pin(stream)))
    }
}

fn tell(event: Event) -> v1::WatchResponse {
    match event {
        Event::Freed { freed, revision } => {
            let freed = v1::watch_response::Freed {
                pool: freed.pool.to_string(),
                family: convert::family(freed.family).into(),
            };
            message(revision.0, Message::Freed(freed))
        }
        Event::PoolsChanged { revision } => {
            let changed = v1::watch_response::PoolsChanged {};
            message(revision.0, Message::PoolsChanged(changed))
        }
        Event::Reloaded { revision } => {
            message(revision.0, Message::Lagged(v1::watch_response::Lagged {}))
        }
    }
}

const fn message(revision: i64, event: Message) -> v1::WatchResponse {
    v1::WatchResponse {
        revision,
        event: Some(event),
    }
}
