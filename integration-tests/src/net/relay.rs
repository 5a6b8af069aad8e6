//! A TCP relay on loopback that can be cut as a network is, where connections stay
//! open and nothing passes, that can be slow, and that can reset connections.

use std::time::Duration;

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, copy_bidirectional},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::{Instant, sleep_until},
};

/// What a slow relay passes at a time.
const PIECE: usize = 8 * 1024;

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

    /// Relays to a port, and lets this many bytes pass towards it in a second, of all
    /// connections each.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn slow(to: u16, bytes_per_second: u32) -> Result<Self> {
        // What a connection holds on its way must not be more than a slow network does.
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(u32::try_from(4 * PIECE)?)?;
        socket.bind(([127, 0, 0, 1], 0).into())?;
        let listener = socket.listen(16)?;
        let port = listener.local_addr()?.port();
        let (cut, _) = watch::channel(false);
        let (resets, _) = watch::channel(());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(trickle(stream, to, bytes_per_second));
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

async fn trickle(near: TcpStream, to: u16, bytes_per_second: u32) -> Result<()> {
    let far = TcpStream::connect(("127.0.0.1", to)).await?;
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let slowly = async {
        let mut piece = vec![0; PIECE];
        loop {
            let begun = Instant::now();
            let count = near_read.read(&mut piece).await?;
            if count == 0 {
                far_write.shutdown().await?;
                return anyhow::Ok(());
            }
            let passed = piece.get(..count).unwrap_or_default();
            far_write.write_all(passed).await?;
            let takes = f64::from(u32::try_from(count)?) / f64::from(bytes_per_second);
            sleep_until(begun + Duration::from_secs_f64(takes)).await;
        }
    };
    let back = async {
        copy(&mut far_read, &mut near_write).await?;
        anyhow::Ok(())
    };
    tokio::try_join!(slowly, back)?;
    Ok(())
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
