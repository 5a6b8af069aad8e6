//! `AllocatorService`: requests become commands, and word of what was freed
//! goes out.

use std::{net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use lb_proto::v1::{
    self, allocator_service_server::AllocatorService, watch_response::Event as Message,
};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{TIMEOUT, convert, fault, gate::Gate, request, sync};
use crate::{
    auth::{Rpc, Target},
    engine::{Acquire, Attach, Claim, ClusterName, Command, Family, Refusal, Reply, Revision},
    mark::{Marks, Shown},
    published::Published,
    streams::{self, Event, Opening},
    writer::{Answer, WriteError, Writer},
};

/// How often a stream is told how far the database has come, at most.
const PROGRESS: Duration = Duration::from_secs(1);

/// See the module.
pub struct Allocator {
    writer: Writer,
    published: Arc<Published>,
    marks: Marks,
    gate: Gate,
    shutdown: CancellationToken,
    syncs: sync::Room,
}

impl Allocator {
    pub fn new(
        writer: Writer,
        published: Arc<Published>,
        marks: Marks,
        gate: Gate,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            writer,
            published,
            marks,
            gate,
            shutdown,
            syncs: sync::Room::default(),
        }
    }

    /// An answer that is no refusal.
    async fn submit(&self, claim: Option<Claim>, command: Command) -> Result<Answer, Status> {
        self.answered(self.writer.submit_as(claim, command).await)
    }

    fn answered(&self, answer: Result<Answer, WriteError>) -> Result<Answer, Status> {
        let answer = answer.map_err(fault::not_written)?;
        match &answer.reply {
            Reply::Refused(refusal) => Err(self.refused(refusal)),
            Reply::Acquired(_)
            | Reply::Released(_)
            | Reply::Reserved(_)
            | Reply::Unreserved(_)
            | Reply::Synced(_)
            | Reply::Resolved(_)
            | Reply::Decommissioned(_)
            | Reply::Recommissioned
            | Reply::Attached
            | Reply::Replaced { .. } => Ok(answer),
        }
    }

    fn refused(&self, refusal: &Refusal) -> Status {
        refused(&self.published, refusal, true)
    }

    async fn grant(
        &self,
        claim: Option<Claim>,
        acquire: Acquire,
        version: Option<u64>,
    ) -> Result<v1::AcquireResponse, Status> {
        let key = Arc::clone(&acquire.key);
        let (families, shown) = (acquire.wish.families.clone(), acquire.wish.current.clone());
        let answer = self.writer.acquire(claim, acquire, version).await;
        let Answer { reply, revision } = answer.map_err(fault::not_written)?;
        if let Reply::Refused(refusal) = &reply {
            let is_its_own = {
                let state = self.published.read();
                let is_its_own = |address: &IpAddr| {
                    families.contains(&Family::of(*address)) && state.may_show(&key, *address)
                };
                shown.iter().all(is_its_own)
            };
            return Err(refused(&self.published, refusal, is_its_own));
        }
        let Reply::Acquired(acquired) = reply else {
            return Err(fault::wrong_reply());
        };
        Ok(convert::acquired(&acquired, revision))
    }

    /// Somebody may have taken the name over since the session was admitted.
    fn still_has_its_name(&self, claim: &Claim) -> Result<(), Status> {
        let owner = self.published.read().identity(&claim.cluster).cloned();
        match owner.filter(|owner| owner.uid != claim.uid) {
            None => Ok(()),
            Some(owner) => Err(self.refused(&Refusal::ClusterNameInUse {
                cluster: claim.cluster.clone(),
                uid: claim.uid.clone(),
                owner,
            })),
        }
    }

    fn note_false_mark(&self, cluster: &ClusterName) {
        let contacts = self.published.contacts();
        if contacts.showed_false_mark(cluster, self.writer.now()) {
            tracing::warn!(
                %cluster,
                "the cluster shows a mark that this allocator did not make; it is ignored"
            );
        }
    }
}

fn refused(published: &Published, refusal: &Refusal, is_its_own: bool) -> Status {
    let cluster = if let Refusal::ClusterNameInUse { cluster, .. } = refusal {
        Some(cluster)
    } else if let Refusal::ClusterHasOtherName { known_as, .. } = refusal {
        Some(known_as)
    } else {
        None
    };
    let heard_at = cluster.and_then(|cluster| published.contacts().of(cluster).heard_at);
    fault::refused_caller(refusal, heard_at, is_its_own)
}

#[tonic::async_trait]
impl AllocatorService for Allocator {
    async fn acquire(
        &self,
        request: Request<v1::AcquireRequest>,
    ) -> Result<Response<v1::AcquireResponse>, Status> {
        let (caller, message) = self.gate.enter(request);
        let cluster_uid = message.cluster_uid.clone();
        let version = message.resource_version.parse().ok();
        let acquire = request::acquire(message)?;
        let cluster = &acquire.key.cluster;
        self.gate
            .admit(&caller, Rpc::Acquire, Target::Cluster(cluster))?;
        let claim = request::claim(cluster, &cluster_uid)?;
        Ok(Response::new(self.grant(claim, acquire, version).await?))
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        let (caller, message) = self.gate.enter(request);
        let cluster_uid = message.cluster_uid.clone();
        let release = request::release(message)?;
        let cluster = &release.key.cluster;
        self.gate
            .admit(&caller, Rpc::Release, Target::Cluster(cluster))?;
        let claim = request::claim(cluster, &cluster_uid)?;
        let Answer { reply, revision } = self.submit(claim, Command::Release(release)).await?;
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
        let (begun, messages) = sync::begin(messages, &self.marks).await?;
        let target = Target::Cluster(&begun.name);
        self.gate.admit(&caller, Rpc::Sync, target)?;
        let (cluster, claim, mark) = (begun.name.clone(), begun.claim.clone(), begun.mark);
        let now = self.published.read().revision();
        let since = Instant::now();
        let (sync, _room) = sync::gather(begun, now, messages, &self.syncs).await?;
        let submitted = self.writer.submit_since(claim, Command::Sync(sync), since);
        let answer = timeout(TIMEOUT, submitted).await;
        let answer = answer.map_err(|_| fault::deadline_exceeded())?;
        let Answer { reply, revision } = self.answered(answer)?;
        if mark == Shown::False {
            self.note_false_mark(&cluster);
        }
        let Reply::Synced(synced) = reply else {
            return Err(fault::wrong_reply());
        };
        let pages = sync::pages(&synced, revision, self.marks.of(revision));
        let pages = pages.into_iter().map(Ok);
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
            replica,
            cluster_uid,
            serves,
        } = request;
        let cluster = request::cluster("cluster", &cluster)?;
        self.gate
            .admit(&caller, Rpc::Watch, Target::Cluster(&cluster))?;
        let claim = request::claim(&cluster, &cluster_uid)?;
        let replica = request::replica(replica, serves)?;
        let attach = Command::Attach(Attach {
            is_vacant: self.published.streams().is_vacant(&cluster),
            cluster: cluster.clone(),
        });
        self.submit(claim.clone(), attach).await?;
        let uid = claim.as_ref().map(|claim| claim.uid.clone());
        // Opened before the revision is read: nothing falls between the two.
        let opening = Opening {
            cluster,
            uid,
            replica,
            now: self.writer.now(),
        };
        let opened = self.published.streams().open(opening);
        let opened = opened.map_err(fault::too_many_streams)?;
        if let Some(claim) = &claim {
            self.still_has_its_name(claim)?;
        }
        let streams::Stream {
            messages,
            presence,
            acting,
        } = opened;
        let revision = self.published.read().revision();
        let progress = self.progress(revision);
        let mark = self.marks.of(revision);
        let started = v1::watch_response::Started { acting, mark };
        let started = stream::once(async move { Ok(message(revision, Message::Started(started))) });
        let published = Arc::clone(&self.published);
        let told = ReceiverStream::new(messages).map(move |message| {
            let _open = &presence;
            watch_response(&published, message)
                .map_err(|refusal| refused(&published, &refusal, true))
        });
        // The buffer ends only when it was full.
        let cut = stream::once(async { Err(fault::slow_consumer()) });
        let shutdown = self.shutdown.clone();
        let end = stream::once(async { Err(fault::shutting_down()) });
        let stream = started
            .chain(stream::select(told.chain(cut), progress))
            .take_until(shutdown.clone().cancelled_owned())
            .chain(end.filter(move |_| std::future::ready(shutdown.is_cancelled())));
        Ok(Response::new(Box::pin(stream)))
    }
}

impl Allocator {
    /// How far the database has come, whenever it has.
    fn progress(
        &self,
        known: Revision,
    ) -> impl Stream<Item = Result<v1::WatchResponse, Status>> + use<> {
        let (published, marks) = (Arc::clone(&self.published), self.marks.clone());
        stream::unfold(
            (published, marks, known),
            async |(published, marks, known)| {
                tokio::time::sleep(PROGRESS).await;
                let revision = published.revision_other_than(known).await;
                let mark = marks.of(revision);
                let progress = v1::watch_response::Progress { mark };
                let progress = message(revision, Message::Progress(progress));
                Some((Ok(progress), (published, marks, revision)))
            },
        )
    }
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An event in the form of the contract; why the stream ends, where it does.
fn watch_response(
    published: &Published,
    message: streams::Message,
) -> Result<v1::WatchResponse, Box<Refusal>> {
    let streams::Message {
        mut revision,
        event,
    } = message;
    let event = match event {
        Event::Freed { pool, family, keys } => Message::Freed(v1::watch_response::Freed {
            pool: pool.to_string(),
            family: convert::family(family).into(),
            services: keys.iter().map(|key| convert::service_key(key)).collect(),
        }),
        Event::AskAgain(keys) => Message::AskAgain(v1::watch_response::AskAgain {
            services: keys.iter().map(|key| convert::service_key(key)).collect(),
        }),
        Event::Acting => {
            revision = published.read().revision();
            Message::Acting(v1::watch_response::Acting {})
        }
        Event::PoolsChanged => Message::PoolsChanged(v1::watch_response::PoolsChanged {}),
        Event::Reloaded => Message::Lagged(v1::watch_response::Lagged {}),
        Event::Ended(refusal) => return Err(refusal),
    };
    Ok(self::message(revision, event))
}

const fn message(Revision(revision): Revision, event: Message) -> v1::WatchResponse {
    v1::WatchResponse {
        revision,
        event: Some(event),
    }
}
