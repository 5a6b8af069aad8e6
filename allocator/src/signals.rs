//! Signals: SIGTERM and SIGINT end the process in order, SIGHUP has its files read
//! at once.

use anyhow::{Context, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    hangups: watch::Sender<()>,
}

impl Signals {
    /// From now on none of them kills the process. Must be called inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// If the system does not allow it.
    pub fn listen() -> Result<Self> {
        let listen = |kind, name| signal(kind).with_context(|| format!("cannot listen for {name}"));
        Ok(Self {
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
            hangup: listen(SignalKind::hangup(), "SIGHUP")?,
            hangups: watch::Sender::new(()),
        })
    }

    /// Changes with each SIGHUP.
    pub fn hangups(&self) -> watch::Receiver<()> {
        self.hangups.subscribe()
    }

    /// Until the process is told to end.
    pub async fn obey(mut self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                Some(()) = self.hangup.recv() => {
                    tracing::info!("SIGHUP: reading pools file and certificates");
                    self.hangups.send_replace(());
                }
            }
        }
        tracing::info!("shutting down");
        shutdown.cancel();
    }
}
