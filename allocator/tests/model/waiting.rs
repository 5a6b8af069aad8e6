//! Nobody waits for what is there: whoever could get more than it was told has
//! heard of it.

use std::sync::Arc;

use lb_allocator::engine::{Command, Engine, Freed, Notice, Outcome, Reply, ServiceKey, Timestamp};
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

impl Waiter {
    fn may_want(&self, freed: &Freed) -> bool {
        if let Command::Acquire(acquire) = &self.command {
            acquire.wish.families.contains(&freed.family)
                || freed.by.as_ref() == Some(&acquire.key.cluster)
        } else {
            false
        }
    }

    /// What was freed is offered to one after the other of those whom it may serve:
    /// they all count as told.
    fn hears(&self, outcome: &Outcome) -> bool {
        outcome.notices.iter().any(|notice| match notice {
            Notice::AllMayAsk => true,
            Notice::AskAgain(key) => *key == self.key,
            Notice::Freed(freed) => self.may_want(freed),
            Notice::SyncAgain(_) | Notice::LossProved(_) => false,
        })
    }
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
        if reply.refusals().next().is_some() {
            self.0.push(Waiter {
                key,
                command: command.clone(),
                reply: reply.clone(),
                is_told: false,
            });
        }
    }

    pub fn hear(&mut self, outcome: &Outcome) {
        for waiter in &mut self.0 {
            waiter.is_told |= waiter.hears(outcome);
        }
    }

    pub fn all_ask_again(&mut self) {
        for waiter in &mut self.0 {
            waiter.is_told = true;
        }
    }

    pub fn are_told(&self, engine: &Engine) -> Result<(), TestCaseError> {
        // What is due ends with the next command, whatever that asks for.
        let mut engine = engine.clone();
        let due = engine.pass(Timestamp(0));
        let uninformed = self.0.iter().filter(|waiter| !waiter.is_told);
        for waiter in uninformed.filter(|waiter| !waiter.hears(&due)) {
            // Asked again it may tell what it shows, and get nothing by that.
            let (reply, outcome) = engine.clone().plan(&waiter.command, Timestamp(0));
            let is_same = outcome.changes.is_empty() || reply == waiter.reply;
            prop_assert!(is_same, "nobody told {:?}", waiter.command);
        }
        Ok(())
    }
}
