//! One run: a world, a while of faults and users, and then peace, in which
//! everything must come right.

use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    cast::Cast,
    chaos::{Chaos, Rates, random_up_to},
    checks::{lost_grants, problems},
    faults::{self, Cures},
    workload,
    world::World,
};

/// How long it may take after the last fault until all is right: some rounds of
/// the slow retries, and what the clock may have gone back.
const SETTLE: Duration = Duration::from_secs(45 * 60);
/// How long it must then stay so, with nothing written.
const QUIET: Duration = Duration::from_secs(15 * 60);

/// What became of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    pub seed: u64,
    pub problems: Vec<String>,
    pub counts: BTreeMap<&'static str, u64>,
    /// Of all that happened.
    pub fingerprint: u64,
    pub record: Vec<String>,
    /// From the last fault until all was right.
    pub settled: Duration,
}

/// Whether users of this seed mostly ask for addresses that others have, while those
/// ask for other ones.
fn trades(seed: u64) -> bool {
    seed % 4 == 1
}

/// Runs this seed on this thread, with its files in this folder, which is empty.
pub fn run(seed: u64, folder: &Path, aloud: bool) -> Outcome {
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(live(seed, folder, aloud))
}

async fn live(seed: u64, folder: &Path, aloud: bool) -> Outcome {
    let chaos = Chaos::new(aloud);
    let clusters = fastrand::usize(1..=3);
    let cast = Cast::random();
    let replicas = if fastrand::u8(..3) == 0 { 2 } else { 1 };
    chaos.note(format_args!(
        "{clusters} clusters, {replicas} watchers each, {cast:?}"
    ));
    let mut world = World::new(folder, chaos.clone(), cast, clusters, replicas).await;
    let mut cures = Cures::default();
    for _ in 0..fastrand::u32(10..80) {
        let pause = [0, 50, 2_000, 30_000][fastrand::usize(..4)];
        sleep(random_up_to(Duration::from_millis(pause))).await;
        cures.due(&mut world).await;
        if fastrand::u8(..4) == 0 {
            faults::strike(&mut world, &mut cures).await;
        } else if trades(seed) && fastrand::u8(..3) > 0 {
            workload::trade(&mut world);
        } else {
            workload::act(&mut world).await;
        }
        if cast.admin && fastrand::u8(..4) == 0 {
            world.admin_acts().await;
        }
        if let Some(liar) = world.liar.as_mut().filter(|_| fastrand::u8(..3) == 0) {
            liar.lie(&world.pools);
        }
    }
    chaos.note("peace");
    chaos.set_rates(Rates::calm());
    cures.all(&mut world).await;
    world.recommission().await;
    if let Some(liar) = &mut world.liar {
        liar.insist(&world.pools);
    }
    if cast.liar && world.forgets {
        world.end_waiting().await;
    }
    let peace = Instant::now();
    let mut found = settle(&world).await;
    let settled = peace.elapsed();
    if found.is_empty() {
        found = stay(&world).await;
    }
    if found.is_empty() {
        found = go_on(&mut world).await;
    }
    found.extend(chaos.violations());
    if let Some(process) = &world.allocator {
        found.extend(lost_grants(&process.database, &world.grants.lock()));
    }
    for problem in &found {
        chaos.note(format_args!("PROBLEM: {problem}"));
    }
    Outcome {
        seed,
        problems: found,
        counts: chaos.counts(),
        fingerprint: chaos.fingerprint(),
        record: chaos.record(),
        settled,
    }
}

/// Waits until nothing is wrong; what is, when it takes too long.
async fn settle(world: &World) -> Vec<String> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let found = problems(world).await;
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
        sleep(Duration::from_secs(10)).await;
    }
}

/// What stops when one cluster is away and somebody lies.
async fn go_on(world: &mut World) -> Vec<String> {
    let away = world.clusters.len() - 1;
    if away == 0 {
        return Vec::new();
    }
    let label = world.clusters[away].label().to_owned();
    let hosts = world.watchers.iter();
    let hosts = hosts.filter(|(_, watcher)| watcher.server.label() == label);
    for host in hosts.map(|(host, _)| host.clone()).collect::<Vec<_>>() {
        world.kill_watcher(&host);
    }
    if let Some(liar) = &mut world.liar {
        for _ in 0..4 {
            liar.lie(&world.pools);
        }
    }
    sleep(Duration::from_secs(5)).await;
    workload::newcomer(world);
    sleep(Duration::from_secs(120)).await;
    problems(world).await
}

/// What does not stay as it is.
async fn stay(world: &World) -> Vec<String> {
    // The words of conditions follow with the next slow retry, and others' writes are
    // forgotten after ten minutes.
    sleep(Duration::from_secs(11 * 60)).await;
    let writes = || {
        world
            .clusters
            .iter()
            .map(|server| server.writes())
            .sum::<u64>()
    };
    let before = writes();
    sleep(QUIET).await;
    let mut found = problems(world).await;
    let written = writes() - before;
    if written > 0 {
        found.push(format!("{written} writes although nothing happened"));
    }
    found
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} broke a promise:", self.seed)?;
        for problem in &self.problems {
            writeln!(f, "  {problem}")?;
        }
        write!(
            f,
            "replay it with: SIMULATION_SEED={} cargo test -p integration-tests --test simulation -- --nocapture",
            self.seed
        )
    }
}
