//! Nobody waits for what is there: whoever could get more than it was told has
//! heard of it.

use std::sync::Arc;

use lb_allocator::engine::{Command, Engine, Freed, Reply, ServiceKey};
use proptest::prelude::*;

#[derive(Default)]
pub struct Waiting(Vec<Waiter>);

struct Waiter {
    key: Arc<ServiceKey>,
    command: Command,
    /// It will ask again.
    is_told: bool,
}

impl Waiting {
    /// Who did not get all that it wished for waits.
    pub fn note(&mut self, command: &Command, reply: &Reply) {
        let key = match command {
            Command::Acquire(acquire) => Arc::clone(&acquire.key),
            Command::Release(release) => Arc::new(release.key.clone()),
            Command::Reserve(_) | Command::Unreserve(_) => return,
        };
        self.0.retain(|waiter| waiter.key != key);
        let waits = match reply {
            Reply::Acquired(acquired) => !acquired.unmet.is_empty(),
            Reply::Refused(_) => true,
            Reply::Released(_) | Reply::Reserved(_) | Reply::Unreserved(_) => false,
        };
        if waits {
            self.0.push(Waiter {
                key,
                command: command.clone(),
                is_told: false,
            });
        }
    }

    pub fn hear(&mut self, freed: &[Freed]) {
        for waiter in &mut self.0 {
            if let Command::Acquire(acquire) = &waiter.command {
                let families = &acquire.wish.families;
                waiter.is_told |= freed.iter().any(|f| families.contains(&f.family));
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
            let reply = engine.reply_without_change(&waiter.command);
            prop_assert!(reply.is_some(), "nobody told {:?}", waiter.command);
        }
        Ok(())
    }
}
