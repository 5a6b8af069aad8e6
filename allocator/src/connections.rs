//! Connections: how many there are at most, and how soon each has to speak.
//!
//! One more than there may be is closed at once. One that has not sent the HTTP/2
//! preface in time is closed, too; after it, HTTP/2's own pings find out who is
//! there. So who connects and says nothing holds up nobody, and not for long.

mod brake;

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{
    StreamExt,
    stream::{Chain, Pending, pending},
};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Sleep, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

pub use self::brake::Brake;
use self::brake::{Pause, Turns};
use crate::{
    auth::Certificate,
    metrics::ConnectionMetrics,
    tls::{Crowd, Distrusted, Handshakes, Shaken},
};

/// Connections at one time.
const MAX_CONNECTIONS: u64 = 16_384;
/// Files for everything else: the database, the admin port, the log.
const OTHER_FILES: u64 = 256;
/// Until the preface has come, after the handshake where there is one.
const GREETING: Duration = Duration::from_secs(5);
/// Bytes of the HTTP/2 preface.
const PREFACE: usize = 24;
/// After an accept that failed: too many files are open, for one.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections that wait to be taken.
const QUEUE: usize = 64;
/// Connections without a certificate that are known.
pub const SEATS: usize = 64;

/// Who is at the other end; an extension of each of its requests.
#[derive(Clone, Debug)]
pub struct Peer {
    pub certificate: Option<Arc<Certificate>>,
    /// What is shared out fairly is shared out among these: owners of certificates,
    /// or, where nobody shows one, connections.
    pub sharer: Arc<str>,
    /// Whether it has a certificate, or, where nobody shows one, came before
    /// the many: as one of the first [`SEATS`] of those that are open.
    pub known: bool,
    pub brake: Brake,
}

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Tls(TcpListener, Handshakes),
    Unix(UnixListener),
}

/// Whatever bytes come over.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

type Boxed = Box<dyn Transport>;
type Sender = mpsc::Sender<io::Result<Connection>>;
pub type Incoming = Chain<ReceiverStream<io::Result<Connection>>, Pending<io::Result<Connection>>>;

/// As many connections as this process may have, after it has asked for more files:
/// the usual soft limit of 1,024 is for programs that use `select`.
pub fn limit() -> usize {
    let mut files = getrlimit(Resource::Nofile);
    if files.current != files.maximum {
        files.current = files.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, files) {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let connections = files.saturating_sub(OTHER_FILES).clamp(1, MAX_CONNECTIONS);
    usize::try_from(connections).unwrap_or(usize::MAX)
}

/// Connections of the listener, and who accepts them until they are dropped.
pub fn incoming(
    listener: Listener,
    limit: usize,
    metrics: ConnectionMetrics,
) -> (Incoming, Acceptor) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let acceptor = Acceptor {
        listener,
        places: Arc::new(Semaphore::new(limit)),
        // The other half is for those that have a certificate.
        handshakes: Crowd::new(limit / 2),
        seats: Arc::new(Semaphore::new(SEATS)),
        turns: Turns::default(),
        metrics,
        sender,
    };
    // That nobody accepts any more is told by the acceptor, not by an end of the stream.
    (ReceiverStream::new(receiver).chain(pending()), acceptor)
}

/// Accepts connections.
pub struct Acceptor {
    listener: Listener,
    places: Arc<Semaphore>,
    handshakes: Crowd,
    seats: Arc<Semaphore>,
    turns: Turns,
    metrics: ConnectionMetrics,
    sender: Sender,
}

impl Acceptor {
    /// Until nobody takes connections any more.
    pub async fn run(self) {
        loop {
            let accepted = tokio::select! {
                () = self.sender.closed() => return,
                accepted = self.accept() => accepted,
            };
            if let Err(error) = accepted {
                tracing::debug!(error = &error as &dyn std::error::Error, "cannot accept");
                sleep(PAUSE).await;
            }
        }
    }

    async fn accept(&self) -> io::Result<()> {
        match &self.listener {
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                if let Some(place) = self.place() {
                    self.hand_on(Box::new(stream), place).await;
                }
            }
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                if let Some(place) = self.place() {
                    without_delay(&stream);
                    self.hand_on(Box::new(stream), place).await;
                }
            }
            Listener::Tls(listener, handshakes) => {
                let (stream, address) = listener.accept().await?;
                if let Some(place) = self.place() {
                    without_delay(&stream);
                    self.shake(handshakes.clone(), stream, address, place);
                }
            }
        }
        Ok(())
    }

    fn shake(&self, by: Handshakes, stream: TcpStream, address: SocketAddr, place: Place) {
        let sender = self.sender.clone();
        let brake = Brake::new(self.turns.clone());
        let shakes = by.clone();
        let crowded = self.handshakes.spawn(async move {
            let Some(shaken) = shakes.shake(stream, address).await else {
                return;
            };
            let Shaken {
                stream,
                certificate,
                distrusted,
            } = shaken;
            let peer = Peer {
                sharer: certificate.name.as_str().into(),
                certificate: Some(certificate),
                known: true,
                brake,
            };
            let mut connection = Connection::new(Box::new(stream), peer, place);
            connection.distrusted = Some(distrusted);
            // Fails when nobody takes connections any more.
            let _ = sender.send(Ok(connection)).await;
        });
        if crowded {
            by.crowded_out();
        }
    }

    async fn hand_on(&self, stream: Boxed, mut place: Place) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        place.seat = Arc::clone(&self.seats).try_acquire_owned().ok();
        let peer = Peer {
            certificate: None,
            sharer: NUMBER.fetch_add(1, Ordering::Relaxed).to_string().into(),
            known: place.seat.is_some(),
            brake: Brake::new(self.turns.clone()),
        };
        let connection = Connection::new(stream, peer, place);
        // Fails when nobody takes connections any more.
        let _ = self.sender.send(Ok(connection)).await;
    }

    fn place(&self) -> Option<Place> {
        let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() else {
            self.metrics.refused();
            return None;
        };
        self.metrics.opened();
        Some(Place {
            metrics: self.metrics.clone(),
            _permit: permit,
            seat: None,
        })
    }
}

/// Without it small answers wait up to 40 ms for a delayed ACK.
fn without_delay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = &error as &dyn std::error::Error, "no TCP_NODELAY");
    }
}

/// One of the connections that there may be.
#[derive(Debug)]
struct Place {
    metrics: ConnectionMetrics,
    _permit: OwnedSemaphorePermit,
    seat: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.closed();
    }
}

/// A connection that may send requests.
pub struct Connection {
    stream: Boxed,
    peer: Peer,
    greeting: Option<Greeting>,
    pause: Pause,
    /// Of one with a certificate, until nobody vouches for that.
    distrusted: Option<Distrusted>,
    closed: bool,
    _place: Place,
}

/// The time that is left, and the bytes that have come.
struct Greeting {
    deadline: Pin<Box<Sleep>>,
    came: usize,
}

impl Connection {
    fn new(stream: Boxed, peer: Peer, place: Place) -> Self {
        Self {
            stream,
            pause: Pause::new(peer.brake.clone()),
            peer,
            greeting: Some(Greeting {
                deadline: Box::pin(sleep(GREETING)),
                came: 0,
            }),
            distrusted: None,
            closed: false,
            _place: place,
        }
    }

    /// Whether its certificate counts no more.
    fn poll_distrusted(&mut self, context: &mut Context<'_>) -> bool {
        if let Some(distrusted) = &mut self.distrusted
            && distrusted.as_mut().poll(context).is_ready()
        {
            self.distrusted = None;
            self.closed = true;
            tracing::info!(
                caller = %self.peer.sharer,
                "closing a connection: no CA that is trusted vouches for its certificate any more"
            );
        }
        self.closed
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
        let this = &mut *self;
        if this.poll_distrusted(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        ready!(this.pause.poll_over(context));
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let Some(greeting) = &mut this.greeting else {
            return read;
        };
        if read.is_pending() {
            ready!(greeting.deadline.as_mut().poll(context));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        greeting.came += buffer.filled().len() - before;
        if greeting.came >= PREFACE {
            this.greeting = None;
        }
        read
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

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn one_more_than_there_may_be_is_closed_until_another_one_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = ConnectionMetrics::register(&mut Registry::default());
        let (mut incoming, acceptor) = incoming(Listener::Tcp(listener), 2, metrics);
        tokio::spawn(acceptor.run());
        let mut clients = Vec::new();
        let mut servers = Vec::new();
        for _ in 0..2 {
            clients.push(TcpStream::connect(address).await.unwrap());
            servers.push(incoming.next().await.unwrap().unwrap());
        }
        assert_ne!(servers[0].peer.sharer, servers[1].peer.sharer);
        let mut refused = TcpStream::connect(address).await.unwrap();
        assert_eq!(refused.read(&mut [0]).await.unwrap(), 0);
        clients[0].write_all(b"x").await.unwrap();
        let mut byte = [0];
        servers[0].read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"x");

        servers.pop();
        let _next = TcpStream::connect(address).await.unwrap();
        incoming.next().await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn without_certificates_those_that_came_first_are_known_while_they_stay() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = ConnectionMetrics::register(&mut Registry::default());
        let (mut incoming, acceptor) = incoming(Listener::Tcp(listener), 2 * SEATS, metrics);
        tokio::spawn(acceptor.run());
        let mut next = async || {
            let client = TcpStream::connect(address).await.unwrap();
            (client, incoming.next().await.unwrap().unwrap())
        };
        let mut first = Vec::new();
        for _ in 0..SEATS {
            first.push(next().await);
        }
        assert!(first.iter().all(|(_, server)| server.peer.known));
        let late = next().await;
        assert!(!late.1.peer.known);
        first.pop();
        assert!(next().await.1.peer.known);
    }

    #[tokio::test(start_paused = true)]
    async fn it_has_to_begin_in_time_and_may_be_silent_afterwards() {
        let begin = |said: &'static [u8]| async move {
            let (mut client, server) = tokio::io::duplex(64);
            let places = Arc::new(Semaphore::new(1));
            let place = Place {
                metrics: ConnectionMetrics::register(&mut Registry::default()),
                _permit: places.try_acquire_owned().unwrap(),
                seat: None,
            };
            let peer = Peer {
                certificate: None,
                sharer: "0".into(),
                known: false,
                brake: Brake::new(Turns::default()),
            };
            let mut server = Connection::new(Box::new(server), peer, place);
            client.write_all(said).await.unwrap();
            let mut buffer = vec![0; said.len() + 1];
            let all = server.read_exact(&mut buffer);
            tokio::time::timeout(2 * GREETING, all).await
        };
        let cut_short = begin(&[0; PREFACE - 1]).await.unwrap().unwrap_err();
        assert_eq!(cut_short.kind(), io::ErrorKind::TimedOut);
        begin(&[0; PREFACE]).await.unwrap_err();
    }
}
