//! What the writer does besides its work: it looks at the clock and at the files of the
//! database, notes the time for the next start, and removes old history.

use std::time::Duration;

use tokio::time::Instant;

use super::{Storage, WriterTask};
use crate::engine::Revision;

/// How often the clock and the files are looked at.
pub(super) const WATCH: Duration = Duration::from_secs(1);
/// How often the time is noted.
const NOTE: Duration = Duration::from_secs(5 * 60);
/// When history is looked at after a start, at which there is other work.
const FIRST_ROUND: Duration = Duration::from_secs(10 * 60);
/// How long after a look at all of history the next one begins.
const ROUND: Duration = Duration::from_secs(60 * 60);
/// Between two steps, so that requests have the writer most of the time.
const STEP: Duration = Duration::from_millis(50);

/// When what is next.
#[derive(Debug)]
pub(super) struct Upkeep {
    note: Instant,
    pub prune: Instant,
    /// How far the look at history has come.
    pruned_to: Revision,
}

impl Upkeep {
    pub fn new() -> Self {
        Self {
            note: Instant::now() + NOTE,
            prune: Instant::now() + FIRST_ROUND,
            pruned_to: Revision::default(),
        }
    }
}

impl<S: Storage> WriterTask<S> {
    /// To be called every [`WATCH`].
    pub(super) async fn look_around(&mut self) {
        self.clock.watch();
        if self.engine.is_none() {
            return;
        }
        if let Err(error) = self.store.check() {
            self.fail(&error, &mut Vec::new());
            return;
        }
        if self.upkeep.note <= Instant::now() {
            self.upkeep.note = Instant::now() + NOTE;
            self.note_time().await;
        }
    }

    pub(super) async fn note_time(&mut self) {
        if let Err(error) = self.store.note_time(self.clock.now()).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot note the time for the next start"
            );
        }
    }

    /// One step.
    pub(super) async fn prune(&mut self) {
        let retention = self.configuration.pools.settings().history;
        let after = self.upkeep.pruned_to;
        let step = self.store.prune(after, self.clock.now(), &retention).await;
        let next = match step {
            Ok(pruned) => {
                self.metrics.pruned(pruned.rows);
                pruned.next
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot remove old history; trying again later"
                );
                None
            }
        };
        let pause = if next.is_some() { STEP } else { ROUND };
        self.upkeep.prune = Instant::now() + pause;
        self.upkeep.pruned_to = next.unwrap_or_default();
    }
}
