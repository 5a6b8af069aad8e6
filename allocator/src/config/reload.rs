//! Live reload: a pools file that changed is put in force, one that is bad is not.

use std::time::Duration;

use tokio::{
    signal::unix::Signal,
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{ConfigError, Source};
use crate::{metrics::ConfigMetrics, writer::Writer};

/// How often the file is read. Reading it, rather than being told of changes,
/// works on every file system, and through the symlinks of a ConfigMap.
const POLL: Duration = Duration::from_secs(1);

/// Watches a pools file.
pub struct Reload {
    source: Source,
    /// The text that was looked at last; `None` if it could not be read.
    seen: Option<String>,
    writer: Writer,
    metrics: ConfigMetrics,
    problem: watch::Sender<Option<String>>,
}

impl Reload {
    /// `seen` is the text that is in force.
    pub fn new(
        source: Source,
        seen: Option<String>,
        writer: Writer,
        metrics: ConfigMetrics,
    ) -> (Self, watch::Receiver<Option<String>>) {
        let problem = watch::Sender::new(None);
        let problems = problem.subscribe();
        let reload = Self {
            source,
            seen,
            writer,
            metrics,
            problem,
        };
        (reload, problems)
    }

    /// Looks at the file every second, and at once on SIGHUP.
    pub async fn watch(mut self, mut hangup: Signal) {
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = poll.tick() => self.look().await,
                Some(()) = hangup.recv() => {
                    tracing::info!("SIGHUP: reading the pools file");
                    self.look().await;
                }
            }
        }
    }

    async fn look(&mut self) {
        let text = match self.source.read_file() {
            Ok(text) => text,
            Err(error) => {
                self.refuse(&error);
                self.seen = None;
                return;
            }
        };
        if text == self.seen && self.problem.borrow().is_none() {
            return;
        }
        let is_news = text != self.seen;
        self.seen = text;
        match self.source.with_file(self.seen.as_deref()) {
            Err(error) if is_news => self.refuse(&error),
            Err(_) => {}
            Ok(configuration) => {
                if self.writer.configure(configuration).await.is_ok() {
                    tracing::info!("other pools are in force");
                    self.metrics.read(true);
                    self.problem.send_replace(None);
                }
            }
        }
    }

    /// The last good pools stay in force; told once.
    fn refuse(&self, error: &ConfigError) {
        let text = one_line(error);
        if self.problem.borrow().as_ref() != Some(&text) {
            tracing::error!("the pools stay as they are: {text}");
        }
        self.metrics.read(false);
        self.problem.send_replace(Some(text));
    }
}

/// The error and its causes.
pub fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
