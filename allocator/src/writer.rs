//! The one task that owns the engine and the store. It takes what is waiting, from
//! each cluster in turn, lets the engine plan each command, commits all changes in one transaction,
//! and only then shows them and answers. While one batch commits, the next one
//! gathers: no timer is needed for that. What ends by itself (a cooldown, a
//! reservation, an offer to one that waits) wakes the task when it does.
//!
//! ```text
//!   Writer::submit ─► queue ─► plan each ─► commit ─► publish ─► answer each
//!                                             │ failed
//!                                             └─► answer all UNAVAILABLE, then
//!                                                 probe and reload until it works
//! ```

mod backlog;
mod census;
mod newest;
mod notifications;
mod storage;
mod upkeep;
mod waiting;

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug_span};

use self::{
    backlog::Backlog,
    newest::{Newest, Version},
    notifications::Notifications,
    upkeep::Upkeep,
};
pub use self::{storage::Storage, waiting::Waiting};
use crate::{
    clock::Clock,
    config::Configuration,
    decision_log::DecisionLog,
    engine::{Acquire, Claim, ClusterName, Command, Engine, Outcome, Reply, Revision, Timestamp},
    metrics::{Census, WriterMetrics},
    published::Published,
    store::{Store, StoreError},
    streams::{Event, Streams},
};

/// Commands that may wait; one more is refused.
const QUEUE: usize = 8192;
/// How often a database that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Why a command was not carried out. It may be repeated.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum WriteError {
    #[error("too many requests are waiting")]
    Overloaded,
    #[error("the change could not be made durable")]
    StoreUnavailable,
    #[error("a rule of the database forbids the change")]
    Forbidden,
    #[error("the allocator is shutting down")]
    ShuttingDown,
}

/// A reply that is durable.
#[derive(Debug)]
pub struct Answer {
    pub reply: Reply,
    pub revision: Revision,
}

struct Job {
    /// Who says that the command is its own.
    claim: Option<Claim>,
    command: Command,
    /// Of the Service that it was made for.
    version: Option<Version>,
    answer: oneshot::Sender<Result<Answer, WriteError>>,
    /// When the caller knew what it asks for.
    since: Instant,
    /// Of the RPC that asks for it.
    span: Span,
}

impl Job {
    /// An Acquire that says which version of its Service it was made for.
    const fn versioned(&self) -> Option<(&Acquire, Version)> {
        match (&self.command, self.version) {
            (Command::Acquire(acquire), Some(version)) => Some((acquire, version)),
            _ => None,
        }
    }
}

/// What becomes of a request.
enum Planned {
    CarriedOut(Reply, Outcome),
    /// A newer request for the same Service was carried out before.
    Overtaken(Reply),
}

enum Control {
    Configure(Configuration, oneshot::Sender<()>),
    Inspect(oneshot::Sender<Inspection>),
    Count(oneshot::Sender<Census>),
}

/// A copy of the state, to try things on.
#[derive(Debug)]
pub struct Inspection {
    pub engine: Engine,
    pub waiting: Waiting,
}

/// Hands commands to the task.
#[derive(Clone, Debug)]
pub struct Writer {
    jobs: mpsc::Sender<Job>,
    control: mpsc::Sender<Control>,
    store_available: watch::Receiver<bool>,
    clock: Clock,
}

impl Writer {
    /// Waits until the command is carried out and durable.
    ///
    /// # Errors
    /// If it was not; nothing has changed then, or nothing is known to have.
    pub async fn submit(&self, command: Command) -> Result<Answer, WriteError> {
        self.submit_as(None, command).await
    }

    /// As [`Writer::submit`], for the cluster that says that the command is its own.
    ///
    /// # Errors
    /// As [`Writer::submit`].
    pub async fn submit_as(
        &self,
        claim: Option<Claim>,
        command: Command,
    ) -> Result<Answer, WriteError> {
        self.submit_since(claim, command, Instant::now()).await
    }

    /// As [`Writer::submit_as`], for a Service as it was at this version: once a newer request
    /// for it was carried out, nothing changes.
    ///
    /// # Errors
    /// As [`Writer::submit`].
    pub async fn acquire(
        &self,
        claim: Option<Claim>,
        acquire: Acquire,
        version: Option<Version>,
    ) -> Result<Answer, WriteError> {
        let command = Command::Acquire(acquire);
        self.send(claim, command, Instant::now(), version).await
    }

    /// As [`Writer::submit_as`], for a command that took its time to come: what happened
    /// after `since` is not known to whoever sent it.
    ///
    /// # Errors
    /// As [`Writer::submit`].
    pub async fn submit_since(
        &self,
        claim: Option<Claim>,
        command: Command,
        since: Instant,
    ) -> Result<Answer, WriteError> {
        self.send(claim, command, since, None).await
    }

    async fn send(
        &self,
        claim: Option<Claim>,
        command: Command,
        since: Instant,
        version: Option<Version>,
    ) -> Result<Answer, WriteError> {
        let (answer, answered) = oneshot::channel();
        self.jobs
            .try_send(Job {
                claim,
                command,
                version,
                answer,
                since,
                span: lb_trace::context::current(),
            })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => WriteError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => WriteError::ShuttingDown,
            })?;
        answered.await.unwrap_or(Err(WriteError::ShuttingDown))
    }

    /// Puts other pools in force. Requests wait meanwhile, and none is lost.
    ///
    /// # Errors
    /// Only when the allocator is shutting down.
    pub async fn configure(&self, configuration: Configuration) -> Result<(), WriteError> {
        let (done, is_done) = oneshot::channel();
        let sent = self.control.send(Control::Configure(configuration, done));
        sent.await.map_err(|_| WriteError::ShuttingDown)?;
        is_done.await.map_err(|_| WriteError::ShuttingDown)
    }

    /// A copy of the state as of the last commit.
    ///
    /// # Errors
    /// When there is none at the moment.
    pub async fn inspect(&self) -> Result<Inspection, WriteError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.control.send(Control::Inspect(answer));
        sent.await.map_err(|_| WriteError::ShuttingDown)?;
        answered.await.map_err(|_| WriteError::StoreUnavailable)
    }

    /// Counts as of the last commit.
    ///
    /// # Errors
    /// When there is nothing to count at the moment.
    pub async fn census(&self) -> Result<Census, WriteError> {
        let (answer, answered) = oneshot::channel();
        let sent = self.control.send(Control::Count(answer));
        sent.await.map_err(|_| WriteError::ShuttingDown)?;
        answered.await.map_err(|_| WriteError::StoreUnavailable)
    }

    /// What tells the time for decisions.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// What time it is for decisions.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether the last attempt to write worked.
    pub fn store_available(&self) -> watch::Receiver<bool> {
        self.store_available.clone()
    }
}

/// The state and what it takes to change it.
pub struct WriterTask<S = Store> {
    store: S,
    configuration: Configuration,
    /// `None` after a failed commit, until the database can be written and was read again;
    /// meanwhile every command is refused.
    engine: Option<Engine>,
    waiting: Waiting,
    newest: Newest,
    /// What those that wait are notified of next.
    notifications: Notifications,
    published: Arc<Published>,
    streams: Arc<Streams>,
    metrics: WriterMetrics,
    decisions: DecisionLog,
    jobs: mpsc::Receiver<Job>,
    backlog: Backlog<Job>,
    control: mpsc::Receiver<Control>,
    store_available: watch::Sender<bool>,
    clock: Clock,
    upkeep: Upkeep,
}

impl<S: Storage> WriterTask<S> {
    /// Reads the database, and gives the task and the handle to it.
    ///
    /// # Errors
    /// If the database cannot be read or contradicts itself.
    pub async fn load(
        mut store: S,
        configuration: Configuration,
        assumed_absent: &[ClusterName],
        metrics: WriterMetrics,
        decisions: DecisionLog,
        clock: Clock,
    ) -> Result<(Self, Writer, Arc<Published>), StoreError> {
        let pools = Arc::clone(&configuration.pools);
        let mut engine = store.load(pools).await?;
        clock.start(store.last_time().await?);
        let begun = engine.begin(assumed_absent, clock.now());
        store.commit(&begun.changes).await?;
        let published = Arc::new(Published::new(&engine, clock.now()));
        let (sender, jobs) = mpsc::channel(QUEUE);
        let (control_sender, control) = mpsc::channel(1);
        let store_available = watch::Sender::new(true);
        let writer = Writer {
            jobs: sender,
            control: control_sender,
            store_available: store_available.subscribe(),
            clock: clock.clone(),
        };
        let mut task = Self {
            store,
            configuration,
            engine: Some(engine),
            waiting: Waiting::default(),
            newest: Newest::default(),
            notifications: Notifications::default(),
            streams: Arc::clone(published.streams()),
            published: Arc::clone(&published),
            metrics,
            decisions,
            jobs,
            backlog: Backlog::default(),
            control,
            store_available,
            clock,
            upkeep: Upkeep::new(),
        };
        task.record_pools().await;
        task.note_time().await;
        Ok((task, writer, published))
    }

    /// Runs until it is told to stop, and what it took until then is answered.
    ///
    /// # Errors
    /// If the database cannot be closed; nothing is lost then.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = tokio::time::interval(upkeep::WATCH);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            let next_end = self.until_next_end();
            let next_expiry = self.waiting.next_expiry();
            // In an order of its own, so that the same requests lead to the same
            // state: what is rare comes before what may never end.
            tokio::select! {
                biased;
                () = stop.cancelled(), if !self.jobs.is_closed() => self.jobs.close(),
                Some(control) = self.control.recv() => self.obey(control).await,
                _ = retry.tick(), if self.engine.is_none() => self.recover().await,
                _ = watch.tick() => self.look_around().await,
                () = tokio::time::sleep(next_end.unwrap_or_default()), if next_end.is_some() => {
                    self.carry_out(&mut batch).await;
                }
                () = sleep_until(next_expiry), if next_expiry.is_some() => self.pass_offers_on(),
                () = tokio::time::sleep_until(self.upkeep.prune), if self.engine.is_some() => {
                    self.prune().await;
                }
                job = self.jobs.recv(), if self.backlog.is_empty() => match job {
                    Some(job) => self.line_up(job),
                    None => {
                        self.note_time().await;
                        return self.store.close().await;
                    }
                },
                () = std::future::ready(()), if !self.backlog.is_empty() => {
                    self.next_batch(&mut batch);
                    self.carry_out(&mut batch).await;
                }
            }
        }
    }

    fn line_up(&mut self, job: Job) {
        self.backlog.push(backlog::line(&job.command), job);
    }

    /// Takes what is next, after all that has arrived has lined up. What nobody waits
    /// for any more is left out: who gave up asks again.
    fn next_batch(&mut self, batch: &mut Vec<Job>) {
        while self.backlog.len() < QUEUE
            && let Ok(job) = self.jobs.try_recv()
        {
            self.line_up(job);
        }
        let wanted = |job: &Job| !job.answer.is_closed();
        self.backlog.take(batch, Instant::now(), wanted);
    }

    /// How long until something ends by itself.
    fn until_next_end(&self) -> Option<Duration> {
        let end = self.engine.as_ref()?.next_end()?;
        let millis = end.0.saturating_sub(self.clock.now().0).max(0);
        Some(Duration::from_millis(millis.unsigned_abs()))
    }

    /// Carries out a batch, which may be empty: then only what ended by itself.
    async fn carry_out(&mut self, batch: &mut Vec<Job>) {
        match self.try_batch(batch).await {
            Ok(()) => {}
            Err(error) if error.is_of_the_change() => self.one_by_one(&error, batch).await,
            Err(error) => self.fail(&error, batch),
        }
    }

    /// Makes a batch durable and answers it, or leaves it as it is.
    async fn try_batch(&mut self, batch: &mut Vec<Job>) -> Result<(), StoreError> {
        let Some(engine) = &mut self.engine else {
            refuse(batch);
            return Ok(());
        };
        let now = self.clock.now();
        let passed = engine.pass(now);
        let mut all = passed.clone();
        let mut planned = Vec::with_capacity(batch.len());
        let instant = Instant::now();
        for job in batch.iter() {
            let claim = job.claim.as_ref();
            // The versions of another cluster under the same name do not compare.
            if let Some((acquire, version)) = job.versioned()
                && engine.is_served(&acquire.key.cluster, claim)
            {
                if self.newest.is_overtaken(&acquire.key, version, instant) {
                    planned.push(Planned::Overtaken(engine.unchanged(acquire)));
                    continue;
                }
                self.newest.carried_out(&acquire.key, version, instant);
            }
            let (reply, outcome) = engine.plan_as(claim, &job.command, now);
            all.extend(&outcome);
            planned.push(Planned::CarriedOut(reply, outcome));
        }
        let revision = engine.revision();
        if !all.changes.is_empty() {
            let start = Instant::now();
            let (requests, changes) = (planned.len(), all.changes.len());
            // Of no RPC in particular: linked with all that share it.
            let span = debug_span!(parent: None, "commit", requests, changes);
            lb_trace::context::link(&span, batch.iter().map(|job| &job.span));
            self.store.commit(&all.changes).instrument(span).await?;
            self.metrics.committed(planned.len(), start.elapsed());
        }
        self.published.apply(&all.changes);
        let several_clusters = self.published.read().has_several_clusters();
        self.decisions.passed(&passed, several_clusters);
        for (job, planned) in batch.drain(..).zip(planned) {
            let Job {
                claim,
                command,
                version: _,
                answer,
                since,
                span: _,
            } = job;
            let (reply, outcome) = match planned {
                Planned::CarriedOut(reply, outcome) => (reply, outcome),
                Planned::Overtaken(reply) => {
                    let _ = answer.send(Ok(Answer { reply, revision }));
                    continue;
                }
            };
            self.metrics.planned(&reply, &outcome);
            self.decisions
                .decided(&command, &reply, &outcome, several_clusters);
            self.note(claim.as_ref(), command, &reply, since);
            // Whoever gave up in the meantime asks again and gets the same.
            let _ = answer.send(Ok(Answer { reply, revision }));
        }
        self.notify_of(&all);
        Ok(())
    }

    /// Carries out each request of a batch by itself, after the database forbade a change
    /// of one of them: that one fails, and no other has to pay for it.
    async fn one_by_one(&mut self, error: &StoreError, batch: &mut Vec<Job>) {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            requests = batch.len(),
            "a rule of the database forbids a change; carrying out each request by itself"
        );
        self.metrics.commit_failed();
        // What ended by itself comes first: nobody asked for it.
        let mut alone = Vec::with_capacity(1);
        if let Err(error) = self.try_again(&mut alone).await {
            self.fail(&error, batch);
            return;
        }
        let mut jobs = std::mem::take(batch).into_iter();
        while let Some(job) = jobs.next() {
            alone.push(job);
            match self.try_batch(&mut alone).await {
                Ok(()) => continue,
                Err(error) if error.is_of_the_change() => self.forbid(&error, &mut alone),
                Err(error) => {
                    alone.extend(jobs);
                    self.fail(&error, &mut alone);
                    return;
                }
            }
            if let Err(error) = self.try_again(&mut alone).await {
                alone.extend(jobs);
                self.fail(&error, &mut alone);
                return;
            }
        }
    }

    /// After a failure that the engine does not know of.
    async fn try_again(&mut self, batch: &mut Vec<Job>) -> Result<(), StoreError> {
        self.store.check()?;
        self.read_again().await?;
        self.try_batch(batch).await
    }

    fn forbid(&self, error: &StoreError, batch: &mut Vec<Job>) {
        for job in batch.drain(..) {
            tracing::error!(
                error = error as &dyn std::error::Error,
                command = ?job.command,
                "a rule of the database forbids a change; nothing was changed by this request"
            );
            self.metrics.commit_failed();
            let _ = job.answer.send(Err(WriteError::Forbidden));
        }
    }

    async fn obey(&mut self, control: Control) {
        match control {
            Control::Configure(configuration, done) => {
                self.configuration = configuration;
                if let Some(engine) = self.engine.take() {
                    let pools = Arc::clone(&self.configuration.pools);
                    match engine.with_pools(pools) {
                        Ok(engine) => {
                            self.published.replace(&engine);
                            self.engine = Some(engine);
                            self.streams.send_to_all(&self.message(Event::PoolsChanged));
                        }
                        // The state is read again from the database.
                        Err(error) => self.fail(&error, &mut Vec::new()),
                    }
                }
                self.record_pools().await;
                let _ = done.send(());
            }
            // Who has gone away meanwhile costs no copy.
            Control::Inspect(answer) if answer.is_closed() => {}
            Control::Inspect(answer) => {
                if let Some(engine) = &self.engine {
                    let _ = answer.send(Inspection {
                        engine: engine.clone(),
                        waiting: self.waiting.clone(),
                    });
                }
            }
            Control::Count(answer) => {
                if let Some(census) = self.census() {
                    let _ = answer.send(census);
                }
            }
        }
    }

    async fn record_pools(&mut self) {
        let Some(revision) = self.engine.as_ref().map(Engine::revision) else {
            return;
        };
        let json = &self.configuration.json;
        if let Err(error) = self
            .store
            .record_pools(revision, self.clock.now(), json)
            .await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "history does not tell of these pools"
            );
        }
    }

    /// The engine has moved on, the database may not have: only reading it again
    /// tells.
    fn fail(&mut self, error: &(dyn std::error::Error + 'static), batch: &mut Vec<Job>) {
        tracing::error!(
            error,
            requests = batch.len(),
            "cannot make changes durable; refusing all until the database can be written again"
        );
        self.metrics.commit_failed();
        self.engine = None;
        self.store_available.send_replace(false);
        refuse(batch);
    }

    /// Reads the state again as soon as the database can be written.
    async fn recover(&mut self) {
        match self.reload().await {
            Err(error) => tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the database is still away"
            ),
            Ok(()) => {
                self.store_available.send_replace(true);
                self.streams.send_to_all(&self.message(Event::Reloaded));
                tracing::warn!("the database can be written again");
            }
        }
    }

    async fn reload(&mut self) -> Result<(), StoreError> {
        self.store.check()?;
        self.store.probe().await?;
        self.read_again().await
    }

    async fn read_again(&mut self) -> Result<(), StoreError> {
        let pools = Arc::clone(&self.configuration.pools);
        let engine = self.store.load(pools).await?;
        self.published.replace(&engine);
        self.engine = Some(engine);
        Ok(())
    }
}

fn refuse(batch: &mut Vec<Job>) {
    for job in batch.drain(..) {
        let _ = job.answer.send(Err(WriteError::StoreUnavailable));
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests;
