//! A TCP relay on loopback that can be cut as a network is: connections stay open,
//! and nothing passes.

use anyhow::Result;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Passes on what is sent to a port of its own.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub port: u16,
    cut: watch::Sender<bool>,
}

impl Relay {
    /// Relays to a port for as long as the test's runtime is there.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(to: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (cut, state) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(relay(stream, to, state.clone()));
            }
        });
        Ok(Self { port, cut })
    }

    /// Nothing passes from now on.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// All that waited passes, and what comes.
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

async fn relay(mut near: TcpStream, to: u16, mut cut: watch::Receiver<bool>) -> Result<()> {
    cut.wait_for(|cut| !cut).await?;
    let mut far = TcpStream::connect(("127.0.0.1", to)).await?;
    let mut copy = Box::pin(copy_bidirectional(&mut near, &mut far));
    loop {
        tokio::select! {
            _ = cut.wait_for(|cut| *cut) => {}
            copied = &mut copy => {
                copied?;
                return Ok(());
            }
        }
        cut.wait_for(|cut| !cut).await?;
    }
}
