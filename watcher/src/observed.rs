//! A value that tasks wait on. Unlike tokio's `watch`, which wakes them in random
//! order, it wakes them in the order in which they began to wait: so a simulated run
//! goes the same way each time.

use std::future::Future;

use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Observed<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T: Copy> Observed<T> {
    /// As it is now.
    pub fn get(&self) -> T {
        *self.value.lock()
    }

    /// Changes it and wakes all that wait. Returns what `change` returns.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.value.lock());
        self.changed.notify_waiters();
        result
    }

    /// Ends with the next change from now on, whenever it is first polled.
    pub fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.changed.notified()
    }

    /// Waits until it is as `expected` says, and returns it.
    pub async fn wait_for(&self, expected: impl Fn(&T) -> bool) -> T {
        loop {
            // Before the look, so that no change is missed.
            let changed = self.changed();
            let value = self.get();
            if expected(&value) {
                return value;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn those_that_wait_are_woken_in_the_order_in_which_they_came() {
        let value = Arc::new(Observed::<u32>::default());
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..20 {
            let (value, told) = (value.clone(), told.clone());
            tokio::spawn(async move {
                value.wait_for(|value| *value > 0).await;
                told.send(number).unwrap();
            });
        }
        tokio::task::yield_now().await;
        value.update(|value| *value += 1);
        for number in 0..20 {
            assert_eq!(heard.recv().await, Some(number));
        }
    }

    #[tokio::test]
    async fn a_change_between_the_look_and_the_wait_is_not_missed() {
        let value = Observed::<u32>::default();
        let changed = value.changed();
        value.update(|value| *value += 1);
        changed.await;
        assert_eq!(value.wait_for(|value| *value == 1).await, 1);
    }
}
