//! The allocator's word that something changed, and whether the allocator is
//! there at all: one task that holds the stream open, and tells the allocator what
//! this cluster has before anybody asks it for anything.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use lb_proto::v1::{ServiceKey, WatchResponse, watch_response::Event};
use tokio::{sync::watch, time::Instant};
use tonic::Streaming;
use tracing::{error, info, warn};

use crate::{
    admin::Health,
    allocator::{Allocator, Connections},
    cluster_sync::{ClusterSync, EVERY, Told},
    key::Key,
    ledger::Ledger,
    metrics::Metrics,
    observed::Observed,
    queue::{Queue, Rank},
    rank::rank,
    reason::{Reason, Refusal, Remedy},
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

/// Whether the allocator is there.
#[derive(Clone, Debug)]
pub enum Link {
    /// Not known yet.
    Connecting,
    /// The stream is live.
    Up,
    /// It does not answer, for this reason.
    Down(String),
    /// It answers, but will not tell of changes.
    Refused,
}

impl Link {
    /// Why a Service that has no address should not ask now.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Up | Self::Refused => None,
            Self::Connecting => Some(Refusal::new(
                Reason::AllocatorUnavailable,
                "the allocator has not answered yet",
            )),
            Self::Down(message) => Some(Refusal::new(Reason::AllocatorUnavailable, message)),
        }
    }
}

/// A stream that has begun.
struct Opened {
    stream: Streaming<WatchResponse>,
    /// Nothing was missed since an earlier one.
    resumed: bool,
    /// How many complete lists there were when the allocator was told what there is.
    told_lists: u64,
    /// The Services of which it said that they hold what they show.
    confirmed: BTreeSet<Key>,
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
        let mut backoff = BACKOFF.build();
        let mut lost_before = false;
        loop {
            // Before the stream is opened, so that no change is missed.
            let connections = self.allocator.connections();
            // Another process may answer, with another database, whose revisions say
            // nothing about what this one was told: nothing is resumed.
            let refusal = match self.open(0).await {
                Ok(opened) => {
                    info!("lb-allocator is there");
                    self.started(lost_before, &opened.confirmed);
                    backoff = BACKOFF.build();
                    lost_before = true;
                    let refusal = self.follow(opened, connections).await;
                    self.ledger.lost();
                    refusal
                }
                Err(refusal) => refusal,
            };
            self.lost(&refusal);
            let mut delay = backoff.next().unwrap_or(START_DEADLINE);
            if refusal.remedy != Remedy::RetrySoon {
                delay = delay.max(START_DEADLINE);
            }
            tokio::time::sleep(delay).await;
        }
    }

    /// A stream that has said `Started`, of an allocator that knows what this cluster
    /// has; and whether nothing was missed.
    async fn open(&self, resume: i64) -> Result<Opened, Refusal> {
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
        // Without a complete list nothing is known, so nothing is told.
        let told_lists = self.lists.wait_for(|lists| *lists > 0).await;
        let confirmed = self.tell().await?;
        Ok(Opened {
            stream,
            resumed: started.resumed,
            told_lists,
            confirmed,
        })
    }

    /// Passes on what the stream tells, until it ends. When there is another
    /// connection, it moves there: first the new stream, then the end of the old one.
    async fn follow(&self, opened: Opened, mut connections: Connections) -> Refusal {
        let Opened {
            mut stream,
            mut told_lists,
            ..
        } = opened;
        let mut reached = self.allocator.seen();
        let mut again = tokio::time::interval_at(Instant::now() + EVERY, EVERY);
        loop {
            // What is rare comes first, so that a stream that never rests hides nothing.
            let refusal = tokio::select! {
                biased;
                () = connections.changed() => {
                    match self.open(reached).await {
                        Ok(moved) => {
                            stream = moved.stream;
                            told_lists = moved.told_lists;
                            if !moved.resumed {
                                // What the old one told last may have gone unread.
                                let keys = self.ledger.wake(|_| true);
                                self.push_batch(keys, &moved.confirmed);
                            }
                        }
                        Err(refusal) => warn!(
                            reason = %refusal.reason,
                            "cannot move to another connection yet: {}", refusal.message
                        ),
                    }
                    None
                }
                _ = again.tick() => self.tell().await.err(),
                lists = self.lists.wait_for(|lists| *lists > told_lists) => {
                    told_lists = lists;
                    self.tell().await.err()
                }
                message = stream.message() => match message {
                    Ok(Some(WatchResponse { event, revision })) => {
                        reached = revision;
                        self.allocator.saw(revision);
                        if matches!(event, Some(Event::Lagged(_))) {
                            self.tell().await.err().or_else(|| {
                                self.told(event);
                                None
                            })
                        } else {
                            self.told(event);
                            None
                        }
                    }
                    Ok(None) => Some(broken("its stream ended")),
                    Err(status) => Some(Refusal::from(&status)),
                },
            };
            if let Some(refusal) = refusal {
                return refusal;
            }
        }
    }

    /// Returns the Services of which the allocator said that they hold what they show.
    async fn tell(&self) -> Result<BTreeSet<Key>, Refusal> {
        let Told { confirmed, differ } = self.cluster.tell().await?;
        self.push_batch(differ, &confirmed);
        Ok(confirmed)
    }

    /// What happened before is not told, so all that wait ask again. After a loss
    /// everybody does: the allocator may be another one by now. Those that are
    /// confirmed are asked for last, also where they are queued already.
    fn started(&self, lost_before: bool, confirmed: &BTreeSet<Key>) {
        let mut keys = self.ledger.wake(|_| true);
        keys.extend(confirmed.iter().cloned());
        if lost_before {
            keys = self.ledger.keys();
            let ours = self.store.ours();
            keys.extend(ours.iter().map(|service| Key::of(service)));
        }
        // Those that were told to wait for this may ask from now on.
        self.link.send_replace(Link::Up);
        self.push_batch(keys, confirmed);
        self.health.allocator_answered();
        self.metrics.allocator_up(true);
    }

    fn lost(&self, refusal: &Refusal) {
        self.metrics.allocator_up(false);
        self.metrics.stream_error("allocator");
        let was_up = matches!(*self.link.borrow(), Link::Up | Link::Connecting);
        if refusal.remedy == Remedy::RetrySoon {
            if was_up {
                warn!(reason = %refusal.reason, "lb-allocator is away: {}", refusal.message);
            }
            self.link.send_replace(Link::Down(refusal.message.clone()));
        } else {
            error!(reason = %refusal.reason, "lb-allocator tells nothing: {}", refusal.message);
            self.health.allocator_answered();
            self.link.send_replace(Link::Refused);
        }
    }

    fn told(&self, event: Option<Event>) {
        let keys = match event {
            Some(Event::Freed(freed)) => self.outdated(freed.services),
            Some(Event::AskAgain(ask_again)) => self.outdated(ask_again.services),
            // What a newer allocator tells may be worth asking for too.
            Some(
                Event::PoolsChanged(_) | Event::Lagged(_) | Event::Started(_) | Event::Progress(_),
            )
            | None => self.ledger.wake(|_| true),
        };
        for key in keys {
            let rank = rank(&self.store, &self.ledger, &key);
            self.queue.push(key, rank);
        }
    }

    fn outdated(&self, services: Vec<ServiceKey>) -> Vec<Key> {
        let keys: Vec<_> = services.into_iter().map(Key::from).collect();
        self.ledger.outdate(&keys);
        keys
    }

    fn push_batch(&self, keys: Vec<Key>, confirmed: &BTreeSet<Key>) {
        let ranked = keys.into_iter().filter_map(|key| {
            let service = self.store.get(&key);
            let ours = service.is_some_and(|s| self.store.rule().scope(&s) == Scope::Ours);
            let concerns = ours || self.ledger.knows(&key);
            let rank = match rank(&self.store, &self.ledger, &key) {
                // What has gone meanwhile gives something back, and that comes first.
                Rank::Holder if ours && confirmed.contains(&key) => Rank::Confirmed,
                rank @ (Rank::Holder | Rank::Pending(_) | Rank::Confirmed) => rank,
            };
            concerns.then_some((key, rank))
        });
        self.queue.push_batch(ranked.collect::<Vec<_>>());
    }
}

fn broken(what: &str) -> Refusal {
    Refusal::new(
        Reason::AllocatorUnavailable,
        format_args!("the allocator does not answer: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_allocator_that_does_not_answer_holds_back_those_that_wait() {
        assert!(Link::Up.refusal().is_none());
        assert!(Link::Refused.refusal().is_none());
        assert!(Link::Connecting.refusal().is_some());
        let down = Link::Down("gone".into()).refusal().unwrap();
        assert_eq!(
            (&*down.reason, down.message.as_str()),
            ("ALLOCATOR_UNAVAILABLE", "gone")
        );
    }
}
