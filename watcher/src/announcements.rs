//! The allocator's word that something changed, and whether the allocator is
//! there at all: one task that holds the stream open, and tells the allocator what
//! this cluster has before anybody asks it for anything.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use lb_proto::v1::{ServiceKey, WatchResponse, watch_response::Event};
use tokio::{sync::watch, time::Instant};
use tonic::Streaming;
use tracing::{error, info, warn};

use crate::{
    admin::Health,
    allocator::{Allocator, Connections},
    cluster_sync::{ClusterSync, EVERY},
    key::Key,
    ledger::Ledger,
    link::Link,
    metrics::Metrics,
    observed::Observed,
    queue::Queue,
    reason::{Refusal, Retry},
    scope::Scope,
    service_store::ServiceStore,
};

const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(2))
    .without_max_times();
/// A new stream says `Started` at once.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How often an allocator is tried that refuses to serve this watcher.
const REFUSED_RETRY: Duration = Duration::from_secs(10);

/// How a Watch stream ends that its reader was too slow for. Nothing is wrong with the
/// allocator: there is another stream at once.
const SLOW_CONSUMER: &str = "SLOW_CONSUMER";

/// A Sync that is under way.
type Telling = Pin<Box<dyn Future<Output = Result<Vec<Key>, Refusal>> + Send>>;

/// A stream that has begun, and what the allocator was told beside it.
struct Session {
    stream: Streaming<WatchResponse>,
    /// The uid of the cluster that it was opened for.
    cluster_uid: String,
    /// The revision of its last message.
    reached: i64,
    /// How many complete lists there were when the allocator was told what there is.
    told_lists: u64,
    telling: Option<Telling>,
    /// Something happened that has to be told, after what is being told now.
    owes: bool,
    /// The allocator may be another one by now: who waits asks again when it was told.
    lagged: bool,
    /// A Sync was accepted.
    accepted: bool,
}

/// Why a session is over.
struct Ended {
    refusal: Refusal,
    /// The allocator had accepted a Sync.
    accepted: bool,
}

/// The task's parts.
#[derive(Clone)]
pub struct Announcements {
    /// Where the stream comes from.
    pub allocator: Allocator,
    /// What the allocator is told.
    pub cluster: ClusterSync,
    /// Counts the complete lists of Services.
    pub lists: Arc<Observed<u64>>,
    /// Where the state of the stream is shown.
    pub link: watch::Sender<Link>,
    /// What waits for what.
    pub ledger: Arc<Ledger>,
    /// The Services there are.
    pub store: Arc<ServiceStore>,
    /// Where Services go that are to be looked at.
    pub queue: Arc<Queue>,
    /// What readiness looks at.
    pub health: Arc<Health>,
    /// Counts.
    pub metrics: Metrics,
}

impl Announcements {
    /// Holds the stream open for as long as this process leads.
    pub async fn run(self) {
        // What another replica was told meanwhile is not known.
        self.link.send_replace(Link::Connecting);
        // Without a complete list nothing is known, so nothing is told; nor is it known
        // before which cluster this is.
        self.lists.wait_for(|lists| *lists > 0).await;
        let mut backoff = BACKOFF.build();
        let mut all_ask = false;
        loop {
            // Before the stream is opened, so that no change is missed.
            let connections = self.allocator.connections();
            // Another process may answer, with another database, whose revisions say
            // nothing about what this one was told: nothing is resumed.
            let Ended { refusal, accepted } = match self.open(0).await {
                Ok((session, _)) => self.follow(session, connections, all_ask).await,
                Err(refusal) => Ended {
                    refusal,
                    accepted: false,
                },
            };
            if accepted {
                backoff = BACKOFF.build();
            }
            if accepted && refusal.reason == SLOW_CONSUMER {
                // What was not read is learned by asking; what is held is held.
                all_ask = false;
                self.metrics.stream_error("allocator");
                info!("opening another stream: {}", refusal.message);
            } else {
                if accepted {
                    all_ask = true;
                }
                self.lost(&refusal);
            }
            let mut delay = backoff.next().unwrap_or(REFUSED_RETRY);
            if matches!(*self.link.borrow(), Link::Refused(_)) {
                all_ask = true;
                delay = REFUSED_RETRY;
            }
            tokio::time::sleep(delay).await;
        }
    }

    /// A stream that has said `Started`, and whether nothing was missed since `resume`.
    async fn open(&self, resume: i64) -> Result<(Session, bool), Refusal> {
        let cluster_uid = self.allocator.cluster_uid();
        let mut stream = self.allocator.watch(resume).await?;
        let first = tokio::time::timeout(START_DEADLINE, stream.message());
        let first = first
            .await
            .map_err(|_| broken("its stream does not start"))?;
        let first = first.map_err(|status| Refusal::from(&status))?;
        let Some(WatchResponse {
            event: Some(Event::Started(started)),
            revision,
        }) = first
        else {
            return Err(broken("its stream did not start as it should"));
        };
        self.allocator.saw(revision);
        self.allocator.marked(revision, started.mark);
        let session = Session {
            stream,
            cluster_uid,
            reached: revision,
            told_lists: self.lists.get(),
            telling: None,
            owes: true,
            lagged: false,
            accepted: false,
        };
        Ok((session, started.resumed))
    }

    /// Tells what there is, and passes on what the stream tells, until it ends. When
    /// there is another connection, it moves there: first the new stream, then the end
    /// of the old one.
    async fn follow(&self, session: Session, mut connections: Connections, all_ask: bool) -> Ended {
        let mut session = session;
        let mut again = tokio::time::interval_at(Instant::now() + EVERY, EVERY);
        loop {
            session.tell(&self.cluster);
            let Session {
                stream,
                cluster_uid,
                telling,
                told_lists,
                ..
            } = &mut session;
            // What is rare comes first, so that a stream that never rests hides nothing.
            let refusal = tokio::select! {
                biased;
                () = connections.changed() => {
                    self.move_on(&mut session).await;
                    None
                }
                told = under_way(telling) => match told {
                    Ok(told) => {
                        self.accepted(&mut session, told, all_ask);
                        None
                    }
                    Err(refusal) => Some(refusal),
                },
                _ = again.tick() => {
                    session.owes = true;
                    None
                }
                lists = self.lists.wait_for(|lists| *lists > *told_lists) => {
                    *told_lists = lists;
                    session.owes = true;
                    None
                }
                () = self.allocator.is_another_than(cluster_uid) => {
                    Some(broken("the namespace kube-system has another uid now, which it has to know"))
                }
                message = stream.message() => match message {
                    Ok(Some(message)) => {
                        self.heard(&mut session, message);
                        None
                    }
                    Ok(None) => Some(broken("its stream ended")),
                    Err(status) => Some(Refusal::from(&status)),
                },
            };
            if let Some(refusal) = refusal {
                let accepted = session.accepted;
                return Ended { refusal, accepted };
            }
        }
    }

    /// Opens a stream of the new connection.
    async fn move_on(&self, session: &mut Session) {
        match self.open(session.reached).await {
            Ok((moved, resumed)) => {
                session.stream = moved.stream;
                session.owes = true;
                if !resumed {
                    // What the old one told last may have gone unread, and this may be
                    // the connection to another allocator.
                    session.lagged = true;
                    self.link.send_replace(Link::Connecting);
                }
            }
            Err(refusal) => warn!(
                reason = %refusal.reason,
                "cannot move to another connection yet: {}", refusal.message
            ),
        }
    }

    fn heard(&self, session: &mut Session, message: WatchResponse) {
        let WatchResponse { event, revision } = message;
        session.reached = revision;
        self.allocator.saw(revision);
        match event {
            Some(Event::Progress(progress)) => self.allocator.marked(revision, progress.mark),
            Some(Event::Lagged(_)) => {
                session.owes = true;
                session.lagged = true;
            }
            event => self.told(event),
        }
    }

    /// The allocator knows what this cluster has.
    fn accepted(&self, session: &mut Session, differ: Vec<Key>, all_ask: bool) {
        self.push(differ);
        if !session.accepted {
            info!("lb-allocator is there");
            session.accepted = true;
            self.started(all_ask);
        }
        // What is owed now was not told with this.
        if session.lagged && !session.owes {
            session.lagged = false;
            self.link.send_replace(Link::Up);
            self.push(self.ledger.waiting());
        }
    }

    /// What happened before is not told, so all that wait ask again. After a loss
    /// everybody does: the allocator may be another one by now.
    fn started(&self, all_ask: bool) {
        let mut keys = self.ledger.waiting();
        if all_ask {
            keys = self.ledger.keys();
            let ours = self.store.ours();
            keys.extend(ours.iter().map(|service| Key::of(service)));
        }
        // Those that were told to wait for this may ask from now on.
        self.link.send_replace(Link::Up);
        self.push(keys);
        self.health.allocator_answered();
        self.refused(None);
        self.metrics.allocator_up(true);
    }

    fn lost(&self, refusal: &Refusal) {
        self.metrics.allocator_up(false);
        self.metrics.stream_error("allocator");
        let before = self.link.borrow().clone();
        let link = Link::lost(refusal);
        let Refusal {
            reason, message, ..
        } = refusal;
        match &link {
            Link::Refused(_) => {
                if !link.refuses_as(&before) {
                    error!(%reason, "lb-allocator does not serve this watcher: {message}");
                }
                self.refused(Some(refusal));
            }
            Link::Down(_) | Link::Connecting | Link::Up => {
                if matches!(before, Link::Up | Link::Connecting) {
                    warn!(%reason, "lb-allocator is away: {message}");
                }
            }
        }
        self.link.send_replace(link);
    }

    /// Whether the allocator refuses to serve this watcher.
    fn refused(&self, refusal: Option<&Refusal>) {
        self.metrics.refused(refusal.is_some());
        let of_cluster = refusal.filter(|refusal| refusal.retry == Retry::Seldom);
        if refusal.is_some() && of_cluster.is_none() {
            self.health.allocator_answered();
        }
        let why = of_cluster.map(|refusal| refusal.message.clone());
        self.health.cluster_refused(why);
    }

    fn told(&self, event: Option<Event>) {
        let keys = match event {
            Some(Event::Freed(freed)) => keys_of(freed.services),
            Some(Event::AskAgain(ask_again)) => keys_of(ask_again.services),
            // What a newer allocator tells may be worth asking for too.
            Some(
                Event::PoolsChanged(_) | Event::Lagged(_) | Event::Started(_) | Event::Progress(_),
            )
            | None => return self.push(self.ledger.waiting()),
        };
        self.queue.push_all(keys);
    }

    fn push(&self, keys: Vec<Key>) {
        let concern = keys.into_iter().filter(|key| {
            let service = self.store.get(key);
            let ours = service.is_some_and(|s| self.store.rule().scope(&s) == Scope::Ours);
            ours || self.ledger.knows(key)
        });
        self.queue.push_all_and_those_worked_on(concern);
    }
}

impl Session {
    /// Begins to tell what is owed, unless something is being told.
    fn tell(&mut self, cluster: &ClusterSync) {
        if self.owes && self.telling.is_none() {
            self.owes = false;
            let cluster = cluster.clone();
            self.telling = Some(Box::pin(async move { cluster.tell().await }));
        }
    }
}

/// Ends with the Sync that is under way, if there is one.
async fn under_way(telling: &mut Option<Telling>) -> Result<Vec<Key>, Refusal> {
    let Some(sync) = telling else {
        return std::future::pending().await;
    };
    let told = sync.await;
    *telling = None;
    told
}

fn keys_of(services: Vec<ServiceKey>) -> Vec<Key> {
    services.into_iter().map(Key::from).collect()
}

fn broken(what: &str) -> Refusal {
    Refusal::no_answer(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_allocator_that_does_not_answer_holds_back_those_that_wait() {
        assert!(Link::Up.refusal().is_none());
        assert!(Link::Connecting.refusal().is_some());
        let down = Link::Down(broken("gone")).refusal().unwrap();
        assert_eq!(down.reason, "ALLOCATOR_UNAVAILABLE");
        assert!(down.message.contains("gone"), "{}", down.message);
    }
}
