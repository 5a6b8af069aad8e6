//! What time it is: one clock for everything that the allocator decides, handed in, so
//! that a test can say so.
//!
//! A machine has two clocks. The wall clock says what people mean by a time, and may be
//! wrong by years: a dead battery, a virtual machine that was resumed, a slip of somebody's
//! hand. The other one only counts how long the machine is up, and is never set. Cooldowns,
//! graces, reservations and decommissions end when a time has come; were that time the
//! wall clock's, a clock that is a year ahead for one moment would end them all, and give
//! away addresses that are in use.
//!
//! So the wall clock is asked at a start, and from then on time goes by the clock that
//! only counts: what is set while the process runs changes nothing, and is logged and
//! shown (`lb_allocator_clock_offset_seconds`). At a start, the database says when the
//! allocator was last at work ([`Clock::start`]), to a few minutes:
//!
//! - The wall clock is up to [`BELIEVED`] after that: it is believed. The machine was off
//!   for a while, or the program was upgraded.
//! - It is further ahead: it is wrong, or the machine was off for long. Time goes on from where it
//!   stopped, as if the machine had been off for no time, so nothing ends at once. When the wall
//!   clock has said the same for [`GRACE`], while a clock that is wrong after a boot would
//!   have been set and an alert has fired, it is believed.
//! - It is behind: it is wrong, or was ahead before. Time goes on from where it stopped, too, so
//!   that nothing has to wait until the wall clock gets there; what ended stays ended.
//!
//! A machine that is put to sleep while the process runs is one whose wall clock was set:
//! time stands still meanwhile, until the next start.
//!
//! While it is not believed, a wall clock that is set is looked at anew, as at a start.
//! Once it is believed, it is not asked again before the next start. Time never goes back.
//!
//! Times that people and certificates give are of the wall clock. The end of a reservation is
//! compared with the time told here, as every other end is. The end of a certificate is
//! compared with the wall clock itself ([`Clock::wall`]), as the handshake does it, which
//! is nothing that a decision about an address depends on. When Services were created is
//! only compared among Services of one cluster, whose API server said so.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use crate::engine::Timestamp;

/// How far after the last time that is noted the wall clock is believed at once.
pub const BELIEVED: Duration = Duration::from_secs(24 * 60 * 60);
/// For how long a wall clock that is further ahead has to say so.
pub const GRACE: Duration = Duration::from_secs(60 * 60);
/// What a wall clock may differ by: it is adjusted all the time.
const TOLERANCE: Duration = Duration::from_secs(60);

/// What both clocks of a machine say at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub wall: Timestamp,
    /// Since some moment before, always the same: it only grows.
    pub up: Duration,
}

/// Tells the time. A clone is the same clock.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    read: Box<dyn Fn() -> Reading + Send + Sync>,
    course: Mutex<Course>,
}

/// From which moment on time is counted.
#[derive(Clone, Copy, Debug)]
struct Course {
    /// What time it was when `up` was the machine's.
    at: Timestamp,
    up: Duration,
    doubt: Option<Doubt>,
    /// What the wall clock differed by when that was last logged.
    told: Difference,
}

/// A wall clock that is not believed.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    since: Duration,
    /// When the machine came up, as the wall clock has it: as long as that
    /// stays, nobody has set the clock.
    boot: i64,
}

/// Milliseconds that the wall clock is ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Difference(i64);

impl Difference {
    /// Of a clock that nobody set.
    fn is_small(self) -> bool {
        self.0.unsigned_abs() <= as_millis(TOLERANCE).unsigned_abs()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = Duration::from_secs(self.0.unsigned_abs() / 1000);
        let way = if self.0 < 0 { "behind" } else { "ahead" };
        write!(f, "{by:?} {way}")
    }
}

impl Clock {
    pub fn machine() -> Self {
        let begun = Instant::now();
        Self::new(move || {
            let since_epoch = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            Reading {
                wall: Timestamp(as_millis(since_epoch)),
                up: begun.elapsed(),
            }
        })
    }

    /// Clocks of one's own. The wall clock is believed until [`Clock::start`].
    pub fn new(read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        let Reading { wall, up } = read();
        let course = Course {
            at: wall,
            up,
            doubt: None,
            told: Difference::default(),
        };
        Self(Arc::new(Inner {
            read: Box::new(read),
            course: Mutex::new(course),
        }))
    }

    /// What time it is for decisions.
    pub fn now(&self) -> Timestamp {
        let reading = (self.0.read)();
        self.0.course.lock().now(reading)
    }

    /// What the machine's wall clock says, right or wrong.
    pub fn wall(&self) -> Timestamp {
        (self.0.read)().wall
    }

    /// How far the wall clock is ahead of the time for decisions, in milliseconds.
    pub fn offset(&self) -> i64 {
        let reading = (self.0.read)();
        self.0.course.lock().difference(reading).0
    }

    /// Time goes on after `last`, the latest that a database knows of; a new one knows
    /// of none, and nothing in it waits for an end.
    pub fn start(&self, last: Option<Timestamp>) {
        let reading = (self.0.read)();
        let last = last.unwrap_or(reading.wall);
        let mut course = self.0.course.lock();
        *course = Course::from(last, reading);
        let difference = course.difference(reading);
        course.told = difference;
        if course.doubt.is_some() {
            tracing::warn!(
                %last,
                wall_clock = %reading.wall,
                "the machine's clock is {difference} of the last time in the database, and is not \
                 believed for now: time goes on from where it stopped. Set the clock if it is wrong"
            );
        }
    }

    /// To be called every now and then: logs that the wall clock was set, and ends
    /// doubts about it.
    pub fn watch(&self) {
        let reading = (self.0.read)();
        let mut course = self.0.course.lock();
        let before = course.difference(reading);
        if course.reconsider(reading) {
            let difference = course.difference(reading);
            course.told = difference;
            if course.doubt.is_none() {
                tracing::warn!("the machine's clock is believed now; time moves on by {before}");
            } else {
                tracing::warn!("the machine's clock was set; it is {difference}, and not believed");
            }
        } else if course.doubt.is_none() && !Difference(before.0 - course.told.0).is_small() {
            course.told = before;
            tracing::warn!(
                wall_clock = %reading.wall,
                "the machine's clock was set; it is {before} of the time that the allocator goes by, \
                 which goes on as before until the next start"
            );
        }
    }
}

impl Course {
    fn from(last: Timestamp, reading: Reading) -> Self {
        let Reading { wall, up } = reading;
        let ahead = Difference(wall.0.saturating_sub(last.0));
        let is_believed = ahead.0 >= 0 && ahead.0 <= as_millis(BELIEVED);
        let doubt = Doubt {
            since: up,
            boot: reading.boot(),
        };
        Self {
            at: if is_believed { wall } else { last },
            up,
            doubt: (!is_believed && !ahead.is_small()).then_some(doubt),
            told: Difference::default(),
        }
    }

    fn now(&self, reading: Reading) -> Timestamp {
        self.at.after(reading.up.saturating_sub(self.up))
    }

    fn difference(&self, reading: Reading) -> Difference {
        Difference(reading.wall.0.saturating_sub(self.now(reading).0))
    }

    /// `true` if a doubt ended, or there is another one.
    fn reconsider(&mut self, reading: Reading) -> bool {
        let Some(doubt) = self.doubt else {
            return false;
        };
        let now = self.now(reading);
        if !Difference(reading.boot().saturating_sub(doubt.boot)).is_small() {
            *self = Self::from(now, reading);
            return true;
        }
        let is_over = reading.up.saturating_sub(doubt.since) >= GRACE;
        if is_over && reading.wall > now {
            *self = Self {
                at: reading.wall,
                up: reading.up,
                doubt: None,
                told: self.told,
            };
            return true;
        }
        false
    }
}

impl Reading {
    fn boot(self) -> i64 {
        self.wall.0.saturating_sub(as_millis(self.up))
    }
}

fn as_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

    use super::*;

    const SECOND: i64 = 1000;
    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    const BEGIN: i64 = 1_800_000_000_000;

    /// A machine, whose wall clock may be wrong, and what time it really is.
    #[derive(Clone, Default)]
    struct Machine {
        up: Arc<AtomicU64>,
        error: Arc<AtomicI64>,
    }

    impl Machine {
        /// Also of a process that starts anew.
        fn clock(&self, last: Option<i64>) -> Clock {
            let machine = self.clone();
            let clock = Clock::new(move || Reading {
                wall: Timestamp(machine.really() + machine.error.load(Relaxed)),
                up: Duration::from_millis(machine.up.load(Relaxed)),
            });
            clock.start(last.map(Timestamp));
            clock
        }

        fn really(&self) -> i64 {
            BEGIN + i64::try_from(self.up.load(Relaxed)).unwrap()
        }

        /// While the clock is watched every minute.
        fn pass(&self, clock: &Clock, millis: i64) {
            for _ in 0..millis / MINUTE {
                self.up.fetch_add(u64::try_from(MINUTE).unwrap(), Relaxed);
                clock.watch();
            }
        }

        fn set_wrong(&self, error: i64) {
            self.error.store(error, Relaxed);
        }
    }

    #[test]
    fn a_wall_clock_that_is_set_by_a_year_while_the_process_runs_changes_nothing() {
        for error in [YEAR, -YEAR] {
            let machine = Machine::default();
            let clock = machine.clock(None);
            machine.pass(&clock, HOUR);
            machine.set_wrong(error);
            for hours in [0, 1, 48] {
                machine.pass(&clock, hours * HOUR);
                assert_eq!(clock.now().0, machine.really());
                assert_eq!(clock.offset(), error);
            }
            machine.set_wrong(0);
            machine.pass(&clock, HOUR);
            assert_eq!((clock.now().0, clock.offset()), (machine.really(), 0));
        }
    }

    #[test]
    fn at_a_start_the_wall_clock_is_believed_up_to_a_day_after_the_last_time() {
        for (off, believed) in [
            (0, true),
            (5 * MINUTE, true),
            (DAY, true),
            (DAY + 1, false),
            (YEAR, false),
        ] {
            let machine = Machine::default();
            let last = BEGIN - off;
            let clock = machine.clock(Some(last));
            let expected = if believed { BEGIN } else { last };
            assert_eq!(clock.now().0, expected, "{off}");
        }
    }

    #[test]
    fn a_start_with_the_wall_clock_a_year_ahead_or_back_ends_nothing_and_freezes_nothing() {
        for error in [YEAR, -YEAR] {
            let machine = Machine::default();
            let clock = machine.clock(None);
            machine.pass(&clock, HOUR);
            let ends = clock.now().0 + 30 * MINUTE;
            machine.set_wrong(error);
            let clock = machine.clock(Some(clock.now().0));
            assert!(clock.now().0 < ends, "nothing ends at once");
            machine.pass(&clock, 29 * MINUTE);
            assert!(clock.now().0 < ends, "nor before its time");
            machine.pass(&clock, MINUTE);
            assert_eq!(clock.now().0, ends, "but at its time");
            machine.set_wrong(0);
            let clock = machine.clock(Some(clock.now().0));
            assert_eq!(clock.now().0, machine.really(), "and nothing is left of it");
            assert_eq!(clock.offset(), 0);
        }
    }

    #[test]
    fn a_clock_that_is_set_right_soon_after_a_boot_is_believed_then() {
        for (error, off) in [(-50 * YEAR, 0), (-50 * YEAR, 3 * HOUR), (2 * YEAR, HOUR)] {
            let machine = Machine::default();
            machine.set_wrong(error);
            let last = BEGIN - off;
            let clock = machine.clock(Some(last));
            machine.pass(&clock, 2 * MINUTE);
            assert_eq!(clock.now().0, last + 2 * MINUTE);
            machine.set_wrong(0);
            machine.pass(&clock, MINUTE);
            assert_eq!(clock.now().0, machine.really());
        }
    }

    #[test]
    fn a_machine_that_was_off_for_a_month_has_the_time_again_after_an_hour() {
        let machine = Machine::default();
        let last = BEGIN - 30 * DAY;
        let clock = machine.clock(Some(last));
        machine.pass(&clock, 59 * MINUTE);
        assert_eq!(clock.now().0, last + 59 * MINUTE);
        assert_eq!(clock.offset(), 30 * DAY);
        machine.pass(&clock, MINUTE);
        assert_eq!((clock.now().0, clock.offset()), (machine.really(), 0));
    }

    #[test]
    fn a_wall_clock_that_is_set_again_and_again_is_not_believed() {
        let machine = Machine::default();
        let last = BEGIN - 30 * DAY;
        let clock = machine.clock(Some(last));
        for round in 1..10 {
            machine.set_wrong(round * DAY);
            machine.pass(&clock, 30 * MINUTE);
        }
        assert_eq!(clock.now().0, last + 9 * 30 * MINUTE);
    }

    #[test]
    fn a_time_that_is_ahead_of_the_wall_clock_goes_on_from_there_over_any_number_of_starts() {
        let machine = Machine::default();
        let mut last = BEGIN + YEAR;
        for _ in 0..3 {
            let clock = machine.clock(Some(last));
            machine.pass(&clock, 3 * HOUR);
            assert_eq!(
                clock.now().0,
                last + 3 * HOUR,
                "it neither stands still nor jumps"
            );
            last = clock.now().0;
        }
    }

    #[test]
    fn a_wall_clock_that_is_adjusted_a_little_is_as_good_as_one_that_is_not() {
        let machine = Machine::default();
        machine.set_wrong(-2 * SECOND);
        let clock = machine.clock(Some(BEGIN));
        assert_eq!(clock.now().0, BEGIN);
        machine.pass(&clock, HOUR);
        assert_eq!(clock.now().0, machine.really());
    }
}
