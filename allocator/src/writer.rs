//! The one task that owns the engine and the store. It takes what is waiting,
//! lets the engine plan each command, commits all changes in one transaction,
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

mod waiting;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

pub use self::waiting::Waiting;
use self::waiting::{Line, Offer, Onward};
use crate::{
    config::Configuration,
    decision_log::DecisionLog,
    engine::{ClusterName, Command, Engine, Inconsistent, Outcome, Reply, Revision, Timestamp},
    metrics::WriterMetrics,
    published::Published,
    store::{Store, StoreError},
    streams::{Message, Streams, Told},
};

/// Commands in one batch at most: a batch that is as large as this costs little
/// more for each, and those that come later do not wait long.
const MAX_BATCH: usize = 128;
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
    command: Command,
    answer: oneshot::Sender<Result<Answer, WriteError>>,
}

enum Control {
    Configure(Configuration, oneshot::Sender<()>),
    Inspect(oneshot::Sender<Inspection>),
}

/// A copy of the state, to try things on.
#[derive(Debug)]
pub struct Inspection {
    pub engine: Engine,
    pub waiting: Waiting,
}

/// Why the engine could not be filled from the database.
#[derive(Debug, Error)]
pub enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the database contradicts itself; restore a backup")]
    Inconsistent(#[from] Inconsistent),
}

/// Hands commands to the task.
#[derive(Clone, Debug)]
pub struct Writer {
    jobs: mpsc::Sender<Job>,
    control: mpsc::Sender<Control>,
    store_available: watch::Receiver<bool>,
}

impl Writer {
    /// Waits until the command is carried out and durable.
    ///
    /// # Errors
    /// If it was not; nothing has changed then, or nothing is known to have.
    pub async fn submit(&self, command: Command) -> Result<Answer, WriteError> {
        let (answer, answered) = oneshot::channel();
        self.jobs
            .try_send(Job { command, answer })
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

    /// Whether the last attempt to write worked.
    pub fn store_available(&self) -> watch::Receiver<bool> {
        self.store_available.clone()
    }
}

/// The state and what it takes to change it.
pub struct WriterTask {
    store: Store,
    configuration: Configuration,
    /// `None` after a failed commit, until the database was read again.
    engine: Option<Engine>,
    /// Cleared by a failed commit; until it is set, only what changes nothing is
    /// answered.
    writable: bool,
    waiting: Waiting,
    published: Arc<Published>,
    streams: Arc<Streams>,
    metrics: WriterMetrics,
    decisions: DecisionLog,
    jobs: mpsc::Receiver<Job>,
    control: mpsc::Receiver<Control>,
    store_available: watch::Sender<bool>,
}

impl WriterTask {
    /// Reads the database, and gives the task and the handle to it.
    ///
    /// # Errors
    /// If the database cannot be read or contradicts itself.
    pub async fn load(
        mut store: Store,
        configuration: Configuration,
        assumed_absent: &[ClusterName],
        metrics: WriterMetrics,
        decisions: DecisionLog,
    ) -> Result<(Self, Writer, Arc<Published>), LoadError> {
        let pools = Arc::clone(&configuration.pools);
        let mut engine = Engine::restore(pools, store.load().await?)?;
        let begun = engine.begin(assumed_absent, wall_clock());
        store.commit(&begun.changes).await?;
        let published = Arc::new(Published::new(&engine, wall_clock()));
        let (sender, jobs) = mpsc::channel(QUEUE);
        let (control_sender, control) = mpsc::channel(1);
        let store_available = watch::Sender::new(true);
        let writer = Writer {
            jobs: sender,
            control: control_sender,
            store_available: store_available.subscribe(),
        };
        let mut task = Self {
            store,
            configuration,
            engine: Some(engine),
            writable: true,
            waiting: Waiting::default(),
            streams: Arc::clone(published.streams()),
            published: Arc::clone(&published),
            metrics,
            decisions,
            jobs,
            control,
            store_available,
        };
        task.record_pools().await;
        Ok((task, writer, published))
    }

    /// Runs until it is told to stop, and what it took until then is answered.
    ///
    /// # Errors
    /// If the database cannot be closed; nothing is lost then.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            let next_end = self.until_next_end();
            let next_expiry = self.waiting.next_expiry();
            tokio::select! {
                () = stop.cancelled(), if !self.jobs.is_closed() => self.jobs.close(),
                received = self.jobs.recv_many(&mut batch, MAX_BATCH) => {
                    if received == 0 {
                        return self.store.close().await;
                    }
                    self.carry_out(&mut batch).await;
                }
                Some(control) = self.control.recv() => self.obey(control).await,
                () = tokio::time::sleep(next_end.unwrap_or_default()), if next_end.is_some() => {
                    self.carry_out(&mut batch).await;
                }
                () = sleep_until(next_expiry), if next_expiry.is_some() => self.pass_offers_on(),
                _ = retry.tick(), if !self.writable => self.recover().await,
            }
        }
    }

    /// How long until something ends by itself.
    fn until_next_end(&self) -> Option<Duration> {
        if !self.writable {
            return None;
        }
        let end = self.engine.as_ref()?.next_end()?;
        let millis = end.0.saturating_sub(wall_clock().0).max(0);
        Some(Duration::from_millis(millis.unsigned_abs()))
    }

    /// Carries out a batch, which may be empty: then only what ended by itself.
    async fn carry_out(&mut self, batch: &mut Vec<Job>) {
        if !self.writable {
            self.answer_what_changes_nothing(batch);
            return;
        }
        let Some(engine) = &mut self.engine else {
            refuse(batch);
            return;
        };
        let now = wall_clock();
        let passed = engine.pass(now);
        let mut all = passed.clone();
        let mut planned = Vec::with_capacity(batch.len());
        for job in batch.iter() {
            let (reply, outcome) = engine.plan(&job.command, now);
            all.extend(&outcome);
            planned.push((reply, outcome));
        }
        let revision = engine.revision();
        if !all.changes.is_empty() {
            let start = Instant::now();
            if let Err(error) = self.store.commit(&all.changes).await {
                self.fail(&error, batch);
                return;
            }
            self.metrics.committed(planned.len(), start.elapsed());
        }
        self.published.apply(&all.changes);
        let several_clusters = self.published.read().has_several_clusters();
        self.decisions.passed(&passed, several_clusters);
        for (job, (reply, outcome)) in batch.drain(..).zip(planned) {
            let Job { command, answer } = job;
            self.metrics.planned(&reply, &outcome);
            self.decisions
                .decided(&command, &reply, &outcome, several_clusters);
            self.note(command, &reply);
            // Whoever gave up in the meantime asks again and gets the same.
            let _ = answer.send(Ok(Answer { reply, revision }));
        }
        self.tell(&all);
    }

    /// Takes note of who waits now, and who does not any more.
    fn note(&mut self, command: Command, reply: &Reply) {
        let onward = match command {
            Command::Acquire(acquire) => match &self.engine {
                Some(engine) => self.waiting.asked(acquire, reply, |acquire, family| {
                    engine.pools_for(acquire, family)
                }),
                None => None,
            },
            Command::Release(release) => self.waiting.gone(&release.key),
            Command::Sync(sync) => {
                self.published.heard(sync.cluster, wall_clock());
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
    fn tell(&mut self, outcome: &Outcome) {
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

    fn pass_offers_on(&mut self) {
        while let Some(onward) = self.waiting.expired(Instant::now()) {
            self.offer_on(onward);
        }
    }

    fn message(&self, told: Told) -> Message {
        let revision = self.published.read().revision();
        Message { revision, told }
    }

    fn answer_what_changes_nothing(&self, batch: &mut Vec<Job>) {
        for job in batch.drain(..) {
            let answer = self.engine.as_ref().and_then(|engine| {
                let reply = engine.reply_without_change(&job.command)?;
                let revision = engine.revision();
                Some(Answer { reply, revision })
            });
            let _ = job.answer.send(answer.ok_or(WriteError::StoreUnavailable));
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
                            self.streams.tell_all(&self.message(Told::PoolsChanged));
                        }
                        // The state is read again from the database.
                        Err(error) => self.fail(&error, &mut Vec::new()),
                    }
                }
                self.record_pools().await;
                let _ = done.send(());
            }
            Control::Inspect(answer) => {
                if let Some(engine) = &self.engine {
                    let _ = answer.send(Inspection {
                        engine: engine.clone(),
                        waiting: self.waiting.clone(),
                    });
                }
            }
        }
    }

    async fn record_pools(&mut self) {
        let Some(revision) = self.engine.as_ref().map(Engine::revision) else {
            return;
        };
        let json = &self.configuration.json;
        if let Err(error) = self.store.record_pools(revision, wall_clock(), json).await {
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
        self.writable = false;
        self.store_available.send_replace(false);
        refuse(batch);
    }

    /// Reads the state again as soon as it can be read, and takes changes again
    /// as soon as they can be written.
    async fn recover(&mut self) {
        match self.reload().await {
            Err(error) => tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the database is still away"
            ),
            Ok(()) => {
                self.writable = true;
                self.store_available.send_replace(true);
                self.streams.tell_all(&self.message(Told::Reloaded));
                tracing::warn!("the database can be written again");
            }
        }
    }

    async fn reload(&mut self) -> Result<(), LoadError> {
        if self.engine.is_none() {
            let pools = Arc::clone(&self.configuration.pools);
            let engine = Engine::restore(pools, self.store.load().await?)?;
            self.published.replace(&engine);
            self.engine = Some(engine);
        }
        Ok(self.store.probe().await?)
    }
}

fn refuse(batch: &mut Vec<Job>) {
    for job in batch.drain(..) {
        let _ = job.answer.send(Err(WriteError::StoreUnavailable));
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}

/// What time it is for decisions.
pub fn wall_clock() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
