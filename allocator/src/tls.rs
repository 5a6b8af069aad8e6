//! Connections with certificates on both sides.
//!
//! A handshake has little time, takes place beside all others, and costs next to
//! nothing before the first byte arrives; so who connects and says nothing holds
//! up nobody.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use lb_tls::{
    TlsAcceptor, TlsStream,
    facts::facts,
    rustls::{ServerConfig, pki_types::CertificateDer},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::{
    auth::{Certificate, Scheme},
    metrics::AuthMetrics,
};

/// A handshake that takes longer fails.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections that may be silent at one time; one more is closed.
const MAX_SILENT: usize = 16_384;
/// Handshakes that are worked on at one time; others wait, within their time.
const MAX_HANDSHAKES: usize = 512;
/// After an accept that failed: too many files are open, for one.
const PAUSE: Duration = Duration::from_millis(50);
/// Failed handshakes in the log: one in this time.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Connections that wait to be taken.
const QUEUE: usize = 64;

/// Whose connection it is; an extension of each of its requests.
#[derive(Clone, Debug)]
pub struct Peer(pub Arc<Certificate>);

/// A connection after its handshake.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

/// How connections are taken.
#[derive(Clone, Debug)]
pub struct Handshakes {
    pub config: watch::Receiver<Arc<ServerConfig>>,
    pub scheme: Scheme,
    pub metrics: AuthMetrics,
}

/// Connections of the listener, after their handshakes, until it is dropped.
pub fn incoming(
    listener: TcpListener,
    handshakes: Handshakes,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(accept(listener, handshakes, sender));
    ReceiverStream::new(receiver)
}

type Sender = mpsc::Sender<io::Result<Connection>>;

async fn accept(listener: TcpListener, handshakes: Handshakes, sender: Sender) {
    let silent = Arc::new(Semaphore::new(MAX_SILENT));
    let working = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let told = Arc::new(Mutex::new(None));
    loop {
        let accepted = tokio::select! {
            () = sender.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "cannot accept");
                sleep(PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&silent).try_acquire_owned() else {
            handshakes.metrics.handshake_failed("too_many");
            continue;
        };
        let (handshakes, working, sender) = (handshakes.clone(), working.clone(), sender.clone());
        let told = Arc::clone(&told);
        tokio::spawn(async move {
            let begun = timeout(HANDSHAKE, handshakes.shake(stream, &working));
            let failure = match begun.await {
                Ok(Ok(connection)) => {
                    // Fails when nobody takes connections any more.
                    let _ = sender.send(Ok(connection)).await;
                    None
                }
                Ok(Err(error)) => {
                    // Who says nothing is a probe; only the metric tells of it.
                    if error.kind() != io::ErrorKind::UnexpectedEof && is_time(&told) {
                        let error = &error as &dyn std::error::Error;
                        tracing::info!(%peer, error, "a TLS handshake failed");
                    }
                    Some("refused")
                }
                Err(_) => Some("timeout"),
            };
            if let Some(why) = failure {
                handshakes.metrics.handshake_failed(why);
            }
            drop(permit);
        });
    }
}

/// Not told of for a while.
fn is_time(told: &Mutex<Option<Instant>>) -> bool {
    let mut told = told.lock();
    let is_time = told.is_none_or(|at| at.elapsed() >= TELL_EVERY);
    if is_time {
        *told = Some(Instant::now());
    }
    is_time
}

impl Handshakes {
    async fn shake(&self, stream: TcpStream, working: &Semaphore) -> io::Result<Connection> {
        // Without it small answers wait up to 40 ms for a delayed ACK.
        stream.set_nodelay(true)?;
        stream.readable().await?;
        let _permit = working.acquire().await.map_err(io::Error::other)?;
        let config = Arc::clone(&self.config.borrow());
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let certificate = certificates.and_then(<[CertificateDer<'_>]>::first);
        let facts = certificate.and_then(facts);
        let certificate = Certificate::new(facts.as_ref(), self.scheme);
        Ok(Connection {
            stream,
            peer: Peer(Arc::new(certificate)),
        })
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
