//! Connections between watchers and the allocator: pipes in memory that can be
//! cut, and that can swallow what is sent as a cable does that was pulled out.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    sync::mpsc,
};
use tonic::transport::{Channel, Endpoint, server::Connected};

use crate::chaos::Chaos;

const BUFFER: usize = 64 * 1024;

/// One end of a connection.
pub struct Pipe {
    stream: DuplexStream,
    link: Arc<Link>,
}

/// What both ends of a connection share.
#[derive(Debug, Default)]
struct Link {
    cut: AtomicBool,
    stalled: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Link {
    fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
        self.wake();
    }

    fn stall(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
        self.wake();
    }

    fn wake(&self) {
        for waker in std::mem::take(&mut *self.waiting.lock()) {
            waker.wake();
        }
    }

    /// Goes on only while the connection works.
    fn check(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        if self.cut.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut waiting = self.waiting.lock();
        if !waiting.iter().any(|w| w.will_wake(context.waker())) {
            waiting.push(context.waker().clone());
        }
        if self.stalled.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

macro_rules! go_on {
    ($poll:expr) => {
        match $poll {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
    };
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        go_on!(self.link.check(context));
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        go_on!(self.link.check(context));
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        go_on!(self.link.check(context));
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        go_on!(self.link.check(context));
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Pipe {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// What a server accepts connections from.
pub type Incoming = mpsc::UnboundedReceiver<io::Result<Pipe>>;

/// All connections, by the name of the host that opened them.
#[derive(Clone)]
pub struct Network {
    chaos: Chaos,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    listener: Option<mpsc::UnboundedSender<io::Result<Pipe>>>,
    links: Vec<(String, Arc<Link>)>,
    /// Hosts that reach nobody: what they send is lost.
    parted: Vec<String>,
}

impl Network {
    pub fn new(chaos: Chaos) -> Self {
        Self {
            chaos,
            state: Arc::default(),
        }
    }

    /// The allocator is there.
    pub fn listen(&self) -> Incoming {
        let (sender, incoming) = mpsc::unbounded_channel();
        self.state.lock().listener = Some(sender);
        incoming
    }

    /// The allocator is gone, and all connections with it.
    pub fn close(&self) {
        self.state.lock().listener = None;
        self.cut(|_| true);
    }

    /// The connections of these hosts break.
    pub fn cut(&self, hosts: impl Fn(&str) -> bool) {
        let mut cut = Vec::new();
        self.state.lock().links.retain(|(host, link)| {
            let goes = hosts(host);
            if goes {
                cut.push(link.clone());
            }
            !goes
        });
        for link in cut {
            link.cut();
        }
    }

    /// What this host sends and is sent waits or, at a new connection, is lost.
    pub fn part(&self, host: &str, parted: bool) {
        let links = {
            let mut state = self.state.lock();
            state.parted.retain(|known| known != host);
            if parted {
                state.parted.push(host.to_owned());
            }
            state.links.clone()
        };
        for (_, link) in links.iter().filter(|(of, _)| of == host) {
            link.stall(parted);
        }
    }

    /// The channel of a client on this host, which connects by itself.
    pub fn channel(&self, host: &str, endpoint: &Endpoint) -> Channel {
        let network = self.clone();
        let host = host.to_owned();
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let network = network.clone();
            let host = host.clone();
            async move { network.connect(&host).await.map(TokioIo::new) }
        }))
    }

    async fn connect(&self, host: &str) -> io::Result<Pipe> {
        self.chaos.travel().await;
        if self.state.lock().parted.iter().any(|parted| parted == host) {
            std::future::pending::<()>().await;
        }
        let (near, far) = duplex(BUFFER);
        let link = Arc::new(Link::default());
        let mut state = self.state.lock();
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let listener = state.listener.as_ref().ok_or_else(refused)?;
        let far = Pipe {
            stream: far,
            link: link.clone(),
        };
        listener.send(Ok(far)).map_err(|_| refused())?;
        state.links.push((host.to_owned(), link.clone()));
        Ok(Pipe { stream: near, link })
    }
}
