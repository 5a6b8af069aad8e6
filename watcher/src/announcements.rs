//! The allocator's word that something changed, and whether the allocator is
//! there at all: one task that holds the stream open.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use lb_proto::v1::{WatchResponse, watch_response::Event};
use tokio::sync::watch;
use tonic::Streaming;
use tracing::{error, info, warn};

use crate::{
    admin::Health,
    allocator::Allocator,
    key::Key,
    ledger::{Ledger, Waiting},
    metrics::Metrics,
    queue::Queue,
    rank::rank,
    reason::{Reason, Refusal, Remedy},
    scope::Scope,
    service_store::ServiceStore,
    wish::Family,
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

/// The task's parts.
pub struct Announcements {
    /// Where the stream comes from.
    pub allocator: Allocator,
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
    /// Holds the stream open for ever.
    pub async fn run(self) {
        let mut backoff = BACKOFF.build();
        let mut lost_before = false;
        loop {
            let refusal = match self.open().await {
                Ok(stream) => {
                    info!("lb-allocator is there");
                    self.started(lost_before);
                    backoff = BACKOFF.build();
                    lost_before = true;
                    let refusal = self.follow(stream).await;
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

    /// A stream that has said `Started`.
    async fn open(&self) -> Result<Streaming<WatchResponse>, Refusal> {
        let mut stream = self.allocator.watch().await?;
        let first = tokio::time::timeout(START_DEADLINE, stream.message());
        let first = first
            .await
            .map_err(|_| broken("its stream does not start"))?;
        match first.map_err(|status| Refusal::from(&status))? {
            Some(WatchResponse {
                event: Some(Event::Started(_)),
                ..
            }) => Ok(stream),
            Some(_) | None => Err(broken("its stream did not start as it should")),
        }
    }

    /// Passes on what the stream tells, until it ends.
    async fn follow(&self, mut stream: Streaming<WatchResponse>) -> Refusal {
        loop {
            match stream.message().await {
                Ok(Some(WatchResponse { event, .. })) => self.told(event),
                Ok(None) => return broken("its stream ended"),
                Err(status) => return Refusal::from(&status),
            }
        }
    }

    /// What happened before is not told, so all that wait ask again. After a loss
    /// everybody does: the allocator may be another one by now, and learns from
    /// the Services' statuses who holds what.
    fn started(&self, lost_before: bool) {
        let mut keys = self.ledger.wake(|_| true);
        if lost_before {
            keys = self.ledger.keys();
            let ours = self.store.ours();
            keys.extend(ours.iter().map(|service| Key::of(service)));
        }
        self.push_batch(keys);
        self.health.allocator_answered();
        self.metrics.allocator_up(true);
        self.link.send_replace(Link::Up);
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
            Some(Event::Freed(freed)) => {
                let family = match freed.family() {
                    lb_proto::v1::IpFamily::Ipv4 => Some(Family::V4),
                    lb_proto::v1::IpFamily::Ipv6 => Some(Family::V6),
                    lb_proto::v1::IpFamily::Unspecified => None,
                };
                self.ledger.wake(|waiting| may_be_served(waiting, family))
            }
            // What a newer allocator tells may be worth asking for too.
            Some(
                Event::PoolsChanged(_) | Event::AskAgain(_) | Event::Lagged(_) | Event::Started(_),
            )
            | None => self.ledger.wake(|_| true),
        };
        for key in keys {
            let rank = rank(&self.store, &self.ledger, &key);
            self.queue.push(key, rank);
        }
    }

    fn push_batch(&self, keys: Vec<Key>) {
        let ranked = keys.into_iter().filter_map(|key| {
            let concerns = self.ledger.knows(&key)
                || self
                    .store
                    .get(&key)
                    .is_some_and(|s| self.store.rule().scope(&s) == Scope::Ours);
            let rank = rank(&self.store, &self.ledger, &key);
            concerns.then_some((key, rank))
        });
        self.queue.push_batch(ranked.collect::<Vec<_>>());
    }
}

/// Whether a Service that waits may be served by a freed address.
fn may_be_served(waiting: &Waiting, family: Option<Family>) -> bool {
    let waits = match waiting.remedy {
        Remedy::WaitForFreed | Remedy::WaitForEither => true,
        Remedy::WaitForPools | Remedy::WaitForEdit | Remedy::RetrySoon | Remedy::RetrySeldom => {
            false
        }
    };
    waits && family.is_none_or(|family| waiting.families.contains(&family))
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
    fn a_freed_address_wakes_those_that_it_may_serve() {
        use Family::{V4, V6};
        let waiting = |remedy| Waiting {
            remedy,
            families: vec![V4],
            since: 0,
            pending: true,
        };
        for (remedy, wakes) in [
            (Remedy::WaitForFreed, true),
            (Remedy::WaitForEither, true),
            (Remedy::WaitForPools, false),
            (Remedy::WaitForEdit, false),
            (Remedy::RetrySoon, false),
            (Remedy::RetrySeldom, false),
        ] {
            assert_eq!(
                may_be_served(&waiting(remedy), Some(V4)),
                wakes,
                "{remedy:?}"
            );
            assert_eq!(may_be_served(&waiting(remedy), None), wakes, "{remedy:?}");
            assert!(!may_be_served(&waiting(remedy), Some(V6)));
        }
    }

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
