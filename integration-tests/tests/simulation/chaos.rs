//! What may go wrong at the moment and how likely, what did go wrong, and the
//! record of a run.
//!
//! Every choice of a run comes from fastrand's generator of this thread, seeded
//! once: the jitter of the product's back-off draws from it too.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

/// How likely each fault is, for each request, connection, event or commit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// A message waits up to this long on its way.
    pub delay: Duration,
    /// A watch event waits up to this long.
    pub staleness: Duration,
    pub request_lost: f64,
    pub answer_lost: f64,
    pub duplicated: f64,
    pub api_refuses: f64,
    pub list_cut: f64,
    pub watch_cut: f64,
    pub sync_cut: f64,
    pub disk_fails: f64,
    /// Written, and yet told as failed.
    pub disk_lies: f64,
}

impl Rates {
    /// Nothing goes wrong, and messages take a moment.
    pub fn calm() -> Self {
        Self {
            delay: Duration::from_millis(5),
            staleness: Duration::from_millis(20),
            ..Self::default()
        }
    }

    /// Each fault off, rare or frequent.
    pub fn random() -> Self {
        let rate = || [0.0, 0.0, 0.02, 0.15][fastrand::usize(..4)];
        let delay = |limits: [u64; 4]| Duration::from_millis(limits[fastrand::usize(..4)]);
        Self {
            delay: delay([1, 20, 300, 4_000]),
            staleness: delay([1, 100, 2_000, 30_000]),
            request_lost: rate(),
            answer_lost: rate(),
            duplicated: rate(),
            api_refuses: rate(),
            list_cut: rate(),
            watch_cut: rate(),
            sync_cut: rate(),
            disk_fails: rate(),
            disk_lies: rate(),
        }
    }
}

/// Shared by all parts of a run.
#[derive(Clone, Debug)]
pub struct Chaos(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rates: Rates,
    begun: Instant,
    counts: BTreeMap<&'static str, u64>,
    record: Vec<String>,
    violations: Vec<String>,
    hash: DefaultHasher,
    aloud: bool,
}

impl Chaos {
    /// `aloud`: the record goes to standard error as it grows.
    pub fn new(aloud: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            rates: Rates::calm(),
            begun: Instant::now(),
            counts: BTreeMap::new(),
            record: Vec::new(),
            violations: Vec::new(),
            hash: DefaultHasher::new(),
            aloud,
        })))
    }

    pub fn rates(&self) -> Rates {
        self.0.lock().rates
    }

    pub fn set_rates(&self, rates: Rates) {
        self.0.lock().rates = rates;
    }

    /// Whether a fault of this likelihood happens now; counts it if so.
    pub fn strikes(&self, fault: &'static str, likelihood: fn(&Rates) -> f64) -> bool {
        let likelihood = likelihood(&self.rates());
        let strikes = likelihood > 0.0 && fastrand::f64() < likelihood;
        if strikes {
            self.count(fault);
        }
        strikes
    }

    /// A fault or operation happened.
    pub fn count(&self, what: &'static str) {
        *self.0.lock().counts.entry(what).or_default() += 1;
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().counts.clone()
    }

    /// A message is on its way.
    pub async fn travel(&self) {
        sleep(random_up_to(self.rates().delay)).await;
    }

    /// What time it is where Services live.
    pub fn time(&self) -> String {
        let seconds = self.0.lock().begun.elapsed().as_secs();
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        format!("2026-01-01T{hours:02}:{minutes:02}:{:02}Z", seconds % 60)
    }

    /// Something happened that two runs of one seed have in common.
    pub fn note(&self, what: impl fmt::Display) {
        let mut state = self.0.lock();
        let line = format!("{:>10.3} {what}", state.begun.elapsed().as_secs_f64());
        line.hash(&mut state.hash);
        if state.aloud {
            eprintln!("{line}");
        }
        state.record.push(line);
    }

    /// A promise was broken.
    pub fn violated(&self, what: impl fmt::Display) {
        self.note(format_args!("VIOLATION: {what}"));
        self.0.lock().violations.push(what.to_string());
    }

    pub fn violations(&self) -> Vec<String> {
        self.0.lock().violations.clone()
    }

    /// Of the whole record.
    pub fn fingerprint(&self) -> u64 {
        self.0.lock().hash.finish()
    }

    pub fn record(&self) -> Vec<String> {
        self.0.lock().record.clone()
    }
}

/// Mostly short, sometimes as long as it may be.
pub fn random_up_to(limit: Duration) -> Duration {
    let share = fastrand::f64();
    limit.mul_f64(share * share * share)
}

/// One of these.
pub fn pick<T: Clone>(choices: &[T]) -> T {
    choices[fastrand::usize(..choices.len())].clone()
}
