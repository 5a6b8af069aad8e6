//! When a watch that broke off is begun again. kube's own back-off goes up to 30 s, for
//! all of which a new Service would wait after the API server is back; there is one
//! watcher a cluster, so that a try every 5 s is nothing to the API server.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use kube::runtime::utils::{Backoff, ResetTimerBackoff};

/// Jitter at most doubles a delay.
const DELAYS: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(400))
    .with_max_delay(Duration::from_millis(2500))
    .without_max_times();
/// A watch that lasted so long before it broke off is not part of the same trouble.
const WELL: Duration = Duration::from_secs(120);

struct Delays(ExponentialBackoff);

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next()
    }
}

impl Backoff for Delays {
    fn reset(&mut self) {
        self.0 = DELAYS.build();
    }
}

/// See the module.
pub fn backoff() -> impl Backoff {
    ResetTimerBackoff::new(Delays(DELAYS.build()), WELL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pause_is_longer_than_five_seconds() {
        let pauses: Vec<_> = backoff().take(50).collect();
        assert!(pauses[0] < Duration::from_secs(1), "{pauses:?}");
        let longest = pauses.iter().max().unwrap();
        assert!(*longest <= Duration::from_secs(5), "{pauses:?}");
    }
}
