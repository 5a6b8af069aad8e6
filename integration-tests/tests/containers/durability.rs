//! What was acknowledged is there after a container ended, however it ended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use integration_tests::{
    eventually::{DEADLINE, eventually},
    rpc::{acquire, held, release},
};
use testcontainers::ImageExt;

use crate::{
    container::{Container, allocator, docker},
    volume::Volume,
};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_a_container_is_stopped_started_or_replaced() {
    let volume = Volume::new();
    let container = Container::start(allocator().with_mount(volume.mount())).await;
    let mut client = container.client().await;
    for name in ["a", "b", "c"] {
        client.acquire(acquire("web", name)).await.unwrap();
    }
    client.release(release("web", "b")).await.unwrap();
    let before = container.held().await;
    assert_eq!(before.len(), 2);

    container.0.stop().await.unwrap();
    let status = container.0.exit_code().await.unwrap();
    assert_eq!(status, Some(0), "it hears SIGTERM as process 1");
    container.start_again().await;
    assert_eq!(container.held().await, before);

    container.0.rm().await.unwrap();
    let container = Container::start(allocator().with_mount(volume.mount())).await;
    assert_eq!(container.held().await, before);
    let mut client = container.client().await;
    let answer = client.acquire(acquire("web", "b")).await.unwrap();
    let address = held(answer.get_ref())[0].to_owned();
    assert!(before.iter().all(|(_, taken)| *taken != address));
    drop(container);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_amid_load_loses_nothing_that_was_acknowledged() {
    let volume = Volume::new();
    let container = Container::start(allocator().with_mount(volume.mount())).await;
    let count = Arc::new(AtomicUsize::new(0));
    let mut callers = Vec::new();
    for caller in 0..8 {
        let mut client = container.client().await;
        let count = Arc::clone(&count);
        callers.push(tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0..200 {
                let name = format!("s-{caller}-{number}");
                let Ok(answer) = client.acquire(acquire("web", &name)).await else {
                    break;
                };
                acknowledged.push((name, held(answer.get_ref())[0].to_owned()));
                count.fetch_add(1, Ordering::Relaxed);
            }
            acknowledged
        }));
    }
    eventually(DEADLINE, "the load goes on", async || {
        match count.load(Ordering::Relaxed) {
            some if some >= 200 => Ok(()),
            few => Err(few),
        }
    })
    .await;
    docker(&["kill", container.0.id()]).unwrap();
    let mut acknowledged = Vec::new();
    for caller in callers {
        let ended = tokio::time::timeout(Duration::from_secs(30), caller).await;
        acknowledged.extend(ended.expect("nobody waits for ever").unwrap());
    }
    assert!(acknowledged.len() < 1600, "the kill came amid the load");

    container.start_again().await;
    let kept = container.held().await;
    for pair in &acknowledged {
        assert!(kept.contains(pair), "{pair:?} was acknowledged");
    }
    // At most one request of each caller was under way.
    assert!(kept.len() <= acknowledged.len() + 8);
    drop(container);
}
