//! A volume without room: nothing is acknowledged that is not kept, and all goes on
//! when there is room.

use std::fs;

use integration_tests::{
    eventually::{DEADLINE, eventually},
    rpc::{acquire, held, refusal},
    scratch::Scratch,
};
use testcontainers::ImageExt;
use tonic::Code;

use crate::{
    container::{Container, allocator, docker},
    volume::Volume,
};

/// Makes a file of that size on the volume, over the one that is there.
fn ballast(container: &Container, bytes: usize) {
    let scratch = Scratch::new("ballast").unwrap();
    let file = scratch.path().join("ballast");
    fs::write(&file, vec![0; bytes]).unwrap();
    let to = format!("{}:/var/lib/lb-allocator/ballast", container.0.id());
    docker(&["cp", file.to_str().unwrap(), &to]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_volume_refuses_what_it_cannot_keep_and_recovers_by_itself() {
    let volume = Volume::of_size("1m");
    let container = Container::start(allocator().with_mount(volume.mount())).await;
    let mut client = container.client().await;
    ballast(&container, 256 * 1024);
    let mut acknowledged = Vec::new();
    let mut refused = None;
    for number in 0..2000 {
        let name = format!("s{number}");
        match client.acquire(acquire("web", &name)).await {
            Ok(answer) => acknowledged.push((name, held(answer.get_ref())[0].to_owned())),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                assert_eq!(refusal(&status).reason, "STORE_UNAVAILABLE");
                refused = Some(name);
                break;
            }
        }
    }
    let refused = refused.expect("the volume never got full");
    acknowledged.sort();
    assert_eq!(container.held().await, acknowledged, "reads go on");

    ballast(&container, 0);
    let answer = eventually(DEADLINE, "it recovers by itself", async || {
        let answer = client.acquire(acquire("web", &refused)).await;
        answer.map_err(|status| status.to_string())
    })
    .await;
    acknowledged.push((refused, held(answer.get_ref())[0].to_owned()));
    acknowledged.sort();
    assert_eq!(container.held().await, acknowledged);

    // Another one keeps the memory of the volume while the first is killed.
    let keeper = Container::start(
        allocator()
            .with_mount(volume.mount())
            .with_env_var("LB_ALLOCATOR_DATABASE", "sqlite:///run/lb-allocator/lb.db"),
    )
    .await;
    docker(&["kill", container.0.id()]).unwrap();
    container.start_again().await;
    assert_eq!(container.held().await, acknowledged);
    drop((container, keeper));
}
