//! Waiting for a condition, with a deadline and the last state seen.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// Long enough for a busy machine of two cores; a condition that holds is seen
/// within [`PAUSE`].
pub const DEADLINE: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(25);

/// Waits until `check` gives a value. What it gives instead, the state seen, is
/// shown when the deadline passes.
///
/// # Panics
/// When the deadline passes.
pub async fn eventually<T, S, C>(deadline: Duration, what: impl Display, check: C) -> T
where
    S: Display,
    C: AsyncFnMut() -> Result<T, S>,
{
    match within(deadline, check).await {
        Ok(value) => value,
        Err(seen) => panic!("{what}: not within {deadline:?}; last seen: {seen}"),
    }
}

/// As [`eventually`], but gives the last state seen back as an error.
pub async fn within<T, S, C>(deadline: Duration, mut check: C) -> Result<T, S>
where
    C: AsyncFnMut() -> Result<T, S>,
{
    let end = Instant::now() + deadline;
    loop {
        match check().await {
            Ok(value) => return Ok(value),
            Err(seen) if Instant::now() >= end => return Err(seen),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
