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

/// The one of two that acts: the other one takes over.
pub async fn the_acting_watcher_is_deleted(pair: &Pair) {
    for (name, cluster) in &pair.clusters {
        let what = format!("one watcher of {name} acts");
        let pod = &eventually(DEADLINE, what, async || {
            let now = acting(cluster).await;
            match &now[..] {
                [pod] => Ok(pod.clone()),
                none_or_several => Err(none_or_several.join(" ")),
            }
        })
        .await;
        let delete = ["-n", NAMESPACE, "delete", "pod", pod];
        cluster.kubectl(delete).gives().await;
        let what = format!("another watcher of {name} than {pod} acts");
        eventually(DEADLINE, what, async || {
            let now = acting(cluster).await;
            let other = now.iter().any(|now| now != pod);
            other.then_some(()).ok_or(now.join(" "))
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
/// other clusters trust, and what was copied to `b` by hand.
pub async fn the_releases_are_uninstalled(pair: &Pair) {
    for (name, cluster) in &pair.clusters {
        let uninstall = ["uninstall", "lb", "--namespace", NAMESPACE, "--wait"];
        cluster.helm(uninstall).gives().await;
        let stay = match *name {
            "a" => vec!["persistentvolumeclaim/lb-allocator", "secret/lb-ca"],
            _ => vec!["secret/lb-watcher-tls-b"],
        };
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

/// The Pods of watchers that say in their log that they act.
async fn acting(cluster: &Cluster) -> Vec<String> {
    let component = "app.kubernetes.io/component=watcher";
    let pods = ["-n", NAMESPACE, "get", "pods", "--selector", component];
    let pods = cluster.kubectl(pods).args(["--output=name"]).gives().await;
    let mut acting = Vec::new();
    for pod in pods.lines().filter_map(|pod| pod.strip_prefix("pod/")) {
        let log = cluster.kubectl(["-n", NAMESPACE, "logs", pod]);
        // A Pod may be gone by now, or have no container yet.
        let Ok(log) = log.output().await else {
            continue;
        };
        let said = |word| log.rfind(word);
        if said("this replica acts") > said("standing by") {
            acting.push(pod.to_owned());
        }
    }
    acting
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
