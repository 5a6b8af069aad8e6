//! Watches the Services of all clusters, as a fourth party that trusts nobody.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use futures::StreamExt;
use integration_tests::eventually::within;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use super::{
    pools::NAMESPACES,
    seen::{Key, Seen},
    sight::{Overlap, Sight},
};

/// A crashed API server is asked again that often: what happened meanwhile is to be
/// seen soon after it is back.
const RETRY: Duration = Duration::from_millis(200);
/// An API server that is away comes back in this time.
const LOOK_AGAIN: Duration = Duration::from_secs(180);

/// What a closer look at an [`Overlap`] has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Each API server shows the address, at the same time.
    Both,
    /// One had gone or was edited, and that came late.
    NotBoth,
}

/// All that was seen.
#[derive(Debug, Default)]
pub struct Testimony {
    pub sight: Sight,
    /// What a closer look at each overlap has shown.
    pub looks: Vec<Look>,
}

pub struct Witness {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Testimony>,
}

impl Witness {
    /// Looks at these clusters from now on.
    pub fn start(clusters: Vec<(&'static str, Client)>, begun: Instant) -> Self {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(watch(clusters, begun, stopped));
        Self { stop, task }
    }

    /// # Errors
    /// When it has panicked.
    pub async fn tell(self) -> Result<Testimony> {
        let _ = self.stop.send(());
        Ok(self.task.await?)
    }
}

type Clients = Vec<(&'static str, Client)>;

async fn watch(clusters: Clients, begun: Instant, mut stopped: oneshot::Receiver<()>) -> Testimony {
    let (events, mut queue) = mpsc::unbounded_channel();
    let mut watches = JoinSet::new();
    for (cluster, client) in clusters.clone() {
        let events = events.clone();
        watches.spawn(async move {
            let services: Api<Service> = Api::all(client);
            let stream = watcher(services, watcher::Config::default()).backoff(Soon);
            let mut stream = Box::pin(stream);
            while let Some(event) = stream.next().await {
                // An error is told again and again while an API server is away.
                if let Ok(event) = event {
                    let _ = events.send((cluster, event));
                }
            }
        });
    }
    let mut sight = Sight::default();
    let mut closer = JoinSet::new();
    let mut looked_at = 0;
    loop {
        let (cluster, event) = tokio::select! {
            Some(event) = queue.recv() => event,
            _ = &mut stopped => break,
            else => break,
        };
        apply(&mut sight, cluster, &event, begun.elapsed());
        for overlap in &sight.overlaps[looked_at..] {
            let look = look_closer(clusters.clone(), overlap.clone());
            let at = looked_at;
            closer.spawn(async move { (at, look.await) });
            looked_at += 1;
        }
    }
    watches.shutdown().await;
    let mut looks = closer.join_all().await;
    looks.sort_unstable_by_key(|(at, _)| *at);
    Testimony {
        looks: looks.into_iter().map(|(_, look)| look).collect(),
        sight,
    }
}

fn apply(sight: &mut Sight, cluster: &str, event: &Event<Service>, now: Duration) {
    let told = |service: &Service| {
        let key = Key::of(cluster, service);
        let ours = NAMESPACES.contains(&key.namespace.as_str());
        ours.then(|| (key, Seen::of(service)))
    };
    match event {
        Event::Init => sight.begin_list(cluster),
        Event::InitApply(service) => {
            if let Some((key, seen)) = told(service) {
                sight.listed(key, seen, now);
            }
        }
        Event::InitDone => sight.end_list(cluster, now),
        Event::Apply(service) => {
            if let Some((key, seen)) = told(service) {
                sight.changed(key, seen, now);
            }
        }
        Event::Delete(service) => sight.deleted(&Key::of(cluster, service), now),
    }
}

/// Watches of two API servers are not in step, so that the one may tell that a
/// Service got an address before the other tells that another one lost it. The first one
/// showing it before and after the second one is asked, both do.
async fn look_closer(clusters: Clients, overlap: Overlap) -> Look {
    for (key, uid) in [&overlap.first, &overlap.second, &overlap.first] {
        let client = clusters.iter().find(|(name, _)| *name == key.cluster);
        let Some((_, client)) = client else {
            return Look::NotBoth;
        };
        let asked = (client.clone(), key.clone(), uid.clone());
        let address = overlap.address;
        let shows = within(LOOK_AGAIN, move || {
            let (client, key, uid) = asked.clone();
            shows(client, key, uid, address)
        });
        if !shows.await.unwrap_or(false) {
            return Look::NotBoth;
        }
    }
    Look::Both
}

async fn shows(client: Client, key: Key, uid: String, address: IpAddr) -> Result<bool> {
    let services: Api<Service> = Api::namespaced(client, &key.namespace);
    let service = timeout(Duration::from_secs(5), services.get_opt(&key.name)).await??;
    let seen = service.as_ref().map(Seen::of);
    Ok(seen.is_some_and(|seen| seen.uid == uid && seen.shown.contains(&address)))
}

struct Soon;

impl Iterator for Soon {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(RETRY)
    }
}

impl Backoff for Soon {
    fn reset(&mut self) {}
}
