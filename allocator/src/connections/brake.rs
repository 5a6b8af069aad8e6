//! Holds back whoever is refused and asks again at once.
//!
//! A refusal takes as much of the processors as many an answer, so who does not wait
//! takes from those that are served. Refusals therefore have turns, 2,000 a second in
//! the whole process, and a connection is not read again before the turn of its last
//! one. Its sender waits meanwhile, by TCP, and nothing of it takes memory here.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

/// From one refusal's turn to the next.
const TURN: Duration = Duration::from_micros(500);
/// The longest that a connection is not read: HTTP/2's pings over it are answered in
/// time all the same.
const LONGEST: Duration = Duration::from_secs(8);

/// The turns; a clone is of the same ones.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<Option<Instant>>>);

impl Turns {
    fn next(&self, now: Instant) -> Instant {
        let mut last = self.0.lock();
        let next = last.map_or(now, |last| last.max(now)) + TURN;
        *last.insert(next.min(now + LONGEST))
    }
}

/// Of one connection; a clone is the same one.
#[derive(Clone, Debug)]
pub struct Brake {
    turns: Turns,
    until: Arc<Mutex<Option<Instant>>>,
}

impl Brake {
    pub fn new(turns: Turns) -> Self {
        Self {
            turns,
            until: Arc::default(),
        }
    }

    /// A request of this connection was refused for want of room.
    pub fn refused(&self) {
        *self.until.lock() = Some(self.turns.next(Instant::now()));
    }
}

/// What reads the connection asks this first.
#[derive(Debug)]
pub struct Pause {
    brake: Brake,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Pause {
    pub const fn new(brake: Brake) -> Self {
        Self { brake, sleep: None }
    }

    /// Ready when the connection may be read.
    pub fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(context));
                self.sleep = None;
            }
            let Some(until) = self.brake.until.lock().take() else {
                return Poll::Ready(());
            };
            self.sleep = Some(Box::pin(sleep_until(until)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// How long it takes until each connection may be read, one after the other.
    async fn waits(brakes: &[Brake]) -> Vec<Duration> {
        let begun = Instant::now();
        let mut waits = Vec::new();
        for brake in brakes {
            let mut pause = Pause::new(brake.clone());
            poll_fn(|context| pause.poll_over(context)).await;
            waits.push(begun.elapsed());
        }
        waits
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_waits_for_its_turn_and_others_do_not() {
        let turns = Turns::default();
        let brakes: Vec<_> = (0..3).map(|_| Brake::new(turns.clone())).collect();
        for _ in 0..1000 {
            brakes[1].refused();
        }
        brakes[2].refused();
        let waits = waits(&brakes).await;
        assert_eq!(waits[0], Duration::ZERO);
        assert_eq!(waits[1].as_millis(), 500);
        assert_eq!(waits[2].as_millis(), 501);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_so_long_that_it_is_taken_for_gone() {
        let turns = Turns::default();
        let (flood, late) = (Brake::new(turns.clone()), Brake::new(turns));
        for _ in 0..100_000 {
            flood.refused();
        }
        late.refused();
        let begun = Instant::now();
        assert_eq!(waits(&[flood.clone(), late]).await, [LONGEST, LONGEST]);
        assert_eq!(begun.elapsed(), LONGEST);
        flood.refused();
        assert_eq!(
            waits(&[flood]).await[0].as_millis(),
            1,
            "and it is forgotten"
        );
    }
}
