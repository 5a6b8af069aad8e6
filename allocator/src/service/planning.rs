//! What a pools file would change. A plan takes a copy of the whole state, so there is
//! one at a time, and the writer spends little of its time on copies.

use std::{sync::Arc, time::Duration};

use lb_process::in_one_line;
use lb_proto::v1;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use tonic::Status;

use super::{convert, fault};
use crate::{
    config::Source,
    engine::{Command, Engine, Pools, Reply, Timestamp, is_stranded},
    writer::{Inspection, Waiting, Writer},
};

/// How long a caller waits for its turn.
const PATIENCE: Duration = Duration::from_secs(3);
/// Of its time, the writer spends one part in this many on copies for plans.
const SHARE: u32 = 20;
/// But nobody waits longer than this for the next one.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// Entries in one list of a plan.
const LISTED: usize = 1000;

/// Makes plans; a clone has the same turns.
#[derive(Clone, Debug)]
pub struct Planning {
    turns: Arc<Semaphore>,
}

impl Default for Planning {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Planning {
    /// What would change if this were the pools file.
    pub async fn plan(
        &self,
        writer: Writer,
        source: Source,
        pools_file: String,
    ) -> Result<v1::PlanConfigurationResponse, Status> {
        let turn = self.turn().await?;
        // Goes on when its caller goes away: the next one does not begin beside it.
        let planned = tokio::spawn(plan_in_turn(turn, writer, source, pools_file));
        planned.await.map_err(|error| fault::internal(&error))?
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Status> {
        let turn = timeout(PATIENCE, Arc::clone(&self.turns).acquire_owned()).await;
        turn.ok()
            .and_then(Result::ok)
            .ok_or_else(fault::planning_overloaded)
    }
}

async fn plan_in_turn(
    turn: OwnedSemaphorePermit,
    writer: Writer,
    source: Source,
    pools_file: String,
) -> Result<v1::PlanConfigurationResponse, Status> {
    // Neither this nor a million allocations hold up other requests.
    let parsed = tokio::task::spawn_blocking(move || source.with_file(Some(&pools_file)));
    let parsed = parsed.await.map_err(|error| fault::internal(&error))?;
    let configuration =
        parsed.map_err(|error| fault::invalid_configuration(in_one_line(&error)))?;
    let begun = Instant::now();
    let Inspection { engine, waiting } = writer.inspect().await.map_err(fault::not_written)?;
    let rest = begun.elapsed() * (SHARE - 1);
    let now = writer.now();
    let planned =
        tokio::task::spawn_blocking(move || plan(&engine, &waiting, configuration.pools, now));
    let planned = planned.await.map_err(|error| fault::internal(&error))?;
    tokio::spawn(async move {
        sleep(rest.min(LONGEST_REST)).await;
        drop(turn);
    });
    planned
}

/// What would change if `pools` were in force.
fn plan(
    engine: &Engine,
    waiting: &Waiting,
    pools: Arc<Pools>,
    now: Timestamp,
) -> Result<v1::PlanConfigurationResponse, Status> {
    let mut response = v1::PlanConfigurationResponse {
        revision: engine.revision().0,
        ..v1::PlanConfigurationResponse::default()
    };
    let mut held: Vec<_> = engine.allocations().collect();
    held.sort_by(|a, b| (a.address, &a.key).cmp(&(b.address, &b.key)));
    for allocation in held {
        let shown = || convert::allocation(&pools, allocation);
        let now = is_stranded(engine.pools(), allocation);
        match (now, is_stranded(&pools, allocation)) {
            (false, true) => {
                response.stranded_count += 1;
                if response.stranded.len() < LISTED {
                    response.stranded.push(shown());
                }
            }
            (true, false) => {
                response.unstranded_count += 1;
                if response.unstranded.len() < LISTED {
                    response.unstranded.push(shown());
                }
            }
            (true, true) | (false, false) => {}
        }
    }
    let mut tried = engine
        .with_pools(pools)
        .map_err(|error| fault::internal(&error))?;
    for acquire in waiting.iter() {
        let command = Command::Acquire(acquire.clone());
        if let (Reply::Acquired(acquired), _) = tried.plan(&command, now)
            && acquired.unmet.is_empty()
        {
            response.servable_count += 1;
            if response.servable.len() < LISTED {
                let addresses = acquired.addresses.iter();
                response.servable.push(v1::Servable {
                    service: Some(convert::service_key(&acquire.key)),
                    addresses: addresses.map(|held| held.address.to_string()).collect(),
                });
            }
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_plans_at_a_time_and_the_next_one_waits_for_a_while() {
        let planning = Planning::default();
        let turn = planning.turn().await.unwrap();
        let refused = planning.turn().await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let (next, ()) = tokio::join!(planning.turn(), async {
            sleep(PATIENCE / 2).await;
            drop(turn);
        });
        assert!(next.is_ok());
    }
}
