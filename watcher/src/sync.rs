//! Looking at one Service: what it should have, asking for it, writing it down.

use std::{net::IpAddr, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use k8s_openapi::{api::core::v1::Service, jiff::Timestamp};
use kube::ResourceExt;
use tokio::sync::watch;
use tracing::{debug, error, info, instrument, warn};

use crate::{
    allocator::Allocator,
    announcements::Link,
    decision_log::{Decision, DecisionLog},
    events::Events,
    grant::Grant,
    key::Key,
    ledger::{Ledger, Record, Waiting},
    queue::{Job, Next, Rank},
    reason::{Reason, Refusal, Remedy},
    scope::Scope,
    service_api::{ApiError, Conflict, ServiceApi},
    service_store::ServiceStore,
    status::{self, Desired, Transition},
    wish::{self, Reading},
};

/// How long a waiting Service waits at most before it is asked for anyway: four to
/// eight minutes, spread.
const NET: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_secs(240))
    .with_max_delay(Duration::from_secs(240));

/// All that a worker needs.
pub struct Syncer {
    /// The Services as last told.
    pub store: Arc<ServiceStore>,
    /// What is known beyond them.
    pub ledger: Arc<Ledger>,
    /// Whom to ask.
    pub allocator: Allocator,
    /// Whether the allocator is there.
    pub link: watch::Receiver<Link>,
    /// Where to write.
    pub api: ServiceApi,
    /// Whom to tell.
    pub events: Events,
    /// Where decisions are logged.
    pub decisions: DecisionLog,
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
}

/// A Service of ours, looked at closely.
struct View<'a> {
    key: &'a Key,
    service: &'a Service,
    uid: String,
    /// What is known of this very uid.
    known: Option<&'a Record>,
    shown: Vec<IpAddr>,
    reading: Reading,
    fingerprint: u64,
}

impl<'a> View<'a> {
    fn new(key: &'a Key, service: &'a Service, record: Option<&'a Record>) -> Self {
        let uid = service.uid().unwrap_or_default();
        let reading = wish::read(service);
        Self {
            key,
            service,
            known: record.filter(|record| record.uid == uid),
            uid,
            shown: status::shown(service),
            fingerprint: reading.wish.fingerprint(),
            reading,
        }
    }

    /// It holds an address of ours, as far as can be known.
    fn holds(&self) -> bool {
        let marked =
            status::condition(self.service).is_some() || status::owns_addresses(self.service);
        self.known.is_some_and(|record| !record.held.is_empty())
            || (marked && !self.shown.is_empty())
    }

    /// It holds or shows an address, whosever that is.
    fn has_address(&self) -> bool {
        self.holds() || !self.shown.is_empty()
    }

    fn is_deleted(&self) -> bool {
        self.service.metadata.deletion_timestamp.is_some()
    }

    fn published(&self) -> &[IpAddr] {
        self.known.map_or(&[], |record| &record.published)
    }

    fn waits_for(&self, remedy: Remedy) -> Waiting {
        let since = status::condition(self.service)
            .filter(|condition| condition.status == "False")
            .map(|condition| condition.last_transition_time.0.as_second());
        Waiting {
            remedy,
            families: self.reading.wish.families.clone(),
            since: since.unwrap_or_else(|| created(self.service)),
            pending: !self.has_address(),
        }
    }

    /// Whether people should hear of a refusal. While the allocator is away, a
    /// Service that has an address has all it needs, a hiccup is no news, and a
    /// reason that still stands says more than that nobody could be asked.
    fn is_worth_telling(&self, refusal: &Refusal, failures: u32) -> bool {
        match refusal.remedy {
            Remedy::RetrySoon => {
                let told = status::condition(self.service).filter(|c| c.status == "False");
                let soon = |reason: &str| {
                    Reason::parse(reason).map(Reason::remedy) == Some(refusal.remedy)
                };
                let stands = told.is_some_and(|condition| {
                    soon(&condition.reason)
                        || self
                            .known
                            .and_then(|record| record.reply.as_ref())
                            .is_some_and(|reply| reply.wish == self.fingerprint)
                });
                !self.has_address() && failures > 0 && !stands
            }
            Remedy::RetrySeldom => !self.has_address(),
            Remedy::WaitForFreed
            | Remedy::WaitForPools
            | Remedy::WaitForEither
            | Remedy::WaitForEdit => true,
        }
    }
}

/// Since when a Service is there, seconds since 1970.
pub fn created(service: &Service) -> i64 {
    let created = service.metadata.creation_timestamp.as_ref();
    created.map_or(0, |time| time.0.as_second())
}

/// Where a Service belongs in the queue.
pub fn rank(store: &ServiceStore, ledger: &Ledger, key: &Key) -> Rank {
    match store.get(key) {
        Some(service) if store.rule().scope(&service) == Scope::Ours => {
            let held = ledger
                .get(key)
                .is_some_and(|record| !record.held.is_empty());
            if held || !status::shown(&service).is_empty() {
                Rank::Holder
            } else {
                Rank::Pending(created(&service))
            }
        }
        // It gives back what it has, which others may wait for.
        Some(_) | None => Rank::Holder,
    }
}

fn net() -> Duration {
    NET.build().next().unwrap_or(Duration::from_secs(300))
}

impl Syncer {
    /// Looks at one Service.
    #[instrument(skip_all, fields(namespace = job.key.namespace, name = job.key.name))]
    pub async fn sync(&self, job: &Job) -> Next {
        let key = &job.key;
        let record = self.ledger.get(key);
        let Some(service) = self.store.get(key) else {
            return self.forget(key, record.map(|record| record.uid)).await;
        };
        match self.store.rule().scope(&service) {
            Scope::Ours => {
                let view = View::new(key, &service, record.as_ref());
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
        let local = view.reading.refusal.as_ref().filter(|_| !view.holds());
        let answer = match local {
            Some(refusal) => Answer::now(Err(refusal.clone())),
            None => self.ask(view).await,
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
        if let Some(record) = view.known
            && let Some(outcome) = self.ledger.answer(record, uid, *fingerprint)
        {
            return Answer::now(outcome);
        }
        // Those that hold something ask at once when the allocator is back, and
        // only then may those that wait: it may have forgotten who holds what.
        let gate = self.link.borrow().refusal();
        if let Some(refusal) = gate.filter(|_| !view.has_address()) {
            return Answer::now(Err(refusal));
        }
        let asked = self.ledger.moment();
        let wish = &view.reading.wish;
        match self.allocator.acquire(key, uid, wish, &view.shown).await {
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
                let before = view.known.and_then(|record| record.reply.as_ref());
                match before.filter(|reply| reply.wish == *fingerprint) {
                    Some(reply) if reply.outcome.is_ok() => Answer {
                        outcome: reply.outcome.clone(),
                        outdated: false,
                        remembered: true,
                    },
                    Some(_) | None => Answer::now(Err(refusal)),
                }
            }
            Err(refusal) => {
                if refusal.remedy == Remedy::RetrySeldom {
                    self.log(&refusal, "not granted");
                }
                let good_for = (asked, net());
                let stands = self
                    .ledger
                    .refused(key, uid, *fingerprint, &refusal, good_for);
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
        if let Err(next) = self.write(view, &desired).await {
            return next;
        }
        self.ledger.published(view.key, &grant.addresses());
        if answer.outdated {
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
        let waiting = view.waits_for(refusal.remedy);
        self.ledger.waits(view.key, &view.uid, waiting);
        if view.is_worth_telling(refusal, failures)
            && let Err(next) = self.write(view, &Desired::refused(refusal)).await
        {
            return next;
        }
        if outdated {
            return Next::Again;
        }
        after(refusal.remedy)
    }

    /// Makes the status say what it should, and tells people what is new. On
    /// failure says when to try again.
    async fn write(&self, view: &View<'_>, desired: &Desired) -> Result<(), Next> {
        let View { key, service, .. } = view;
        let Some(body) = status::patch(service, desired, Timestamp::now()) else {
            return Ok(());
        };
        let mut result = self.api.apply_status(key, &body, false).await;
        if let Err(ApiError::Conflict(conflict)) = &result
            && self.may_force(view, conflict)
        {
            info!(manager = conflict.manager, "status written over");
            result = self.api.apply_status(key, &body, true).await;
        }
        match result {
            Ok(updated) => {
                self.written(view, desired, updated);
                Ok(())
            }
            Err(ApiError::Conflict(conflict)) => Err(self.yield_to(view, &conflict).await),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Ours beyond doubt: our own condition, and a Service that names our class.
    /// Else we put back what we wrote, some times, in case a person edited it.
    fn may_force(&self, view: &View<'_>, conflict: &Conflict) -> bool {
        let wrote = !view.published().is_empty() || status::says_satisfied(view.service);
        conflict.only_condition
            || self.store.rule().names_us(view.service)
            || (wrote && self.ledger.may_force(view.key))
    }

    /// Another controller writes the address list: it stays as it is.
    async fn yield_to(&self, view: &View<'_>, conflict: &Conflict) -> Next {
        self.ledger.unpublished(view.key);
        let refusal = Refusal::new(
            Reason::StatusConflict,
            format_args!(
                "another controller writes status.loadBalancer: {}",
                conflict.manager
            ),
        );
        let desired = Desired::refused(&refusal);
        if let Some(body) = status::patch(view.service, &desired, Timestamp::now()) {
            match self.api.apply_status(view.key, &body, false).await {
                Ok(updated) => self.written(view, &desired, updated),
                Err(error) => return failed(&error),
            }
        }
        Next::Retry
    }

    fn written(&self, view: &View<'_>, desired: &Desired, mut updated: Service) {
        status::trim(&mut updated);
        self.store.written(updated);
        for news in status::transitions(view.service, desired, view.published()) {
            let decision = match &news {
                Transition::Assigned(to) => Decision::Added(to),
                Transition::Changed { to, .. } => Decision::Modified(to),
                Transition::Failed {
                    reason, holding, ..
                } => Decision::Pending {
                    reason,
                    holding: *holding || view.has_address(),
                },
            };
            self.decisions.record(view.key, &decision);
            self.events.transition(view.service, &news);
        }
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
        let withdrawal = status::withdrawal(service);
        match self.api.apply_status(key, &withdrawal, false).await {
            Ok(mut updated) => {
                status::trim(&mut updated);
                self.store.written(updated);
                Next::Done
            }
            Err(error) => failed(&error),
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
        let away = matches!(*self.link.borrow(), Link::Down(_));
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
        let released = self.allocator.release(key, uid).await?;
        if !released.is_empty() {
            self.decisions.record(key, &Decision::Deleted(&released));
            self.events.released(key, uid, &released);
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

fn failed(error: &ApiError) -> Next {
    match error {
        ApiError::Gone => {
            debug!("the Service went meanwhile");
            Next::Done
        }
        ApiError::Invalid(_) => {
            warn!("not written, and not tried again before the Service changes: {error}");
            Next::Done
        }
        ApiError::Conflict(_) | ApiError::Unavailable(_) => {
            warn!("not written: {error}");
            Next::Retry
        }
    }
}
