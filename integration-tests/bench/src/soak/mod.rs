//! Hours of trouble in minutes: real API servers, watchers and an allocator, users
//! who create, edit and delete Services at random, and faults one after the other.
//! At the end an account of what was promised, and whether it was kept.
//!
//! ```text
//!  Users ──► World ◄── Faults
//!              │
//!    Witness ──┴── Ending, history
//!       └─── Verdict ───┘
//!              Account
//! ```
//!
//! All choices come from one seed; how they fall together with what the machine does
//! meanwhile, they do not.

mod account;
mod ending;
mod faults;
mod pools;
mod seen;
mod shim;
mod sight;
mod users;
mod verdict;
mod witness;
mod world;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use integration_tests::eventually::within;
use kube::Client;
use tokio::{task::JoinSet, time::sleep};

use self::{
    account::Account,
    ending::Ending,
    faults::Faults,
    users::{Count, Operations, Users},
    verdict::verdict,
    witness::Witness,
    world::World,
};

/// Users go on for so long when the last fault is over.
const CALM: Duration = Duration::from_secs(5);
/// A watcher that was refused again and again asks again within a minute; with this,
/// only a machine that does nothing at all is too slow.
const SETTLED: Duration = Duration::from_secs(240);
/// Of the disk: at the start, and for what a minute adds to history.
const KILOBYTES: u32 = 16 * 1024;
const KILOBYTES_A_MINUTE: u32 = 4 * 1024;

/// # Errors
/// When something cannot be started, or ends by itself.
pub async fn run(minutes: u32, seed: u64) -> Result<Account> {
    eprintln!("seed {seed}; starting three clusters");
    let disk = KILOBYTES.saturating_add(KILOBYTES_A_MINUTE.saturating_mul(minutes));
    let mut world = World::start(disk).await?;
    let mut rng = fastrand::Rng::with_seed(seed);
    let begun = Instant::now();
    let witness = Witness::start(world.clients().await, begun);
    let stop = Arc::new(AtomicBool::new(false));
    let mut users = JoinSet::new();
    for (_, client) in world.clients().await {
        let of_a_cluster = Users::new(client, rng.fork(), begun);
        users.spawn(of_a_cluster.work(Arc::clone(&stop)));
    }

    let faults = Faults::new(rng.fork(), begun);
    let time = Duration::from_secs(60) * minutes;
    let faults = faults.strike(&mut world, time).await?;
    sleep(CALM).await;
    stop.store(true, Ordering::Relaxed);
    let mut operations = Operations::new();
    for of_a_cluster in users.join_all().await {
        for (kind, Count { done, unanswered }) in of_a_cluster {
            let all = operations.entry(kind).or_default();
            all.done += done;
            all.unanswered += unanswered;
        }
    }

    let calm = Instant::now();
    eprintln!(
        "{:7.1} s  calm: waiting until nothing is left to do",
        begun.elapsed().as_secs_f64()
    );
    let ending = settle(&world.clients().await, &world.allocator.url()).await?;
    let problems = ending.problems();
    let settled = problems.is_empty().then(|| calm.elapsed());
    world.all_run()?;
    let history = ending::history(&world.allocator.url()).await?;
    let mut testimony = witness.tell().await?;
    let sight = &mut testimony.sight;
    sight.catch_up(&ending.services, begun.elapsed());
    Ok(Account {
        minutes,
        seed,
        operations,
        faults,
        grants: testimony.sight.grants.len(),
        waits: testimony.sight.waits.clone(),
        settled,
        waiting: ending.waiting(),
        verdict: verdict(testimony, &history, problems),
    })
}

/// How it is when nothing is left to do, or when there was time enough for it.
async fn settle(clusters: &[(&'static str, Client)], allocator: &str) -> Result<Ending> {
    let settled = within(SETTLED, async || {
        match Ending::look(clusters, allocator).await {
            Ok(ending) if ending.problems().is_empty() => Ok(ending),
            ending => Err(ending),
        }
    });
    settled.await.or_else(|unsettled| unsettled)
}
