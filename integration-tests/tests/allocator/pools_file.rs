//! A pools file that somebody is about to write.

use std::{
    fs,
    time::{Duration, Instant},
};

use integration_tests::{
    allocator::{Allocator, Options},
    eventually::{DEADLINE, eventually},
};
use rustix::process::Signal;

const POOLS: &str = "pools: [{name: a, addresses: [192.0.2.1]}, {name: b, addresses: [192.0.2.2]}]";
const LOADED: &str = "lb_allocator_config_last_reload_successful";

fn reloads(allocator: &mut Allocator) -> usize {
    let errors = allocator.process().errors();
    errors.matches("configuration reloaded").count()
}

#[tokio::test]
async fn a_file_that_is_being_written_is_not_put_in_force_before_it_rests() {
    let mut allocator = Allocator::start(Options::config(POOLS)).await;
    let file = allocator.pools_file();
    let other = file.with_extension("new");
    let begun = Instant::now();
    // Each of these would do: it has one pool less. None is there twice.
    for version in 0.. {
        let half = format!("pools: [{{name: a, addresses: [192.0.2.1]}}] # {version}");
        fs::write(&other, half).unwrap();
        fs::rename(&other, &file).unwrap();
        tokio::task::yield_now().await;
        if version % 100 == 0 {
            allocator.process().signal(Signal::HUP);
            if begun.elapsed() > Duration::from_secs(3) {
                break;
            }
        }
    }
    assert_eq!(
        reloads(&mut allocator),
        0,
        "{}",
        allocator.process().errors()
    );
    allocator.write_config("pools: [{name: a, addresses: [192.0.2.1]}]");
    eventually(
        DEADLINE,
        "the whole file is in force",
        async || match reloads(&mut allocator) {
            1 => Ok(()),
            many => Err(many),
        },
    )
    .await;
}

#[tokio::test]
async fn a_file_that_comes_back_as_it_was_is_no_change() {
    let mut allocator = Allocator::start(Options::config(POOLS)).await;
    let admin = allocator.admin();
    for gone in [true, false] {
        if gone {
            fs::remove_file(allocator.pools_file()).unwrap();
        } else {
            allocator.write_config("pools: [");
        }
        admin.sees(LOADED, &[], |seen| seen == 0.0).await;
        allocator.write_config(POOLS);
        admin.sees(LOADED, &[], |seen| seen == 1.0).await;
    }
    assert_eq!(
        reloads(&mut allocator),
        0,
        "{}",
        allocator.process().errors()
    );
}
