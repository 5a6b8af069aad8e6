//! Nobody waits for what is there: whoever could get more than it was told has
//! heard of it.

use std::sync::Arc;

use lb_allocator::engine::{Command, Engine, Outcome, Reply, ServiceKey, Timestamp};
use proptest::prelude::*;

#[derive(Default)]
pub struct Waiting(Vec<Waiter>);

struct Waiter {
    key: Arc<ServiceKey>,
    command: Command,
    reply: Reply,
    /// It will ask again.
    is_told: bool,
}

impl Waiting {
    /// Who did not get all that it wished for waits.
    pub fn note(&mut self, command: &Command, reply: &Reply) {
        let key = match command {
            Command::Acquire(acquire) => Arc::clone(&acquire.key),
            Command::Release(release) => Arc::new(release.key.clone()),
            Command::Reserve(_)
            | Command::Unreserve(_)
            | Command::Sync(_)
            | Command::Handover(_)
            | Command::Resolve(_)
            | Command::Decommission(_)
            | Command::Recommission(_)
            | Command::Attach(_)
            | Command::ReplaceCluster(_) => return,
        };
        self.0.retain(|waiter| waiter.key != key);
        let waits = match reply {
            Reply::Acquired(acquired) => !acquired.unmet.is_empty(),
            Reply::Refused(_) => true,
            Reply::Released(_)
            | Reply::Reserved(_)
            | Reply::Unreserved(_)
            | Reply::Synced(_)
            | Reply::Resolved(_)
            | Reply::Decommissioned(_)
            | Reply::Recommissioned
            | Reply::Attached
            | Reply::Replaced { .. } => false,
        };
        if waits {
            self.0.push(Waiter {
                key,
                command: command.clone(),
                reply: reply.clone(),
                is_told: false,
            });
        }
    }

    /// What was freed is offered to one after the other of those whom it may serve:
    /// they all count as told.
    pub fn hear(&mut self, outcome: &Outcome) {
        for waiter in &mut self.0 {
            waiter.is_told |= outcome.all_may_ask || outcome.ask_again.contains(&waiter.key);
            if let Command::Acquire(acquire) = &waiter.command {
                let families = &acquire.wish.families;
                let cluster = &acquire.key.cluster;
                waiter.is_told |= outcome.freed.iter().any(|freed| {
                    families.contains(&freed.family) || freed.by.as_ref() == Some(cluster)
                });
            }
        }
    }

    pub fn all_ask_again(&mut self) {
        for waiter in &mut self.0 {
            waiter.is_told = true;
        }
    }

    pub fn are_told(&self, engine: &Engine) -> Result<(), TestCaseError> {
        for waiter in self.0.iter().filter(|waiter| !waiter.is_told) {
            // Asked again it may tell what it shows, and get nothing by that.
            let is_same = engine.reply_without_change(None, &waiter.command).is_some()
                || engine.clone().plan(&waiter.command, Timestamp(0)).0 == waiter.reply;
            prop_assert!(is_same, "nobody told {:?}", waiter.command);
        }
        Ok(())
    }
}
