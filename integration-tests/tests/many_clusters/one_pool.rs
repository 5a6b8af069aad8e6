//! Who gets what of a pool that clusters share.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use integration_tests::{
    eventually::{DEADLINE, eventually},
    namespace::addresses,
};

use crate::fleet::{Cluster, Fleet};

const POOL: &str = "pools: [{name: p, addresses: [192.0.2.1-192.0.2.10]}]";

/// Names of the cluster's ten Services: those that have an address, those that wait.
async fn served_and_waiting(cluster: &Cluster) -> (Vec<(String, String)>, Vec<String>) {
    let (mut served, mut waiting) = (Vec::new(), Vec::new());
    for number in 0..10 {
        let name = format!("s{number}");
        match addresses(&cluster.ns.get(&name).await).pop() {
            Some(address) => served.push((name, address)),
            None => waiting.push(name),
        }
    }
    (served, waiting)
}

async fn the_same_service_in_each(names: &[&'static str]) {
    let fleet = Fleet::start(POOL).await;
    let mut clusters = Vec::new();
    for (number, name) in names.iter().enumerate() {
        clusters.push(fleet.cluster(name, number).await);
    }
    let create = clusters.iter().map(|cluster| async {
        cluster.ns.create(fleet.service("same")).await;
        let address = cluster.ns.gets_any("same").await;
        (address, format!("{}/same", cluster.name))
    });
    let mut got = futures::future::join_all(create).await;
    got.sort();
    assert_eq!(fleet.holders().await, got);
    let distinct: BTreeSet<_> = got.iter().map(|(address, _)| address).collect();
    assert_eq!(distinct.len(), names.len(), "{got:?}");
    // Deleted in one cluster, it goes on in the others.
    let first = clusters.remove(0);
    first.ns.delete("same").await;
    got.retain(|(_, holder)| *holder != format!("{}/same", first.name));
    eventually(DEADLINE, "only the deleted one let go", async || {
        let holders = fleet.holders().await;
        if holders == got {
            Ok(())
        } else {
            Err(format!("{holders:?}"))
        }
    })
    .await;
    for cluster in &clusters {
        let shown = addresses(&cluster.ns.get("same").await);
        let holder = format!("{}/same", cluster.name);
        assert!(got.contains(&(shown[0].clone(), holder)), "{shown:?}");
    }
}

#[tokio::test]
async fn a_service_of_the_same_name_in_two_clusters_is_two_services() {
    the_same_service_in_each(&["a", "b"]).await;
}

#[tokio::test]
async fn a_service_of_the_same_name_in_three_clusters_is_three_services() {
    the_same_service_in_each(&["a", "b", "c"]).await;
}

#[tokio::test]
async fn ten_addresses_serve_ten_of_twenty_services_and_a_freed_one_goes_to_the_other_cluster() {
    let fleet = Fleet::start(POOL).await;
    let clusters = [fleet.cluster("a", 0).await, fleet.cluster("b", 1).await];
    let create = (0..20).map(|number| {
        let service = fleet.service(&format!("s{}", number / 2));
        clusters[number % 2].ns.create(service)
    });
    futures::future::join_all(create).await;
    let what = "ten are served and ten told that there are no more";
    let states = eventually(DEADLINE, what, async || {
        let [a, b] = &clusters;
        let states = [served_and_waiting(a).await, served_and_waiting(b).await];
        if states[0].0.len() + states[1].0.len() == 10 {
            Ok(states)
        } else {
            Err(format!("{states:?}"))
        }
    })
    .await;
    for (cluster, (_, waiting)) in clusters.iter().zip(&states) {
        for name in waiting {
            cluster.ns.is_pending(name, "POOL_EXHAUSTED").await;
        }
    }
    let given = states.iter().flat_map(|(served, _)| served);
    let distinct: BTreeSet<_> = given.map(|(_, address)| address).collect();
    assert_eq!(distinct.len(), 10, "{states:?}");
    assert_eq!(fleet.holders().await.len(), 10);

    // Only the other cluster waits for what this one lets go.
    let from = usize::from(states[1].0.len() > states[0].0.len());
    let (from, to) = (&clusters[from], &clusters[1 - from]);
    let (served, waiting) = served_and_waiting(from).await;
    for name in &waiting {
        from.ns.delete(name).await;
    }
    let mut slowest = Duration::ZERO;
    for (name, address) in &served[..5] {
        let begun = Instant::now();
        from.ns.delete(name).await;
        eventually(DEADLINE, format!("{address} moves"), async || {
            let (served, _) = served_and_waiting(to).await;
            if served.iter().any(|(_, got)| got == address) {
                Ok(())
            } else {
                Err(format!("{served:?}"))
            }
        })
        .await;
        slowest = slowest.max(begun.elapsed());
    }
    println!("a freed address reached the other cluster within {slowest:?}");
    let held = fleet.holders().await;
    let distinct: BTreeSet<_> = held.iter().map(|(address, _)| address).collect();
    assert_eq!((held.len(), distinct.len()), (10, 10), "{held:?}");
}
