//! `AllocatorService`: requests become commands, and word of what was freed
//! goes out.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt, stream};
use lb_proto::v1::{
    self, allocator_service_server::AllocatorService, watch_response::Event as Message,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{convert, fault, gate::Gate, request, sync};
use crate::{
    auth::{Rpc, Target},
    engine::{Command, Reply, Revision},
    published::Published,
    streams::{self, Told},
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
        if let Reply::Refused(refusal) = &reply {
            return Err(fault::refused(refusal));
        }
        let Reply::Acquired(acquired) = reply else {
            return Err(fault::wrong_reply());
        };
        Ok(Response::new(convert::acquired(&acquired, revision)))
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
        let Reply::Released(released) = reply else {
            return Err(fault::wrong_reply());
        };
        let released = released.iter();
        Ok(Response::new(v1::ReleaseResponse {
            revision: revision.0,
            released: released.map(|held| convert::held_address(held)).collect(),
        }))
    }

    type SyncStream = Messages<v1::SyncResponse>;

    async fn sync(
        &self,
        request: Request<Streaming<v1::SyncRequest>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let (caller, messages) = self.gate.enter(request);
        let (cluster, messages) = sync::begin(messages).await?;
        let target = Target::Cluster(&cluster.name);
        self.gate.admit(&caller, Rpc::Sync, target)?;
        let sync = sync::gather(cluster, messages).await?;
        let Answer { reply, revision } = self.submit(Command::Sync(sync)).await?;
        if let Reply::Refused(refusal) = &reply {
            return Err(fault::refused(refusal));
        }
        let Reply::Synced(synced) = reply else {
            return Err(fault::wrong_reply());
        };
        let pages = sync::pages(&synced, revision).into_iter().map(Ok);
        Ok(Response::new(Box::pin(stream::iter(pages))))
    }

    type WatchStream = Messages<v1::WatchResponse>;

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (caller, request) = self.gate.enter(request);
        let v1::WatchRequest {
            cluster,
            resume_revision,
            cluster_uid: _,
        } = request;
        let cluster = request::cluster("cluster", &cluster)?;
        self.gate
            .admit(&caller, Rpc::Watch, Target::Cluster(&cluster))?;
        let seen = Some(Revision(resume_revision)).filter(|seen| seen.0 > 0);
        // Opened before the revision is read: nothing falls between the two.
        let opened = self.published.streams().open(cluster, seen);
        let streams::Stream { messages, resumed } = opened.map_err(fault::too_many_streams)?;
        let revision = self.published.read().revision().0;
        // Who saw more than there is saw another database: this one is new or
        // restored, and all was missed.
        let resumed = resumed && seen.is_some_and(|seen| seen.0 <= revision);
        let started = v1::watch_response::Started {
            resumed,
            mark: String::new(),
        };
        let started = stream::once(async move { Ok(message(revision, Message::Started(started))) });
        let told = ReceiverStream::new(messages).map(|message| Ok(tell(message)));
        // The buffer ends only when it was full.
        let cut = stream::once(async { Err(fault::slow_consumer()) });
        let shutdown = self.shutdown.clone();
        let end = stream::once(async { Err(fault::shutting_down()) });
        let stream = started
            .chain(told)
            .chain(cut)
            .take_until(shutdown.clone().cancelled_owned())
            .chain(end.filter(move |_| std::future::ready(shutdown.is_cancelled())));
        Ok(Response::new(Box::pin(stream)))
    }
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn tell(message: streams::Message) -> v1::WatchResponse {
    let streams::Message { revision, told } = message;
    let event = match told {
        Told::Freed { pool, family, key } => Message::Freed(v1::watch_response::Freed {
            pool: pool.to_string(),
            family: convert::family(family).into(),
            services: vec![convert::service_key(&key)],
        }),
        Told::AskAgain(key) => Message::AskAgain(v1::watch_response::AskAgain {
            services: vec![convert::service_key(&key)],
        }),
        Told::PoolsChanged => Message::PoolsChanged(v1::watch_response::PoolsChanged {}),
        Told::Reloaded => Message::Lagged(v1::watch_response::Lagged {}),
    };
    self::message(revision.0, event)
}

const fn message(revision: i64, event: Message) -> v1::WatchResponse {
    v1::WatchResponse {
        revision,
        event: Some(event),
    }
}
