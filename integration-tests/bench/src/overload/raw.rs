//! Connections that no HTTP/2 client makes: silent, cut short, idle, random.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use lb_tls::client::Connector;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use tonic::codegen::Service;

use super::outcomes::Outcomes;

/// The beginning of a ClientHello.
const HALF_A_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// SETTINGS without any.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const SETTINGS_ACK: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];
/// The first bytes of a PING's answer.
const PONG: &[u8] = &[0, 0, 8, 6, 1, 0, 0, 0, 0];

/// Where connections go, and how those with TLS begin.
#[derive(Clone)]
pub struct Raw {
    pub address: SocketAddr,
    pub connector: Connector,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Raw {
    async fn plain(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(TcpStream::connect(self.address).await?))
    }

    async fn with_tls(&mut self) -> Result<Box<dyn Stream>> {
        let uri = format!("https://{}", self.address).parse()?;
        Ok(Box::new(self.connector.call(uri).await?.into_inner()))
    }

    /// A connection that is held until then: every third one silent, one that stops within
    /// the handshake, and one that does all that keeps it open, and asks for nothing.
    pub async fn hold(mut self, number: usize, until: Instant, outcomes: Outcomes) {
        let (manner, said): (_, &[u8]) = match number % 3 {
            0 => ("silent", b""),
            1 => ("half a handshake", HALF_A_HELLO),
            _ => ("idle", &[PREFACE, SETTINGS].concat()),
        };
        let connected = timeout_at(until, async {
            match manner {
                "idle" => self.with_tls().await,
                _ => self.plain().await,
            }
        });
        let Ok(Ok(mut stream)) = connected.await else {
            outcomes.count("not connected").await;
            return;
        };
        let ended = timeout_at(until, async {
            stream.write_all(said).await?;
            keep_open(&mut stream).await
        });
        let outcome = match ended.await {
            Err(_) => "open to the end",
            Ok(_) => "closed by the allocator",
        };
        outcomes.count(format!("{manner}: {outcome}")).await;
    }

    /// One connection after the other with random bytes, half of them behind a
    /// handshake and a preface.
    pub async fn random(mut self, until: Instant, outcomes: Outcomes) {
        while Instant::now() < until {
            let mut bytes = vec![0; fastrand::usize(1..65_536)];
            fastrand::fill(&mut bytes);
            let connected = if fastrand::bool() {
                bytes.splice(0..0, PREFACE.iter().copied());
                self.with_tls().await
            } else {
                self.plain().await
            };
            let Ok(mut stream) = connected else {
                outcomes.count("not connected").await;
                continue;
            };
            // It may be closed while we still write.
            let _ = stream.write_all(&bytes).await;
            let mut answer = Vec::new();
            let ended = timeout(Duration::from_secs(1), stream.read_to_end(&mut answer));
            let outcome = match ended.await {
                Ok(_) => "closed by the allocator",
                Err(_) => "open for a second, then closed by us",
            };
            outcomes.count(outcome).await;
        }
    }
}

/// Answers what must be answered, until the other side closes.
async fn keep_open(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<()> {
    let mut head = [0; 9];
    loop {
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await?;
        match (kind, flags) {
            (4, 0) => stream.write_all(SETTINGS_ACK).await?,
            (6, 0) => stream.write_all(&[PONG, &payload].concat()).await?,
            _ => {}
        }
    }
}
