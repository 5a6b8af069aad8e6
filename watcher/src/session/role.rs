//! What this replica may do, and who works only then.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::observed::Observed;

const BEAT: Duration = Duration::from_secs(1);
/// A process that does not get to run for so long may have lost its session without
/// having been told. The allocator gives a silent one up after 2 to 4 s.
const STOPPED: Duration = Duration::from_secs(3);

/// What this replica may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Nothing: another replica acts, or who does is not known.
    #[default]
    Standby,
    /// All: on its session the allocator said so.
    Acting,
    /// It has no session: it puts back what was granted, and tells those that wait.
    Alone,
}

/// Shared by the session, which decides, and all who work.
#[derive(Debug)]
pub struct RoleKeeper {
    state: Observed<State>,
    /// How much of what may run in a term only is running.
    running: Observed<usize>,
    /// When this process last was seen to run.
    beat: Mutex<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    role: Role,
    /// It acts, or did when its session ended.
    acted: bool,
    /// Grows whenever it stands by: work that began before is over.
    term: u64,
    /// How often this process was stopped for a while.
    stops: u64,
    /// No other term is to begin.
    retired: bool,
}

impl State {
    fn works(&self, term: u64) -> bool {
        self.term == term && self.role != Role::Standby
    }
}

/// One of those that run.
struct Running<'a>(&'a Observed<usize>);

impl<'a> Running<'a> {
    fn new(count: &'a Observed<usize>) -> Self {
        count.update(|count| *count += 1);
        Self(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.update(|count| *count -= 1);
    }
}

impl Default for RoleKeeper {
    fn default() -> Self {
        Self {
            state: Observed::default(),
            running: Observed::default(),
            beat: Mutex::new(Instant::now()),
        }
    }
}

impl RoleKeeper {
    /// What this replica may do now.
    pub fn get(&self) -> Role {
        self.state.get().role
    }

    /// Whether this replica acts, or did when its session ended.
    pub fn acts(&self) -> bool {
        let state = self.state.get();
        state.acted && state.role != Role::Standby
    }

    /// It has this role from now on. Who works, goes on working, but for a standby.
    pub fn set(&self, role: Role) {
        self.state.update(|state| {
            state.role = role;
            state.acted = match role {
                Role::Standby => false,
                Role::Acting => true,
                Role::Alone => state.acted,
            };
            state.term += u64::from(role == Role::Standby);
        });
    }

    /// No other term is to begin: those who wait for one go home.
    pub fn retire(&self) {
        self.state.update(|state| state.retired = true);
    }

    /// Waits until nothing of a term that is over runs any more.
    pub async fn settled(&self) {
        self.running.wait_for(|running| *running == 0).await;
    }

    /// Does the work in each term anew, until it is done. With the end of the term
    /// it is dropped where it stands.
    pub async fn each_term<F: Future<Output = ()>>(&self, start: impl Fn() -> F) {
        loop {
            let next = |state: &State| state.retired || state.works(state.term);
            let state = self.state.wait_for(next).await;
            if !state.works(state.term) {
                return;
            }
            let running = Running::new(&self.running);
            let done = self.within(state.term, start()).await;
            drop(running);
            if done.is_some() {
                return;
            }
        }
    }

    /// Looks at the clock before each step of the work: a process that was stopped in
    /// the middle would go on with it long after another replica began to act.
    async fn within<T>(&self, term: u64, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let mut over = pin!(self.state.wait_for(|state| !state.works(term)));
        poll_fn(|context| {
            self.look_at_the_clock();
            if over.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            work.as_mut().poll(context).map(Some)
        })
        .await
    }

    /// Sees to it that it is noticed when this process was stopped. For ever.
    pub async fn beat(&self) {
        loop {
            tokio::time::sleep(BEAT).await;
            self.look_at_the_clock();
            *self.beat.lock() = Instant::now();
        }
    }

    /// Stands by if this process was stopped.
    fn look_at_the_clock(&self) {
        let now = Instant::now();
        let stopped = {
            let mut beat = self.beat.lock();
            let stopped = now - *beat > STOPPED;
            if stopped {
                *beat = now;
            }
            stopped
        };
        if stopped {
            self.state.update(|state| {
                state.role = Role::Standby;
                state.term += 1;
                state.stops += 1;
            });
        }
    }

    /// How often this process was stopped so far.
    pub fn stops(&self) -> u64 {
        self.state.get().stops
    }

    /// Ends once this process was stopped more often than this.
    pub async fn stopped(&self, stops: u64) {
        self.state.wait_for(|state| state.stops > stops).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::{sync::watch, task::JoinHandle};

    use super::*;

    const STEP: Duration = Duration::from_secs(1);

    /// Counts the seconds in which it may work.
    fn working(role: &Arc<RoleKeeper>) -> (Arc<AtomicUsize>, JoinHandle<()>) {
        let steps = Arc::new(AtomicUsize::new(0));
        let (of_task, role) = (steps.clone(), role.clone());
        let task = tokio::spawn(async move {
            let work = || async {
                loop {
                    tokio::time::sleep(STEP).await;
                    of_task.fetch_add(1, Ordering::Relaxed);
                }
            };
            tokio::select! {
                () = role.each_term(work) => {}
                () = role.beat() => {}
            }
        });
        (steps, task)
    }

    fn seconds(count: u32) -> impl Future<Output = ()> {
        tokio::time::sleep(STEP * count + STEP / 2)
    }

    #[tokio::test(start_paused = true)]
    async fn a_standby_does_not_work_and_who_loses_its_session_goes_on() {
        let role = Arc::new(RoleKeeper::default());
        let (steps, _task) = working(&role);
        seconds(5).await;
        assert_eq!(steps.load(Ordering::Relaxed), 0);
        role.set(Role::Acting);
        seconds(5).await;
        role.set(Role::Alone);
        tokio::time::sleep(STEP * 5).await;
        assert_eq!(steps.load(Ordering::Relaxed), 10);
        role.set(Role::Standby);
        seconds(5).await;
        assert_eq!(steps.load(Ordering::Relaxed), 10);
        role.settled().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_work_begins_anew_in_the_next_term_and_ends_with_it() {
        let role = Arc::new(RoleKeeper::default());
        let starts = Arc::new(AtomicUsize::new(0));
        let (count, of_task) = (starts.clone(), role.clone());
        let task = tokio::spawn(async move {
            let work = || async {
                count.fetch_add(1, Ordering::Relaxed);
                std::future::pending().await
            };
            of_task.each_term(work).await;
        });
        for term in 1..=3 {
            role.set(Role::Acting);
            seconds(0).await;
            assert_eq!(starts.load(Ordering::Relaxed), term);
            role.set(Role::Standby);
            role.settled().await;
        }
        role.retire();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_process_that_was_stopped_does_not_take_one_more_step() {
        let role = Arc::new(RoleKeeper::default());
        role.set(Role::Acting);
        let (go, gone) = watch::channel(false);
        let stepped = Arc::new(AtomicUsize::new(0));
        let (of_task, count) = (role.clone(), stepped.clone());
        let task = tokio::spawn(async move {
            let work = || async {
                gone.clone().changed().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
            };
            of_task.each_term(work).await;
        });
        tokio::task::yield_now().await;
        // So much time passes unseen.
        *role.beat.lock() -= STOPPED + STEP;
        go.send_replace(true);
        role.stopped(0).await;
        role.settled().await;
        assert_eq!(role.get(), Role::Standby);
        assert_eq!(stepped.load(Ordering::Relaxed), 0);
        role.retire();
        task.await.unwrap();
    }
}
