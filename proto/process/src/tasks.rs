//! The tasks of a process, by name. Each is there for as long as the process is: one
//! that ends before, or panics, leaves a process that looks healthy and lacks a part.
//! Whoever owns them waits for [`Tasks::ended`], and ends the process with it.

use std::{any::Any, collections::HashMap, error::Error};

use thiserror::Error;
use tokio::task::{Id, JoinError, JoinSet};

type Failure = Box<dyn Error + Send + Sync>;

/// How a task ended that should not have.
#[derive(Debug, Error)]
pub enum TaskError {
    #[error("task {name:?} ended while the process runs")]
    Ended { name: &'static str },
    #[error("task {name:?} panicked: {message}")]
    Panicked { name: &'static str, message: String },
    #[error("task {name:?} failed")]
    Failed { name: &'static str, source: Failure },
}

/// What a task that ended says of it.
pub trait Outcome: Send + 'static {
    /// # Errors
    /// If it failed.
    fn result(self) -> Result<(), Failure>;
}

impl Outcome for () {
    fn result(self) -> Result<(), Failure> {
        Ok(())
    }
}

impl<E: Error + Send + Sync + 'static> Outcome for Result<(), E> {
    fn result(self) -> Result<(), Failure> {
        self.map_err(Into::into)
    }
}

/// Tasks that run. Dropped, they end wherever they are.
#[derive(Debug, Default)]
pub struct Tasks {
    running: JoinSet<Result<(), Failure>>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    /// Starts one. Must be called inside a tokio runtime.
    pub fn spawn<T: Outcome>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) {
        let task = async move {
            if injected_fault(name) {
                return Ok(());
            }
            task.await.result()
        };
        let handle = self.running.spawn(task);
        self.names.insert(handle.id(), name);
    }

    /// The next one that ends, whichever way. Waits for ever where there is none.
    pub async fn ended(&mut self) -> TaskError {
        match self.next().await {
            Some((name, Ok(()))) => TaskError::Ended { name },
            Some((_, Err(error))) => error,
            None => std::future::pending().await,
        }
    }

    /// Waits until all have ended, as they were told to.
    ///
    /// # Errors
    /// If one of them failed or panicked: the first.
    pub async fn all_ended(&mut self) -> Result<(), TaskError> {
        let mut all = Ok(());
        while let Some((_, ended)) = self.next().await {
            all = all.and(ended);
        }
        all
    }

    async fn next(&mut self) -> Option<(&'static str, Result<(), TaskError>)> {
        let joined = self.running.join_next_with_id().await?;
        let id = joined.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let name = self.names.remove(&id).unwrap_or("unnamed");
        let ended = match joined {
            Ok((_, result)) => result.map_err(|source| TaskError::Failed { name, source }),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => Err(TaskError::Panicked {
                    name,
                    message: message(&*panic),
                }),
                // Only dropping them all cancels one.
                Err(_) => Err(TaskError::Ended { name }),
            },
        };
        Some((name, ended))
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

/// For tests of whole processes: a debug build ends the task, or panics in it, that
/// this variable names, as in `LB_TEST_FAULT=panic:writer`. Says whether it ends.
#[cfg(debug_assertions)]
fn injected_fault(name: &str) -> bool {
    let Ok(fault) = std::env::var("LB_TEST_FAULT") else {
        return false;
    };
    assert!(
        fault != format!("panic:{name}"),
        "injected by LB_TEST_FAULT"
    );
    fault == format!("end:{name}")
}

#[cfg(not(debug_assertions))]
const fn injected_fault(_: &str) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::{future::pending, io};

    use super::*;

    fn with(start: impl FnOnce(&mut Tasks)) -> Tasks {
        let mut tasks = Tasks::default();
        tasks.spawn("rests", pending::<()>());
        start(&mut tasks);
        tasks
    }

    async fn panic(message: String) {
        panic!("{message}");
    }

    #[tokio::test]
    async fn a_task_that_ends_fails_or_panics_is_told_by_its_name() {
        let mut ends = with(|tasks| tasks.spawn("writer", async {}));
        let told = ends.ended().await.to_string();
        assert_eq!(told, "task \"writer\" ended while the process runs");

        let mut panics = with(|tasks| tasks.spawn("writer", panic("oh dear".to_owned())));
        let told = panics.ended().await.to_string();
        assert_eq!(told, "task \"writer\" panicked: oh dear");

        let fails = async { Err::<(), _>(io::Error::other("no disk")) };
        let error = with(|tasks| tasks.spawn("writer", fails)).ended().await;
        assert_eq!(error.to_string(), "task \"writer\" failed");
        assert_eq!(error.source().unwrap().to_string(), "no disk");
    }

    #[tokio::test]
    async fn those_that_were_told_to_end_may_and_the_first_fault_is_told() {
        let mut tasks = Tasks::default();
        tasks.spawn("a", async {});
        tasks.all_ended().await.unwrap();
        tasks.spawn("b", panic("b".to_owned()));
        tasks.spawn("c", async {});
        let told = tasks.all_ended().await.unwrap_err().to_string();
        assert_eq!(told, "task \"b\" panicked: b");
    }
}
