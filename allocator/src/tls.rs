//! TLS with certificates on both sides.
//!
//! A handshake has little time, takes place beside all others, and costs next to
//! nothing before the first byte arrives; so who connects and says nothing holds
//! up nobody.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use lb_tls::{
    TlsAcceptor, TlsStream,
    facts::facts,
    rustls::{ServerConfig, pki_types::CertificateDer},
};
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};

use crate::{
    auth::{Certificate, Scheme},
    metrics::AuthMetrics,
};

/// A handshake that takes longer fails.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes that are worked on at one time; others wait, within their time.
const MAX_HANDSHAKES: usize = 512;
/// Failed handshakes in the log: one in this time.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How certificates are asked for.
#[derive(Clone, Debug)]
pub struct Handshakes {
    config: watch::Receiver<Arc<ServerConfig>>,
    scheme: Scheme,
    metrics: AuthMetrics,
    working: Arc<Semaphore>,
    /// When a failed one was told last.
    told: Arc<Mutex<Option<Instant>>>,
}

impl Handshakes {
    pub fn new(
        config: watch::Receiver<Arc<ServerConfig>>,
        scheme: Scheme,
        metrics: AuthMetrics,
    ) -> Self {
        Self {
            config,
            scheme,
            metrics,
            working: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            told: Arc::default(),
        }
    }

    /// A connection and whose it is; `None`, counted and told of, if it got no further.
    pub async fn shake(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Option<(TlsStream<TcpStream>, Arc<Certificate>)> {
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

    async fn try_shake(
        &self,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Arc<Certificate>)> {
        stream.readable().await?;
        let _permit = self.working.acquire().await.map_err(io::Error::other)?;
        let config = Arc::clone(&self.config.borrow());
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let certificate = certificates.and_then(<[CertificateDer<'_>]>::first);
        let facts = certificate.and_then(facts);
        let certificate = Certificate::new(facts.as_ref(), self.scheme);
        Ok((stream, Arc::new(certificate)))
    }
}
