//! The tasks of a watcher: they need an API server and an allocator, and nothing of
//! the process around them.

use std::{pin::Pin, sync::Arc, time::Duration};

use kube::Client;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

use crate::{
    admin::Health,
    allocator::Allocator,
    annotations::Peer,
    announcements::Announcements,
    cluster_sync::ClusterSync,
    decision_log::DecisionLog,
    election::{Election, Place},
    events,
    history::History,
    leadership::Leadership,
    lease::Candidate,
    ledger::Ledger,
    link::{Link, ToldOnce},
    metrics::Metrics,
    namespace_store::NamespaceStore,
    namespace_watch::NamespaceWatch,
    news::News,
    observed::Observed,
    queue::Queue,
    scope::ClassRule,
    service_api::ServiceApi,
    service_store::ServiceStore,
    service_watch::ServiceWatch,
    status_writer::StatusWriter,
    sync::Syncer,
};

/// How long what is under way may take once the end was asked for.
const GRACE: Duration = Duration::from_secs(10);
/// How long Events may still be sent, and the lease released, after that.
const FAREWELL: Duration = Duration::from_secs(3);

/// What tells one watcher from another.
#[derive(Debug)]
pub struct Setup {
    /// Which Services are ours.
    pub rule: ClassRule,
    /// Whose annotations are read besides our own.
    pub peers: Vec<Peer>,
    /// By which Lease replicas agree on who acts; nothing where there are none.
    pub lease: Option<Place>,
    /// How many Services are worked on at a time.
    pub concurrency: u16,
    /// The name of this process in Events.
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
    pub leadership: Arc<Leadership>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    resign: CancellationToken,
    election: AbortOnDropHandle<()>,
    events: AbortOnDropHandle<()>,
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
            lease,
            concurrency,
            instance,
        } = setup;
        let store = Arc::new(ServiceStore::new(rule));
        let namespaces = Arc::new(NamespaceStore::default());
        let ledger = Arc::new(Ledger::default());
        let queue = Arc::new(Queue::default());
        let health = Arc::new(Health::default());
        let leadership = Arc::new(Leadership::default());
        queue.stand_by();
        let api = ServiceApi::new(client.clone(), metrics.clone());
        let identity = format!("{instance}_{:016x}", fastrand::u64(..));
        let (events, sender) = events::channel(client.clone(), instance, metrics.clone());
        let (link_sender, link) = watch::channel(Link::Connecting);
        let lists = Arc::new(Observed::default());
        let history = Arc::new(History::default());
        let (namespaces_listed, namespaces_listed_receiver) = watch::channel(false);
        let news = News { events, decisions };
        let syncer = Arc::new(Syncer {
            store: store.clone(),
            namespaces: namespaces.clone(),
            peers: peers.clone(),
            ledger: ledger.clone(),
            allocator: allocator.clone(),
            link,
            told_once: ToldOnce::default(),
            writer: StatusWriter {
                api: api.clone(),
                store: store.clone(),
                ledger: ledger.clone(),
                health: health.clone(),
                news: news.clone(),
            },
            news,
        });

        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut spawn = |task: Pin<Box<dyn Future<Output = ()> + Send>>| {
            let task = stop.clone().run_until_cancelled_owned(task);
            tasks.spawn(async { task.await.unwrap_or_default() });
        };
        let announcements = Announcements {
            cluster: ClusterSync {
                allocator: allocator.clone(),
                store: store.clone(),
                namespaces: namespaces.clone(),
                peers,
                ledger: ledger.clone(),
            },
            allocator: allocator.clone(),
            lists: lists.clone(),
            link: link_sender,
            ledger: ledger.clone(),
            store: store.clone(),
            queue: queue.clone(),
            health: health.clone(),
            metrics: metrics.clone(),
        };
        spawn(Box::pin(in_each_term(leadership.clone(), move || {
            announcements.clone().run()
        })));
        let election = Election {
            leadership: leadership.clone(),
            store: store.clone(),
            ledger: ledger.clone(),
            queue: queue.clone(),
            health: health.clone(),
        };
        let resign = CancellationToken::new();
        let election = match lease {
            Some(place) => {
                let Place { namespace, name } = &place;
                info!(namespace, name, identity, "standing for election");
                let candidate = Candidate::new(
                    client.clone(),
                    metrics.clone(),
                    namespace,
                    name.clone(),
                    identity,
                );
                tokio::spawn(election.run(candidate, place, lists.clone(), resign.clone()))
            }
            None => {
                election.unopposed();
                tokio::spawn(async {})
            }
        };
        spawn(Box::pin(
            NamespaceWatch {
                namespaces,
                services: store.clone(),
                ledger: ledger.clone(),
                queue: queue.clone(),
                listed: namespaces_listed,
                allocator,
                history: history.clone(),
                health: health.clone(),
                metrics: metrics.clone(),
            }
            .run(client.clone()),
        ));
        spawn(Box::pin(history.clone().watch(client.clone())));
        spawn(Box::pin(
            ServiceWatch {
                store,
                ledger: ledger.clone(),
                queue: queue.clone(),
                lists,
                history,
                health: health.clone(),
                metrics: metrics.clone(),
            }
            .run(client, namespaces_listed_receiver),
        ));
        let events = tokio::spawn(sender.run(queue.busy()));
        for _ in 0..concurrency {
            let (queue, syncer, metrics) = (queue.clone(), syncer.clone(), metrics.clone());
            tasks.spawn(in_each_term(leadership.clone(), move || {
                work(queue.clone(), syncer.clone(), metrics.clone())
            }));
        }
        Self {
            health,
            queue,
            ledger,
            leadership,
            stop,
            tasks,
            resign,
            election: AbortOnDropHandle::new(election),
            events: AbortOnDropHandle::new(events),
        }
    }

    /// Ends them, after what is under way.
    pub async fn stop(self) {
        let Self {
            queue,
            leadership,
            stop,
            mut tasks,
            resign,
            election,
            events,
            ..
        } = self;
        stop.cancel();
        queue.close();
        leadership.retire();
        let all = async { while tasks.join_next().await.is_some() {} };
        if timeout(GRACE, all).await.is_err() {
            warn!("gave up on what was still under way; it is taken up at the next start");
        }
        // What is told now was done while this replica led.
        resign.cancel();
        let farewell = async { tokio::join!(election, events) };
        let _rest_is_lost = timeout(FAREWELL, farewell).await;
    }
}

async fn in_each_term<F: Future<Output = ()>>(leadership: Arc<Leadership>, start: impl Fn() -> F) {
    leadership.each_term(start).await;
}

/// One worker.
async fn work(queue: Arc<Queue>, syncer: Arc<Syncer>, metrics: Metrics) {
    while let Some(job) = queue.pop().await {
        let start = Instant::now();
        let next = syncer.sync(&job).await;
        queue.done(&job.key, next);
        metrics.sync(next.outcome(), start.elapsed());
    }
}
