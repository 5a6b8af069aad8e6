//! Who is notified after a commit, and what they may ask for now. What happens at once is
//! sent at once, in few messages, however many Services it concerns: a stream whose
//! reader is a little behind is not cut for that.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use tokio::time::Instant;

use super::{
    Storage, WriterTask,
    waiting::{Line, Offer, Onward, Waiting},
};
use crate::{
    engine::{
        Acquire, ChangeKind, Claim, ClusterName, Command, Decommission, Family, Notice, Outcome,
        PoolName, Refusal, Reply, ServiceKey, Sync,
    },
    streams::{Event, Message},
};

/// Services in one message: of about 200 bytes each.
const MAX_KEYS: usize = 500;

/// What a Service is notified of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Notification {
    Freed(PoolName, Family),
    AskAgain,
}

/// What is to be sent next, by cluster.
#[derive(Debug, Default)]
pub(super) struct Notifications(BTreeMap<(ClusterName, Notification), Vec<Arc<ServiceKey>>>);

impl Notifications {
    fn add(&mut self, key: Arc<ServiceKey>, notification: Notification) {
        let all = self
            .0
            .entry((key.cluster.clone(), notification))
            .or_default();
        all.push(key);
    }

    /// Each event, and the cluster that it is for.
    fn take(&mut self) -> Vec<(ClusterName, Event)> {
        let mut messages = Vec::new();
        for ((cluster, notification), keys) in std::mem::take(&mut self.0) {
            for keys in keys.chunks(MAX_KEYS) {
                let event = match notification.clone() {
                    Notification::Freed(pool, family) => Event::Freed {
                        pool,
                        family,
                        keys: keys.into(),
                    },
                    Notification::AskAgain => Event::AskAgain(keys.into()),
                };
                messages.push((cluster.clone(), event));
            }
        }
        messages
    }
}

impl<S: Storage> WriterTask<S> {
    /// Takes note of who waits now, and who does not any more.
    /// `since` is when the caller knew what it asks for.
    pub(super) fn note(
        &mut self,
        claim: Option<&Claim>,
        command: Command,
        reply: &Reply,
        since: Instant,
    ) {
        if let (Some(claim), Reply::Refused(refusal)) = (claim, reply)
            && self.is_refused_identity(claim, refusal)
        {
            return;
        }
        if let Some(claim) = claim {
            let contacts = self.published.contacts();
            contacts.heard(&claim.cluster, self.clock.now());
        }
        let onward = match command {
            Command::Acquire(acquire) => Vec::from_iter(self.asked(acquire, reply)),
            Command::Release(release) => Vec::from_iter(self.waiting.gone(&release.key)),
            Command::Sync(sync) => self.synced(&sync, reply, since),
            // Its requests are refused from now on, so nobody of it waits.
            Command::Decommission(Decommission { cluster, .. }) => {
                let now = Instant::now();
                self.waiting.forget_absent(&cluster, now, |_| false)
            }
            Command::Reserve(_)
            | Command::Unreserve(_)
            | Command::Handover(_)
            | Command::Resolve(_)
            | Command::Recommission(_)
            | Command::Attach(_)
            | Command::ReplaceCluster(_) => Vec::new(),
        };
        for onward in onward {
            self.offer_on(onward);
        }
    }

    /// Notes who was refused for not being the cluster that has the name.
    fn is_refused_identity(&self, claim: &Claim, refusal: &Refusal) -> bool {
        let (known_as, owner) = if let Refusal::ClusterNameInUse { cluster, owner, .. } = refusal {
            (cluster, owner)
        } else if let Refusal::ClusterHasOtherName {
            known_as, owner, ..
        } = refusal
        {
            (known_as, owner)
        } else {
            return false;
        };
        let now = self.clock.now();
        let Claim { cluster, uid } = claim;
        let ephemeral = &self.configuration.pools.settings().ephemeral;
        if ephemeral.contains(known_as) && self.streams.count(known_as) == 0 {
            // It is about to take over: nobody has to look.
            return true;
        }
        let contacts = self.published.contacts();
        if contacts.refused(known_as, cluster, uid, now) {
            tracing::warn!(
                %cluster,
                %uid,
                %known_as,
                known_uid = %owner.uid,
                "refusing a cluster that is not the one that is known: {refusal}"
            );
        }
        true
    }

    fn asked(&mut self, mut acquire: Acquire, reply: &Reply) -> Option<Onward> {
        let engine = self.engine.as_ref()?;
        let labels = engine.pools().relevant(&acquire.wish.labels);
        acquire.wish.labels = labels.unwrap_or_default();
        let pools_for = |acquire: &Acquire, family| engine.pools_for(acquire, family);
        let noted = self
            .waiting
            .asked(acquire, reply, Instant::now(), pools_for);
        if noted.dropped {
            self.metrics.waiter_dropped();
        }
        noted.onward
    }

    fn synced(&mut self, sync: &Sync, reply: &Reply, since: Instant) -> Vec<Onward> {
        let Reply::Synced(_) = reply else {
            return Vec::new();
        };
        self.newest.begin(&sync.cluster);
        let live: HashSet<_> = sync.services.iter().map(|service| &*service.key).collect();
        let onward = self
            .waiting
            .forget_absent(&sync.cluster, since, |key| live.contains(key));
        let contacts = self.published.contacts();
        contacts.synced(&sync.cluster, self.clock.now());
        onward
    }

    /// Tells those that wait what they may get now.
    pub(super) fn notify_of(&mut self, outcome: &Outcome) {
        for change in &outcome.changes {
            if let ChangeKind::Cluster(record) = &change.kind
                && let Some(owner) = &record.identity
                && owner.took_over_at == Some(change.revision)
            {
                self.published.contacts().taken_over(&record.name);
                let streams = &self.streams;
                streams.end_others(&record.name, owner, change.revision);
                tracing::warn!(
                    cluster = %record.name,
                    uid = %owner.uid,
                    "another cluster has taken over the name"
                );
            }
        }
        for notice in &outcome.notices {
            self.notify(notice);
        }
        self.send_notifications();
    }

    fn notify(&mut self, notice: &Notice) {
        match notice {
            Notice::Freed(freed) => {
                for onward in Waiting::freed(freed) {
                    self.offer(onward);
                }
            }
            Notice::AskAgain(key) => self
                .notifications
                .add(Arc::clone(key), Notification::AskAgain),
            Notice::SyncAgain(cluster) => {
                self.streams.send(cluster, &self.message(Event::Reloaded));
            }
            Notice::AllMayAsk => self.streams.send_to_all(&self.message(Event::PoolsChanged)),
            Notice::LossProved(cluster) => {
                let contacts = self.published.contacts();
                contacts.proved_loss(cluster, self.clock.now());
                tracing::warn!(
                    %cluster,
                    "the cluster shows more than the database knows; nothing new is given before \
                     the other clusters have told what they have"
                );
            }
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
        let notification = match line {
            Line::Pool(pool, family) => Notification::Freed(pool, family),
            Line::Address(_) | Line::Quota(..) | Line::Group(..) => Notification::AskAgain,
        };
        self.notifications.add(key, notification);
    }

    fn send_notifications(&mut self) {
        for (cluster, event) in self.notifications.take() {
            // A stream that was cut just now: an offer goes on when its time is over.
            self.streams.send(&cluster, &self.message(event));
        }
    }

    pub(super) fn pass_offers_on(&mut self) {
        while let Some(onward) = self.waiting.expired(Instant::now()) {
            self.offer_on(onward);
        }
        self.send_notifications();
    }

    pub(super) fn message(&self, event: Event) -> Message {
        let revision = self.published.read().revision();
        Message { revision, event }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_at_once_is_told_in_few_messages() {
        let mut notifications = Notifications::default();
        let pool = PoolName::parse("p").unwrap();
        for number in 0..2_000 {
            let cluster = ["a", "b"][number % 2];
            let key = ServiceKey::parse(cluster, "ns", &format!("s{number}")).unwrap();
            notifications.add(Arc::new(key), Notification::Freed(pool.clone(), Family::V4));
        }
        let key = ServiceKey::parse("b", "ns", "s0").unwrap();
        notifications.add(Arc::new(key), Notification::AskAgain);
        let events = notifications.take().into_iter().map(|(cluster, event)| {
            let many = match event {
                Event::Freed { keys, .. } | Event::AskAgain(keys) => keys.len(),
                Event::Acting | Event::PoolsChanged | Event::Reloaded | Event::Ended(_) => 0,
            };
            (cluster.to_string(), many)
        });
        let sent: Vec<_> = events.collect();
        let of = |cluster: &str, many| (cluster.to_owned(), many);
        let expected = [
            of("a", 500),
            of("a", 500),
            of("b", 500),
            of("b", 500),
            of("b", 1),
        ];
        assert_eq!(sent, expected);
        assert_eq!(notifications.take(), []);
    }
}
