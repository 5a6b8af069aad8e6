//! The watch on all objects of a kind, which never ends.

use std::{fmt::Debug, sync::Arc, time::Duration};

use backon::ExponentialBuilder;
use futures::StreamExt;
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt,
        utils::{Backoff, ResetTimerBackoff},
        watcher::{self, Error, Event, ExponentialBackoff},
    },
};
use serde::de::DeserializeOwned;

use crate::kube::history::History;

/// Seconds after which the API server ends a watch, so that a connection that was
/// cut silently is noticed soon after.
pub const WATCH_SECONDS: u32 = 60;

/// When a watch that broke off is begun again. kube's own back-off goes up to 30 s, for
/// all of which a new Service would wait after the API server is back; there is one
/// watcher a cluster, so that a try every 5 s is nothing to the API server. Jitter at most
/// doubles a delay.
const DELAYS: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(400))
    .with_max_delay(Duration::from_millis(2500))
    .without_max_times();
/// A watch that lasted so long before it broke off is not part of the same trouble.
const WELL: Duration = Duration::from_secs(120);

/// Gives each event to `take`, for ever. `broke` gets each error, and whether it is the
/// first one since an event came.
pub async fn follow<K>(
    client: Client,
    history: &Arc<History>,
    take: impl Fn(Event<K>),
    broke: impl Fn(&Error, bool),
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut events = history.follow(move || {
        let config = watcher::Config::default().timeout(WATCH_SECONDS);
        watcher::watcher(Api::<K>::all(client.clone()), config)
            .backoff(backoff())
            .boxed()
    });
    let mut first = true;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                first = true;
                take(event);
            }
            Err(error) => {
                broke(&error, first);
                first = false;
            }
        }
    }
}

fn backoff() -> impl Backoff {
    ResetTimerBackoff::new(ExponentialBackoff::from(DELAYS), WELL)
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
