//! Runs seeds, each on a thread of its own, and sums up.

use std::{
    cell::Cell,
    collections::BTreeMap,
    env, fmt,
    ops::Range,
    panic,
    sync::{Once, mpsc},
    thread,
    time::{Duration, Instant},
};

use integration_tests::scratch::Scratch;
use parking_lot::Mutex;

use crate::run::{Outcome, run};

/// One seed takes far less, unless something goes round in circles: a minute where others
/// keep the machine busy.
const DEADLINE: Duration = Duration::from_secs(900);

thread_local! {
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// A panic in a task ends only that task: it is counted, and is a failure.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            usual(info);
        }));
    });
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// A range of numbers from the environment.
pub fn range(name: &str) -> Option<Range<u64>> {
    let text = env::var(name).ok()?;
    let (from, to) = text.split_once("..").expect("a range such as 40..240");
    let [from, to] = [from, to].map(|text| text.parse().expect("a number"));
    Some(from..to)
}

/// Runs one seed.
pub fn one(seed: u64, aloud: bool) -> Outcome {
    count_panics();
    let (sender, receiver) = mpsc::channel();
    let folder = Scratch::new("simulation").unwrap();
    let path = folder.path().to_owned();
    thread::spawn(move || {
        let mut outcome = run(seed, &path, aloud);
        let panics = PANICS.take();
        if panics > 0 {
            outcome.problems.push(format!("{panics} tasks panicked"));
        }
        let _ = sender.send(outcome);
    });
    receiver.recv_timeout(DEADLINE).unwrap_or_else(|_| Outcome {
        seed,
        problems: vec!["it goes round in circles, or panicked".to_owned()],
        ..Outcome::default()
    })
}

/// What some seeds came to.
#[derive(Debug, Default)]
pub struct Report {
    seeds: u64,
    counts: BTreeMap<&'static str, u64>,
    slowest: Duration,
    pub failed: Vec<Outcome>,
}

impl Report {
    pub fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.slowest = self.slowest.max(outcome.settled);
        for (what, count) in &outcome.counts {
            *self.counts.entry(what).or_default() += count;
        }
        if !outcome.problems.is_empty() {
            println!("{outcome}");
            self.failed.push(outcome);
        }
    }

    /// Runs these seeds.
    pub fn run(&mut self, seeds: impl Iterator<Item = u64> + Send) {
        let seeds = Mutex::new(seeds);
        self.in_parallel(|| seeds.lock().next());
    }

    /// Runs new seeds for so long.
    pub fn run_new(&mut self, time: Duration) {
        let begun = Instant::now();
        self.in_parallel(|| (begun.elapsed() < time).then(|| fastrand::u64(..)));
    }

    fn in_parallel(&mut self, next: impl Fn() -> Option<u64> + Sync) {
        let report = Mutex::new(self);
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(seed) = next() {
                        let outcome = one(seed, false);
                        report.lock().add(outcome);
                    }
                });
            }
        });
    }

    /// In words.
    pub fn failures(&self) -> String {
        let failures = self.failed.iter().map(ToString::to_string);
        failures.collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> = self
            .counts
            .iter()
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        write!(
            f,
            "simulation: {} seeds, {} failed, slowest to settle {} s; {}",
            self.seeds,
            self.failed.len(),
            self.slowest.as_secs(),
            counts.join(", ")
        )
    }
}
