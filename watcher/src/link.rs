//! Whether the allocator is there, and whether it serves this cluster.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::reason::{Reason, Refusal, Remedy};

/// Whether the allocator may be asked. It may once it was told, by Sync, what this
/// cluster has.
#[derive(Clone, Debug)]
pub enum Link {
    /// Not known yet.
    Connecting,
    /// The stream is live, and a Sync was accepted.
    Up,
    /// It does not answer, for this reason.
    Down(String),
    /// It does not serve this watcher: somebody has to look.
    Refused(Refusal),
}

impl Link {
    /// Why a Service that has no address should not ask now.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Up => None,
            Self::Connecting => Some(Refusal::new(
                Reason::AllocatorUnavailable,
                "the allocator has not answered yet",
            )),
            Self::Down(message) => Some(Refusal::new(Reason::AllocatorUnavailable, message)),
            Self::Refused(refusal) => Some(refusal.clone()),
        }
    }

    /// The allocator is lost, or never was there, for this reason.
    pub fn lost(refusal: &Refusal) -> Self {
        match refusal.remedy {
            Remedy::RetrySeldom => match Reason::parse(&refusal.reason) {
                Some(_) => Self::Refused(refusal.clone()),
                None => Self::Refused(of_watcher(refusal)),
            },
            // What is wrong is not the Service, and no edit of it helps.
            Remedy::WaitForEdit => Self::Refused(of_watcher(refusal)),
            // Of a stream or a Sync there is nothing to wait for.
            Remedy::RetrySoon
            | Remedy::WaitForFreed
            | Remedy::WaitForPools
            | Remedy::WaitForEither => Self::Down(refusal.message.clone()),
        }
    }

    /// Whether the allocator refuses, for the same reason as the other.
    pub fn refuses_as(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Refused(a), Self::Refused(b)) if a.reason == b.reason)
    }
}

/// The Services, by their uids, that were told that the allocator takes this cluster
/// for another one. Once each: the watcher that it does serve may look after the same
/// Services, and the two would overwrite each other without end.
#[derive(Debug, Default)]
pub struct ToldOnce(Mutex<HashSet<String>>);

impl ToldOnce {
    /// Whether it was told.
    pub fn was(&self, uid: &str) -> bool {
        self.0.lock().contains(uid)
    }

    /// It was told.
    pub fn is(&self, uid: &str) {
        self.0.lock().insert(uid.to_owned());
    }

    /// The allocator serves this cluster.
    pub fn forget(&self) {
        self.0.lock().clear();
    }
}

/// For Services, of which it says nothing.
fn of_watcher(refusal: &Refusal) -> Refusal {
    let Refusal {
        reason, message, ..
    } = refusal;
    Refusal {
        remedy: Remedy::RetrySeldom,
        advice: "an administrator has to look at the log of lb-watcher",
        ..Refusal::new(
            Reason::AllocatorUnavailable,
            format_args!("the allocator refuses what lb-watcher tells it: {reason}: {message}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn nobody_asks_an_allocator_that_refuses_what_the_cluster_tells_it() {
        for (reason, code, told) in [
            (
                "INVALID_REQUEST",
                Code::InvalidArgument,
                "ALLOCATOR_UNAVAILABLE",
            ),
            (
                "PERMISSION_DENIED",
                Code::PermissionDenied,
                "PERMISSION_DENIED",
            ),
            (
                "CLUSTER_NAME_IN_USE",
                Code::FailedPrecondition,
                "CLUSTER_NAME_IN_USE",
            ),
            (
                "CLUSTER_HAS_OTHER_NAME",
                Code::FailedPrecondition,
                "CLUSTER_HAS_OTHER_NAME",
            ),
            ("OF_TOMORROW", Code::Unimplemented, "ALLOCATOR_UNAVAILABLE"),
        ] {
            let link = Link::lost(&Refusal::named(reason, code, "why"));
            assert!(matches!(link, Link::Refused(_)), "{reason}");
            let refusal = link.refusal().unwrap();
            assert_eq!(refusal.reason, told);
            assert_eq!(refusal.remedy, Remedy::RetrySeldom);
            assert!(refusal.message.contains("why"), "{}", refusal.message);
        }
    }

    #[test]
    fn an_allocator_that_is_busy_or_away_is_tried_again_soon() {
        for (reason, code) in [
            ("OVERLOADED", Code::ResourceExhausted),
            ("SLOW_CONSUMER", Code::ResourceExhausted),
            ("OF_TOMORROW", Code::ResourceExhausted),
            ("SHUTTING_DOWN", Code::Unavailable),
        ] {
            let link = Link::lost(&Refusal::named(reason, code, "why"));
            assert!(matches!(link, Link::Down(_)), "{reason}");
            assert_eq!(link.refusal().unwrap().remedy, Remedy::RetrySoon);
        }
    }
}
