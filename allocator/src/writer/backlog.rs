//! Commands that wait: a line for each cluster, and a turn for each line. One that
//! sends more than can be done waits for itself, and others do not wait for it: they
//! wait for the batch that is being committed, so one line does not fill it alone
//! while others come.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::engine::{ClusterName, Command};

/// Commands in one batch at most: a batch that is as large as this costs little
/// more for each, and those that come later do not wait long.
const MAX_BATCH: usize = 128;
/// Of one line, while there are others. A watcher has as many Services in work at once.
const MAX_OF_ONE: usize = 16;
/// A line that had a turn so lately is there.
const LATELY: Duration = Duration::from_secs(1);

/// `None`: of no cluster in particular.
type Line = Option<ClusterName>;

#[derive(Debug)]
pub struct Backlog<T> {
    lines: HashMap<Line, VecDeque<T>>,
    /// Lines in which something waits, in the order of their turns.
    turns: VecDeque<Line>,
    waiting: usize,
    /// The one that was first in the last batch.
    last: Option<Line>,
    /// When there was more than one line.
    several: Option<Instant>,
}

impl<T> Default for Backlog<T> {
    fn default() -> Self {
        Self {
            lines: HashMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            last: None,
            several: None,
        }
    }
}

impl<T> Backlog<T> {
    pub const fn len(&self) -> usize {
        self.waiting
    }

    pub const fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    pub fn push(&mut self, line: Line, item: T) {
        let queue = self.lines.entry(line.clone()).or_default();
        if queue.is_empty() {
            self.turns.push_back(line);
        }
        queue.push_back(item);
        self.waiting += 1;
    }

    /// The next batch, of those that are still wanted.
    pub fn take(&mut self, batch: &mut Vec<T>, now: Instant, wanted: impl Fn(&T) -> bool) {
        for _ in 0..self.max_of_one(now) {
            for _ in 0..self.turns.len() {
                if batch.len() == MAX_BATCH {
                    return;
                }
                batch.extend(self.pop().filter(&wanted));
            }
        }
    }

    fn max_of_one(&mut self, now: Instant) -> usize {
        let next = self.turns.front().cloned();
        let another = self.last.is_some() && self.last != next;
        if another || self.turns.len() > 1 {
            self.several = Some(now);
        }
        self.last = next;
        let several = self.several.is_some_and(|at| now - at < LATELY);
        if several { MAX_OF_ONE } else { MAX_BATCH }
    }

    fn pop(&mut self) -> Option<T> {
        let line = self.turns.pop_front()?;
        let queue = self.lines.get_mut(&line)?;
        let item = queue.pop_front()?;
        self.waiting -= 1;
        if queue.is_empty() {
            self.lines.remove(&line);
        } else {
            self.turns.push_back(line);
        }
        Some(item)
    }
}

/// The line of a command.
pub fn line(command: &Command) -> Line {
    match command {
        Command::Acquire(acquire) => Some(acquire.key.cluster.clone()),
        Command::Release(release) => Some(release.key.cluster.clone()),
        Command::Sync(sync) => Some(sync.cluster.clone()),
        Command::Attach(attach) => Some(attach.cluster.clone()),
        Command::Reserve(_)
        | Command::Unreserve(_)
        | Command::Handover(_)
        | Command::Resolve(_)
        | Command::Decommission(_)
        | Command::Recommission(_)
        | Command::ReplaceCluster(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(lines: &[(&str, usize)]) -> Backlog<String> {
        let mut backlog = Backlog::default();
        for (name, many) in lines {
            for number in 0..*many {
                let line = Some(ClusterName::parse(name).unwrap());
                backlog.push(line, format!("{name} {number}"));
            }
        }
        backlog
    }

    fn next(backlog: &mut Backlog<String>, now: Instant) -> Vec<String> {
        let mut batch = Vec::new();
        backlog.take(&mut batch, now, |_| true);
        batch
    }

    #[test]
    fn each_cluster_has_its_turn_and_each_line_its_order() {
        let mut backlog = filled(&[("greedy", 4), ("modest", 1)]);
        backlog.push(None, "admin".to_owned());
        assert_eq!(backlog.len(), 6);
        let order = next(&mut backlog, Instant::now());
        let expected = [
            "greedy 0", "modest 0", "admin", "greedy 1", "greedy 2", "greedy 3",
        ];
        assert_eq!(order, expected);
        assert!(backlog.is_empty() && backlog.lines.is_empty() && backlog.turns.is_empty());
    }

    #[test]
    fn who_is_alone_fills_a_batch() {
        let mut backlog = filled(&[("greedy", 1000)]);
        assert_eq!(next(&mut backlog, Instant::now()).len(), MAX_BATCH);
        let many: Vec<_> = (0..100).map(|number| format!("c{number}")).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), 20)).collect();
        assert_eq!(next(&mut filled(&many), Instant::now()).len(), MAX_BATCH);
    }

    #[test]
    fn who_is_not_alone_has_a_part_until_the_others_have_been_gone_for_a_while() {
        let mut backlog = filled(&[("greedy", 1000), ("modest", 1)]);
        let begun = Instant::now();
        assert_eq!(next(&mut backlog, begun).len(), MAX_OF_ONE + 1);
        assert_eq!(next(&mut backlog, begun).len(), MAX_OF_ONE);
        assert_eq!(next(&mut backlog, begun + LATELY).len(), MAX_BATCH);
    }

    #[test]
    fn two_that_come_one_after_the_other_are_not_alone() {
        let line = |name| Some(ClusterName::parse(name).unwrap());
        let mut backlog = filled(&[("modest", 1)]);
        let now = Instant::now();
        assert_eq!(next(&mut backlog, now), ["modest 0"]);
        for number in 0..100 {
            backlog.push(line("greedy"), number.to_string());
        }
        assert_eq!(next(&mut backlog, now).len(), MAX_OF_ONE);
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_left_out() {
        let mut backlog = filled(&[("a", 3)]);
        let mut batch = Vec::new();
        backlog.take(&mut batch, Instant::now(), |item| item != "a 1");
        assert_eq!(batch, ["a 0", "a 2"]);
        assert!(backlog.is_empty());
    }
}
