//! Connections: how many there are at most, and how soon each has to speak.
//!
//! One more than there may be is closed at once. One that has not sent the HTTP/2
//! preface in time is closed, too; after it, HTTP/2's own pings find out who is
//! there. So who connects and says nothing holds up nobody, and not for long.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
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

use crate::{
    auth::Certificate,
    budget::{Budget, Budgets},
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

/// Who is at the other end of a connection with TLS; an extension of each of its requests.
#[derive(Clone, Debug)]
pub struct Peer {
    pub certificate: Arc<Certificate>,
    pub budget: Arc<Budget>,
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
        budgets: Budgets::default(),
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
    budgets: Budgets,
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
                    hand_on(&self.sender, Connection::new(Box::new(stream), place)).await;
                }
            }
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                if let Some(place) = self.place() {
                    without_delay(&stream);
                    hand_on(&self.sender, Connection::new(Box::new(stream), place)).await;
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
        let (sender, budgets) = (self.sender.clone(), self.budgets.clone());
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
            let budget = budgets.of(&certificate.name);
            let Some(permit) = budget.connection().await else {
                tracing::debug!(caller = certificate.name, "it has too many connections");
                place.metrics.refused();
                return;
            };
            let trusted = Trusted {
                peer: Peer {
                    certificate,
                    budget,
                },
                distrusted,
                _permit: permit,
            };
            let mut connection = Connection::new(Box::new(stream), place);
            connection.trusted = Some(trusted);
            hand_on(&sender, connection).await;
        });
        if crowded {
            by.crowded_out();
        }
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
        })
    }
}

async fn hand_on(sender: &Sender, connection: Connection) {
    // Fails when nobody takes connections any more.
    let _ = sender.send(Ok(connection)).await;
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
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.closed();
    }
}

/// A connection that may send requests.
pub struct Connection {
    stream: Boxed,
    greeting: Option<Greeting>,
    /// Of one with a certificate.
    trusted: Option<Trusted>,
    closed: bool,
    _place: Place,
}

/// Whose certificate some authority vouches for, for as long as one does.
struct Trusted {
    peer: Peer,
    distrusted: Distrusted,
    _permit: OwnedSemaphorePermit,
}

/// The time that is left, and the bytes that have come.
struct Greeting {
    deadline: Pin<Box<Sleep>>,
    came: usize,
}

impl Connection {
    fn new(stream: Boxed, place: Place) -> Self {
        Self {
            stream,
            greeting: Some(Greeting {
                deadline: Box::pin(sleep(GREETING)),
                came: 0,
            }),
            trusted: None,
            closed: false,
            _place: place,
        }
    }

    /// Whether its certificate counts no more.
    fn poll_distrusted(&mut self, context: &mut Context<'_>) -> bool {
        if !self.closed
            && let Some(trusted) = &mut self.trusted
            && trusted.distrusted.as_mut().poll(context).is_ready()
        {
            self.closed = true;
            tracing::info!(
                caller = trusted.peer.certificate.name,
                "closing a connection: no CA that is trusted vouches for its certificate any more"
            );
        }
        self.closed
    }
}

impl Connected for Connection {
    type ConnectInfo = Option<Peer>;

    fn connect_info(&self) -> Option<Peer> {
        self.trusted.as_ref().map(|trusted| trusted.peer.clone())
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

    #[tokio::test(start_paused = true)]
    async fn it_has_to_begin_in_time_and_may_be_silent_afterwards() {
        let begin = |said: &'static [u8]| async move {
            let (mut client, server) = tokio::io::duplex(64);
            let places = Arc::new(Semaphore::new(1));
            let place = Place {
                metrics: ConnectionMetrics::register(&mut Registry::default()),
                _permit: places.try_acquire_owned().unwrap(),
            };
            let mut server = Connection::new(Box::new(server), place);
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
