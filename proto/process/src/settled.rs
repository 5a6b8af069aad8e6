//! Whether a file has changed, by reading it now and then. Whoever writes it may be
//! in the middle of it, and may have moved it away for a moment: what was read counts
//! when the next reading is the same.

use std::time::Duration;

/// How soon a reading that differs is repeated.
pub const SETTLE: Duration = Duration::from_millis(300);

/// The readings of a file.
#[derive(Debug)]
pub struct Settled<T> {
    /// The reading that is in force.
    in_force: T,
    /// Another one that was handed out, and not accepted.
    rejected: Option<T>,
    /// Another one that was read once.
    candidate: Option<T>,
}

/// What to do about a reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look<T> {
    /// It is the one in force.
    InForce,
    /// It differs: read it again after [`SETTLE`].
    Unsettled,
    /// It is new, and it is settled: put it in force and [`Settled::accept`] it, or
    /// leave it.
    New(T),
    /// It is the one that was left.
    Rejected,
}

impl<T: Clone + PartialEq> Settled<T> {
    /// `in_force` is the reading that is.
    pub const fn new(in_force: T) -> Self {
        Self {
            in_force,
            rejected: None,
            candidate: None,
        }
    }

    /// The file was read.
    pub fn look(&mut self, reading: T) -> Look<T> {
        if reading == self.in_force {
            self.rejected = None;
            self.candidate = None;
            return Look::InForce;
        }
        if self.rejected.as_ref() == Some(&reading) {
            self.candidate = None;
            return Look::Rejected;
        }
        if self.candidate.take().as_ref() == Some(&reading) {
            self.rejected = Some(reading.clone());
            return Look::New(reading);
        }
        self.candidate = Some(reading);
        Look::Unsettled
    }

    /// What was handed out last is in force now.
    pub fn accept(&mut self) {
        if let Some(accepted) = self.rejected.take() {
            self.in_force = accepted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_counts_when_the_next_one_is_the_same() {
        let mut file = Settled::new("old");
        assert_eq!(file.look("ne"), Look::Unsettled);
        assert_eq!(file.look("new"), Look::Unsettled, "the first was a half");
        assert_eq!(file.look("new"), Look::New("new"));
        file.accept();
        assert_eq!(file.look("new"), Look::InForce);
        assert_eq!(file.look("old"), Look::Unsettled);
    }

    #[test]
    fn what_comes_back_after_a_moment_is_no_change() {
        let mut file = Settled::new(Ok("old"));
        assert_eq!(file.look(Err("unreadable")), Look::Unsettled);
        assert_eq!(file.look(Ok("old")), Look::InForce);
        assert_eq!(file.look(Err("unreadable")), Look::Unsettled);
        assert_eq!(file.look(Err("unreadable")), Look::New(Err("unreadable")));
        assert_eq!(file.look(Ok("old")), Look::InForce, "without New");
    }

    #[test]
    fn what_was_rejected_is_handed_out_once_until_something_else_was_there() {
        let mut file = Settled::new("good");
        assert_eq!(file.look("bad"), Look::Unsettled);
        assert_eq!(file.look("bad"), Look::New("bad"));
        assert_eq!(file.look("bad"), Look::Rejected);
        assert_eq!(file.look("good"), Look::InForce);
        assert_eq!(file.look("bad"), Look::Unsettled);
        assert_eq!(file.look("bad"), Look::New("bad"));
    }
}
