//! Whether this process may act for its cluster, and who acts only then. It may
//! in terms: each has an end, which is put off as long as all goes well.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use tokio::time::Instant;

use crate::observed::Observed;

/// Shared by the election, which decides, and all who act.
#[derive(Debug, Default)]
pub struct Leadership {
    state: Observed<State>,
    /// How much of what may run in a term only is running.
    running: Observed<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// The last one that began.
    term: u64,
    /// When it ends; nothing if it has ended.
    until: Option<Instant>,
    /// No other one is to begin.
    retired: bool,
}

impl State {
    fn holds(&self, term: u64) -> bool {
        let now = Instant::now();
        self.term == term && self.until.is_some_and(|until| now < until)
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

impl Leadership {
    /// Whether this process may act now.
    pub fn leads(&self) -> bool {
        let state = self.state.get();
        state.holds(state.term)
    }

    /// A term begins. Nothing of an earlier one may run any more.
    pub fn begin(&self, until: Instant) {
        self.state.update(|state| {
            state.term += 1;
            state.until = Some(until);
        });
    }

    /// The term ends later. Says whether it does: one that has ended is over.
    pub fn extend(&self, until: Instant) -> bool {
        self.state.update(|state| {
            let holds = state.holds(state.term);
            if holds {
                state.until = Some(until);
            }
            holds
        })
    }

    /// The term ends now.
    pub fn end(&self) {
        self.state.update(|state| state.until = None);
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
            let next = |state: &State| state.retired || state.holds(state.term);
            let term = self.state.wait_for(next).await;
            if !term.holds(term.term) && term.retired {
                return;
            }
            let running = Running::new(&self.running);
            let done = self.within(term.term, start()).await;
            drop(running);
            if done.is_some() {
                return;
            }
        }
    }

    /// Looks at the clock before each step of the work: a process that was stopped
    /// in the middle goes on long after its term without having been told.
    async fn within<T>(&self, term: u64, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let mut over = pin!(self.over(term));
        poll_fn(|context| {
            let holds = self.state.get().holds(term);
            if !holds || over.as_mut().poll(context).is_ready() {
                return Poll::Ready(None);
            }
            work.as_mut().poll(context).map(Some)
        })
        .await
    }

    async fn over(&self, term: u64) {
        loop {
            let changed = self.state.changed();
            let now = self.state.get();
            let Some(until) = now.until.filter(|_| now.holds(term)) else {
                return;
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => {}
                () = changed => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use super::*;

    const TERM: Duration = Duration::from_secs(7);
    const STEP: Duration = Duration::from_secs(1);

    /// Counts the seconds in which it may act.
    fn acting(leadership: &Arc<Leadership>) -> (Arc<AtomicUsize>, tokio::task::JoinHandle<()>) {
        let steps = Arc::new(AtomicUsize::new(0));
        let task = {
            let (leadership, steps) = (leadership.clone(), steps.clone());
            tokio::spawn(async move {
                leadership
                    .each_term(|| async {
                        loop {
                            tokio::time::sleep(STEP).await;
                            steps.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                    .await;
            })
        };
        (steps, task)
    }

    fn seconds(count: u32) -> impl Future<Output = ()> {
        tokio::time::sleep(STEP * count + STEP / 2)
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_acts_before_a_term_or_after_it() {
        let leadership = Arc::new(Leadership::default());
        let (steps, _task) = acting(&leadership);
        seconds(5).await;
        assert_eq!(steps.load(Ordering::Relaxed), 0);
        leadership.begin(Instant::now() + TERM);
        assert!(leadership.leads());
        seconds(20).await;
        assert_eq!(steps.load(Ordering::Relaxed), 6);
        assert!(!leadership.leads());
        leadership.settled().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_lasts_as_long_as_it_is_extended_in_time() {
        let leadership = Arc::new(Leadership::default());
        let (steps, _task) = acting(&leadership);
        leadership.begin(Instant::now() + TERM);
        seconds(5).await;
        assert!(leadership.extend(Instant::now() + TERM));
        tokio::time::sleep(STEP * 5).await;
        assert_eq!(steps.load(Ordering::Relaxed), 10);
        seconds(5).await;
        assert!(!leadership.extend(Instant::now() + TERM));
        assert!(!leadership.leads());
    }

    #[tokio::test(start_paused = true)]
    async fn the_work_begins_anew_in_the_next_term() {
        let leadership = Arc::new(Leadership::default());
        let starts = Arc::new(AtomicUsize::new(0));
        let task = {
            let (leadership, starts) = (leadership.clone(), starts.clone());
            tokio::spawn(async move {
                leadership
                    .each_term(|| async {
                        starts.fetch_add(1, Ordering::Relaxed);
                        std::future::pending().await
                    })
                    .await;
            })
        };
        for term in 1..=3 {
            leadership.begin(Instant::now() + TERM);
            seconds(1).await;
            assert_eq!(starts.load(Ordering::Relaxed), term);
            leadership.end();
            leadership.settled().await;
        }
        leadership.retire();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_comes_after_the_end_of_the_term_is_not_taken() {
        let leadership = Leadership::default();
        leadership.begin(Instant::now() + TERM);
        let (wake, mut woken) = watch::channel(0);
        let mut stepped = false;
        let work = async {
            let _ = woken.changed().await.is_ok();
            stepped = true;
        };
        // The clock goes on while nothing is polled, as it does for a stopped process.
        let stopped = async {
            tokio::task::yield_now().await;
            tokio::time::advance(TERM).await;
            wake.send_replace(1);
        };
        let ((), done) = tokio::join!(stopped, leadership.within(1, work));
        assert!(done.is_none() && !stepped);
    }

    #[tokio::test(start_paused = true)]
    async fn who_retires_in_a_term_may_finish_and_who_stands_by_goes_home() {
        let leadership = Arc::new(Leadership::default());
        let finish = |leadership: Arc<Leadership>| async move {
            leadership.each_term(|| tokio::time::sleep(STEP)).await;
        };
        let standing_by = tokio::spawn(finish(leadership.clone()));
        tokio::task::yield_now().await;
        leadership.retire();
        standing_by.await.unwrap();

        let leadership = Arc::new(Leadership::default());
        leadership.begin(Instant::now() + TERM);
        leadership.retire();
        tokio::spawn(finish(leadership)).await.unwrap();
    }
}
