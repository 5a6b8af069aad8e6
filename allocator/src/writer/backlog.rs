//! Commands that wait: a line for each cluster, and a turn for each line. One that
//! sends more than can be done waits for itself, and others do not wait for it.

use std::collections::{HashMap, VecDeque};

use crate::engine::{ClusterName, Command};

/// `None`: of no cluster in particular.
type Line = Option<ClusterName>;

/// See the module.
#[derive(Debug)]
pub struct Backlog<T> {
    lines: HashMap<Line, VecDeque<T>>,
    /// Lines in which something waits, in the order of their turns.
    turns: VecDeque<Line>,
    waiting: usize,
}

impl<T> Default for Backlog<T> {
    fn default() -> Self {
        Self {
            lines: HashMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
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

    /// The next one.
    pub fn pop(&mut self) -> Option<T> {
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
        Command::Reserve(_)
        | Command::Unreserve(_)
        | Command::Handover(_)
        | Command::Resolve(_)
        | Command::Decommission(_)
        | Command::Recommission(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cluster_has_its_turn_and_each_line_its_order() {
        let mut backlog = Backlog::default();
        let line = |name| Some(ClusterName::parse(name).unwrap());
        for number in 0..4 {
            backlog.push(line("greedy"), format!("greedy {number}"));
        }
        backlog.push(line("modest"), "modest".to_owned());
        backlog.push(None, "admin".to_owned());
        assert_eq!(backlog.len(), 6);
        let order: Vec<_> = std::iter::from_fn(|| backlog.pop()).collect();
        let expected = [
            "greedy 0", "modest", "admin", "greedy 1", "greedy 2", "greedy 3",
        ];
        assert_eq!(order, expected);
        assert!(backlog.is_empty() && backlog.lines.is_empty() && backlog.turns.is_empty());
    }
}
