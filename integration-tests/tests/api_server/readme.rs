//! The examples of the READMEs, run: what they say is what happens.
//!
//! - ` ```yaml pools `: a pools file that `check-config` takes.
//! - ` ```console check-config `: what it prints for the pools file before.
//! - ` ```yaml example [PEERS] `: pools, Namespaces and Services, divided by
//!   `---`, one after the other; the comment below a Service says what its status
//!   shows then. What else is done stands behind `---`. PEERS are for
//!   `--annotation-aliases`.

mod document;
mod example;

use std::{collections::BTreeSet, fs, path::Path};

use integration_tests::{
    control_plane::ControlPlane,
    readme::{self, blocks, first_cells, rows},
};

use self::{
    document::{parse, steps},
    example::{check_config, example},
};

const PEERS: &str = "metallb,cilium,purelb,kube-vip";

#[tokio::test]
async fn every_example_comes_out_as_readme_says() {
    let control_plane = ControlPlane::shared().await;
    let examples = blocks("yaml example").into_iter();
    futures::future::join_all(examples.map(|block| example(control_plane, block))).await;
}

#[tokio::test]
async fn check_config_takes_the_pools_files_and_prints_what_readme_says() {
    let mut explained = String::new();
    for block in blocks("") {
        if block.info == "yaml pools" {
            let (good, told) = check_config(&block.text).await;
            assert!(good, "{}: {told}", block.place);
            explained = told;
        } else if block.info == "console check-config" {
            let (_command, printed) = block.text.split_once('\n').unwrap();
            assert_eq!(printed, explained, "{}", block.place);
        }
    }
    assert!(!explained.is_empty());
}

#[tokio::test]
async fn every_key_of_the_pools_file_is_in_the_table_and_in_an_example() {
    let (good, told) = check_config("pools: [{unknown: 1}]").await;
    assert!(!good);
    let (_, known) = told.split_once("no such key in a pool; it has ").unwrap();
    let known: BTreeSet<String> = known.trim().split(", ").map(ToOwned::to_owned).collect();
    assert!(known.len() > 10, "{told}");
    assert_eq!(first_cells("Pools file"), known);

    let mut shown = BTreeSet::new();
    for block in blocks("yaml example") {
        for step in steps(&block.text) {
            let document = parse(&step.yaml);
            let pools = document["pools"].as_array().cloned().unwrap_or_default();
            for pool in pools {
                shown.extend(pool.as_object().unwrap().keys().cloned());
            }
        }
    }
    assert_eq!(shown, known);
}

#[test]
fn every_annotation_is_in_the_table_and_in_an_example() {
    let rows = rows("What a Service can ask for");
    let cells = rows
        .iter()
        .flat_map(|row| row.split('`').skip(1).step_by(2));
    let listed: BTreeSet<_> = cells
        .filter(|cell| cell.contains(".io/") || cell.contains(".tf/"))
        .map(ToOwned::to_owned)
        .collect();
    let mut shown = BTreeSet::new();
    for block in blocks("yaml example") {
        for step in steps(&block.text) {
            let document = parse(&step.yaml);
            let annotations = document["metadata"]["annotations"].as_object();
            shown.extend(annotations.into_iter().flat_map(|all| all.keys().cloned()));
        }
        let peers = block.info.strip_prefix("yaml example").unwrap().trim();
        assert!(["", PEERS].contains(&peers), "{peers}");
    }
    assert_eq!(shown, listed);
}

#[test]
fn every_reason_is_in_the_table_with_its_code_and_in_an_example() {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../proto/lballocator/v1/allocator_service.proto");
    let proto = fs::read_to_string(proto).unwrap();
    let (_, acquire) = proto.split_once("nothing is refused:").unwrap();
    let (acquire, _) = acquire.split_once("rpc Acquire").unwrap();
    let promised = acquire.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        Some((cells.next()?, cells.next()?))
    });
    let text = readme::text();
    let mut reasons = BTreeSet::new();
    for (reason, code) in promised.skip(2) {
        reasons.insert(reason.to_owned());
        let row = format!("| `{reason}` | {code} |");
        assert!(text.contains(&row), "no README has the row {row}");
    }
    assert!(reasons.len() > 10, "{reasons:?}");
    // Of every RPC, and the watcher's own.
    for reason in [
        "INVALID_REQUEST",
        "CLUSTER_NAME_IN_USE",
        "CLUSTER_HAS_OTHER_NAME",
        "ALLOCATOR_UNAVAILABLE",
    ] {
        reasons.insert(reason.to_owned());
    }
    assert_eq!(first_cells("Reasons"), reasons);

    // What takes several clusters, or an administrator, is in no example.
    for reason in [
        "AWAITING_SYNC",
        "ADDRESS_CONFLICT",
        "CLUSTER_NAME_IN_USE",
        "CLUSTER_HAS_OTHER_NAME",
    ] {
        assert!(reasons.remove(reason), "{reason}");
    }
    let examples = blocks("yaml example").into_iter();
    let steps = examples.flat_map(|block| steps(&block.text));
    let shown = steps.filter_map(|step| Some(step.outcome?.reason()?.to_owned()));
    assert_eq!(shown.collect::<BTreeSet<_>>(), reasons);
}
