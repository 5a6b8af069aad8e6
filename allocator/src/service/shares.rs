//! What there is a limited amount of, shared out among those who take it.
//!
//! Three quarters are for whoever comes first. The last quarter is for those who have
//! little: 128 of them have room there, however much the others have and in whatever
//! order they came. A part that depends on how many there are would not do: the first
//! to come would have what later ones are due.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

/// Sharers that have room in the last quarter.
const NEWCOMERS: usize = 128;

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
    pub fn of(&self, sharer: Arc<str>) -> Share {
        Share {
            shares: self.clone(),
            sharer,
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
        let last_quarter = limit / 4;
        let little = (last_quarter / NEWCOMERS).max(1);
        if taken > limit || (taken > limit - last_quarter && own > little) {
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

    fn takes(shares: &Shares, sharer: &str, many: usize) -> Vec<Share> {
        let taken = (0..many).map(|_| {
            let mut share = shares.of(sharer.into());
            share.take(1).then_some(share)
        });
        taken.flatten().collect()
    }

    #[test]
    fn who_takes_all_that_can_be_had_leaves_a_part_to_others() {
        let shares = Shares::new(4096);
        let greedy = takes(&shares, "greedy", 10_000);
        assert_eq!(greedy.len(), 3072);
        let modest = takes(&shares, "modest", 50);
        assert_eq!(modest.len(), 8, "an equal part of the last quarter");
        drop(greedy);
        assert_eq!(takes(&shares, "modest", 50).len(), 50);
        drop(modest);
    }

    #[test]
    fn a_hundred_who_are_greedy_one_after_the_other_leave_a_part_to_others() {
        let shares = Shares::new(4096);
        let greedy: Vec<_> = (0..100)
            .flat_map(|number| takes(&shares, &number.to_string(), 512))
            .collect();
        assert_eq!(greedy.len(), 3072 + 94 * 8);
        assert_eq!(takes(&shares, "modest", 8).len(), 8);
    }

    #[test]
    fn nobody_gets_more_than_there_is() {
        let shares = Shares::new(4096);
        let all: Vec<_> = (0..10_000)
            .flat_map(|number| takes(&shares, &number.to_string(), 3))
            .collect();
        assert_eq!(all.len(), 4096);
        drop(all);
        assert!(shares.state.lock().by_sharer.is_empty());
        assert_eq!(shares.state.lock().taken, 0);
    }
}
