//! Looking at one Service: what it should have, asking for it, writing it down.

pub mod events;
pub mod notifier;
mod takeover;
pub mod view;
mod without_session;
pub mod writer;

use std::{net::IpAddr, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use lb_trace::context::note;
use tokio::sync::watch;
use tracing::{debug, error, instrument, warn};

use crate::{
    allocator::Allocator,
    denial::{Denial, Retry},
    informer::{namespace_store::NamespaceStore, service_store::ServiceStore},
    kube::{annotations::Peer, key::Key, service::Service},
    ledger::{Ledger, Record, Waiting},
    queue::{Job, Requeue},
    reconcile::{
        notifier::Notifier,
        view::View,
        writer::{StatusWriter, Written},
    },
    request::{AddressRequest, scope::Scope},
    session::link::{Link, Reported},
    status::{self, Desired, grant::Grant},
};

/// How long a Service that waits for the allocator's word waits at most before it is asked
/// for anyway: four to eight minutes, spread.
const SLOW_RETRY: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(SLOW_RETRY_AT_LEAST)
    .with_max_delay(SLOW_RETRY_AT_LEAST);
const SLOW_RETRY_AT_LEAST: Duration = Duration::from_secs(240);

/// All that a worker needs.
pub struct Reconciler {
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
    /// The Services whose conditions say that the allocator does not serve this watcher.
    pub reported: Reported,
    /// Who writes down what it said.
    pub writer: StatusWriter,
    /// Whom to tell.
    pub notifier: Notifier,
}

fn slow_retry() -> Duration {
    SLOW_RETRY.build().next().unwrap_or(SLOW_RETRY_AT_LEAST)
}

impl Reconciler {
    /// Looks at one Service.
    #[instrument(name = "sync", skip_all, fields(namespace = job.key.namespace, service = job.key.name))]
    pub async fn reconcile(&self, job: &Job) -> Requeue {
        let next = self.reconcile_inner(job).await;
        note("cluster", || self.allocator.cluster().to_owned());
        note("outcome", || next.outcome().to_owned());
        next
    }

    async fn reconcile_inner(&self, job: &Job) -> Requeue {
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
                // A request without them could be granted from the wrong pool. The
                // watch tells of a namespace as soon as it can.
                let Some(labels) = self.namespaces.labels(&key.namespace) else {
                    debug!("the labels of its namespace are not known yet");
                    return Requeue::Retry;
                };
                let view = View::new(key, &service, record.as_ref(), &self.peers, &labels);
                self.ensure(&view, record.as_ref(), job.failures).await
            }
            Scope::OtherType => self.handle_other_type(key, &service, record).await,
            // The class never changes while the type stays, so this is another
            // Service than the one we served, or never was ours.
            Scope::OtherClass => match record {
                Some(record) if service.uid().as_ref() != Some(&record.uid) => {
                    self.forget(key, Some(record.uid)).await
                }
                Some(_) | None => Requeue::Done,
            },
        }
    }

    /// Makes a Service of ours have what it asks for.
    async fn ensure(&self, view: &View<'_>, record: Option<&Record>, failures: u32) -> Requeue {
        if view.is_deleted() && !view.has_address() {
            self.ledger.waits_no_more(view.key);
            return Requeue::Done;
        }
        if let Some((away, denial)) = self.away() {
            return self.without_session(view, away, &denial).await;
        }
        if let Some(manager) = view.foreign()
            && !self.store.rule().names_us(view.service)
        {
            return self.take_over(view, &manager, record, failures).await;
        }
        let reading = &view.reading;
        let local = reading.denial.as_ref();
        let local = local.filter(|_| !view.holds() || !reading.askable);
        let answer = match (local, view.granted()) {
            (Some(_), Some(grant)) => Ok(grant.clone()),
            (Some(denial), None) => Err(denial.clone()),
            (None, _) => self.ask(view, &reading.request).await,
        };
        match answer {
            Ok(grant) => self.apply_grant(view, &grant).await,
            Err(denial) => {
                // The Service was created again, and what the old one held is not
                // taken over.
                let old = record.filter(|record| record.uid != view.uid);
                let is_decided = matches!(denial.retry, Retry::OnNotice | Retry::AfterEdit);
                if let Some(old) = old.filter(|_| is_decided)
                    && let Err(denial) = self.release(view.key, &old.uid, &view.shown).await
                {
                    self.log(&denial, "not released");
                    return Requeue::Retry;
                }
                self.apply_denial(view, &denial, failures).await
            }
        }
    }

    /// What the allocator says to a request; while it is away, what was granted before still
    /// holds. Nobody asks before the allocator was told what this cluster has: it may have
    /// forgotten it.
    async fn ask(&self, view: &View<'_>, request: &AddressRequest) -> Result<Grant, Denial> {
        let View { key, uid, .. } = view;
        let gate = self.link.borrow().denial();
        let answer = match gate {
            Some(denial) => Err(denial),
            None => {
                self.reported.clear();
                let shown = view.may_show();
                let answer = self.allocator.acquire(key, view.service, request, &shown);
                let answer = answer.await;
                if let Err(denial) = &answer
                    && matches!(denial.retry, Retry::Soon | Retry::Seldom)
                {
                    self.log(denial, "not granted");
                }
                answer
            }
        };
        match answer {
            Ok(grant) => {
                self.ledger.granted(key, uid, &grant);
                Ok(grant)
            }
            Err(denial) if denial.retry == Retry::Soon => match view.granted() {
                Some(before) => Ok(Grant {
                    retry: Retry::Soon,
                    ..before.clone()
                }),
                None => Err(denial),
            },
            Err(denial) => {
                self.ledger.refused(key, uid, &denial);
                Err(denial)
            }
        }
    }

    async fn apply_grant(&self, view: &View<'_>, grant: &Grant) -> Requeue {
        let desired = Desired::granted(grant, view.reading.denial.as_ref());
        match grant.retry {
            Retry::AfterEdit => self.ledger.waits_no_more(view.key),
            Retry::Soon | Retry::OnNotice | Retry::Seldom => {
                let waiting = Waiting {
                    pending: false,
                    ..view.waiting()
                };
                self.ledger.waits(view.key, &view.uid, waiting);
            }
        }
        match self.writer.write(view, &desired).await {
            Ok(Written { gave_up: true }) => Requeue::Again,
            Ok(Written { gave_up: false }) => after(grant.retry),
            Err(next) => next,
        }
    }

    async fn apply_denial(&self, view: &View<'_>, denial: &Denial, failures: u32) -> Requeue {
        // It may have been lost since the allocator was asked.
        if let Some((away, denial)) = self.away() {
            return self.without_session(view, away, &denial).await;
        }
        let mut waiting = view.waiting();
        if denial.takes_off {
            waiting.pending = true;
            if status::says_satisfied(view.service) {
                waiting.since = Timestamp::now().as_second();
            }
        }
        self.ledger.waits(view.key, &view.uid, waiting);
        let is_reported_once = denial.retry == Retry::Seldom;
        if is_reported_once && failures == 0 {
            // Another watcher may be about to serve it.
            return Requeue::Retry;
        }
        let connecting = matches!(*self.link.borrow(), Link::Connecting);
        let early = connecting && denial.retry == Retry::Soon;
        let known = is_reported_once && self.reported.contains(&view.uid);
        if early || known || !view.is_worth_telling(denial, failures) {
            return after(denial.retry);
        }
        match self.writer.write(view, &Desired::refused(denial)).await {
            Ok(Written { gave_up }) => {
                if is_reported_once {
                    self.reported.insert(&view.uid);
                }
                if gave_up {
                    Requeue::Again
                } else {
                    after(denial.retry)
                }
            }
            Err(next) => next,
        }
    }

    /// A Service that is of another type now.
    async fn handle_other_type(
        &self,
        key: &Key,
        service: &Service,
        record: Option<Record>,
    ) -> Requeue {
        let marked = status::condition(service).is_some();
        let known = record.map(|record| record.uid);
        let holder = known.or_else(|| service.uid().filter(|_| marked));
        let next = self.forget(key, holder).await;
        if next != Requeue::Done || !marked {
            return next;
        }
        match self.writer.withdraw(key, service).await {
            Ok(()) => Requeue::Done,
            Err(next) => next,
        }
    }

    /// Gives back what a Service held that is gone or no longer ours.
    async fn forget(&self, key: &Key, holder: Option<String>) -> Requeue {
        let Some(uid) = holder else {
            return Requeue::Done;
        };
        self.ledger.serves_no_more(key);
        match self.release(key, &uid, &[]).await {
            Ok(()) => {
                self.ledger.forget(key);
                Requeue::Done
            }
            Err(denial) => {
                self.log(&denial, "not released");
                match denial.retry {
                    Retry::Soon => Requeue::Retry,
                    Retry::OnNotice | Retry::AfterEdit | Retry::Seldom => {
                        Requeue::After(slow_retry())
                    }
                }
            }
        }
    }

    /// That the allocator is away was told once, and is not again for each Service.
    fn log(&self, denial: &Denial, what: &str) {
        let Denial {
            reason, message, ..
        } = denial;
        let away = matches!(*self.link.borrow(), Link::Down { .. } | Link::Connecting);
        match denial.retry {
            Retry::Seldom => error!(%reason, "{what}: {message}"),
            Retry::Soon if away => debug!(%reason, "{what}: {message}"),
            Retry::Soon | Retry::OnNotice | Retry::AfterEdit => {
                warn!(%reason, "{what}: {message}");
            }
        }
    }

    /// Never without a uid: that would take the address from whoever has it. `shown` is what
    /// the Service goes on to show.
    async fn release(&self, key: &Key, uid: &str, shown: &[IpAddr]) -> Result<(), Denial> {
        if uid.is_empty() {
            return Ok(());
        }
        // An allocator that hangs would cost each of them its whole deadline.
        if let Some(denial) = self.link.borrow().denial() {
            return Err(denial);
        }
        let released = self.allocator.release(key, uid, shown).await?;
        if !released.is_empty() {
            self.notifier.released(key, uid, &released);
        }
        Ok(())
    }
}

fn after(retry: Retry) -> Requeue {
    match retry {
        Retry::Soon => Requeue::Retry,
        Retry::AfterEdit => Requeue::Done,
        Retry::OnNotice | Retry::Seldom => Requeue::After(slow_retry()),
    }
}
