//! Looking at one Service: what it should have, asking for it, writing it down.

mod takeover;

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use k8s_openapi::{api::core::v1::Service, jiff::Timestamp};
use kube::ResourceExt;
use lb_trace::context::note;
use tokio::sync::watch;
use tracing::{debug, error, instrument, warn};

use crate::{
    allocator::Allocator,
    annotations::Peer,
    grant::Grant,
    key::Key,
    ledger::{ANSWER_LIFETIME, Ledger, Record, Waiting},
    link::{Link, ToldOnce},
    namespace_store::NamespaceStore,
    news::News,
    queue::{Job, Next},
    reason::{Refusal, Remedy},
    scope::Scope,
    service_store::ServiceStore,
    status::{self, Desired},
    status_writer::StatusWriter,
    view::View,
};

/// How long a waiting Service waits at most before it is asked for anyway: four to
/// eight minutes, spread.
const NET: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(ANSWER_LIFETIME)
    .with_max_delay(ANSWER_LIFETIME);

/// All that a worker needs.
pub struct Syncer {
    /// The Services as last told.
    pub store: Arc<ServiceStore>,
    /// The labels of their namespaces.
    pub namespaces: Arc<NamespaceStore>,
    /// Whose annotations are read besides our own.
    pub peers: Vec<Peer>,
    /// What is known beyond them.
    pub ledger: Arc<Ledger>,
    /// Whom to ask.
    pub allocator: Allocator,
    /// Whether the allocator is there.
    pub link: watch::Receiver<Link>,
    /// Who was told that it serves another cluster.
    pub told_once: ToldOnce,
    /// Who writes down what it said.
    pub writer: StatusWriter,
    /// Whom to tell.
    pub news: News,
}

/// What the allocator said, now or before.
struct Answer {
    outcome: Result<Grant, Refusal>,
    /// Something was told while it was under way, so it has to be asked again.
    outdated: bool,
    /// The allocator is away, and the answer is the last one from before.
    remembered: bool,
}

impl Answer {
    fn now(outcome: Result<Grant, Refusal>) -> Self {
        Self {
            outcome,
            outdated: false,
            remembered: false,
        }
    }

    /// When nobody can be asked: what was granted before still holds.
    fn without(view: &View<'_>, refusal: Refusal) -> Self {
        let before = view.known.and_then(|record| record.reply.as_ref());
        let granted = before
            .filter(|reply| reply.wish == view.fingerprint)
            .and_then(|reply| reply.outcome.clone().ok());
        match granted {
            Some(grant) => Self {
                outcome: Ok(grant),
                outdated: false,
                remembered: true,
            },
            None => Self::now(Err(refusal)),
        }
    }
}

fn net() -> Duration {
    NET.build().next().unwrap_or(ANSWER_LIFETIME)
}

impl Syncer {
    /// Looks at one Service.
    #[instrument(skip_all, fields(namespace = job.key.namespace, service = job.key.name))]
    pub async fn sync(&self, job: &Job) -> Next {
        let next = self.look_at(job).await;
        note("cluster", || self.allocator.cluster().to_owned());
        note("outcome", || next.outcome().to_owned());
        next
    }

    async fn look_at(&self, job: &Job) -> Next {
        let key = &job.key;
        let record = self.ledger.get(key);
        let service = self.store.get(key);
        note("uid", || {
            let shown = service.as_ref().and_then(|service| service.uid());
            let known = || record.as_ref().map(|record| record.uid.clone());
            shown.or_else(known).unwrap_or_default()
        });
        let Some(service) = service else {
            return self.forget(key, record.map(|record| record.uid)).await;
        };
        match self.store.rule().scope(&service) {
            Scope::Ours => {
                // A wish without them could be granted from the wrong pool. The
                // watch tells of a namespace as soon as it can.
                let Some(labels) = self.namespaces.labels(&key.namespace) else {
                    debug!("the labels of its namespace are not known yet");
                    return Next::Retry;
                };
                let view = View::new(key, &service, record.as_ref(), &self.peers, &labels);
                self.ensure(&view, record.as_ref(), job.failures).await
            }
            Scope::OtherType => self.leave(key, &service, record).await,
            // The class never changes while the type stays, so this is another
            // Service than the one we served, or never was ours.
            Scope::OtherClass => match record {
                Some(record) if service.uid().as_ref() != Some(&record.uid) => {
                    self.forget(key, Some(record.uid)).await
                }
                Some(_) | None => Next::Done,
            },
        }
    }

    /// Makes a Service of ours have what it asks for.
    async fn ensure(&self, view: &View<'_>, record: Option<&Record>, failures: u32) -> Next {
        if view.is_deleted() && !view.has_address() {
            self.ledger.waits_no_more(view.key);
            return Next::Done;
        }
        if let Some(manager) = view.foreign()
            && !self.store.rule().names_us(view.service)
        {
            return self.take_over(view, &manager, record, failures).await;
        }
        let reading = &view.reading;
        let local = reading.refusal.as_ref();
        let local = local.filter(|_| !view.holds() || !reading.askable);
        let answer = match (local, view.granted()) {
            (Some(_), Some(grant)) => Answer::now(Ok(grant.clone())),
            (Some(refusal), None) => Answer::now(Err(refusal.clone())),
            (None, _) => self.ask(view).await,
        };
        match &answer.outcome {
            Ok(grant) => self.give(view, grant, &answer).await,
            Err(refusal) => {
                // The Service was created again, and what the old one held is not
                // taken over.
                let old = record.filter(|record| record.uid != view.uid);
                let waits = matches!(
                    refusal.remedy,
                    Remedy::WaitForFreed
                        | Remedy::WaitForPools
                        | Remedy::WaitForEither
                        | Remedy::WaitForEdit
                );
                if let Some(old) = old.filter(|_| waits)
                    && let Err(refusal) = self.release(view.key, &old.uid).await
                {
                    self.log(&refusal, "not released");
                    return Next::Retry;
                }
                self.refuse(view, refusal, answer.outdated, failures).await
            }
        }
    }

    /// What the allocator says to the Service's wish.
    async fn ask(&self, view: &View<'_>) -> Answer {
        let View {
            key,
            uid,
            fingerprint,
            ..
        } = view;
        // Where the status says otherwise, somebody wrote it: a person, or another
        // watcher of this cluster that heard something newer.
        if let Some(record) = view.known
            && let Some(outcome) = self.ledger.answer(record, uid, *fingerprint)
            && status::says(view.service, &outcome, view.reading.refusal.as_ref())
        {
            return Answer::now(outcome);
        }
        // Nobody asks before the allocator was told what this cluster has: it may
        // have forgotten it.
        let gate = self.link.borrow().refusal();
        if let Some(refusal) = gate {
            return Answer::without(view, refusal);
        }
        self.told_once.forget();
        let asked = self.ledger.moment();
        let wish = &view.reading.wish;
        let answer = self.allocator.acquire(key, view.service, wish, &view.shown);
        match answer.await {
            Ok(grant) => {
                let stands = self.ledger.granted(key, uid, *fingerprint, &grant, asked);
                Answer {
                    outcome: Ok(grant),
                    outdated: !stands,
                    remembered: false,
                }
            }
            Err(refusal) if refusal.remedy == Remedy::RetrySoon => {
                self.log(&refusal, "not granted");
                Answer::without(view, refusal)
            }
            Err(refusal) => {
                if refusal.remedy == Remedy::RetrySeldom {
                    self.log(&refusal, "not granted");
                }
                let stands = self.ledger.refused(key, uid, *fingerprint, &refusal, asked);
                Answer {
                    outcome: Err(refusal),
                    outdated: !stands,
                    remembered: false,
                }
            }
        }
    }

    async fn give(&self, view: &View<'_>, grant: &Grant, answer: &Answer) -> Next {
        let desired = Desired::granted(grant, view.reading.refusal.as_ref());
        let remedy = if answer.remembered {
            Some(Remedy::RetrySoon)
        } else {
            grant.remedy()
        };
        match remedy {
            Some(remedy) => {
                let waiting = Waiting {
                    pending: false,
                    ..view.waits_for(remedy)
                };
                self.ledger.waits(view.key, &view.uid, waiting);
            }
            None => self.ledger.waits_no_more(view.key),
        }
        let written = match self.writer.write(view, &desired).await {
            Ok(written) => written,
            Err(next) => return next,
        };
        if answer.outdated || written.gave_up {
            return Next::Again;
        }
        remedy.map_or(Next::Done, after)
    }

    async fn refuse(
        &self,
        view: &View<'_>,
        refusal: &Refusal,
        outdated: bool,
        failures: u32,
    ) -> Next {
        let lost = self.ledger.is_lost(view.key, &view.uid);
        let mut waiting = view.waits_for(refusal.remedy);
        if lost {
            waiting.pending = true;
            if status::says_satisfied(view.service) {
                waiting.since = Timestamp::now().as_second();
            }
        }
        self.ledger.waits(view.key, &view.uid, waiting);
        let desired = if lost {
            Desired::lost(refusal)
        } else {
            Desired::refused(refusal)
        };
        let of_cluster = refusal.is_about_the_cluster();
        if of_cluster && failures == 0 {
            // Another watcher may be about to serve it.
            return Next::Retry;
        }
        if of_cluster && self.told_once.was(&view.uid) {
            return after(refusal.remedy);
        }
        let connecting = matches!(*self.link.borrow(), Link::Connecting);
        let early = connecting && refusal.remedy == Remedy::RetrySoon;
        let mut again = outdated;
        if !early && view.is_worth_telling(refusal, failures) {
            match self.writer.write(view, &desired).await {
                Ok(written) => again |= written.gave_up,
                Err(next) => return next,
            }
        }
        if of_cluster {
            self.told_once.is(&view.uid);
        }
        if again {
            return Next::Again;
        }
        after(refusal.remedy)
    }

    /// A Service that is of another type now.
    async fn leave(&self, key: &Key, service: &Service, record: Option<Record>) -> Next {
        let marked = status::condition(service).is_some();
        let known = record.map(|record| record.uid);
        let holder = known.or_else(|| service.uid().filter(|_| marked));
        let next = self.forget(key, holder).await;
        if next != Next::Done || !marked {
            return next;
        }
        match self.writer.withdraw(key, service).await {
            Ok(()) => Next::Done,
            Err(next) => next,
        }
    }

    /// Gives back what a Service held that is gone or no longer ours.
    async fn forget(&self, key: &Key, holder: Option<String>) -> Next {
        let Some(uid) = holder else {
            return Next::Done;
        };
        match self.release(key, &uid).await {
            Ok(()) => {
                self.ledger.forget(key);
                Next::Done
            }
            Err(refusal) => {
                self.log(&refusal, "not released");
                match refusal.remedy {
                    Remedy::RetrySoon => Next::Retry,
                    Remedy::RetrySeldom
                    | Remedy::WaitForFreed
                    | Remedy::WaitForPools
                    | Remedy::WaitForEither
                    | Remedy::WaitForEdit => Next::After(net()),
                }
            }
        }
    }

    /// That the allocator is away was told once, and is not again for each Service.
    fn log(&self, refusal: &Refusal, what: &str) {
        let Refusal {
            reason, message, ..
        } = refusal;
        let away = matches!(*self.link.borrow(), Link::Down(_) | Link::Connecting);
        match refusal.remedy {
            Remedy::RetrySeldom => error!(%reason, "{what}: {message}"),
            Remedy::RetrySoon if away => debug!(%reason, "{what}: {message}"),
            Remedy::RetrySoon
            | Remedy::WaitForFreed
            | Remedy::WaitForPools
            | Remedy::WaitForEither
            | Remedy::WaitForEdit => warn!(%reason, "{what}: {message}"),
        }
    }

    /// Never without a uid: that would take the address from whoever has it.
    async fn release(&self, key: &Key, uid: &str) -> Result<(), Refusal> {
        if uid.is_empty() {
            return Ok(());
        }
        // An allocator that hangs would cost each of them its whole deadline.
        if let Some(refusal) = self.link.borrow().refusal() {
            return Err(refusal);
        }
        let released = self.allocator.release(key, uid).await?;
        if !released.is_empty() {
            self.news.released(key, uid, &released);
        }
        Ok(())
    }
}

fn after(remedy: Remedy) -> Next {
    match remedy {
        Remedy::RetrySoon => Next::Retry,
        Remedy::WaitForEdit => Next::Done,
        Remedy::WaitForFreed
        | Remedy::WaitForPools
        | Remedy::WaitForEither
        | Remedy::RetrySeldom => Next::After(net()),
    }
}
