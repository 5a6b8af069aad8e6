//! The work queue: keys that want to be looked at.
//!
//! - A key is with one worker at a time. One that is pushed while it is worked on
//!   is worked on again afterwards.
//! - A key that failed waits by itself, with exponential back-off and jitter, and
//!   delays no other. A push overrides the wait.
//! - Holders come before pending Services, and pending ones in the order of their
//!   creation. After a batch was pushed, no pending Service is handed out until
//!   every holder of the batch had its turn: what a Service already has must be
//!   confirmed before it could be given to one that waits.
//! - Holders of which the allocator has just confirmed, by Sync, that they hold what
//!   they show come last: nobody can get it any more, and those that wait need not
//!   wait for thousands of them.
//! - While it stands by it takes no keys: nobody works on them, and whoever opens it
//!   looks at every Service.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::key::Key;

/// Jitter at most doubles a delay, so that a retry waits a minute at most.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(200))
    .with_max_delay(Duration::from_secs(30))
    .without_max_times();

/// Who comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// It holds an address, or gives one back.
    Holder,
    /// It waits for one since then (seconds since 1970).
    Pending(i64),
    /// It holds an address, and the allocator knows.
    Confirmed,
}

/// When a key is to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When something happens.
    Done,
    /// At once: something happened meanwhile.
    Again,
    /// After this time, or when something happens.
    After(Duration),
    /// After its back-off, or when something happens.
    Retry,
    /// The same, but not before this time: the API server asked for that.
    RetryAfter(Duration),
}

impl Next {
    /// How a look ended, in one word.
    pub const fn outcome(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Again => "again",
            Self::After(_) => "waiting",
            Self::Retry | Self::RetryAfter(_) => "retry",
        }
    }
}

/// A key that was handed to a worker.
#[derive(Debug)]
pub struct Job {
    /// Which Service.
    pub key: Key,
    /// How often it was tried in vain before.
    pub failures: u32,
}

/// The queue. Time is tokio's.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    /// One permit for one worker; whoever takes a key and leaves another passes it
    /// on.
    wake: Notify,
    busy: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    stands_by: bool,
    sequence: u64,
    entries: HashMap<Key, Entry>,
    ready: BTreeMap<(Rank, u64), Key>,
    delayed: BTreeMap<(Instant, u64), Key>,
    working: usize,
    /// Holders of the last batches that did not have their turn.
    holders: HashSet<Key>,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    rank: Rank,
    failures: u32,
    backoff: Option<ExponentialBackoff>,
}

impl Entry {
    /// How long it waits now.
    fn fails(&mut self) -> Duration {
        self.failures += 1;
        let backoff = self.backoff.get_or_insert_with(|| BACKOFF.build());
        backoff.next().unwrap_or(Duration::from_secs(60))
    }

    fn succeeds(&mut self, delay: Duration) -> Duration {
        self.failures = 0;
        self.backoff = None;
        delay
    }
}

#[derive(Debug)]
enum Place {
    Ready(u64),
    Delayed(Instant, u64),
    Working { again: bool },
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            wake: Notify::new(),
            busy: watch::Sender::new(false),
        }
    }
}

impl Queue {
    /// Something happened to this Service.
    pub fn push(&self, key: Key, rank: Rank) {
        let mut state = self.state.lock();
        state.push(key, rank);
        self.changed(&state);
    }

    /// Something happened to all of these, of which the holders must have their
    /// turn before any pending Service has.
    pub fn push_batch(&self, batch: impl IntoIterator<Item = (Key, Rank)>) {
        let mut state = self.state.lock();
        for (key, rank) in batch {
            state.push_of_batch(key, rank);
        }
        self.changed(&state);
    }

    /// Forgets all keys, also those that are worked on, and takes none until
    /// [`Self::open`].
    pub fn stand_by(&self) {
        let mut state = self.state.lock();
        let closed = state.closed;
        *state = State {
            closed,
            stands_by: true,
            ..State::default()
        };
        self.changed(&state);
    }

    /// Whether keys are not taken.
    pub fn stands_by(&self) -> bool {
        self.state.lock().stands_by
    }

    /// Takes keys from now on, after this batch. Nothing is pushed while it is put
    /// together, so nothing is missed.
    pub fn open(&self, batch: impl FnOnce() -> Vec<(Key, Rank)>) {
        let mut state = self.state.lock();
        state.stands_by = false;
        for (key, rank) in batch() {
            state.push_of_batch(key, rank);
        }
        self.changed(&state);
    }

    /// The next key, as soon as there is one; nothing once the queue is closed.
    pub async fn pop(&self) -> Option<Job> {
        loop {
            let due = {
                let mut state = self.state.lock();
                if state.closed {
                    // Pass it on: every worker has to hear it.
                    self.wake.notify_one();
                    return None;
                }
                state.promote(Instant::now());
                if let Some(job) = state.take() {
                    self.changed(&state);
                    return Some(job);
                }
                state.delayed.first_key_value().map(|((at, _), _)| *at)
            };
            let due = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.wake.notified() => {}
                () = due => {}
            }
        }
    }

    /// A worker is done with a key.
    pub fn done(&self, key: &Key, next: Next) {
        let mut state = self.state.lock();
        state.done(key, next, Instant::now());
        self.changed(&state);
    }

    /// Hands out no more keys.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    /// How many keys wait for a worker.
    pub fn depth(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// Whether there is anything to do at the moment.
    pub fn busy(&self) -> watch::Receiver<bool> {
        self.busy.subscribe()
    }

    fn changed(&self, state: &State) {
        if !state.ready.is_empty() || !state.delayed.is_empty() {
            self.wake.notify_one();
        }
        let busy = !state.ready.is_empty() || state.working > 0;
        self.busy
            .send_if_modified(|was| std::mem::replace(was, busy) != busy);
    }
}

impl State {
    fn push_of_batch(&mut self, key: Key, rank: Rank) {
        if rank == Rank::Holder && !self.stands_by {
            self.holders.insert(key.clone());
        }
        self.push(key, rank);
    }

    fn push(&mut self, key: Key, rank: Rank) {
        if self.stands_by {
            return;
        }
        if rank != Rank::Holder {
            self.holders.remove(&key);
        }
        self.sequence += 1;
        let sequence = self.sequence;
        let entry = self.entries.entry(key.clone()).or_insert(Entry {
            place: Place::Delayed(Instant::now(), 0),
            rank,
            failures: 0,
            backoff: None,
        });
        match &mut entry.place {
            Place::Working { again } => {
                *again = true;
                entry.rank = rank;
                return;
            }
            Place::Ready(_) if entry.rank == rank => return,
            Place::Ready(at) => {
                self.ready.remove(&(entry.rank, *at));
            }
            Place::Delayed(at, sequence) => {
                self.delayed.remove(&(*at, *sequence));
            }
        }
        entry.rank = rank;
        entry.place = Place::Ready(sequence);
        self.ready.insert((rank, sequence), key);
    }

    /// Keys whose time has come.
    fn promote(&mut self, now: Instant) {
        while let Some(first) = self.delayed.first_entry().filter(|e| e.key().0 <= now) {
            let ((_, sequence), key) = first.remove_entry();
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.place = Place::Ready(sequence);
                self.ready.insert((entry.rank, sequence), key);
            }
        }
    }

    fn take(&mut self) -> Option<Job> {
        let first = self.ready.first_entry()?;
        if first.key().0 != Rank::Holder && !self.holders.is_empty() {
            return None;
        }
        let key = first.remove();
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::Working { again: false };
        self.working += 1;
        let failures = entry.failures;
        Some(Job { key, failures })
    }

    fn done(&mut self, key: &Key, next: Next, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let Place::Working { again } = entry.place else {
            return;
        };
        self.working -= 1;
        if !again {
            self.holders.remove(key);
        }
        let delay = match next {
            Next::Retry => entry.fails(),
            Next::RetryAfter(least) => entry.fails().max(least),
            Next::After(delay) => entry.succeeds(delay),
            Next::Done | Next::Again => entry.succeeds(Duration::ZERO),
        };
        self.sequence += 1;
        if again || next == Next::Again {
            entry.place = Place::Ready(self.sequence);
            self.ready.insert((entry.rank, self.sequence), key.clone());
        } else if next == Next::Done {
            self.entries.remove(key);
        } else {
            let at = now + delay;
            entry.place = Place::Delayed(at, self.sequence);
            self.delayed.insert((at, self.sequence), key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const OLD: Rank = Rank::Pending(1);
    const NEW: Rank = Rank::Pending(2);

    fn key(name: &str) -> Key {
        Key {
            namespace: "ns".into(),
            name: name.into(),
        }
    }

    /// What a worker would get right now.
    fn pop(queue: &Queue) -> Option<String> {
        queue.pop().now_or_never().flatten().map(|job| job.key.name)
    }

    #[tokio::test(start_paused = true)]
    async fn holders_come_first_and_the_oldest_pending_next() {
        let queue = Queue::default();
        for (name, rank) in [
            ("new", NEW),
            ("old", OLD),
            ("holder", Rank::Holder),
            ("old2", OLD),
        ] {
            queue.push(key(name), rank);
        }
        let order: Vec<_> = std::iter::from_fn(|| pop(&queue)).collect();
        assert_eq!(order, ["holder", "old", "old2", "new"]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_pending_one_is_handed_out_before_every_holder_of_the_batch_had_its_turn() {
        let queue = Queue::default();
        queue.push_batch([
            (key("waits"), OLD),
            (key("a"), Rank::Holder),
            (key("b"), Rank::Holder),
        ]);
        assert_eq!(pop(&queue).as_deref(), Some("a"));
        assert_eq!(pop(&queue).as_deref(), Some("b"));
        assert_eq!(pop(&queue), None);
        queue.done(&key("a"), Next::Done);
        assert_eq!(pop(&queue), None);
        queue.done(&key("b"), Next::Retry);
        assert_eq!(pop(&queue).as_deref(), Some("waits"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_of_a_batch_that_turns_out_to_be_pending_blocks_nobody() {
        let queue = Queue::default();
        queue.push_batch([(key("a"), Rank::Holder), (key("waits"), NEW)]);
        queue.push(key("a"), OLD);
        assert_eq!(pop(&queue).as_deref(), Some("a"));
        assert_eq!(pop(&queue).as_deref(), Some("waits"));
    }

    #[tokio::test(start_paused = true)]
    async fn confirmed_holders_come_last_and_an_event_makes_them_holders_again() {
        let queue = Queue::default();
        queue.push_batch([
            (key("a"), Rank::Holder),
            (key("b"), Rank::Holder),
            (key("c"), Rank::Holder),
            (key("waits"), NEW),
        ]);
        assert_eq!(pop(&queue).as_deref(), Some("a"));
        queue.done(&key("a"), Next::Retry);
        queue.push_batch(["a", "b", "c"].map(|name| (key(name), Rank::Confirmed)));
        assert_eq!(pop(&queue).as_deref(), Some("waits"));
        queue.push(key("c"), Rank::Holder);
        let order: Vec<_> = std::iter::from_fn(|| pop(&queue)).collect();
        assert_eq!(order, ["c", "a", "b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_never_with_two_workers_and_is_looked_at_again_if_it_changed() {
        let queue = Queue::default();
        queue.push(key("a"), OLD);
        assert_eq!(pop(&queue).as_deref(), Some("a"));
        queue.push(key("a"), OLD);
        assert_eq!(pop(&queue), None);
        queue.done(&key("a"), Next::Done);
        assert_eq!(pop(&queue).as_deref(), Some("a"));
        queue.done(&key("a"), Next::Done);
        assert_eq!(pop(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_key_backs_off_without_delaying_others_and_a_change_overrides_the_wait() {
        let queue = Queue::default();
        queue.push(key("a"), OLD);
        let mut waited = Vec::new();
        for _ in 0..10 {
            let start = Instant::now();
            assert_eq!(queue.pop().await.unwrap().key.name, "a");
            waited.push(start.elapsed());
            queue.done(&key("a"), Next::Retry);
        }
        assert!(waited[1] >= Duration::from_millis(200) && waited[1] < Duration::from_millis(402));
        assert!(waited[3] >= Duration::from_millis(800));
        assert!(waited[9] >= Duration::from_secs(30) && waited[9] <= Duration::from_secs(61));

        queue.push(key("b"), NEW);
        assert_eq!(pop(&queue).as_deref(), Some("b"));
        queue.push(key("a"), OLD);
        let job = queue.pop().now_or_never().flatten().unwrap();
        assert_eq!((job.key.name.as_str(), job.failures), ("a", 10));
        queue.done(&key("a"), Next::Done);
        queue.push(key("a"), OLD);
        assert_eq!(queue.pop().await.unwrap().failures, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_failed_waits_as_long_as_the_api_server_asked_for() {
        let queue = Queue::default();
        queue.push(key("a"), OLD);
        for (least, longest) in [(20, 21), (0, 1)] {
            assert_eq!(pop(&queue).as_deref(), Some("a"));
            let start = Instant::now();
            let asked = Duration::from_secs(least);
            queue.done(&key("a"), Next::RetryAfter(asked));
            let job = queue.pop().await.unwrap();
            assert!(job.failures > 0);
            let waited = start.elapsed();
            assert!(
                waited >= asked && waited < Duration::from_secs(longest),
                "{waited:?}"
            );
            queue.done(&key("a"), Next::Again);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_sleeps_wakes_for_a_push_and_for_a_delay_that_ends() {
        let queue = std::sync::Arc::new(Queue::default());
        let sleeper = {
            let queue = queue.clone();
            tokio::spawn(async move { queue.pop().await.unwrap().key.name })
        };
        tokio::task::yield_now().await;
        queue.push(key("a"), OLD);
        assert_eq!(sleeper.await.unwrap(), "a");
        let sleeper = {
            let queue = queue.clone();
            tokio::spawn(async move { queue.pop().await.unwrap().key.name })
        };
        tokio::task::yield_now().await;
        queue.done(&key("a"), Next::After(Duration::from_secs(300)));
        let start = Instant::now();
        assert_eq!(sleeper.await.unwrap(), "a");
        assert_eq!(start.elapsed().as_secs(), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_stands_by_forgets_all_and_takes_nothing_until_it_is_opened() {
        let queue = Queue::default();
        for name in ["worked on", "ready", "retried"] {
            queue.push(key(name), Rank::Holder);
        }
        let retried = queue.pop().await.unwrap();
        queue.done(&retried.key, Next::Retry);
        let worked_on = queue.pop().await.unwrap();
        queue.stand_by();
        assert!(queue.stands_by() && !*queue.busy().borrow());
        queue.push(key("a"), Rank::Holder);
        queue.push_batch([(key("b"), Rank::Holder)]);
        queue.done(&worked_on.key, Next::Again);
        tokio::time::advance(Duration::from_secs(600)).await;
        assert!(queue.pop().now_or_never().is_none());

        queue.open(|| vec![(key("pending"), OLD), (key("holder"), Rank::Holder)]);
        assert_eq!(queue.pop().await.unwrap().key, key("holder"));
        assert!(queue.pop().now_or_never().is_none());
        queue.done(&key("holder"), Next::Done);
        assert_eq!(queue.pop().await.unwrap().key, key("pending"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_queue_lets_every_worker_go() {
        let queue = std::sync::Arc::new(Queue::default());
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.pop().await.is_none() })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.close();
        for worker in workers {
            assert!(worker.await.unwrap());
        }
    }
}
