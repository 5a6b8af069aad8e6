//! Connections that no HTTP/2 client makes: silent, cut short, idle, random.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use super::outcomes::Outcomes;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// SETTINGS without any.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const SETTINGS_ACK: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];
/// The first bytes of a PING's answer.
const PONG: &[u8] = &[0, 0, 8, 6, 1, 0, 0, 0, 0];

/// A connection that is held until then: every third one silent, one that stops within
/// the preface, and one that does all that keeps it open, and asks for nothing.
pub async fn hold(address: SocketAddr, number: usize, until: Instant, outcomes: Outcomes) {
    let (manner, said): (_, &[u8]) = match number % 3 {
        0 => ("silent", b""),
        1 => ("half a preface", PREFACE.get(..9).unwrap_or_default()),
        _ => ("idle", &[PREFACE, SETTINGS].concat()),
    };
    let Ok(Ok(mut stream)) = timeout_at(until, TcpStream::connect(address)).await else {
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

/// Answers what must be answered, until the other side closes.
async fn keep_open(stream: &mut TcpStream) -> Result<()> {
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

/// One connection after the other with random bytes, half of them behind a preface.
pub async fn random(address: SocketAddr, until: Instant, outcomes: Outcomes) {
    while Instant::now() < until {
        let mut bytes = vec![0; fastrand::usize(1..65_536)];
        fastrand::fill(&mut bytes);
        if fastrand::bool() {
            bytes.splice(0..0, PREFACE.iter().copied());
        }
        let Ok(mut stream) = TcpStream::connect(address).await else {
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
