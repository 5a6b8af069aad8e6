//! Watches: the log of changes from a version on, in order, late, and cut at any
//! place.

use std::{
    io,
    pin::{Pin, pin},
    time::Duration,
};

use futures::{Stream, stream};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    ApiServer,
    answer::Failure,
    objects::{Change, Kind},
};
use crate::chaos::random_up_to;

struct Position {
    server: ApiServer,
    kind: Kind,
    version: u64,
    end: Instant,
    ended: bool,
}

/// The events of a watch that begins after `version` and ends after `lifetime`.
pub fn watch(
    server: &ApiServer,
    kind: Kind,
    version: u64,
    lifetime: Duration,
) -> Pin<Box<dyn Stream<Item = io::Result<Value>> + Send>> {
    let position = Position {
        server: server.clone(),
        kind,
        version,
        end: Instant::now() + lifetime,
        ended: false,
    };
    Box::pin(stream::unfold(position, |mut position| async move {
        let event = position.next().await?;
        Some((event, position))
    }))
}

impl Position {
    async fn next(&mut self) -> Option<io::Result<Value>> {
        if self.ended {
            return None;
        }
        let server = self.server.clone();
        loop {
            let mut news = pin!(server.news().notified());
            news.as_mut().enable();
            if self.server.is_away() {
                self.ended = true;
                return Some(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if self.version < self.server.objects(|objects| objects.compacted) {
                self.ended = true;
                let status = Failure::gone().status();
                return Some(Ok(json!({"type": "ERROR", "object": status})));
            }
            if let Some(change) = self.change() {
                return self.deliver(change).await;
            }
            if timeout_at(self.end, news).await.is_err() {
                self.ended = true;
                // The API server says where it is before it ends a watch.
                self.version = self.server.objects(|objects| objects.version);
                let bookmark = json!({"type": "BOOKMARK", "object": {
                    "apiVersion": "v1", "kind": self.kind.name(),
                    "metadata": {"name": "", "resourceVersion": self.version.to_string()},
                    "spec": {}, "status": {},
                }});
                return Some(Ok(bookmark));
            }
        }
    }

    fn change(&self) -> Option<Change> {
        self.server.objects(|objects| {
            let log = objects.log.iter();
            let mut changes = log.filter(|change| change.kind == self.kind);
            changes
                .find(|change| change.version > self.version)
                .cloned()
        })
    }

    async fn deliver(&mut self, change: Change) -> Option<io::Result<Value>> {
        let chaos = self.server.chaos();
        sleep(random_up_to(chaos.rates().staleness)).await;
        if chaos.strikes("watch cut", |rates| rates.watch_cut) {
            self.ended = true;
            return Some(Err(io::ErrorKind::ConnectionReset.into()));
        }
        self.version = change.version;
        Some(Ok(
            json!({"type": change.verb, "object": self.kind.told(&change.object)}),
        ))
    }
}
