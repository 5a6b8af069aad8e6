//! An old backup of the database is put back: what Services show counts more than
//! what it says, and where two show the same, an administrator decides.

use std::{fs, time::Duration};

use integration_tests::{
    allocator::run,
    eventually::{DEADLINE, eventually},
    namespace::addresses,
    scratch::Scratch,
};
use lb_proto::v1::{ConflictWinner, DecommissionClusterRequest, ResolveConflictRequest};

use crate::{
    fleet::{Cluster, Fleet},
    record::{Record, nobody_was_moved, shown},
};

const STOP: Duration = Duration::from_secs(20);

async fn stop(fleet: &mut Fleet) {
    let status = fleet.allocator.terminate(STOP).await;
    assert!(status.success(), "{status}");
}

/// Copies the database while the allocator runs.
async fn back_up(fleet: &Fleet) -> Scratch {
    let backup = Scratch::new("backup").unwrap();
    let database = fleet.allocator.database();
    let file = backup.path().join(database.file_name().unwrap());
    let args = ["backup", file.to_str().unwrap()];
    let url = format!("sqlite://{}", database.display());
    let (status, _, errors) = run(&args, &[("LB_ALLOCATOR_DATABASE", url)]).await;
    assert!(status.success(), "{errors}");
    backup
}

async fn restore(fleet: &mut Fleet, backup: &Scratch) {
    stop(fleet).await;
    fleet.remove_database();
    let folder = fleet.allocator.database();
    for file in fs::read_dir(backup.path()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.with_file_name(file.file_name())).unwrap();
    }
    fleet.allocator.start_again().await;
}

async fn gets_new(fleet: &Fleet, cluster: &Cluster, name: &str) -> String {
    cluster.ns.create(fleet.service(name)).await;
    cluster.ns.gets_any(name).await
}

/// Asks for exactly this address, and then does not insist on it.
async fn takes(fleet: &Fleet, cluster: &Cluster, name: &str, address: &str) {
    cluster.ns.create(fleet.service(name).ips(address)).await;
    cluster.ns.gets(name, [address]).await;
    cluster.ns.annotate(name, "lb-allocator.io/ips", None).await;
}

/// Takes a cluster out of service at once, while its watcher does not run.
async fn decommission(fleet: &Fleet, cluster: &str) {
    let request = DecommissionClusterRequest {
        cluster: cluster.to_owned(),
        dry_run: false,
        grace: Some(prost_types::Duration::default()),
    };
    let mut admin = fleet.admin().await;
    admin.decommission_cluster(request).await.unwrap();
    let prefix = format!("{cluster}/");
    eventually(DEADLINE, "all is taken back", async || {
        let holders = fleet.holders().await;
        if holders.iter().any(|(_, of)| of.starts_with(&prefix)) {
            Err(format!("{holders:?}"))
        } else {
            Ok(())
        }
    })
    .await;
}

async fn resolve(fleet: &Fleet, address: &str, name: &str, winner: ConflictWinner) {
    let request = ResolveConflictRequest {
        address: address.to_owned(),
        service: Some(fleet.key("b", name)),
        winner: winner.into(),
    };
    let mut admin = fleet.admin().await;
    admin.resolve_conflict(request).await.unwrap();
}

async fn gets_another(cluster: &Cluster, name: &str, than: &str) -> String {
    let what = format!("{}/{name} gets another address", cluster.name);
    let service = cluster.ns.sees(what, name, |service| {
        addresses(service).iter().any(|address| address != than)
    });
    addresses(&service.await).remove(0)
}

#[tokio::test]
async fn after_an_old_backup_what_is_shown_counts_and_an_administrator_ends_conflicts() {
    let mut fleet = Fleet::start("pools: [{name: p, addresses: [192.0.2.1-192.0.2.20]}]").await;
    let (mut a, b) = (fleet.cluster("a", 0).await, fleet.cluster("b", 1).await);
    let one = gets_new(&fleet, &a, "one").await;
    let two = gets_new(&fleet, &a, "two").await;
    let moved = gets_new(&fleet, &a, "moved").await;
    let backup = back_up(&fleet).await;

    // What the backup does not know: a Service, two that changed places, and a
    // cluster that was out of service.
    let new = gets_new(&fleet, &b, "new").await;
    a.ns.delete("moved").await;
    takes(&fleet, &b, "took", &moved).await;
    let moved_to = gets_new(&fleet, &a, "moved").await;
    a.watcher.kill();
    decommission(&fleet, "a").await;
    takes(&fleet, &b, "one", &one).await;
    takes(&fleet, &b, "two", &two).await;

    let (of_a, of_b) = (Record::of(&a.ns).await, Record::of(&b.ns).await);
    restore(&mut fleet, &backup).await;
    a.watcher.start_again().await;
    let what = "both conflicts are listed, and nothing else";
    eventually(DEADLINE, what, async || {
        let conflicts = fleet.conflicts().await;
        let found: Vec<_> = conflicts
            .iter()
            .map(|c| (c.address.clone(), c.service.clone(), c.holders.clone()))
            .collect();
        let expected = [(&one, "one"), (&two, "two")].map(|(address, name)| {
            let holders = vec![fleet.key("a", name)];
            (address.clone(), Some(fleet.key("b", name)), holders)
        });
        if found == expected {
            Ok(())
        } else {
            Err(format!("{conflicts:#?}"))
        }
    })
    .await;
    let fresh = gets_new(&fleet, &b, "fresh").await;
    b.ns.has_condition("one", "False", "ADDRESS_CONFLICT").await;
    b.ns.gets("one", [&*one]).await;
    let pair = |address: &str, of: &str| (address.to_owned(), of.to_owned());
    let mut expected = vec![
        pair(&one, "a/one"),
        pair(&two, "a/two"),
        pair(&moved_to, "a/moved"),
        pair(&moved, "b/took"),
        pair(&new, "b/new"),
        pair(&fresh, "b/fresh"),
    ];
    expected.sort();
    let mut holders = fleet.holders().await;
    holders.sort();
    assert_eq!(holders, expected);
    for story in [of_a.end(&a.ns).await, of_b.end(&b.ns).await] {
        nobody_was_moved(&[story]);
    }

    let (of_a, of_b) = (Record::of(&a.ns).await, Record::of(&b.ns).await);
    resolve(&fleet, &one, "one", ConflictWinner::Holder).await;
    let instead_of_one = gets_another(&b, "one", &one).await;
    resolve(&fleet, &two, "two", ConflictWinner::Shower).await;
    let instead_of_two = gets_another(&a, "two", &two).await;
    eventually(DEADLINE, "no conflict is left", async || {
        match fleet.conflicts().await.as_slice() {
            [] => Ok(()),
            conflicts => Err(format!("{conflicts:?}")),
        }
    })
    .await;
    let mut expected = vec![
        pair(&one, "a/one"),
        pair(&instead_of_one, "b/one"),
        pair(&instead_of_two, "a/two"),
        pair(&two, "b/two"),
        pair(&moved_to, "a/moved"),
        pair(&moved, "b/took"),
        pair(&new, "b/new"),
        pair(&fresh, "b/fresh"),
    ];
    expected.sort();
    eventually(DEADLINE, "each holds what it shows", async || {
        let mut holders = fleet.holders().await;
        holders.sort();
        if holders == expected {
            Ok(())
        } else {
            Err(format!("{holders:?}"))
        }
    })
    .await;
    b.ns.has_condition("two", "True", "Satisfied").await;
    let (of_a, of_b) = (of_a.end(&a.ns).await, of_b.end(&b.ns).await);
    assert_eq!(shown(&of_a, "one"), [[one]], "the holder goes on");
    assert_eq!(shown(&of_b, "two"), [[two]], "the shower goes on");
}
