//! What there is a limited amount of, shared out among those who take it.
//!
//! A half is for whoever comes first. A quarter is for those who have little: 128 of
//! them have room there, however much the others have and in whatever order they came.
//! The last quarter is for those who are known, with twice as much for each of 64:
//! thousands who come to have little each leave them theirs. A part that depends on
//! how many there are would not do: the first to come would have what later ones are due.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::connections::SEATS;

/// Sharers that have room in the quarter for those who have little.
const NEWCOMERS: usize = 128;
/// Sharers that have room in the last quarter.
const KNOWN: usize = SEATS;

/// See the module; a clone is of the same amount.
#[derive(Clone, Debug)]
pub struct Shares {
    limit: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    by_sharer: HashMap<Arc<str>, usize>,
}

/// What one has taken; given back when dropped.
#[derive(Debug)]
pub struct Share {
    shares: Shares,
    sharer: Arc<str>,
    known: bool,
    amount: usize,
}

impl Shares {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Arc::default(),
        }
    }

    /// Nothing yet.
    pub fn of(&self, sharer: Arc<str>, known: bool) -> Share {
        Share {
            shares: self.clone(),
            sharer,
            known,
            amount: 0,
        }
    }
}

impl Share {
    /// Takes more, or nothing: then it is `false`.
    pub fn take(&mut self, more: usize) -> bool {
        let limit = self.shares.limit;
        let mut state = self.shares.state.lock();
        let own = state.by_sharer.get(&self.sharer).copied();
        let own = own.unwrap_or_default() + more;
        let taken = state.taken + more;
        let quarter = limit / 4;
        let room = if self.known && own <= quarter / KNOWN {
            limit
        } else if own <= quarter / NEWCOMERS {
            limit - quarter
        } else {
            limit - 2 * quarter
        };
        if taken > room {
            return false;
        }
        state.taken = taken;
        state.by_sharer.insert(Arc::clone(&self.sharer), own);
        self.amount += more;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.amount == 0 {
            return;
        }
        let mut state = self.shares.state.lock();
        state.taken -= self.amount;
        if let Some(own) = state.by_sharer.get_mut(&self.sharer) {
            *own -= self.amount;
            if *own == 0 {
                state.by_sharer.remove(&self.sharer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(shares: &Shares, sharer: &str, known: bool, many: usize) -> Vec<Share> {
        let taken = (0..many).map(|_| {
            let mut share = shares.of(sharer.into(), known);
            share.take(1).then_some(share)
        });
        taken.flatten().collect()
    }

    fn all_of(shares: &Shares, sharers: usize, known: bool, many: usize) -> Vec<Share> {
        let all = (0..sharers).map(|number| takes(shares, &number.to_string(), known, many));
        all.flatten().collect()
    }

    #[test]
    fn who_takes_all_that_can_be_had_leaves_a_part_to_others() {
        let shares = Shares::new(4096);
        let greedy = takes(&shares, "greedy", true, 10_000);
        assert_eq!(greedy.len(), 2048);
        let new = takes(&shares, "new", false, 50);
        assert_eq!(new.len(), 8, "an equal part of the third quarter");
        let known = takes(&shares, "known", true, 50);
        assert_eq!(known.len(), 16, "an equal part of the last quarter");
        drop(greedy);
        assert_eq!(takes(&shares, "new", false, 50).len(), 50);
        drop((new, known));
    }

    #[test]
    fn a_hundred_who_are_greedy_one_after_the_other_leave_a_part_to_others() {
        let shares = Shares::new(4096);
        let greedy = all_of(&shares, 100, false, 512);
        assert_eq!(greedy.len(), 2048 + 96 * 8);
        assert_eq!(takes(&shares, "new", false, 8).len(), 8);
    }

    #[test]
    fn ten_thousand_who_want_little_leave_theirs_to_those_who_are_known() {
        let shares = Shares::new(4096);
        let many = all_of(&shares, 10_000, false, 8);
        assert_eq!(many.len(), 3072);
        assert_eq!(takes(&shares, "new", false, 1).len(), 0);
        let known = ('a'..='z').map(|name| takes(&shares, &name.to_string(), true, 50));
        let known: Vec<_> = known.collect();
        assert!(known.iter().all(|known| known.len() == 16));
    }

    #[test]
    fn nobody_gets_more_than_there_is() {
        let shares = Shares::new(4096);
        let all = all_of(&shares, 10_000, true, 3);
        assert_eq!(all.len(), 4096);
        drop(all);
        assert!(shares.state.lock().by_sharer.is_empty());
        assert_eq!(shares.state.lock().taken, 0);
    }
}
