//! Free TCP ports on loopback.

use std::{
    collections::HashSet,
    net::TcpListener,
    sync::{LazyLock, Mutex, PoisonError},
};

use anyhow::{Result, bail};

/// Below what Linux gives to outgoing connections, so that nobody else takes a
/// port between this look and the server's start.
const RANGE: std::ops::Range<u16> = 10_000..32_000;

static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port that nobody listens on and that was not given before.
///
/// # Errors
/// When a thousand random ports are all taken.
pub fn free_port() -> Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..1000 {
        let port = fastrand::u16(RANGE);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && given.insert(port) {
            return Ok(port);
        }
    }
    bail!("no free TCP port in {RANGE:?} on 127.0.0.1")
}
