//! What one certificate may take of what all callers need. Processes that show the same
//! certificate share its budget; without certificates everybody is an administrator, and
//! nobody has one.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Connections at one time. Each has [`crate::service::MAX_STREAMS`] streams at most,
/// so this limits how many requests wait, too.
const MAX_CONNECTIONS: usize = 64;
/// RPCs at one time. A watcher works on 256 Services at most.
const MAX_RPCS: usize = 256;
/// What is over a limit waits so long before it is refused. Whoever asks again at once
/// is slowed down by it, and costs little.
const PATIENCE: Duration = Duration::from_secs(5);

/// Of one certificate.
#[derive(Debug)]
pub struct Budget {
    connections: Arc<Semaphore>,
    rpcs: Arc<Semaphore>,
}

impl Budget {
    fn new() -> Self {
        Self {
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            rpcs: Arc::new(Semaphore::new(MAX_RPCS)),
        }
    }

    /// One more connection; `None` if there are too many for too long.
    pub async fn connection(&self) -> Option<OwnedSemaphorePermit> {
        let permit = timeout(PATIENCE, Arc::clone(&self.connections).acquire_owned());
        permit.await.ok()?.ok()
    }

    /// One more RPC, of all that there may be; `None` if there are too many for too long.
    pub async fn rpc(&self, of_all: &Arc<Semaphore>) -> Option<[OwnedSemaphorePermit; 2]> {
        let permits = async {
            let own = Arc::clone(&self.rpcs).acquire_owned().await.ok()?;
            let of_all = Arc::clone(of_all).acquire_owned().await.ok()?;
            Some([own, of_all])
        };
        timeout(PATIENCE, permits).await.ok()?
    }
}

/// By the names of certificates, as long as somebody has a connection; a clone has the
/// same ones.
#[derive(Clone, Debug, Default)]
pub struct Budgets(Arc<Mutex<HashMap<String, Weak<Budget>>>>);

impl Budgets {
    pub fn of(&self, name: &str) -> Arc<Budget> {
        let mut budgets = self.0.lock();
        if let Some(budget) = budgets.get(name).and_then(Weak::upgrade) {
            return budget;
        }
        budgets.retain(|_, budget| budget.strong_count() > 0);
        let budget = Arc::new(Budget::new());
        budgets.insert(name.to_owned(), Arc::downgrade(&budget));
        budget
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_takes_all_it_may_waits_and_another_one_does_not() {
        let budgets = Budgets::default();
        let all = Arc::new(Semaphore::new(4 * MAX_RPCS));
        let greedy = budgets.of("greedy");
        let mut taken = Vec::new();
        for _ in 0..MAX_RPCS {
            taken.push(budgets.of("greedy").rpc(&all).await.unwrap());
        }
        let begun = Instant::now();
        assert!(budgets.of("modest").rpc(&all).await.is_some());
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(greedy.rpc(&all).await.is_none());
        assert_eq!(begun.elapsed(), PATIENCE);

        let (next, ()) = tokio::join!(greedy.rpc(&all), async { drop(taken.pop()) });
        assert!(next.is_some(), "it is served when another one is answered");
        drop((taken, next));
        assert_eq!(all.available_permits(), 4 * MAX_RPCS);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_counted_for_each_certificate_while_they_are_open() {
        let budgets = Budgets::default();
        let mut open = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let budget = budgets.of("greedy");
            open.push((budget.connection().await.unwrap(), budget));
        }
        assert!(budgets.of("greedy").connection().await.is_none());
        assert!(budgets.of("modest").connection().await.is_some());
        open.pop();
        assert!(budgets.of("greedy").connection().await.is_some());
        drop(open);
        let _other = budgets.of("other");
        assert_eq!(budgets.0.lock().len(), 1, "who is gone is forgotten");
    }
}
