//! Who is told after a commit, and what they may ask for now.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Storage, WriterTask,
    waiting::{Line, Offer, Onward, Waiting},
};
use crate::{
    engine::{ClusterName, Command, Outcome, Reply},
    streams::{Message, Told},
};

impl<S: Storage> WriterTask<S> {
    /// Takes note of who waits now, and who does not any more.
    pub(super) fn note(&mut self, command: Command, reply: &Reply) {
        let onward = match command {
            Command::Acquire(acquire) => match &self.engine {
                Some(engine) => self.waiting.asked(acquire, reply, |acquire, family| {
                    engine.pools_for(acquire, family)
                }),
                None => None,
            },
            Command::Release(release) => self.waiting.gone(&release.key),
            Command::Sync(sync) => {
                self.published.heard(sync.cluster, self.clock.now());
                None
            }
            Command::Reserve(_)
            | Command::Unreserve(_)
            | Command::Handover(_)
            | Command::Resolve(_)
            | Command::Decommission(_)
            | Command::Recommission(_) => None,
        };
        if let Some(onward) = onward {
            self.offer_on(onward);
        }
    }

    /// Tells those that wait what they may get now.
    pub(super) fn tell(&mut self, outcome: &Outcome) {
        for freed in &outcome.freed {
            for onward in Waiting::freed(freed) {
                self.offer(onward);
            }
        }
        for key in &outcome.ask_again {
            let told = Told::AskAgain(Arc::clone(key));
            self.streams.tell(&key.cluster, &self.message(told));
        }
        for cluster in &outcome.tell_again {
            self.streams.tell(cluster, &self.message(Told::Reloaded));
        }
        if outcome.all_may_ask {
            self.streams.tell_all(&self.message(Told::PoolsChanged));
        }
    }

    /// Offers to the next in line what is still there to have.
    fn offer_on(&mut self, onward: Onward) {
        let Some(engine) = &self.engine else { return };
        let there_is_one = match onward.line() {
            Line::Pool(pool, family) => engine.has_free(pool, *family),
            Line::Address(_) | Line::Quota(..) | Line::Group(..) => true,
        };
        if there_is_one {
            self.offer(onward);
        }
    }

    fn offer(&mut self, onward: Onward) {
        let streams = &self.streams;
        let listens = |cluster: &ClusterName| streams.count(cluster) > 0;
        let offer = self.waiting.offer(onward, Instant::now(), listens);
        let Some(Offer { line, key }) = offer else {
            return;
        };
        let told = match line {
            Line::Pool(pool, family) => Told::Freed {
                pool,
                family,
                key: Arc::clone(&key),
            },
            Line::Address(_) | Line::Quota(..) | Line::Group(..) => {
                Told::AskAgain(Arc::clone(&key))
            }
        };
        // A stream that was cut just now: the offer goes on when its time is over.
        self.streams.tell(&key.cluster, &self.message(told));
    }

    pub(super) fn pass_offers_on(&mut self) {
        while let Some(onward) = self.waiting.expired(Instant::now()) {
            self.offer_on(onward);
        }
    }

    pub(super) fn message(&self, told: Told) -> Message {
        let revision = self.published.read().revision();
        Message { revision, told }
    }
}
