//! Whether the allocator is there, and whether it serves this cluster.

use std::{collections::HashSet, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::denial::{Denial, Reason, Retry};

/// An allocator that is away for so long is worth a word to the Services that wait.
pub const LONG_AWAY: Duration = Duration::from_secs(10);

/// Whether the allocator may be asked. It may once it was told, by Sync, what this
/// cluster has.
#[derive(Clone, Debug)]
pub enum Link {
    /// Not known yet.
    Connecting,
    /// The stream is live, and a Sync was accepted.
    Up,
    /// There is no session.
    Down {
        /// For this reason.
        denial: Denial,
        /// Since then.
        since: Instant,
    },
    /// It does not serve this watcher: somebody has to look.
    Refused(Denial),
}

impl Link {
    /// Why a Service that has no address should not ask now.
    pub fn denial(&self) -> Option<Denial> {
        match self {
            Self::Up => None,
            Self::Connecting => Some(Denial::new(
                Reason::AllocatorUnavailable,
                "the allocator has not answered yet",
            )),
            Self::Down { denial, .. } | Self::Refused(denial) => Some(denial.clone()),
        }
    }

    /// The allocator has been lost since then, or never was there, for this reason.
    pub fn lost(denial: &Denial, since: Instant) -> Self {
        match denial.retry {
            Retry::Seldom => Self::Refused(denial.clone()),
            // What is wrong is not the Service, and no edit of it helps.
            Retry::AfterEdit => Self::Refused(of_watcher(denial)),
            // Of a stream or a Sync there is nothing to wait for.
            Retry::Soon | Retry::OnNotice => {
                let is_said = denial.reason == Reason::AllocatorUnavailable.as_str();
                let denial = if is_said {
                    denial.clone()
                } else {
                    Denial::no_answer(&denial.message)
                };
                Self::Down { denial, since }
            }
        }
    }

    /// Whether the allocator refuses, for the same reason as the other.
    pub fn refuses_as(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Refused(a), Self::Refused(b)) if a.reason == b.reason)
    }
}

/// The Services, by their uids, whose conditions say that the allocator does not serve this
/// watcher. That is written once on each: another watcher, which it does serve, may look after
/// the same Services, and the two would overwrite each other without end.
#[derive(Debug, Default)]
pub struct Reported(Mutex<HashSet<String>>);

impl Reported {
    pub fn contains(&self, uid: &str) -> bool {
        self.0.lock().contains(uid)
    }

    pub fn insert(&self, uid: &str) {
        self.0.lock().insert(uid.to_owned());
    }

    /// The allocator serves this cluster.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

/// For Services, of which it says nothing.
fn of_watcher(denial: &Denial) -> Denial {
    let Denial {
        reason, message, ..
    } = denial;
    Denial {
        message: format!(
            "the allocator refuses what lb-watcher tells it: {reason}: {message}; an \
             administrator has to look at the log of lb-watcher"
        ),
        retry: Retry::Seldom,
        ..Denial::no_answer("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(reason: &'static str, retry: Retry) -> Denial {
        Denial {
            reason: reason.into(),
            retry,
            ..Denial::new(Reason::PermissionDenied, "why")
        }
    }

    #[test]
    fn only_an_allocator_that_does_not_answer_holds_back_those_that_wait() {
        assert!(Link::Up.denial().is_none());
        assert!(Link::Connecting.denial().is_some());
        let down = Link::Down {
            denial: Denial::no_answer("gone"),
            since: Instant::now(),
        };
        let down = down.denial().unwrap();
        assert_eq!(down.reason, "ALLOCATOR_UNAVAILABLE");
        assert!(down.message.contains("gone"), "{}", down.message);
    }

    #[test]
    fn nobody_asks_an_allocator_that_refuses_what_the_cluster_tells_it() {
        for (reason, retry, told) in [
            ("INVALID_REQUEST", Retry::AfterEdit, "ALLOCATOR_UNAVAILABLE"),
            ("PERMISSION_DENIED", Retry::Seldom, "PERMISSION_DENIED"),
            ("CLUSTER_NAME_IN_USE", Retry::Seldom, "CLUSTER_NAME_IN_USE"),
            ("OF_TOMORROW", Retry::Seldom, "OF_TOMORROW"),
        ] {
            let link = Link::lost(&denial(reason, retry), Instant::now());
            assert!(matches!(link, Link::Refused(_)), "{reason}");
            let denial = link.denial().unwrap();
            assert_eq!(denial.reason, told);
            assert_eq!(denial.retry, Retry::Seldom);
            assert!(denial.message.contains("why"), "{}", denial.message);
        }
    }

    #[test]
    fn an_allocator_that_is_busy_or_away_is_tried_again_soon() {
        for (reason, retry) in [
            ("OVERLOADED", Retry::Soon),
            ("SLOW_CONSUMER", Retry::Soon),
            ("OF_TOMORROW", Retry::OnNotice),
            ("ALLOCATOR_UNAVAILABLE", Retry::Soon),
        ] {
            let link = Link::lost(&denial(reason, retry), Instant::now());
            assert!(matches!(link, Link::Down { .. }), "{reason}");
            let told = link.denial().unwrap();
            assert!(told.message.contains("why"), "{}", told.message);
            assert_eq!(told.reason, "ALLOCATOR_UNAVAILABLE");
            assert_eq!(told.retry, Retry::Soon);
        }
    }
}
