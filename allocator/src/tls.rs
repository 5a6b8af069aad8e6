//! TLS with certificates on both sides.
//!
//! A handshake has little time, takes place beside all others, and costs next to
//! nothing before its first message is whole; so who connects and says nothing, or
//! half of it, holds up nobody. Where there are more than there may be, the oldest one
//! ends: an honest one is long over then.

use std::{collections::BTreeMap, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use lb_tls::{
    TlsAcceptor, TlsStream, facts::facts, files::Server, rustls::pki_types::CertificateDer,
};
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::watch,
    task::AbortHandle,
    time::{Instant, timeout},
};

use crate::{
    auth::{Certificate, Scheme},
    metrics::AuthMetrics,
};

/// A handshake that takes longer fails.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Failed handshakes in the log: one in this time.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How certificates are asked for.
#[derive(Clone, Debug)]
pub struct Handshakes {
    server: watch::Receiver<Arc<Server>>,
    scheme: Scheme,
    metrics: AuthMetrics,
    /// When a failed one was told last.
    told: Arc<Mutex<Option<Instant>>>,
}

impl Handshakes {
    pub fn new(server: watch::Receiver<Arc<Server>>, scheme: Scheme, metrics: AuthMetrics) -> Self {
        Self {
            server,
            scheme,
            metrics,
            told: Arc::default(),
        }
    }

    /// A connection and whose it is; `None`, counted and told of, if it got no further.
    pub async fn shake(&self, stream: TcpStream, peer: SocketAddr) -> Option<Shaken> {
        let why = match timeout(HANDSHAKE, self.try_shake(stream)).await {
            Ok(Ok(shaken)) => return Some(shaken),
            Ok(Err(error)) => {
                // Who says nothing is a probe; only the metric tells of it.
                if error.kind() != io::ErrorKind::UnexpectedEof && self.is_time_to_tell() {
                    let error = &error as &dyn std::error::Error;
                    tracing::info!(%peer, error, "a TLS handshake failed");
                }
                "refused"
            }
            Err(_) => "timeout",
        };
        self.metrics.handshake_failed(why);
        None
    }

    fn is_time_to_tell(&self) -> bool {
        let mut told = self.told.lock();
        let is_time = told.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if is_time {
            *told = Some(Instant::now());
        }
        is_time
    }

    async fn try_shake(&self, stream: TcpStream) -> io::Result<Shaken> {
        stream.readable().await?;
        let server = self.server.clone();
        let config = Arc::clone(&server.borrow().config);
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain: Vec<_> = chain.iter().map(|one| one.clone().into_owned()).collect();
        let facts = chain.first().and_then(facts);
        Ok(Shaken {
            stream,
            certificate: Arc::new(Certificate::new(facts.as_ref(), self.scheme)),
            distrusted: Box::pin(distrusted(server, chain)),
        })
    }

    /// One ended for want of room.
    pub fn crowded_out(&self) {
        self.metrics.handshake_failed("crowded_out");
    }
}

/// Ends when no authority vouches for the certificate any more.
pub type Distrusted = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What came of a handshake.
pub struct Shaken {
    pub stream: TlsStream<TcpStream>,
    pub certificate: Arc<Certificate>,
    pub distrusted: Distrusted,
}

async fn distrusted(mut server: watch::Receiver<Arc<Server>>, chain: Vec<CertificateDer<'static>>) {
    while server.changed().await.is_ok() {
        let server = Arc::clone(&server.borrow_and_update());
        if !server.vouches_for(&chain) {
            return;
        }
    }
    std::future::pending().await
}

/// Tasks of which there are so many at most: one more, and the oldest one ends.
#[derive(Clone, Debug)]
pub struct Crowd {
    limit: usize,
    state: Arc<Mutex<Tasks>>,
}

#[derive(Debug, Default)]
struct Tasks {
    next: u64,
    /// Oldest first.
    running: BTreeMap<u64, AbortHandle>,
}

impl Crowd {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Arc::default(),
        }
    }

    /// Starts one. Says whether another one ended for it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        let place = CrowdPlace {
            crowd: self.clone(),
            number,
        };
        let handle = tokio::spawn(async move {
            let _place = place;
            task.await;
        });
        state.running.insert(number, handle.abort_handle());
        let oldest = (state.running.len() > self.limit).then(|| state.running.pop_first());
        oldest.flatten().is_some_and(|(_, oldest)| {
            oldest.abort();
            true
        })
    }
}

/// Of one task.
struct CrowdPlace {
    crowd: Crowd,
    number: u64,
}

impl Drop for CrowdPlace {
    fn drop(&mut self) {
        self.crowd.state.lock().running.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn one_more_than_there_may_be_ends_the_oldest_one_and_who_is_over_does_not_count() {
        let crowd = Crowd::new(2);
        let start = || {
            let (sender, ended) = oneshot::channel::<()>();
            let task = async move {
                let _sender = sender;
                std::future::pending().await
            };
            (crowd.spawn(task), ended)
        };
        let (crowded, oldest) = start();
        let (also, mut second) = start();
        assert!(!crowded && !also);
        let (crowded, mut third) = start();
        assert!(crowded);
        oldest.await.unwrap_err();
        let still = oneshot::error::TryRecvError::Empty;
        assert_eq!(second.try_recv(), Err(still));
        assert_eq!(third.try_recv(), Err(oneshot::error::TryRecvError::Empty));

        let crowd = Crowd::new(1);
        for _ in 0..10 {
            let (sender, ended) = oneshot::channel::<()>();
            assert!(!crowd.spawn(async move { drop(sender) }));
            ended.await.unwrap_err();
            while !crowd.state.lock().running.is_empty() {
                tokio::task::yield_now().await;
            }
        }
    }
}
