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

    let folder = cluster.folder().join("manifests");
    fs::create_dir(&folder).unwrap();
    for name in ["addresses.yaml", "lb-allocator.yaml"] {
        let text = fs::read_to_string(repository().join("deploy/manifests").join(name)).unwrap();
        let pools = format!(
            "pools:\n    - name: one\n      addresses: [{}]",
            addresses.join(", ")
        );
        fs::write(folder.join(name), text.replace("pools: []", &pools)).unwrap();
    }
    let folder = folder.display().to_string();
    cluster
        .kubectl(["apply", "--filename", &folder])
        .gives()
        .await;
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
