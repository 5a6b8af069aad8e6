//! What happens to clusters and to what runs in them.

use integration_tests::{
    eventually::{DEADLINE, eventually},
    kind::{Cluster, NAMESPACE},
};

use crate::pair::{Pair, chart, show};

/// The node with the allocator on it goes down, with everything that it runs.
pub async fn its_node_starts_again(pair: &Pair) {
    pair.clusters["a"].restart_node().await;
    for deployment in ["lb-allocator", "lb-watcher"] {
        pair.rolled_out("a", deployment).await;
    }
}

pub async fn the_allocator_is_deleted(pair: &Pair) {
    delete_pods(&pair.clusters["a"], "app.kubernetes.io/component=allocator").await;
    pair.rolled_out("a", "lb-allocator").await;
}

/// The one of two that leads: the other one takes over.
pub async fn a_leader_is_deleted(pair: &Pair) {
    for (name, cluster) in &pair.clusters {
        let leader = leader(cluster).await;
        let (pod, _) = leader.rsplit_once('_').unwrap();
        let delete = ["-n", NAMESPACE, "delete", "pod", pod];
        cluster.kubectl(delete).gives().await;
        let what = format!("another watcher of {name} than {pod} leads");
        eventually(DEADLINE, what, async || {
            let now = self::leader(cluster).await;
            let other = !now.is_empty() && now != leader;
            other.then_some(()).ok_or(now)
        })
        .await;
        pair.rolled_out(name, "lb-watcher").await;
    }
}

/// Both releases get another value, which all Pods have to be started again for.
pub async fn the_releases_are_upgraded(pair: &Pair) {
    for (name, cluster) in &pair.clusters {
        let upgrade = cluster.helm(["upgrade", "lb", &chart(), "--namespace", NAMESPACE]);
        let json = "allocator.extraArgs={--log-format=json},watcher.extraArgs={--log-format=json}";
        upgrade
            .args(["--reuse-values", "--wait", "--timeout=4m", "--set", json])
            .gives()
            .await;
        let what = format!("every Pod of {name} has the new value");
        eventually(DEADLINE, what, async || {
            let args = "jsonpath={range .items[*]}{.spec.containers[0].args}{\"\\n\"}{end}";
            let pods = ["-n", NAMESPACE, "get", "pods", "--output", args];
            let pods = cluster.kubectl(pods).gives().await;
            let all = pods.lines().all(|args| args.contains("--log-format=json"));
            if all { Ok(()) } else { Err(pods) }
        })
        .await;
    }
}

/// Nothing stays but what is to outlive a release: who has which address, the CA that
/// other clusters trust, what was copied to `b` by hand, and the Leases.
pub async fn the_releases_are_uninstalled(pair: &Pair) {
    for (name, cluster) in &pair.clusters {
        let uninstall = ["uninstall", "lb", "--namespace", NAMESPACE, "--wait"];
        cluster.helm(uninstall).gives().await;
        let mut stay = match *name {
            "a" => vec!["persistentvolumeclaim/lb-allocator", "secret/lb-ca"],
            _ => vec!["secret/lb-watcher-tls-b"],
        };
        stay.push("lease.coordination.k8s.io/lb-watcher-");
        let what = format!("nothing is left in {name} but {stay:?}");
        let left = eventually(DEADLINE, what, async || {
            let left = everything(cluster).await;
            let known = left
                .iter()
                .all(|object| stay.iter().any(|name| object.starts_with(name)));
            let wanted = known && left.len() == stay.len();
            if wanted {
                Ok(left)
            } else {
                Err(format!("{left:?}"))
            }
        })
        .await;
        show(
            &format!("what stays in {NAMESPACE} of {name}"),
            &left.join("\n"),
        );
        let roles = ["get", "clusterroles,clusterrolebindings", "--output=name"];
        let roles = cluster.kubectl(roles).gives().await;
        assert!(!roles.contains("/lb-"), "{roles}");
    }
}

/// The Lease is where the Pods are, which no other test has.
pub async fn leases_are_in_the_namespace_of_the_pods(pair: &Pair) {
    for cluster in pair.clusters.values() {
        assert_ne!(leader(cluster).await, "");
        let others = ["-n", "kube-system", "get", "leases", "--output=name"];
        let others = cluster.kubectl(others).gives().await;
        assert!(!others.contains("lb-watcher"), "{others}");
    }
}

/// Who holds the only Lease of the namespace: the name of a Pod, and a number.
async fn leader(cluster: &Cluster) -> String {
    let holder = "jsonpath={.items[*].spec.holderIdentity}";
    let leases = ["-n", NAMESPACE, "get", "leases", "--output", holder];
    cluster.kubectl(leases).gives().await
}

async fn delete_pods(cluster: &Cluster, label: &str) {
    let pods = ["-n", NAMESPACE, "delete", "pods", "--selector", label];
    cluster.kubectl(pods).gives().await;
}

/// All objects of the namespace, but for those that every namespace has, and Events.
async fn everything(cluster: &Cluster) -> Vec<String> {
    let kinds = [
        "api-resources",
        "--namespaced",
        "--verbs=list",
        "--output=name",
    ];
    let kinds = cluster.kubectl(kinds).gives().await;
    let kinds: Vec<_> = kinds
        .lines()
        .filter(|kind| !kind.starts_with("events"))
        .collect();
    let kinds = kinds.join(",");
    let objects = ["-n", NAMESPACE, "get", &kinds, "--output=name"];
    let objects = cluster.kubectl(objects).gives().await;
    let of_every_namespace = ["configmap/kube-root-ca.crt", "serviceaccount/default"];
    objects
        .lines()
        .filter(|object| !of_every_namespace.contains(object))
        .map(str::to_owned)
        .collect()
}
