//! The one task that owns the engine and the store. It takes what is waiting,
//! lets the engine plan each command, commits all changes in one transaction,
//! and only then shows them and answers. While one batch commits, the next one
//! gathers: no timer is needed.
//!
//! ```text
//!   Writer::submit ─► queue ─► plan each ─► commit ─► publish ─► answer each
//!                                             │ failed
//!                                             └─► answer all UNAVAILABLE, then
//!                                                 probe and reload until it works
//! ```

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

use crate::{
    decision_log::DecisionLog,
    engine::{Command, Engine, Inconsistent, Plan, Pools, Reply, Revision, Timestamp},
    metrics::WriterMetrics,
    published::Published,
    store::{MAX_CHANGES, Store, StoreError},
};

/// Commands in one batch at most. A command makes at most four changes: two
/// families, each released and allocated.
const MAX_BATCH: usize = MAX_CHANGES / 4;
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

    /// Whether the last attempt to write worked.
    pub fn store_available(&self) -> watch::Receiver<bool> {
        self.store_available.clone()
    }
}

/// The state and what it takes to change it.
pub struct WriterTask {
    store: Store,
    pools: Arc<Pools>,
    /// `None` after a failed commit, until the database was read again.
    engine: Option<Engine>,
    /// Cleared by a failed commit; until it is set, only what changes nothing is
    /// answered.
    writable: bool,
    published: Arc<Published>,
    metrics: WriterMetrics,
    decisions: DecisionLog,
    jobs: mpsc::Receiver<Job>,
    store_available: watch::Sender<bool>,
}

impl WriterTask {
    /// Reads the database, and gives the task and the handle to it.
    ///
    /// # Errors
    /// If the database cannot be read or contradicts itself.
    pub async fn load(
        mut store: Store,
        pools: Arc<Pools>,
        metrics: WriterMetrics,
        decisions: DecisionLog,
    ) -> Result<(Self, Writer, Arc<Published>), LoadError> {
        let engine = Engine::restore(Arc::clone(&pools), store.load().await?)?;
        let published = Arc::new(Published::new(&pools, &engine));
        let (sender, jobs) = mpsc::channel(QUEUE);
        let store_available = watch::Sender::new(true);
        let writer = Writer {
            jobs: sender,
            store_available: store_available.subscribe(),
        };
        let task = Self {
            store,
            pools,
            engine: Some(engine),
            writable: true,
            published: Arc::clone(&published),
            metrics,
            decisions,
            jobs,
            store_available,
        };
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
            tokio::select! {
                () = stop.cancelled(), if !self.jobs.is_closed() => self.jobs.close(),
                received = self.jobs.recv_many(&mut batch, MAX_BATCH) => {
                    if received == 0 {
                        return self.store.close().await;
                    }
                    self.carry_out(&mut batch).await;
                }
                _ = retry.tick(), if !self.writable => self.recover().await,
            }
        }
    }

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
        let mut changes = Vec::new();
        let mut plans = Vec::with_capacity(batch.len());
        for job in batch.iter() {
            let plan = engine.plan(&job.command, now);
            changes.extend(plan.changes.iter().cloned());
            plans.push(plan);
        }
        let revision = engine.revision();
        if !changes.is_empty() {
            let start = Instant::now();
            if let Err(error) = self.store.commit(&changes).await {
                self.fail(&error, batch);
                return;
            }
            self.metrics.committed(plans.len(), start.elapsed());
            self.published.apply(&changes);
        }
        let several_clusters = self.published.read().has_several_clusters();
        for (job, plan) in batch.drain(..).zip(plans) {
            self.metrics.planned(&plan);
            self.decisions
                .decided(&job.command, &plan, several_clusters);
            let Plan { reply, .. } = plan;
            // Whoever gave up in the meantime asks again and gets the same.
            let _ = job.answer.send(Ok(Answer { reply, revision }));
        }
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

    /// The engine has moved on, the database may not have: only reading it again
    /// tells.
    fn fail(&mut self, error: &StoreError, batch: &mut Vec<Job>) {
        tracing::error!(
            error = error as &dyn std::error::Error,
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
        if let Err(error) = self.reload().await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the database is still away"
            );
            return;
        }
        self.writable = true;
        self.store_available.send_replace(true);
        self.published.tell_reloaded();
        tracing::warn!("the database can be written again");
    }

    async fn reload(&mut self) -> Result<(), LoadError> {
        if self.engine.is_none() {
            let snapshot = self.store.load().await?;
            let engine = Engine::restore(Arc::clone(&self.pools), snapshot)?;
            self.published.replace(&self.pools, &engine);
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

fn wall_clock() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
