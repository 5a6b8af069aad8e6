//! The allocator is killed again and again in the middle of its work. `CRASHES_SEED` kills
//! it again at the times of an earlier run. The simulation goes through many more.

use std::{collections::BTreeMap, env, time::Duration};

use futures::future::join_all;
use integration_tests::{
    eventually::eventually,
    namespace::{Namespace, addresses},
    site::Site,
};
use kube::api::{DeleteParams, ListParams, PostParams};

const ROUNDS: usize = 5;
const CHANGES: usize = 200;
/// Fewer addresses than Services at the peak, so that hand-overs are part of it.
const ADDRESSES: usize = 150;
const AT_ONCE: usize = 8;
const MINUTES: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allocator_killed_amid_creations_and_deletions_neither_doubles_nor_leaks() {
    let list: Vec<_> = (0..ADDRESSES).map(|i| format!("198.18.0.{i}")).collect();
    let (ns, mut site) = Site::of(&list.join(" ")).await;
    let seed =
        env::var("CRASHES_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("CRASHES_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..ROUNDS {
        let changes = change_services(&ns, &site.class, round);
        let crash = async {
            // Anywhere in the second or so that the changes take.
            tokio::time::sleep(Duration::from_millis(random.u64(50..1000))).await;
            site.allocator.kill();
            site.allocator.start_again().await;
        };
        tokio::join!(changes, crash);
        is_consistent(&ns, &site, round).await;
    }
}

/// Creates half of the changes' number and deletes as many of the earlier ones.
async fn change_services(ns: &Namespace, class: &str, round: usize) {
    let services = ns.services();
    let names = |round: usize| (0..CHANGES / 2).map(move |number| format!("s-{round}-{number}"));
    let jobs: Vec<_> = (0..AT_ONCE)
        .map(|lane| {
            let services = services.clone();
            let fresh: Vec<_> = names(round).skip(lane).step_by(AT_ONCE).collect();
            let old: Vec<_> = match round.checked_sub(1) {
                Some(last) => names(last).skip(lane).step_by(AT_ONCE).collect(),
                None => Vec::new(),
            };
            async move {
                for (number, fresh) in fresh.iter().enumerate() {
                    let service = integration_tests::service::service(fresh)
                        .class(class)
                        .build();
                    services
                        .create(&PostParams::default(), &service)
                        .await
                        .unwrap();
                    if let Some(old) = old.get(number) {
                        services
                            .delete(old, &DeleteParams::default())
                            .await
                            .unwrap();
                    }
                }
            }
        })
        .collect();
    join_all(jobs).await;
}

/// What Services show is exactly what the allocator holds, once for each address.
async fn is_consistent(ns: &Namespace, site: &Site, round: usize) {
    eventually(
        MINUTES,
        format!("round {round} is consistent"),
        async || {
            let services = ns
                .services()
                .list(&ListParams::default())
                .await
                .map_err(|error| error.to_string())?;
            let mut shown = BTreeMap::new();
            for service in &services.items {
                let name = service.metadata.name.clone().unwrap();
                let [address] = &addresses(service)[..] else {
                    return Err(format!("{name} has no address yet"));
                };
                if let Some(other) = shown.insert(address.clone(), name.clone()) {
                    panic!("{address} is shown by {name} and by {other}");
                }
            }
            let held: BTreeMap<_, _> = site
                .allocator
                .allocations()
                .await
                .into_iter()
                .map(|a| (a.address, a.service.unwrap().name))
                .collect();
            if held == shown {
                Ok(())
            } else {
                Err(format!("held {}, shown {}", held.len(), shown.len()))
            }
        },
    )
    .await;
    let used = site.allocator.pools().await[0].usage[0].used;
    assert_eq!(used, CHANGES as u64 / 2);
}
