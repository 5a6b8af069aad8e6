//! What people do in a running container.

use std::fs;

use integration_tests::{
    eventually::{DEADLINE, eventually},
    rpc::acquire,
    scratch::Scratch,
};
use jiff::{Timestamp, civil::DateTime};
use serde_json::Value;
use testcontainers::ImageExt;

use crate::container::{Container, allocator};

async fn with_one_service() -> Container {
    let container = Container::start(allocator()).await;
    let mut client = container.client().await;
    client.acquire(acquire("web", "shop")).await.unwrap();
    container
}

#[tokio::test(flavor = "multi_thread")]
async fn the_routes_are_shown_by_cat_and_by_the_command() {
    let container = with_one_service().await;
    let file = eventually(DEADLINE, "the file shows the Service", async || {
        let table = container.exec(&["cat", "/routes"]).await;
        if table.contains("| shop") || table.contains(" shop ") {
            Ok(table)
        } else {
            Err(table)
        }
    })
    .await;
    assert_eq!(container.exec(&["lb-allocator", "routes"]).await, file);
    let asked = [
        "lb-allocator",
        "routes",
        "--allocator",
        "http://127.0.0.1:7373",
    ];
    let asked = container.exec(&asked).await;
    // The first line is the time.
    let table = |text: &str| text.split_once('\n').unwrap().1.to_owned();
    assert_eq!(table(&asked), table(&file));

    let (status, _, errors) = container.try_exec(&["cat", "/nowhere", "/routes"]).await;
    assert_eq!(status, 1);
    assert!(errors.starts_with("cat: /nowhere: "), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_runs_as_nobody_and_may_do_nothing_special() {
    let container = with_one_service().await;
    let status = container.exec(&["cat", "/proc/1/status"]).await;
    let line = |name: &str| {
        let mut lines = status.lines().filter_map(|line| line.strip_prefix(name));
        lines.next().unwrap().split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(line("Uid:"), ["65532"; 4]);
    assert_eq!(line("Gid:"), ["65532"; 4]);
    assert_eq!(line("CapEff:"), ["0000000000000000"]);
    assert_eq!(line("CapBnd:"), ["0000000000000000"]);
    assert_eq!(line("NoNewPrivs:"), ["1"]);
    let mounts = container.exec(&["cat", "/proc/mounts"]).await;
    let root = mounts.lines().find(|line| line.contains(" / ")).unwrap();
    assert!(root.contains(" ro,"), "{root}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_and_taken_out_of_the_running_container() {
    let container = with_one_service().await;
    let file = "/var/lib/lb-allocator/backup.db";
    let told = container.exec(&["lb-allocator", "backup", file]).await;
    assert!(
        told.starts_with(&format!("{file}: revision 1, 1 allocations")),
        "{told}"
    );
    let (status, _, errors) = container.try_exec(&["lb-allocator", "backup", file]).await;
    assert!(status != 0 && errors.contains("exists"), "{errors}");

    let scratch = Scratch::new("backup").unwrap();
    for command in [&["cat", file][..], &["lb-allocator", "backup", "-"]] {
        let (status, bytes, errors) = container.try_exec(command).await;
        assert_eq!(status, 0, "{errors}");
        let copy = scratch.path().join("lb.db");
        fs::write(&copy, bytes).unwrap();
        let database = rusqlite::Connection::open(&copy).unwrap();
        let query = "SELECT name FROM allocations";
        let name: String = database.query_row(query, [], |row| row.get(0)).unwrap();
        assert_eq!(name, "shop");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_in_the_zone_that_is_asked_for() {
    let container = Container::start(allocator().with_env_var("TZ", "Asia/Tokyo")).await;
    let table = container.exec(&["cat", "/routes"]).await;
    let first = table.lines().next().unwrap();
    let shown = DateTime::strptime("%a %Y-%m-%d %H:%M:%S", first).unwrap();
    let shown = shown.in_tz("Asia/Tokyo").unwrap();
    let age = Timestamp::now().duration_since(shown.timestamp());
    assert!(age.abs().as_secs() < 3600, "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_is_made_of_is_listed_in_the_image() {
    let container = with_one_service().await;
    let bill = container
        .exec(&["cat", "/usr/share/sbom/lb-allocator.cdx.json"])
        .await;
    let bill: Value = serde_json::from_str(&bill).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    assert_eq!(bill["metadata"]["component"]["name"], "lb-allocator");
    let components = bill["components"].as_array().unwrap();
    let names: Vec<_> = components
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    for name in ["tonic", "sqlx", "libsqlite3-sys", "ring", "lb-proto"] {
        assert!(names.contains(&name), "{name}");
    }
    for name in ["kube", "testcontainers", "proptest"] {
        assert!(!names.contains(&name), "{name}");
    }
}
