//! Events for people, sent behind the addresses: from a bounded queue of their
//! own, one at a time, while no Service waits for a worker or is with one. Where the
//! workers never rest, one a second is sent all the same. One that cannot be sent is
//! lost; that is counted, and harms nobody.
//!
//! They are created as they are and not through kube's `Recorder`: that folds
//! events of one reason into a series that keeps the note of the first, but here
//! the note is the news; and it looks through its cache for each event.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, Error, Resource, api::PostParams};
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use crate::{
    excerpt::{self, EVENT_INSTANCE, EVENT_NOTE},
    kube::{key::Key, service::Service},
    metrics::{ApiCall, Metrics},
    request::join,
    status::{MANAGER, Transition},
};

/// How many wait at most.
const CAPACITY: usize = 16_384;
/// How long one waits at most for a lull.
const PATIENCE: Duration = Duration::from_secs(1);
/// The workers rest when they have had nothing to do for so long: between two
/// Services of many they have nothing to do for a moment.
const LULL: Duration = Duration::from_millis(10);
const DEADLINE: Duration = Duration::from_secs(10);

/// Takes Events, and never waits.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Event>,
    metrics: Metrics,
}

/// Sends them.
pub struct Sender {
    queue: mpsc::Receiver<Event>,
    client: Client,
    metrics: Metrics,
    instance: String,
}

/// Both ends. `instance` names this process.
pub fn channel(client: Client, instance: String, metrics: Metrics) -> (Events, Sender) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    let instance = excerpt::cut(instance, EVENT_INSTANCE);
    let events = Events {
        queue: sender,
        metrics: metrics.clone(),
    };
    let sender = Sender {
        queue: receiver,
        client,
        metrics,
        instance,
    };
    (events, sender)
}

impl Events {
    /// Something happened to a Service.
    pub fn transition(&self, service: &Service, transition: &Transition) {
        let (kind, reason) = match transition {
            Transition::Assigned(_) => ("Normal", "AddressAssigned"),
            Transition::Changed { .. } => ("Normal", "AddressChanged"),
            Transition::Released(_) => ("Normal", "AddressReleased"),
            Transition::Failed { .. } => ("Warning", "AllocationFailed"),
        };
        let regarding = service.object_ref(&());
        self.put(event(regarding, kind, reason, transition.note()));
    }

    /// A Service, which may be gone, gave its addresses back.
    pub fn released(&self, key: &Key, uid: &str, addresses: &[std::net::IpAddr]) {
        let regarding = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let note = format!("released {}", join(addresses));
        self.put(event(regarding, "Normal", "AddressReleased", note));
    }

    fn put(&self, event: Event) {
        if self.queue.try_send(event).is_err() {
            self.metrics.event_dropped();
        }
    }
}

impl Sender {
    /// Sends until nobody can put anything any more and all is sent.
    pub async fn run(mut self, mut busy: watch::Receiver<bool>) {
        busy.mark_changed();
        while let Some(mut event) = self.queue.recv().await {
            let _ = tokio::time::timeout(PATIENCE, lull(&mut busy)).await;
            event.reporting_instance = Some(self.instance.clone());
            self.send(event).await;
        }
    }

    async fn send(&self, event: Event) {
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let params = PostParams::default();
        let start = Instant::now();
        let create = tokio::time::timeout(DEADLINE, api.create(&params, &event));
        let code = match create.await {
            Ok(Ok(_)) => 201,
            // A namespace that is being deleted takes no Events.
            Ok(Err(Error::Api(status))) if status.code == 403 || status.code == 404 => {
                debug!(namespace, error = %status, "an Event was not taken");
                status.code
            }
            Ok(Err(Error::Api(status))) => {
                warn!(namespace, error = %status, "an Event was not taken");
                status.code
            }
            Ok(Err(error)) => {
                warn!(namespace, %error, "an Event could not be sent");
                0
            }
            Err(_) => {
                warn!(namespace, "an Event could not be sent in time");
                0
            }
        };
        let kind = "create_event";
        self.metrics
            .api_call(ApiCall { kind, code }, start.elapsed());
        if code != 201 {
            self.metrics.event_dropped();
        }
    }
}

/// Ends once the workers rest; at once, if they still do.
async fn lull(busy: &mut watch::Receiver<bool>) {
    let mut rests = busy.has_changed().is_ok_and(|changed| !changed) && !*busy.borrow();
    while !rests {
        if busy.wait_for(|busy| !busy).await.is_err() {
            return;
        }
        let works = tokio::time::timeout(LULL, busy.wait_for(|busy| *busy)).await;
        rests = match works {
            Ok(Ok(_)) => false,
            // The workers have ended.
            Ok(Err(_)) | Err(_) => true,
        };
    }
}

fn event(regarding: ObjectReference, kind: &str, reason: &str, note: String) -> Event {
    let now = Timestamp::now();
    let name = regarding.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: regarding.namespace.clone(),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some(kind.into()),
        reason: Some(reason.into()),
        action: Some("AllocateAddress".into()),
        note: Some(excerpt::cut(note, EVENT_NOTE)),
        reporting_controller: Some(MANAGER.into()),
        regarding: Some(regarding),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn waited(lull: impl Future<Output = ()>) -> u128 {
        let start = tokio::time::Instant::now();
        lull.await;
        start.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn events_wait_until_no_status_is_written_and_none_was_for_a_moment() {
        let (sender, mut busy) = watch::channel(true);
        busy.mark_changed();
        let workers = tokio::spawn(async move {
            // Five Services with gaps of 5 ms between them, then a rest, then one more.
            for _ in 0..5 {
                sender.send_replace(true);
                tokio::time::sleep(Duration::from_millis(100)).await;
                sender.send_replace(false);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            sender.send_replace(true);
            tokio::time::sleep(Duration::from_millis(30)).await;
            sender.send_replace(false);
            sender
        });
        assert_eq!(waited(lull(&mut busy)).await, 4 * 105 + 100 + 10);
        // As long as the workers rest, nothing is waited for.
        assert_eq!(waited(lull(&mut busy)).await, 0);
        assert_eq!(waited(lull(&mut busy)).await, 0);
        let sender = workers.await.unwrap();
        assert_eq!(waited(lull(&mut busy)).await, 10);
        sender.send_replace(true);
        let never = tokio::time::timeout(Duration::from_secs(60), lull(&mut busy));
        assert!(never.await.is_err());
        drop(sender);
        assert_eq!(waited(lull(&mut busy)).await, 0);
    }

    #[tokio::test]
    async fn events_that_find_no_room_are_dropped_and_counted() {
        let (metrics, registry) = Metrics::new();
        let (queue, _kept) = mpsc::channel(2);
        let events = Events { queue, metrics };
        let key = Key {
            namespace: "ns".into(),
            name: "svc".into(),
        };
        for _ in 0..5 {
            events.released(&key, "u", &[]);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("lb_watcher_events_dropped_total 3"), "{text}");
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let event = event(
            ObjectReference::default(),
            "Normal",
            "R",
            "ä".repeat(600) + "x",
        );
        let note = event.note.unwrap();
        assert!(note.len() <= EVENT_NOTE && note.ends_with("ä…"), "{note}");
    }
}
