//! The tasks of a watcher: they need an API server and an allocator, and nothing of
//! the process around them.

use std::{sync::Arc, time::Duration};

use kube::Client;
use lb_process::tasks::{TaskError, Tasks as Running};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    admin::Health,
    allocator::{Allocator, Replica},
    decision_log::DecisionLog,
    informer::{
        namespace_store::NamespaceStore, namespace_watch::NamespaceWatch,
        service_store::ServiceStore, service_watch::ServiceWatch,
    },
    kube::{annotations::Peer, api::ServiceApi, history::History},
    ledger::Ledger,
    metrics::Metrics,
    observed::Observed,
    queue::Queue,
    reconcile::{Reconciler, events, notifier::Notifier, writer::StatusWriter},
    request::scope::ClassRule,
    session::{
        Session,
        cluster_sync::ClusterSync,
        link::{Link, Reported},
        role::RoleKeeper,
    },
};

/// How long what is under way may take once the end was asked for.
const GRACE: Duration = Duration::from_secs(10);
/// How long Events may still be sent after that.
const FAREWELL: Duration = Duration::from_secs(3);

/// What tells one watcher from another.
#[derive(Debug)]
pub struct Setup {
    /// Which Services are ours.
    pub rule: ClassRule,
    /// Whose annotations are read besides our own.
    pub peers: Vec<Peer>,
    /// How many Services are worked on at a time.
    pub concurrency: u16,
    /// The name of this process in Events and, with a number, in its session.
    pub instance: String,
}

/// The tasks while they run. Dropped, they end wherever they are, as if the process
/// were killed.
pub struct Tasks {
    /// What readiness looks at.
    pub health: Arc<Health>,
    /// Who waits to be looked at.
    pub queue: Arc<Queue>,
    /// What is known of each Service.
    pub ledger: Arc<Ledger>,
    /// Whether this process acts.
    pub role: Arc<RoleKeeper>,
    stop: CancellationToken,
    /// Those that work.
    running: Running,
    end_session: CancellationToken,
    /// Those that end after them.
    last: Running,
    /// Keeps open what the last Events come by, whichever of the others ends.
    notifier: Notifier,
}

impl Tasks {
    /// Starts all of them.
    pub fn start(
        setup: Setup,
        client: Client,
        allocator: Allocator,
        metrics: Metrics,
        decisions: DecisionLog,
    ) -> Self {
        let Setup {
            rule,
            peers,
            concurrency,
            instance,
        } = setup;
        let replica = Replica {
            name: format!("{instance}_{:016x}", fastrand::u64(..)),
            serves: rule.serves(),
        };
        let store = Arc::new(ServiceStore::new(rule));
        let namespaces = Arc::new(NamespaceStore::default());
        let ledger = Arc::new(Ledger::default());
        let queue = {
            let store = store.clone();
            Arc::new(Queue::new(move |key| store.turn(key)))
        };
        let health = Arc::new(Health::default());
        let role = Arc::new(RoleKeeper::default());
        queue.stand_by();
        let api = ServiceApi::new(client.clone(), metrics.clone());
        let (events, sender) = events::channel(client.clone(), instance, metrics.clone());
        let (link_sender, link) = watch::channel(Link::Connecting);
        let lists = Arc::new(Observed::default());
        let history = Arc::new(History::default());
        let (namespaces_listed, namespaces_listed_receiver) = watch::channel(false);
        let notifier = Notifier { events, decisions };
        let reconciler = Arc::new(Reconciler {
            store: store.clone(),
            namespaces: namespaces.clone(),
            peers: peers.clone(),
            ledger: ledger.clone(),
            allocator: allocator.clone(),
            link,
            reported: Reported::default(),
            writer: StatusWriter {
                api: api.clone(),
                store: store.clone(),
                ledger: ledger.clone(),
                health: health.clone(),
                notifier: notifier.clone(),
            },
            notifier: notifier.clone(),
        });

        let stop = CancellationToken::new();
        let mut running = Running::default();
        let mut last = Running::default();
        let session = Session {
            cluster: ClusterSync {
                allocator: allocator.clone(),
                store: store.clone(),
                namespaces: namespaces.clone(),
                peers,
                ledger: ledger.clone(),
            },
            allocator: allocator.clone(),
            replica,
            role: role.clone(),
            lists: lists.clone(),
            history: history.clone(),
            link: link_sender,
            ledger: ledger.clone(),
            store: store.clone(),
            queue: queue.clone(),
            health: health.clone(),
            metrics: metrics.clone(),
        };
        let end_session = CancellationToken::new();
        last.spawn("session", until(end_session.clone(), session.run()));
        let beat = {
            let role = role.clone();
            async move { role.beat().await }
        };
        running.spawn("beat", until(stop.clone(), beat));
        let namespace_watch = NamespaceWatch {
            namespaces,
            services: store.clone(),
            queue: queue.clone(),
            listed: namespaces_listed,
            allocator,
            history: history.clone(),
            health: health.clone(),
            metrics: metrics.clone(),
        };
        let namespace_watch = namespace_watch.run(client.clone());
        running.spawn("namespace watch", until(stop.clone(), namespace_watch));
        running.spawn(
            "history watch",
            until(stop.clone(), history.clone().watch(client.clone())),
        );
        let service_watch = ServiceWatch {
            store,
            ledger: ledger.clone(),
            queue: queue.clone(),
            lists,
            history,
            health: health.clone(),
            metrics: metrics.clone(),
        };
        let service_watch = service_watch.run(client, namespaces_listed_receiver);
        running.spawn("service watch", until(stop.clone(), service_watch));
        last.spawn("events", sender.run(queue.busy()));
        for _ in 0..concurrency {
            let (queue, reconciler, metrics) = (queue.clone(), reconciler.clone(), metrics.clone());
            let worker = in_each_term(role.clone(), move || {
                work(queue.clone(), reconciler.clone(), metrics.clone())
            });
            running.spawn("worker", worker);
        }
        Self {
            health,
            queue,
            ledger,
            role,
            stop,
            running,
            end_session,
            last,
            notifier,
        }
    }

    /// The first one that ends: none may before [`Self::stop`].
    pub async fn ended(&mut self) -> TaskError {
        tokio::select! {
            error = self.running.ended() => error,
            error = self.last.ended() => error,
        }
    }

    /// Ends them, after what is under way.
    ///
    /// # Errors
    /// If one of them panics meanwhile.
    pub async fn stop(self) -> Result<(), TaskError> {
        let Self {
            queue,
            role,
            stop,
            mut running,
            end_session,
            mut last,
            notifier,
            ..
        } = self;
        stop.cancel();
        queue.close();
        role.retire();
        let stopped = timeout(GRACE, running.all_ended()).await;
        let stopped = stopped.unwrap_or_else(|_| {
            warn!("gave up on what was still under way; it is taken up at the next start");
            Ok(())
        });
        drop(running);
        // What is told now was done while this replica acted.
        end_session.cancel();
        drop(notifier);
        // The rest is lost after that.
        let farewell = timeout(FAREWELL, last.all_ended()).await;
        stopped.and(farewell.unwrap_or(Ok(())))
    }
}

/// Does the work until it is told to stop.
async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await.unwrap_or_default();
}

async fn in_each_term<F: Future<Output = ()>>(role: Arc<RoleKeeper>, start: impl Fn() -> F) {
    role.each_term(start).await;
}

/// One worker.
async fn work(queue: Arc<Queue>, reconciler: Arc<Reconciler>, metrics: Metrics) {
    while let Some(job) = queue.pop().await {
        let start = Instant::now();
        let next = reconciler.reconcile(&job).await;
        queue.done(&job.key, next);
        metrics.sync(next.outcome(), start.elapsed());
    }
}
