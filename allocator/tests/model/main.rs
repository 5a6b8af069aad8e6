//! The engine against a second, slow and obvious implementation of the rules.
//!
//! ```text
//!                 ┌─► engine ─► replies, changes ─► tables ─► restarted engine
//!   history ──────┤                 ║ must be equal
//!   (random)      └─► model  ─► replies, changes ─► promises
//! ```
//!
//! - [`history`] makes commands, configurations, clock steps and restarts;
//! - [`book`], [`rules`], [`acquire`], [`families`] and [`commands`] are the model:
//!   plain lists, nothing of the engine but the types that it is asked and answers
//!   with;
//! - [`world`] runs both and compares them after each step;
//! - [`invariants`] and [`waiting`] look at the promises from outside;
//! - [`live`] knows nothing of the rules, only what the statuses of Services show, and has
//!   commands that the model does not: Sync, and all of a cluster that lies.
//!
//! `PROPTEST_CASES` sets how many histories are tried. One that fails is shrunk,
//! printed and kept as a seed in `regressions.txt`, from where it is tried again
//! first.

#[cfg(test)]
mod acquire;
#[cfg(test)]
mod book;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod describe;
#[cfg(test)]
mod families;
#[cfg(test)]
mod history;
#[cfg(test)]
mod invariants;
#[cfg(test)]
mod live;
#[cfg(test)]
mod pools;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod tables;
#[cfg(test)]
mod waiting;
#[cfg(test)]
mod world;

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, test_runner::FileFailurePersistence};

    use crate::{history::any_history, live, world::live_through};

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model/regressions.txt"),
            ))),
            max_shrink_iters: 10_000,
            ..ProptestConfig::default()
        })]

        #[test]
        fn engine_and_model_agree_on_any_history(history in any_history()) {
            live_through(&history)?;
        }

        #[test]
        fn nobody_is_given_what_the_status_of_another_live_service_shows(
            deeds in live::any_deeds(),
        ) {
            live::live_through(&deeds)?;
        }
    }
}
