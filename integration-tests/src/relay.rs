//! A TCP relay on loopback that can be cut as a network is, where connections stay
//! open and nothing passes, and that can reset connections.

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
    resets: watch::Sender<()>,
}

impl Relay {
    /// Relays to a port for as long as the test's runtime is there.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(to: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (cut, is_cut) = watch::channel(false);
        let (resets, reset) = watch::channel(());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(relay(stream, to, is_cut.clone(), reset.clone()));
            }
        });
        Ok(Self { port, cut, resets })
    }

    /// Nothing passes from now on.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// All that waited passes, and what comes.
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }

    /// Resets every connection that is open, on both sides. New ones are relayed.
    pub fn reset(&self) {
        self.resets.send_replace(());
    }
}

async fn relay(
    mut near: TcpStream,
    to: u16,
    mut cut: watch::Receiver<bool>,
    mut reset: watch::Receiver<()>,
) -> Result<()> {
    reset.mark_unchanged();
    cut.wait_for(|cut| !cut).await?;
    let mut far = TcpStream::connect(("127.0.0.1", to)).await?;
    tokio::select! {
        passed = pass(&mut near, &mut far, cut) => passed,
        changed = reset.changed() => {
            changed?;
            near.set_zero_linger()?;
            far.set_zero_linger()?;
            Ok(())
        }
    }
}

async fn pass(
    near: &mut TcpStream,
    far: &mut TcpStream,
    mut cut: watch::Receiver<bool>,
) -> Result<()> {
    let mut copy = Box::pin(copy_bidirectional(near, far));
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
