//! One `kubectl apply`, for those who have one cluster.

use std::fs;

use integration_tests::{commands::repository, eventually::DEADLINE, eventually::eventually};

use crate::{
    hello,
    pair::{Pair, show},
};

/// Without anybody's database, in the cluster whose Services show addresses already:
/// they keep them.
pub async fn take_over(pair: &Pair) {
    let cluster = &pair.clusters["b"];
    let held = pair.held.iter().filter(|((name, _), _)| *name == "b");
    let mut addresses: Vec<_> = held.map(|(_, address)| address.clone()).collect();
    let shown = addresses.clone();
    let fresh = format!("{}.96", pair.base);
    addresses.push(fresh.clone());

    let read = |name: &str| fs::read_to_string(repository().join("deploy").join(name)).unwrap();
    let pools = read("examples/pools.yaml");
    cluster
        .apply(&pools.replace("192.0.2.10-192.0.2.20", &addresses.join(", ")))
        .await;
    cluster.apply(&read("manifests/lb-allocator.yaml")).await;
    let rolled_out = [
        "-n",
        "kube-system",
        "rollout",
        "status",
        "deployment/lb-allocator",
    ];
    cluster
        .kubectl(rolled_out)
        .args(["--timeout=110s"])
        .gives()
        .await;

    hello::expose(cluster, "of-the-manifests").await;
    assert_eq!(cluster.address("of-the-manifests").await, fresh);
    pair.nobody_moved().await;
    for asked in [&["cat", "/routes"][..], &["lb-allocator", "routes"]] {
        let what = format!("{asked:?} shows every address");
        let routes = eventually(DEADLINE, what, async || {
            let exec = ["-n", "kube-system", "exec", "deploy/lb-allocator", "--"];
            let routes = cluster.kubectl(exec).args(asked).output().await;
            let routes = routes.map_err(|error| format!("{error:#}"))?;
            let all = shown
                .iter()
                .chain([&fresh])
                .all(|address| routes.contains(address));
            if all { Ok(routes) } else { Err(routes) }
        })
        .await;
        let asked = asked.join(" ");
        show(
            &format!("kubectl -n kube-system exec deploy/lb-allocator -- {asked}"),
            &routes,
        );
    }
}
