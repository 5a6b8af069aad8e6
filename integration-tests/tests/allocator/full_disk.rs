//! A full disk: nothing is acknowledged that is not durable, reads go on, and
//! everything works again as soon as there is room.

use std::fs;

use integration_tests::{
    allocator::{Allocator, Options},
    eventually::{DEADLINE, eventually},
    rpc::{acquire, held, refusal, release},
    small_disk::SmallDisk,
};
use tonic::Code;

const POOLS: &str = "pools: [{name: big, addresses: [10.0.0.0/16]}]";

/// Enough for a few thousand allocations at most.
pub const KILOBYTES: u32 = 512;

#[tokio::test]
async fn a_full_disk_refuses_what_cannot_be_kept_and_recovers_by_itself() {
    let disk = SmallDisk::mount(KILOBYTES).unwrap();
    let database = disk.path().join("allocator.db");
    let mut allocator = Allocator::start(Options::config(POOLS).database(database)).await;
    let mut client = allocator.client().await;
    let before = client
        .acquire(acquire("web", "before"))
        .await
        .unwrap()
        .into_inner();

    let ballast = disk.fill().unwrap();
    let mut acknowledged = vec![("before".to_owned(), held(&before)[0].to_owned())];
    let mut refused = Vec::new();
    for number in 0..2000 {
        let name = format!("s{number}");
        match client.acquire(acquire("web", &name)).await {
            Ok(answer) => acknowledged.push((name, held(answer.get_ref())[0].to_owned())),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                assert_eq!(refusal(&status).reason, "STORE_UNAVAILABLE");
                refused.push(name);
            }
        }
        if refused.len() == 20 {
            break;
        }
    }
    assert_eq!(refused.len(), 20, "the disk never got full");
    let status = client.release(release("web", "before")).await.unwrap_err();
    assert_eq!(refusal(&status).reason, "STORE_UNAVAILABLE");
    assert_eq!(
        addresses(&allocator).await,
        sorted(&acknowledged),
        "reads go on"
    );
    fs::remove_file(ballast).unwrap();
    let again = refused[0].clone();
    let answer = eventually(DEADLINE, "it recovers by itself", async || {
        client
            .acquire(acquire("web", &again))
            .await
            .map_err(|status| status.to_string())
    })
    .await;
    acknowledged.push((again, held(answer.get_ref())[0].to_owned()));

    allocator.kill();
    allocator.start_again().await;
    assert_eq!(
        addresses(&allocator).await,
        sorted(&acknowledged),
        "exactly what was acknowledged is there"
    );
}

async fn addresses(allocator: &Allocator) -> Vec<(String, String)> {
    let allocations = allocator.allocations().await;
    let pairs: Vec<_> = allocations
        .into_iter()
        .map(|a| (a.service.unwrap().name, a.address))
        .collect();
    sorted(&pairs)
}

fn sorted(pairs: &[(String, String)]) -> Vec<(String, String)> {
    let mut pairs = pairs.to_vec();
    pairs.sort();
    pairs
}

#[tokio::test]
async fn a_crash_on_a_full_disk_loses_nothing_that_was_acknowledged() {
    let disk = SmallDisk::mount(KILOBYTES).unwrap();
    let database = disk.path().join("allocator.db");
    let mut allocator = Allocator::start(Options::config(POOLS).database(database)).await;
    let mut client = allocator.client().await;
    let mut acknowledged = Vec::new();
    let ballast = disk.fill().unwrap();
    for number in 0..2000 {
        let name = format!("s{number}");
        match client.acquire(acquire("web", &name)).await {
            Ok(answer) => acknowledged.push((name, held(answer.get_ref())[0].to_owned())),
            Err(_) => break,
        }
    }
    allocator.kill();
    fs::remove_file(ballast).unwrap();
    allocator.start_again().await;
    assert_eq!(addresses(&allocator).await, sorted(&acknowledged));
}

#[tokio::test]
async fn a_start_on_a_full_disk_is_refused_with_the_cause() {
    let disk = SmallDisk::mount(KILOBYTES).unwrap();
    disk.fill().unwrap();
    let options = Options::config(POOLS).database(disk.path().join("allocator.db"));
    let (status, errors) = Allocator::start_refused(options).await;
    assert!(!status.success());
    assert!(
        errors.contains("allocator.db") && errors.contains("full"),
        "{errors}"
    );
}
