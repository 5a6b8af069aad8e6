//! Notices that the API server went back to an earlier state: etcd was restored from a
//! backup. A watch goes on from the version that it has reached, which the API server
//! is far from by then, so that nothing is told any more. Versions only grow while
//! nothing is restored; one that is lower than any seen before means that all has to be
//! listed anew.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use kube::{Api, Client, Error, api::ListParams};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::{
    kube::{api::chain, service::Service},
    observed::Observed,
};

/// How often the API server is asked for its version.
const EVERY: Duration = Duration::from_secs(4);
const DEADLINE: Duration = Duration::from_secs(3);
/// The same, after it left a question unanswered.
const SILENT: Duration = Duration::from_secs(1);

/// The version that the API server has reached, and how often it went back.
#[derive(Debug, Default)]
pub struct History {
    newest: AtomicU64,
    breaks: Observed<u64>,
    /// How many questions in a row the API server has left unanswered.
    silent: Observed<u32>,
}

impl History {
    /// The API server told a version.
    pub fn saw(&self, version: Option<String>) {
        if let Some(version) = version.and_then(|version| version.parse().ok()) {
            self.newest.fetch_max(version, Ordering::AcqRel);
        }
    }

    /// What `open` makes, which it makes anew after each break.
    pub fn follow<S: Stream + Unpin>(
        self: &Arc<Self>,
        open: impl FnMut() -> S,
    ) -> impl Stream<Item = S::Item> + Unpin {
        let before = self.breaks.get();
        let state = (self.clone(), None, open, before);
        Box::pin(stream::unfold(
            state,
            |(history, stream, mut open, mut breaks)| async move {
                let mut stream = stream.unwrap_or_else(&mut open);
                loop {
                    tokio::select! {
                        biased;
                        now = history.breaks.wait_for(|now| *now != breaks) => {
                            breaks = now;
                            stream = open();
                        }
                        item = stream.next() => {
                            return Some((item?, (history, Some(stream), open, breaks)));
                        }
                    }
                }
            },
        ))
    }

    /// All is listed anew: nobody knows how far behind the watches are.
    pub fn list_anew(&self) {
        self.breaks.update(|breaks| *breaks += 1);
    }

    /// Whether the API server answered the last time.
    pub fn answers(&self) -> bool {
        self.silent.get() == 0
    }

    /// Ends once the API server has left so many questions in a row unanswered.
    pub async fn silent(&self, times: u32) {
        self.silent.wait_for(|silent| *silent >= times).await;
    }

    /// Looks for ever.
    pub async fn watch(self: Arc<Self>, client: Client) {
        let services = Api::<Service>::all(client);
        loop {
            // Before the API server is asked: what it tells meanwhile may be newer.
            let before = self.newest.load(Ordering::Acquire);
            // The most recent version, not one of a cache.
            let params = ListParams::default().limit(1);
            let answer = timeout(DEADLINE, services.list(&params)).await;
            let answers = match answer {
                Ok(Ok(list)) => {
                    let version = list.metadata.resource_version;
                    self.judge(before, version.and_then(|version| version.parse().ok()));
                    true
                }
                // The watches tell of it.
                Ok(Err(error)) => {
                    debug!("the version is not known: {}", chain(&error));
                    matches!(error, Error::Api(_))
                }
                Err(_) => {
                    debug!("the version is not known: no answer in time");
                    false
                }
            };
            if answers {
                self.silent.update(|silent| *silent = 0);
            } else {
                self.silent
                    .update(|silent| *silent = silent.saturating_add(1));
            }
            tokio::time::sleep(if answers { EVERY } else { SILENT }).await;
        }
    }

    /// Versions that are no numbers cannot be compared.
    fn judge(&self, before: u64, now: Option<u64>) {
        let Some(now) = now else { return };
        if now >= before {
            self.newest.fetch_max(now, Ordering::AcqRel);
            return;
        }
        warn!(
            before,
            now,
            "the API server went back to an earlier version: it was restored from a backup; \
             listing everything anew"
        );
        self.newest.store(now, Ordering::Release);
        self.list_anew();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lower_version_than_before_begins_every_stream_anew_and_once() {
        let history = Arc::new(History::default());
        let mut opened = 0;
        let mut events = history.follow(|| {
            opened += 1;
            let first = stream::iter([opened]);
            first.chain(stream::pending()).boxed()
        });
        assert_eq!(events.next().await, Some(1));
        history.judge(0, Some(429));
        history.saw(Some("500".into()));
        history.judge(429, Some(480));
        history.judge(480, None);
        assert_eq!(history.breaks.get(), 0, "an event came while it was asked");
        history.judge(500, Some(238));
        assert_eq!(events.next().await, Some(2));
        history.judge(238, Some(239));
        history.saw(Some("no number".into()));
        assert_eq!(history.breaks.get(), 1);
    }
}
