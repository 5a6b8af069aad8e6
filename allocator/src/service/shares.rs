//! What there is a limited amount of, shared out among those who take it.
//!
//! Three quarters are for whoever comes first. The last quarter is divided equally
//! among all who have some: who has more than that part gets no more until there is
//! room below. So whoever takes all that can be had, others still get theirs.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

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
        let sharers = state.by_sharer.len() + usize::from(own.is_none());
        let taken = state.taken + more;
        let own = own.unwrap_or_default() + more;
        let free_for_all = limit - limit / 4;
        if taken > limit || (taken > free_for_all && own > (limit / 4 / sharers).max(1)) {
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
        let shares = Shares::new(400);
        let greedy = takes(&shares, "greedy", 1000);
        assert_eq!(greedy.len(), 300);
        assert_eq!(takes(&shares, "modest", 50).len(), 50);
        let second = takes(&shares, "second", 1000);
        assert_eq!(second.len(), 50, "half of a quarter");
        assert_eq!(takes(&shares, "greedy", 1).len(), 0);
        drop(greedy);
        assert_eq!(takes(&shares, "second", 1000).len(), 250);
    }

    #[test]
    fn many_who_are_greedy_leave_a_part_to_others_and_never_get_more_than_there_is() {
        let shares = Shares::new(4096);
        let sharers: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let mut all = Vec::new();
        for _ in 0..100 {
            all.extend(sharers.iter().flat_map(|sharer| takes(&shares, sharer, 1)));
        }
        assert!((3072..4096).contains(&all.len()), "{}", all.len());
        assert_eq!(takes(&shares, "modest", 10).len(), 10);
        let most: Vec<_> = (0..10_000)
            .flat_map(|number| takes(&shares, &format!("new-{number}"), 1))
            .collect();
        assert_eq!(all.len() + most.len(), 4096);
        drop((all, most));
        assert!(shares.state.lock().by_sharer.is_empty());
        assert_eq!(shares.state.lock().taken, 0);
    }
}
