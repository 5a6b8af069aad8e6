//! Live reload: files that changed are put in force, bad ones are not.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use lb_process::{
    in_one_line,
    settled::{Look, SETTLE, Settled},
};
use tokio::{sync::watch, time::sleep};

use crate::{
    files::{Contents, Files, Material, TlsError},
    metrics::TlsMetrics,
};

/// How often the files are read. Reading them, rather than being told of changes,
/// works on every file system, and through the symlinks of a Secret.
const POLL: Duration = Duration::from_secs(1);
/// From how long before the end on a certificate is warned of.
const WARN_BEFORE: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const WARN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Keeps a configuration equal to its files.
pub struct Reloading<C> {
    files: Files,
    build: fn(Material) -> Result<C, TlsError>,
    /// What was read, or why it could not be.
    readings: Settled<Result<Contents, String>>,
    ends: Ends,
    warned: Option<Instant>,
    metrics: TlsMetrics,
    current: watch::Sender<Arc<C>>,
    problem: watch::Sender<Option<String>>,
}

#[derive(Clone, Copy)]
struct Ends {
    certificate: i64,
    authority: i64,
}

impl<C> Reloading<C> {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// If they cannot be used. One that has expired can: it may be replaced.
    pub fn load(
        files: Files,
        build: fn(Material) -> Result<C, TlsError>,
        metrics: TlsMetrics,
    ) -> Result<Self, TlsError> {
        let contents = files.read()?;
        let material = files.parse(&contents)?;
        let ends = Ends::of(&material);
        let current = watch::Sender::new(Arc::new(build(material)?));
        metrics.read(true);
        metrics.in_force(ends.certificate, ends.authority);
        let mut reloading = Self {
            files,
            build,
            readings: Settled::new(Ok(contents)),
            ends,
            warned: None,
            metrics,
            current,
            problem: watch::Sender::new(None),
        };
        reloading.warn();
        Ok(reloading)
    }

    /// The configuration in force, and word of every other one.
    pub fn current(&self) -> watch::Receiver<Arc<C>> {
        self.current.subscribe()
    }

    /// Why the files as they are now are not in force.
    pub fn problem(&self) -> watch::Receiver<Option<String>> {
        self.problem.subscribe()
    }

    /// Looks at the files every second, and whenever `at_once` changes, for ever.
    pub async fn keep(mut self, mut at_once: watch::Receiver<()>) {
        loop {
            let pause = self.look();
            tokio::select! {
                () = sleep(pause) => {}
                // But not sooner than what is about to settle.
                Ok(()) = at_once.changed(), if pause == POLL => {}
            }
        }
    }

    /// Returns when to look again.
    fn look(&mut self) -> Duration {
        let reading = self.files.read().map_err(|error| in_one_line(&error));
        match self.readings.look(reading) {
            Look::InForce => self.mended(),
            Look::Rejected => {}
            Look::Unsettled => return SETTLE,
            Look::New(Err(unreadable)) => self.refuse(unreadable),
            Look::New(Ok(contents)) => match self.take(&contents) {
                Ok(()) => self.accept(),
                Err(error) => self.refuse(in_one_line(&error)),
            },
        }
        self.warn();
        POLL
    }

    fn take(&mut self, contents: &Contents) -> Result<(), TlsError> {
        let material = self.files.parse(contents)?;
        let ends = Ends::of(&material);
        if ends.certificate <= now() {
            return Err(TlsError::Expired {
                path: self.files.cert.clone(),
            });
        }
        let config = (self.build)(material)?;
        self.ends = ends;
        self.current.send_replace(Arc::new(config));
        Ok(())
    }

    /// The files are again what is in force.
    fn mended(&self) {
        if self.problem.send_replace(None).is_some() {
            tracing::info!("the certificate files are again those in force");
            self.metrics.read(true);
        }
    }

    fn accept(&mut self) {
        self.readings.accept();
        let Ends {
            certificate,
            authority,
        } = self.ends;
        tracing::info!(
            cert = %self.files.cert.display(),
            until = %when(certificate),
            "TLS certificates reloaded"
        );
        self.metrics.read(true);
        self.metrics.in_force(certificate, authority);
        self.problem.send_replace(None);
        self.warned = None;
    }

    /// The last good ones stay in force; told once.
    fn refuse(&self, text: String) {
        if self.problem.borrow().as_ref() != Some(&text) {
            tracing::error!("certificates rejected, keeping the previous ones: {text}");
        }
        self.metrics.read(false);
        self.problem.send_replace(Some(text));
    }

    fn warn(&mut self) {
        if self.warned.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            return;
        }
        let of = [
            (&self.files.cert, self.ends.certificate),
            (&self.files.ca, self.ends.authority),
        ];
        for (file, end) in of {
            let Some(left) = left_to_warn_of(end, now()) else {
                continue;
            };
            self.warned = Some(Instant::now());
            let (file, end) = (file.display(), when(end));
            if left.is_zero() {
                tracing::error!(%file, %end, "a certificate has expired; connections fail");
            } else {
                let days = left.as_secs() / (24 * 60 * 60);
                tracing::warn!(%file, %end, days, "a certificate is about to expire; renew it");
            }
        }
    }
}

impl Ends {
    const fn of(material: &Material) -> Self {
        Self {
            certificate: material.certificate_ends,
            authority: material.authority_ends,
        }
    }
}

/// How long is left, if it is time to warn.
fn left_to_warn_of(end: i64, now: i64) -> Option<Duration> {
    let left = u64::try_from(end.saturating_sub(now)).unwrap_or(0);
    let left = Duration::from_secs(left);
    (left < WARN_BEFORE).then_some(left)
}

fn now() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |since| since.as_secs().cast_signed())
}

fn when(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
