//! Live reload: a pools file that changed is put in force, one that is bad is not.

use std::time::Duration;

use lb_process::{
    in_one_line,
    settled::{Look, SETTLE, Settled},
};
use tokio::{sync::watch, time::sleep};

use crate::{config::Source, metrics::ConfigMetrics, writer::Writer};

/// How often the file is read. Reading it, rather than being told of changes,
/// works on every file system, and through the symlinks of a ConfigMap.
const POLL: Duration = Duration::from_secs(1);

/// Watches a pools file.
pub struct Reload {
    source: Source,
    /// The texts that were read, or why one could not be.
    readings: Settled<Result<Option<String>, String>>,
    writer: Writer,
    metrics: ConfigMetrics,
    problem: watch::Sender<Option<String>>,
}

impl Reload {
    /// `text` is the one in force.
    pub fn new(
        source: Source,
        text: Option<String>,
        writer: Writer,
        metrics: ConfigMetrics,
    ) -> (Self, watch::Receiver<Option<String>>) {
        let problem = watch::Sender::new(None);
        let problems = problem.subscribe();
        let reload = Self {
            source,
            readings: Settled::new(Ok(text)),
            writer,
            metrics,
            problem,
        };
        (reload, problems)
    }

    /// Looks at the file every second, and whenever `at_once` changes, for ever.
    pub async fn watch(mut self, mut at_once: watch::Receiver<()>) {
        loop {
            let pause = self.look().await;
            tokio::select! {
                () = sleep(pause) => {}
                // But not sooner than what is about to settle.
                Ok(()) = at_once.changed(), if pause == POLL => {}
            }
        }
    }

    /// Returns when to look again.
    async fn look(&mut self) -> Duration {
        let reading = self.source.read_file().map_err(|error| in_one_line(&error));
        match self.readings.look(reading) {
            Look::InForce => self.mended(),
            Look::Rejected => {}
            Look::Unsettled => return SETTLE,
            Look::New(Err(unreadable)) => self.reject(unreadable),
            Look::New(Ok(text)) => match self.source.with_file(text.as_deref()) {
                Err(error) => self.reject(in_one_line(&error)),
                Ok(configuration) => {
                    if self.writer.configure(configuration).await.is_ok() {
                        self.readings.accept();
                        tracing::info!("configuration reloaded");
                        self.metrics.read(true);
                        self.problem.send_replace(None);
                    }
                }
            },
        }
        POLL
    }

    /// The file is again what is in force.
    fn mended(&self) {
        if self.problem.send_replace(None).is_some() {
            tracing::info!("the pools file is the configuration in force again");
            self.metrics.read(true);
        }
    }

    /// The last good pools stay in force; told once.
    fn reject(&self, problem: String) {
        if self.problem.borrow().as_ref() != Some(&problem) {
            tracing::error!("configuration rejected, keeping the previous one: {problem}");
        }
        self.metrics.read(false);
        self.problem.send_replace(Some(problem));
    }
}
