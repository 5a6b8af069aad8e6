//! Trying a pools file, by somebody who does nothing else.

use std::time::{Duration, Instant};

use futures::stream;
use integration_tests::{
    allocator::{Allocator, Options},
    rpc::{Asking, acquire, refusal, sync_of},
};
use lb_proto::v1::PlanConfigurationRequest;
use tokio::{task::JoinSet, time::timeout};

const POOLS: &str = "pools: [{name: big, addresses: [10.0.0.0/8]}]";
const HELD: usize = 4_000;
const PLANNERS: usize = 24;

/// The memory of a process, in KiB.
pub fn memory(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

async fn longest_acquire(allocator: &Allocator, prefix: &str) -> Duration {
    let mut client = allocator.client().await;
    let mut longest = Duration::ZERO;
    for number in 0..50 {
        let begun = Instant::now();
        let request = acquire("web", &format!("{prefix}{number}"));
        client.acquire(request).await.unwrap();
        longest = longest.max(begun.elapsed());
    }
    longest
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_plans_without_end_holds_up_nobody_and_fills_no_memory() {
    let mut allocator = Allocator::start(Options::config(POOLS)).await;
    let held = (0..HELD).map(|number| {
        let address = format!("10.1.{}.{}", number / 250, number % 250);
        acquire("web", &format!("held{number}")).showing(&address)
    });
    let messages = sync_of("one", held.collect());
    let mut client = allocator.client().await;
    client.sync(stream::iter(messages)).await.unwrap();
    let alone = longest_acquire(&allocator, "before").await;
    let id = allocator.process().id();
    let before = memory(id);

    let mut planners = JoinSet::new();
    for number in 0..PLANNERS {
        let mut admin = allocator.admin_client().await;
        planners.spawn(async move {
            loop {
                let request = PlanConfigurationRequest {
                    pools_file: POOLS.to_owned(),
                };
                let plan = admin.plan_configuration(request);
                // Every other one gives up soon, and begins again.
                let patience = if number % 2 == 0 { 20 } else { 60_000 };
                let planned = timeout(Duration::from_millis(patience), plan).await;
                if let Ok(Err(status)) = planned {
                    assert_eq!(refusal(&status).reason, "OVERLOADED");
                }
            }
        });
    }
    let mut beside = Vec::new();
    for round in 0..5 {
        beside.push(longest_acquire(&allocator, &format!("beside{round}")).await);
        assert!(planners.try_join_next().is_none(), "no planner ends");
    }
    beside.sort();
    let most = Duration::from_millis(200).max(alone * 10);
    assert!(beside[2] < most, "alone {alone:?}, beside plans {beside:?}");
    let grown = memory(id).saturating_sub(before);
    assert!(grown < 100 * 1024, "{grown} KiB more than {before}");
}
