//! The work queue: keys that want to be looked at.
//!
//! - A key is with one worker at a time. One that is pushed while it is worked on
//!   is worked on again afterwards.
//! - A key that failed waits by itself, with exponential back-off and jitter, and
//!   delays no other. A push overrides the wait.
//! - Keys have their turn in an order that whoever makes the queue decides.
//! - While it stands by it takes no keys: nobody works on them, and whoever opens it
//!   looks at every Service.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::kube::key::Key;

/// Jitter at most doubles a delay, so that a retry waits a minute at most.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(200))
    .with_max_delay(Duration::from_secs(30))
    .without_max_times();

/// When a key is to be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
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

impl Requeue {
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

/// Which of two keys is handed out first: the one of the lower number.
type Turn = Box<dyn Fn(&Key) -> i64 + Send + Sync>;

/// The queue. Time is tokio's.
pub struct Queue {
    turn: Turn,
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
    ready: BTreeMap<(i64, u64), Key>,
    delayed: BTreeMap<(Instant, u64), Key>,
    working: usize,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    turn: i64,
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

impl Queue {
    /// An empty queue.
    pub fn new(turn: impl Fn(&Key) -> i64 + Send + Sync + 'static) -> Self {
        Self {
            turn: Box::new(turn),
            state: Mutex::default(),
            wake: Notify::new(),
            busy: watch::Sender::new(false),
        }
    }

    /// Something happened to this Service.
    pub fn push(&self, key: Key) {
        self.push_all([key]);
    }

    /// Something happened to all of these.
    pub fn push_all(&self, keys: impl IntoIterator<Item = Key>) {
        let mut state = self.state.lock();
        for key in keys {
            state.push((self.turn)(&key), key);
        }
        self.changed(&state);
    }

    /// Something happened to all of these, and may have to any that is worked on: what was
    /// asked for it may have been answered before.
    pub fn push_all_and_those_worked_on(&self, keys: impl IntoIterator<Item = Key>) {
        self.state.lock().work_again();
        self.push_all(keys);
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
    pub fn open(&self, batch: impl FnOnce() -> Vec<Key>) {
        let mut state = self.state.lock();
        state.stands_by = false;
        for key in batch() {
            state.push((self.turn)(&key), key);
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
    pub fn done(&self, key: &Key, next: Requeue) {
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
    fn work_again(&mut self) {
        for entry in self.entries.values_mut() {
            if let Place::Working { again } = &mut entry.place {
                *again = true;
            }
        }
    }

    fn push(&mut self, turn: i64, key: Key) {
        if self.stands_by {
            return;
        }
        self.sequence += 1;
        let sequence = self.sequence;
        let entry = self.entries.entry(key.clone()).or_insert(Entry {
            place: Place::Delayed(Instant::now(), 0),
            turn,
            failures: 0,
            backoff: None,
        });
        match &mut entry.place {
            Place::Working { again } => {
                *again = true;
                entry.turn = turn;
                return;
            }
            Place::Ready(_) if entry.turn == turn => return,
            Place::Ready(at) => {
                self.ready.remove(&(entry.turn, *at));
            }
            Place::Delayed(at, sequence) => {
                self.delayed.remove(&(*at, *sequence));
            }
        }
        entry.turn = turn;
        entry.place = Place::Ready(sequence);
        self.ready.insert((turn, sequence), key);
    }

    /// Keys whose time has come.
    fn promote(&mut self, now: Instant) {
        while let Some(first) = self.delayed.first_entry().filter(|e| e.key().0 <= now) {
            let ((_, sequence), key) = first.remove_entry();
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.place = Place::Ready(sequence);
                self.ready.insert((entry.turn, sequence), key);
            }
        }
    }

    fn take(&mut self) -> Option<Job> {
        let (_, key) = self.ready.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::Working { again: false };
        self.working += 1;
        let failures = entry.failures;
        Some(Job { key, failures })
    }

    fn done(&mut self, key: &Key, next: Requeue, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let Place::Working { again } = entry.place else {
            return;
        };
        self.working -= 1;
        let delay = match next {
            Requeue::Retry => entry.fails(),
            Requeue::RetryAfter(least) => entry.fails().max(least),
            Requeue::After(delay) => entry.succeeds(delay),
            Requeue::Done | Requeue::Again => entry.succeeds(Duration::ZERO),
        };
        self.sequence += 1;
        if again || next == Requeue::Again {
            entry.place = Place::Ready(self.sequence);
            self.ready.insert((entry.turn, self.sequence), key.clone());
        } else if next == Requeue::Done {
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
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

    use futures::FutureExt;

    use super::*;

    fn queue() -> Queue {
        Queue::new(|_| 0)
    }

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
    async fn keys_are_handed_out_in_the_order_of_their_turns_and_one_turn_in_that_of_pushes() {
        let queue = Queue::new(|key| i64::from(key.name.starts_with("late")));
        queue.push_all(["late-1", "b", "late-2", "a"].map(key));
        let order: Vec<_> = std::iter::from_fn(|| pop(&queue)).collect();
        assert_eq!(order, ["b", "a", "late-1", "late-2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_waits_for_a_worker_moves_when_its_turn_is_another_one() {
        let turns = Arc::new(AtomicI64::new(5));
        let turn = turns.clone();
        let queue = Queue::new(move |key| match &*key.name {
            "moves" => turn.load(Ordering::Relaxed),
            _ => 3,
        });
        queue.push_all(["moves", "a"].map(key));
        turns.store(1, Ordering::Relaxed);
        queue.push(key("moves"));
        let order: Vec<_> = std::iter::from_fn(|| pop(&queue)).collect();
        assert_eq!(order, ["moves", "a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_worked_on_while_something_is_told_to_all_that_wait_is_worked_on_again() {
        let queue = queue();
        queue.push(key("a"));
        assert_eq!(pop(&queue).as_deref(), Some("a"));
        queue.push_all_and_those_worked_on([key("b")]);
        queue.done(&key("a"), Requeue::Done);
        let order: Vec<_> = std::iter::from_fn(|| pop(&queue)).collect();
        assert_eq!(order, ["b", "a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_never_with_two_workers_and_is_looked_at_again_if_it_changed() {
        let queue = queue();
        queue.push(key("a"));
        assert_eq!(pop(&queue).as_deref(), Some("a"));
        queue.push(key("a"));
        assert_eq!(pop(&queue), None);
        queue.done(&key("a"), Requeue::Done);
        assert_eq!(pop(&queue).as_deref(), Some("a"));
        queue.done(&key("a"), Requeue::Done);
        assert_eq!(pop(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_key_backs_off_without_delaying_others_and_a_change_overrides_the_wait() {
        let queue = queue();
        queue.push(key("a"));
        let mut waited = Vec::new();
        for _ in 0..10 {
            let start = Instant::now();
            assert_eq!(queue.pop().await.unwrap().key.name, "a");
            waited.push(start.elapsed());
            queue.done(&key("a"), Requeue::Retry);
        }
        assert!(waited[1] >= Duration::from_millis(200) && waited[1] < Duration::from_millis(402));
        assert!(waited[3] >= Duration::from_millis(800));
        assert!(waited[9] >= Duration::from_secs(30) && waited[9] <= Duration::from_secs(61));

        queue.push(key("b"));
        assert_eq!(pop(&queue).as_deref(), Some("b"));
        queue.push(key("a"));
        let job = queue.pop().now_or_never().flatten().unwrap();
        assert_eq!((job.key.name.as_str(), job.failures), ("a", 10));
        queue.done(&key("a"), Requeue::Done);
        queue.push(key("a"));
        assert_eq!(queue.pop().await.unwrap().failures, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_failed_waits_as_long_as_the_api_server_asked_for() {
        let queue = queue();
        queue.push(key("a"));
        for (least, longest) in [(20, 21), (0, 1)] {
            assert_eq!(pop(&queue).as_deref(), Some("a"));
            let start = Instant::now();
            let asked = Duration::from_secs(least);
            queue.done(&key("a"), Requeue::RetryAfter(asked));
            let job = queue.pop().await.unwrap();
            assert!(job.failures > 0);
            let waited = start.elapsed();
            assert!(
                waited >= asked && waited < Duration::from_secs(longest),
                "{waited:?}"
            );
            queue.done(&key("a"), Requeue::Again);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_sleeps_wakes_for_a_push_and_for_a_delay_that_ends() {
        let queue = std::sync::Arc::new(queue());
        let sleeper = {
            let queue = queue.clone();
            tokio::spawn(async move { queue.pop().await.unwrap().key.name })
        };
        tokio::task::yield_now().await;
        queue.push(key("a"));
        assert_eq!(sleeper.await.unwrap(), "a");
        let sleeper = {
            let queue = queue.clone();
            tokio::spawn(async move { queue.pop().await.unwrap().key.name })
        };
        tokio::task::yield_now().await;
        queue.done(&key("a"), Requeue::After(Duration::from_secs(300)));
        let start = Instant::now();
        assert_eq!(sleeper.await.unwrap(), "a");
        assert_eq!(start.elapsed().as_secs(), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_stands_by_forgets_all_and_takes_nothing_until_it_is_opened() {
        let queue = queue();
        for name in ["worked on", "ready", "retried"] {
            queue.push(key(name));
        }
        let retried = queue.pop().await.unwrap();
        queue.done(&retried.key, Requeue::Retry);
        let worked_on = queue.pop().await.unwrap();
        queue.stand_by();
        assert!(queue.stands_by() && !*queue.busy().borrow());
        queue.push(key("a"));
        queue.push_all([key("b")]);
        queue.done(&worked_on.key, Requeue::Again);
        tokio::time::advance(Duration::from_secs(600)).await;
        assert!(queue.pop().now_or_never().is_none());

        queue.open(|| vec![key("c"), key("d")]);
        assert_eq!(pop(&queue).as_deref(), Some("c"));
        assert_eq!(pop(&queue).as_deref(), Some("d"));
        assert_eq!(pop(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_queue_lets_every_worker_go() {
        let queue = std::sync::Arc::new(queue());
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
