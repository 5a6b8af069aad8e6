//! The session with the allocator: the Watch stream, on which it says whether this replica
//! acts for its cluster, and that something changed. One task holds it open, and tells
//! the allocator what this cluster has before anybody asks it for anything.
//!
//! A replica that acts and loses its session goes on [`Alone`](Role::Alone) until it has
//! one again; one that stood by does so only after a while.

pub mod cluster_sync;
pub mod link;
pub mod role;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use kube::ResourceExt;
use lb_proto::v1::{ServiceKey, WatchResponse, watch_response::Event};
use tokio::{sync::watch, time::Instant};
use tonic::Streaming;
use tracing::{error, info, warn};

use self::{
    link::{LONG_AWAY, Link},
    role::{Role, RoleKeeper},
};
use crate::{
    admin::Health,
    allocator::{Allocator, Connections, Replica},
    denial::{Denial, Retry},
    informer::service_store::ServiceStore,
    kube::{history::History, key::Key},
    ledger::Ledger,
    metrics::Metrics,
    observed::Observed,
    queue::Queue,
    session::cluster_sync::{ClusterSync, EVERY},
};

const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(2))
    .without_max_times();
/// A new stream says `Started` at once.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How often an allocator is tried that refuses to serve this watcher.
const REFUSED_RETRY: Duration = Duration::from_secs(10);
/// How long another replica has to begin when this one gave its role up.
const GIVEN_UP: Duration = Duration::from_millis(500);
/// How often in a row the API server may leave a question unanswered before the acting
/// replica gives its role up; twice as often each time that nobody else took it.
const PATIENCE: u32 = 2;
const MOST_PATIENCE: u32 = 32;

/// How a Watch stream ends that its reader was too slow for. Nothing is wrong with the
/// allocator: there is another stream at once.
const SLOW_CONSUMER: &str = "SLOW_CONSUMER";

/// A Sync that is under way.
type Telling = Pin<Box<dyn Future<Output = Result<Vec<Key>, Denial>> + Send>>;

/// A stream that has begun, and what the allocator was told beside it.
struct Open {
    stream: Streaming<WatchResponse>,
    /// The uid of the cluster that it was opened for.
    cluster_uid: String,
    /// Whether this replica acts.
    acting: bool,
    /// How many complete lists there were when the allocator was told what there is.
    told_lists: u64,
    telling: Option<Telling>,
    /// Something happened that has to be told, after what is being told now.
    owes: bool,
    /// The allocator may be another one by now: who waits asks again when it was told.
    lagged: bool,
    /// A Sync was accepted.
    accepted: bool,
}

/// Why a session is over.
enum End {
    /// The allocator ended it, or does not answer.
    Lost(Denial),
    /// This process did not run for a while.
    Stopped,
    /// The API server does not answer: a replica that reaches it should act.
    Blind,
}

/// The task's parts.
pub struct Session {
    /// Where the stream comes from.
    pub allocator: Allocator,
    /// By what name the allocator knows this process.
    pub replica: Replica,
    /// Who may work.
    pub role: Arc<RoleKeeper>,
    /// What the allocator is told.
    pub cluster: ClusterSync,
    /// Counts the complete lists of Services.
    pub lists: Arc<Observed<u64>>,
    /// Knows whether the API server answers.
    pub history: Arc<History>,
    /// Where the state of the stream is shown.
    pub link: watch::Sender<Link>,
    /// What waits for what.
    pub ledger: Arc<Ledger>,
    /// The Services there are.
    pub store: Arc<ServiceStore>,
    /// Where Services go that are to be looked at.
    pub queue: Arc<Queue>,
    /// What readiness looks at.
    pub health: Arc<Health>,
    /// Counts.
    pub metrics: Metrics,
}

/// What is remembered from one stream to the next.
struct Past {
    /// This replica was the last that acted, as far as it was told.
    acted: bool,
    /// All that was asked for has to be asked for again.
    all_ask: bool,
    /// What there is was listed for the session that begins.
    is_listed: bool,
    /// Since when there is no session.
    away: Option<Instant>,
    patience: u32,
    backoff: ExponentialBackoff,
}

impl Session {
    /// Holds a session, for ever.
    pub async fn run(self) {
        // Who does not know what there is cannot act.
        self.lists.wait_for(|lists| *lists > 0).await;
        let mut past = Past {
            acted: false,
            all_ask: false,
            is_listed: true,
            away: None,
            patience: PATIENCE,
            backoff: BACKOFF.build(),
        };
        loop {
            // Before the stream is opened, so that no change is missed.
            let connections = self.allocator.connections();
            let stops = self.role.stops();
            let (end, accepted) = match self.open().await {
                Ok(open) => self.follow(&mut past, open, connections, stops).await,
                Err(denial) => (End::Lost(denial), false),
            };
            let delay = self.ended(&mut past, end, accepted).await;
            tokio::time::sleep(delay).await;
        }
    }

    /// Says after what time to open another stream.
    async fn ended(&self, past: &mut Past, end: End, accepted: bool) -> Duration {
        if accepted {
            past.backoff = BACKOFF.build();
        }
        let denial = match end {
            End::Lost(denial) if accepted && denial.reason == SLOW_CONSUMER => {
                // What was not read is learned by asking; what is held is held.
                self.metrics.stream_error("allocator");
                info!("opening another stream: {}", denial.message);
                return past.pause();
            }
            End::Lost(denial) => denial,
            End::Stopped => {
                warn!("this process was stopped for a while: another replica may act by now");
                self.begin_anew(past);
                return Duration::ZERO;
            }
            End::Blind => {
                warn!("the API server does not answer: a replica that reaches it should act");
                past.patience = MOST_PATIENCE.min(past.patience * 2);
                self.role.set(Role::Standby);
                self.begin_anew(past);
                return GIVEN_UP;
            }
        };
        if accepted {
            past.all_ask = true;
        }
        let is_first = past.away.is_none();
        let since = *past.away.get_or_insert_with(Instant::now);
        self.lost(&denial, since);
        let refused = matches!(*self.link.borrow(), Link::Refused(_));
        if past.acted || refused || since.elapsed() >= LONG_AWAY {
            self.works(past, Role::Alone).await;
        }
        // Who acted and never was heard has nobody queued.
        if is_first && past.acted && !accepted {
            self.queue.push_all(self.all());
        }
        if refused {
            past.all_ask = true;
            return REFUSED_RETRY;
        }
        past.pause()
    }

    /// What the allocator said before has to be confirmed.
    fn begin_anew(&self, past: &mut Past) {
        past.all_ask = true;
        self.link.send_replace(Link::Connecting);
    }

    /// A stream that has said `Started`.
    async fn open(&self) -> Result<Open, Denial> {
        let cluster_uid = self.allocator.cluster_uid();
        let mut stream = self.allocator.watch(&self.replica).await?;
        let first = tokio::time::timeout(START_DEADLINE, stream.message());
        let first = first
            .await
            .map_err(|_| broken("its stream does not start"))?;
        let first = first.map_err(|status| Denial::from(&status))?;
        let Some(WatchResponse {
            event: Some(Event::Started(started)),
            revision,
        }) = first
        else {
            return Err(broken("its stream did not start as it should"));
        };
        self.allocator.saw(revision);
        self.allocator.marked(revision, started.mark);
        Ok(Open {
            stream,
            cluster_uid,
            acting: started.acting,
            told_lists: self.lists.get(),
            telling: None,
            owes: false,
            lagged: false,
            accepted: false,
        })
    }

    /// Does what the stream tells, until it ends. When there is another connection, it
    /// moves there: first the new stream, then the end of the old one.
    async fn follow(
        &self,
        past: &mut Past,
        mut open: Open,
        mut connections: Connections,
        stops: u64,
    ) -> (End, bool) {
        if open.acting {
            self.acts(past, &mut open).await;
        } else {
            self.stands_by(past, &mut open);
        }
        let mut again = tokio::time::interval_at(Instant::now() + EVERY, EVERY);
        loop {
            open.tell(&self.cluster);
            let Open {
                stream,
                cluster_uid,
                telling,
                told_lists,
                acting,
                ..
            } = &mut open;
            // What is rare comes first, so that a stream that never rests hides nothing.
            let end = tokio::select! {
                biased;
                () = self.role.stopped(stops) => Some(End::Stopped),
                () = connections.changed() => {
                    self.move_on(past, &mut open).await;
                    None
                }
                told = under_way(telling) => match told {
                    Ok(told) => {
                        self.accepted(past, &mut open, told);
                        None
                    }
                    Err(denial) => Some(End::Lost(denial)),
                },
                _ = again.tick(), if *acting => {
                    open.owes = true;
                    None
                }
                lists = self.lists.wait_for(|lists| *lists > *told_lists), if *acting => {
                    *told_lists = lists;
                    open.owes = true;
                    None
                }
                () = self.history.silent(past.patience), if *acting => Some(End::Blind),
                () = self.allocator.is_another_than(cluster_uid) => Some(End::Lost(broken(
                    "the namespace kube-system has another uid now, which it has to know",
                ))),
                message = stream.message() => match message {
                    Ok(Some(message)) => {
                        self.on_message(past, &mut open, message).await;
                        None
                    }
                    Ok(None) => Some(End::Lost(broken("its stream ended"))),
                    Err(status) => Some(End::Lost(Denial::from(&status))),
                },
            };
            if let Some(end) = end {
                return (end, open.accepted);
            }
        }
    }

    /// Opens a stream of the new connection.
    async fn move_on(&self, past: &mut Past, open: &mut Open) {
        match self.open().await {
            Ok(moved) => {
                let acting = open.acting;
                open.stream = moved.stream;
                if !moved.acting {
                    self.stands_by(past, open);
                } else if acting {
                    // What the old one told last may have gone unread, and this may be
                    // the connection to another allocator.
                    open.owes = true;
                    open.lagged = true;
                    self.link.send_replace(Link::Connecting);
                } else {
                    self.acts(past, open).await;
                }
            }
            Err(denial) => warn!(
                reason = %denial.reason,
                "cannot move to another connection yet: {}", denial.message
            ),
        }
    }

    async fn on_message(&self, past: &mut Past, open: &mut Open, message: WatchResponse) {
        let WatchResponse { event, revision } = message;
        self.allocator.saw(revision);
        match event {
            Some(Event::Progress(progress)) => self.allocator.marked(revision, progress.mark),
            Some(Event::Acting(_)) if !open.acting => self.acts(past, open).await,
            Some(Event::Lagged(_)) if open.acting => {
                open.owes = true;
                open.lagged = true;
            }
            event if open.acting => self.on_event(event),
            // Who begins to act looks at all Services.
            _ => {}
        }
    }

    /// This replica acts from now on, and first of all tells what there is.
    async fn acts(&self, past: &mut Past, open: &mut Open) {
        self.link.send_replace(Link::Connecting);
        let begins = self.works(past, Role::Acting).await;
        past.all_ask |= begins;
        if self.history.answers() {
            past.patience = PATIENCE;
        }
        open.acting = true;
        open.accepted = false;
        open.told_lists = self.lists.get();
        let is_listed = std::mem::take(&mut past.is_listed);
        open.owes = is_listed || !begins;
        if !open.owes {
            // A watch may be late, and the status of a Service may show by now what the replica
            // before this one wrote. Only a list tells that, and the Sync follows it.
            self.history.list_anew();
        }
        info!(replica = self.replica.name, "this replica acts");
    }

    /// Another replica acts.
    fn stands_by(&self, past: &mut Past, open: &mut Open) {
        self.role.set(Role::Standby);
        self.queue.stand_by();
        if past.acted {
            warn!("standing by: another replica has taken over");
        } else {
            info!(
                replica = self.replica.name,
                "standing by: another replica acts"
            );
        }
        open.acting = false;
        open.telling = None;
        open.owes = false;
        // What it does with what this one knows is not told.
        self.ledger.begin_term(|_, _| false);
        past.acted = false;
        past.all_ask = false;
        past.is_listed = false;
        self.answers(past);
    }

    /// Has the role from now on. Says whether what was known before counts no more: then
    /// all Services have to be looked at.
    async fn works(&self, past: &mut Past, role: Role) -> bool {
        let goes_on = match self.role.get() {
            Role::Standby => false,
            Role::Acting => true,
            Role::Alone => past.acted || role == Role::Alone,
        };
        if !goes_on {
            self.role.set(Role::Standby);
            self.role.settled().await;
            self.queue.stand_by();
            if !past.acted {
                self.ledger.begin_term(|key, uid| {
                    let there = self.store.get(key);
                    there.is_none_or(|service| service.uid().as_deref() != Some(uid))
                });
            }
            self.queue.open(|| match role {
                // They are queued once the allocator was told what there is.
                Role::Acting | Role::Standby => Vec::new(),
                Role::Alone => self.all(),
            });
        }
        past.acted |= role == Role::Acting;
        self.role.set(role);
        !goes_on
    }

    /// The allocator knows what this cluster has.
    fn accepted(&self, past: &mut Past, open: &mut Open, differ: Vec<Key>) {
        self.push(differ);
        if !open.accepted {
            info!("lb-allocator is there");
            open.accepted = true;
            self.started(past);
        }
        // What is owed now was not told with this.
        if open.lagged && !open.owes {
            open.lagged = false;
            self.link.send_replace(Link::Up);
            self.push(self.ledger.waiting());
        }
    }

    /// What happened before is not told, so all that wait ask again. After a loss
    /// everybody does: the allocator may be another one by now.
    fn started(&self, past: &mut Past) {
        let keys = if std::mem::take(&mut past.all_ask) {
            self.all()
        } else {
            self.ledger.waiting()
        };
        // Those that were told to wait for this may ask from now on.
        self.link.send_replace(Link::Up);
        self.push(keys);
        self.answers(past);
    }

    /// The allocator serves this watcher.
    fn answers(&self, past: &mut Past) {
        past.away = None;
        past.backoff = BACKOFF.build();
        self.health.allocator_answered();
        self.refused(None);
        self.metrics.allocator_up(true);
    }

    fn lost(&self, denial: &Denial, since: Instant) {
        self.metrics.allocator_up(false);
        self.metrics.stream_error("allocator");
        let before = self.link.borrow().clone();
        let link = Link::lost(denial, since);
        let Denial {
            reason, message, ..
        } = denial;
        match &link {
            Link::Refused(_) => {
                if !link.refuses_as(&before) {
                    error!(%reason, "lb-allocator does not serve this watcher: {message}");
                }
                self.refused(Some(denial));
            }
            Link::Down { .. } | Link::Connecting | Link::Up => {
                if matches!(before, Link::Up | Link::Connecting) {
                    warn!(%reason, "lb-allocator is away: {message}");
                }
            }
        }
        self.link.send_replace(link);
    }

    /// Whether the allocator refuses to serve this watcher.
    fn refused(&self, denial: Option<&Denial>) {
        self.metrics.refused(denial.is_some());
        let of_cluster = denial.filter(|denial| denial.retry == Retry::Seldom);
        if denial.is_some() && of_cluster.is_none() {
            self.health.allocator_answered();
        }
        let why = of_cluster.map(|denial| denial.message.clone());
        self.health.cluster_refused(why);
    }

    /// Every Service that there is, and those that went and may hold something.
    fn all(&self) -> Vec<Key> {
        let services = self.store.all();
        let there = services.iter().map(|service| Key::of(service));
        there.chain(self.ledger.keys()).collect()
    }

    fn on_event(&self, event: Option<Event>) {
        let keys = match event {
            Some(Event::Freed(freed)) => keys_of(freed.services),
            Some(Event::AskAgain(ask_again)) => keys_of(ask_again.services),
            // What a newer allocator tells may be worth asking for too.
            Some(
                Event::PoolsChanged(_)
                | Event::Lagged(_)
                | Event::Started(_)
                | Event::Progress(_)
                | Event::Acting(_),
            )
            | None => return self.push(self.ledger.waiting()),
        };
        self.queue.push_all(keys);
    }

    fn push(&self, keys: Vec<Key>) {
        let concerns = |key: &Key| self.store.get(key).is_some() || self.ledger.knows(key);
        let concern = keys.into_iter().filter(concerns);
        self.queue.push_all_and_those_worked_on(concern);
    }
}

impl Past {
    fn pause(&mut self) -> Duration {
        self.backoff.next().unwrap_or(REFUSED_RETRY)
    }
}

impl Open {
    /// Begins to tell what is owed, unless something is being told.
    fn tell(&mut self, cluster: &ClusterSync) {
        if self.owes && self.telling.is_none() {
            self.owes = false;
            let cluster = cluster.clone();
            self.telling = Some(Box::pin(async move { cluster.tell().await }));
        }
    }
}

/// Ends with the Sync that is under way, if there is one.
async fn under_way(telling: &mut Option<Telling>) -> Result<Vec<Key>, Denial> {
    let Some(sync) = telling else {
        return std::future::pending().await;
    };
    let told = sync.await;
    *telling = None;
    told
}

fn keys_of(services: Vec<ServiceKey>) -> Vec<Key> {
    services.into_iter().map(Key::from).collect()
}

fn broken(what: &str) -> Denial {
    Denial::no_answer(what)
}
