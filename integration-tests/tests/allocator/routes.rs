//! The original controller's table: in a file, rewritten after every change, and
//! by the command `routes`.

use std::{fs, path::Path};

use integration_tests::{
    allocator::{Allocator, Options, run},
    eventually::{DEADLINE, eventually},
    rpc::{Asking, acquire, key, release},
};
use lb_proto::v1::{AcquireRequest, ServiceKey};

/// The cells of each line between the box's lines, headings first.
fn rows(table: &str) -> Vec<Vec<String>> {
    let lines = table.lines().filter(|line| line.starts_with('|'));
    lines
        .map(|line| {
            line.trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect()
}

async fn shows(file: &Path, expected: &[&[&str]]) -> String {
    eventually(
        DEADLINE,
        format!("the routes are {expected:?}"),
        async || {
            let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
            if rows(&text) == expected {
                Ok(text)
            } else {
                Err(text)
            }
        },
    )
    .await
}

const HEADINGS: &[&str] = &["IP", "IN USE", "NAMESPACE", "SERVICE NAME", "CLUSTER IP"];

#[tokio::test]
async fn the_routes_file_follows_every_change() {
    let allocator = Allocator::start(Options::ip_list(
        "web:192.0.2.1 web:192.0.2.10 web:192.0.2.2",
    ))
    .await;
    let file = allocator.routes_file();
    let free = |ip| [ip, "n", "web", "None", "None"];
    shows(
        &file,
        &[
            HEADINGS,
            &free("192.0.2.1"),
            &free("192.0.2.2"),
            &free("192.0.2.10"),
        ],
    )
    .await;

    let mut client = allocator.client().await;
    let wish = acquire("web", "front").wishing(|wish| wish.cluster_ip = "10.0.0.5".to_owned());
    client.acquire(wish).await.unwrap();
    let used = ["192.0.2.1", "y", "web", "front", "10.0.0.5"];
    let text = shows(
        &file,
        &[HEADINGS, &used, &free("192.0.2.2"), &free("192.0.2.10")],
    )
    .await;
    let mut lines = text.lines();
    let timestamp = lines.next().unwrap();
    assert!(
        timestamp.contains("20") && timestamp.contains(':'),
        "the first line is the time: {text}"
    );
    assert!(
        text.lines()
            .nth(1)
            .is_some_and(|line| line.starts_with('+') && line.ends_with('+')),
        "{text}"
    );

    client.release(release("web", "front")).await.unwrap();
    shows(
        &file,
        &[
            HEADINGS,
            &free("192.0.2.1"),
            &free("192.0.2.2"),
            &free("192.0.2.10"),
        ],
    )
    .await;
}

#[tokio::test]
async fn with_several_clusters_the_last_column_names_the_cluster() {
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1 web:192.0.2.2")).await;
    let mut client = allocator.client().await;
    let of = |cluster: &str| AcquireRequest {
        service: Some(ServiceKey {
            cluster: cluster.to_owned(),
            ..key("web", "front")
        }),
        ..acquire("web", "front")
    };
    client.acquire(of("one")).await.unwrap();
    client.acquire(of("two")).await.unwrap();
    let headings = [HEADINGS, &["CLUSTER"]].concat();
    let first = ["192.0.2.1", "y", "web", "front", "None", "one"];
    let second = ["192.0.2.2", "y", "web", "front", "None", "two"];
    shows(&allocator.routes_file(), &[&headings, &first, &second]).await;
}

#[tokio::test]
async fn the_command_prints_the_same_table() {
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1 web:2001:db8::1")).await;
    allocator
        .client()
        .await
        .acquire(acquire("web", "front"))
        .await
        .unwrap();
    let used: &[&str] = &["192.0.2.1", "y", "web", "front", "None"];
    let free: &[&str] = &["2001:db8::1", "n", "web", "None", "None"];
    let file = shows(&allocator.routes_file(), &[HEADINGS, used, free]).await;

    let url = allocator.url();
    for (args, envs) in [
        (&["routes", "--allocator", &url][..], vec![]),
        (&["routes"], vec![("LB_ALLOCATOR_ALLOCATOR", url.clone())]),
    ] {
        let (status, out, errors) = run(args, &envs).await;
        assert!(status.success(), "{args:?}: {errors}");
        assert_eq!(rows(&out), rows(&file));
    }

    let (status, _, errors) = run(&["routes", "--allocator", "http://127.0.0.1:1"], &[]).await;
    assert!(
        !status.success() && errors.contains("127.0.0.1:1"),
        "{errors}"
    );
}

#[tokio::test]
async fn the_file_is_replaced_as_a_whole() {
    let allocator = Allocator::start(Options::ip_list(
        (1..200)
            .map(|i| format!("web:192.0.2.{i} "))
            .collect::<String>(),
    ))
    .await;
    let file = allocator.routes_file();
    eventually(DEADLINE, "the file is there", async || {
        fs::metadata(&file).map_err(|error| error.to_string())
    })
    .await;
    let mut client = allocator.client().await;
    for number in 0..100 {
        client
            .acquire(acquire("web", &format!("s{number}")))
            .await
            .unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(rows(&text).len(), 200, "a reader saw half a table: {text}");
    }
    eventually(DEADLINE, "the last change is shown", async || {
        let text = fs::read_to_string(&file).unwrap();
        if text.contains("s99") {
            Ok(())
        } else {
            Err(text)
        }
    })
    .await;
}
