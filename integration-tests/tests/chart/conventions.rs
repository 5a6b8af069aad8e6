//! What people who know other charts expect of this one.

use std::{collections::BTreeSet, fs};

use integration_tests::{commands::repository, control_plane::ControlPlane};
use serde_json::{Value, json};

use crate::{
    commands::{Commands, all_values, documents, values},
    dry_run::pods,
};

async fn commands() -> Commands {
    Commands::on(ControlPlane::shared().await)
}

fn render(commands: &Commands, release: &str, args: &[&str]) -> Vec<Value> {
    documents(&commands.helm("template", release, args))
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let mine = objects.iter().filter(|object| object["kind"] == kind);
    mine.collect()
}

fn names(objects: &[Value], kind: &str) -> BTreeSet<String> {
    let names = of_kind(objects, kind).into_iter();
    names
        .map(|object| object["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(ToOwned::to_owned).into()
}

#[tokio::test]
async fn names_begin_with_the_release_or_what_is_set_and_say_nothing_twice() {
    let commands = commands().await;
    let deployments = |release: &str, more: &str| {
        let all = format!("cluster=one,serviceMonitor.enabled=true{more}");
        let objects = render(&commands, release, &["--set", &all]);
        for service in names(&objects, "Service") {
            assert!(service.len() < 64, "{service}");
        }
        names(&objects, "Deployment")
    };
    assert_eq!(deployments("lb", ""), set(["lb-allocator", "lb-watcher"]));
    assert_eq!(
        deployments("lb-allocator", ""),
        set(["lb-allocator", "lb-allocator-watcher"])
    );
    assert_eq!(
        deployments("lb", ",nameOverride=ips"),
        set(["lb-ips-allocator", "lb-ips-watcher"])
    );
    assert_eq!(
        deployments("ips", ",nameOverride=ips"),
        set(["ips-allocator", "ips-watcher"])
    );
    assert_eq!(
        deployments("lb", ",fullnameOverride=ips"),
        set(["ips-allocator", "ips-watcher"])
    );
    deployments(&"long".repeat(13), "");
}

#[tokio::test]
async fn every_object_has_the_recommended_labels_and_those_that_all_get() {
    let commands = commands().await;
    for file in all_values() {
        let args = ["--values", &values(&file), "--set", "commonLabels.all=yes"];
        for object in render(&commands, "lb", &args) {
            let name = &object["metadata"]["name"];
            if [&json!("more"), &json!("of-a-text")].contains(&name) {
                continue;
            }
            let labels = &object["metadata"]["labels"];
            for (label, value) in [
                ("helm.sh/chart", "kubernetes-lb-controller-0.1.0"),
                ("app.kubernetes.io/name", "kubernetes-lb-controller"),
                ("app.kubernetes.io/instance", "lb"),
                ("app.kubernetes.io/version", "0.1.0"),
                ("app.kubernetes.io/part-of", "kubernetes-lb-controller"),
                ("app.kubernetes.io/managed-by", "Helm"),
                ("all", "yes"),
            ] {
                assert_eq!(labels[label], value, "{file}: {label} of {name}");
            }
            if object["kind"] == "Deployment" {
                let selector = object["spec"]["selector"]["matchLabels"].as_object();
                let pods = &object["spec"]["template"]["metadata"]["labels"];
                for (label, value) in selector.unwrap() {
                    assert_eq!(&pods[label], value, "{file}: {name}");
                    assert_eq!(&labels[label], value, "{file}: {name}");
                }
                assert_eq!(selector.unwrap().len(), 3, "{file}: {name}");
                assert_eq!(pods["all"], "yes", "{file}: {name}");
                assert_eq!(pods["helm.sh/chart"], Value::Null, "{file}: {name}");
            }
        }
    }
}

/// What OpenShift's SCC restricted-v2 finds wrong with a Pod, beside the restricted Pod
/// Security Standard: user and groups are those of the namespace.
fn against_restricted_v2(pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let containers = spec["containers"].as_array().unwrap().iter();
    let contexts = containers.map(|container| &container["securityContext"]);
    let mut wrong = Vec::new();
    for context in contexts.chain([&spec["securityContext"]]) {
        for key in ["runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"] {
            if !context[key].is_null() {
                wrong.push(format!("{key} {}", context[key]));
            }
        }
    }
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    for kind in volumes.flat_map(|volume| volume.as_object().unwrap().keys()) {
        let allowed = [
            "name",
            "configMap",
            "emptyDir",
            "persistentVolumeClaim",
            "projected",
            "secret",
        ];
        if !allowed.contains(&kind.as_str()) {
            wrong.push(format!("volume {kind}"));
        }
    }
    wrong
}

#[tokio::test]
async fn openshifts_restricted_v2_takes_every_pod() {
    let commands = commands().await;
    let mut checked = 0;
    for file in all_values() {
        let here = ["--values", &values(&file)];
        let openshift = ["--api-versions", "security.openshift.io/v1"];
        let objects = render(&commands, "lb", &[here, openshift].concat());
        for pod in pods(&objects) {
            let nothing = Vec::<String>::new();
            assert_eq!(against_restricted_v2(&pod), nothing, "{file}");
            checked += 1;
        }
        for pod in pods(&render(&commands, "lb", &here)) {
            assert_eq!(against_restricted_v2(&pod).last().unwrap(), "fsGroup 65532");
            assert_eq!(pod["spec"]["securityContext"]["fsGroup"], 65532, "{file}");
        }
    }
    assert!(checked > 12, "{checked}");
}

#[tokio::test]
async fn in_a_shared_pod_the_token_is_the_watchers_alone() {
    let commands = commands().await;
    let rendered = render(&commands, "lb", &["--values", &values("same-pod")]);
    let manifest = repository().join("deploy/manifests/lb-allocator.yaml");
    let manifest = documents(&fs::read_to_string(manifest).unwrap());
    for pod in [rendered, manifest].iter().flat_map(|all| pods(all)) {
        assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
        let volumes = pod["spec"]["volumes"].as_array().unwrap().iter();
        let mut tokens =
            volumes.filter(|volume| volume.to_string().contains("serviceAccountToken"));
        let token = &tokens.next().unwrap()["name"];
        assert_eq!(tokens.next(), None);
        for container in pod["spec"]["containers"].as_array().unwrap() {
            let mut mounts = container["volumeMounts"].as_array().unwrap().iter();
            let mine = mounts.find(|mount| &mount["name"] == token);
            let folder = mine.map(|mount| &mount["mountPath"]);
            let expected = json!("/var/run/secrets/kubernetes.io/serviceaccount");
            let expected = (container["name"] == "watcher").then_some(&expected);
            assert_eq!(folder, expected, "{container}");
        }
    }
}

#[tokio::test]
async fn accounts_rights_and_pools_may_be_somebody_elses() {
    let commands = commands().await;
    let objects = render(&commands, "lb", &["--values", &values("named")]);
    let kinds: BTreeSet<_> = objects.iter().map(|one| one["kind"].as_str()).collect();
    let kinds: BTreeSet<_> = kinds.into_iter().flatten().collect();
    let others = [
        "ConfigMap",
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
    ];
    for kind in others {
        assert!(!kinds.contains(kind), "{kind}");
    }
    let spec = |name: &str| {
        let mut deployments = of_kind(&objects, "Deployment").into_iter();
        let mine = deployments.find(|object| object["metadata"]["name"] == name);
        mine.unwrap()["spec"]["template"]["spec"].clone()
    };
    let allocator = spec("ip-allocator");
    assert_eq!(allocator["serviceAccountName"], "default");
    assert_eq!(spec("ip-allocator-watcher")["serviceAccountName"], "mine");
    let pools = json!({"name": "pools", "configMap": {"name": "pools"}});
    assert!(allocator["volumes"].as_array().unwrap().contains(&pools));

    let named = "cluster=one,watcher.serviceAccount.name=mine,\
                 watcher.serviceAccount.annotations.example\\.org/role=reader";
    let objects = render(&commands, "lb", &["--set", named]);
    let accounts = of_kind(&objects, "ServiceAccount");
    let mine = accounts
        .iter()
        .find(|one| one["metadata"]["name"] == "mine");
    let annotations = &mine.unwrap()["metadata"]["annotations"];
    assert_eq!(annotations["example.org/role"], "reader");
    let subjects = &of_kind(&objects, "ClusterRoleBinding")[0]["subjects"];
    assert_eq!(subjects[0]["name"], "mine");
}

#[tokio::test]
async fn images_come_from_where_they_are_mirrored() {
    let commands = commands().await;
    let images = |more: &str| -> BTreeSet<String> {
        let all = format!("cluster=one{more}");
        let pods = pods(&render(&commands, "lb", &["--set", &all]));
        let containers = pods
            .iter()
            .map(|pod| &pod["spec"]["containers"][0]["image"]);
        containers
            .map(|image| image.as_str().unwrap().to_owned())
            .collect()
    };
    let default = [
        "ghcr.io/kubernetes-lb-controller/lb-allocator:0.1.0",
        "ghcr.io/kubernetes-lb-controller/lb-watcher:0.1.0",
    ];
    assert_eq!(images(""), set(default));
    let moved = ",image.registry=mirror:5000,image.tag=v1,watcher.image.repository=w";
    let expected = [
        "mirror:5000/kubernetes-lb-controller/lb-allocator:v1",
        "mirror:5000/w:v1",
    ];
    assert_eq!(images(moved), set(expected));
    let digest = format!("sha256:{}", "0".repeat(64));
    let pinned = format!(
        ",global.imageRegistry=all,allocator.image.repository=a,allocator.image.digest={digest}"
    );
    let exact = format!("all/a@{digest}");
    let expected = ["all/kubernetes-lb-controller/lb-watcher:0.1.0", &exact];
    assert_eq!(images(&pinned), set(expected));
}

#[tokio::test]
async fn what_is_set_for_pods_is_in_them_and_defaults_hold_for_the_rest() {
    let commands = commands().await;
    let objects = render(&commands, "lb", &["--values", &values("everything")]);
    let all = pods(&objects);
    let pod = |name: &str| {
        let mut all = all.iter();
        all.find(|pod| pod["spec"]["containers"][0]["name"] == name)
            .unwrap()
    };
    let allocator = pod("allocator");
    assert_eq!(allocator["metadata"]["labels"]["tier"], "control");
    let backup = |pod: &Value| pod["metadata"]["annotations"]["example.org/backup"].clone();
    assert_eq!([backup(allocator), backup(pod("watcher"))], ["yes", "no"]);
    let container = &allocator["spec"]["containers"][0];
    assert_eq!(container["startupProbe"], Value::Null);
    let liveness = json!({
        "httpGet": {"path": "/healthz", "port": "admin"}, "initialDelaySeconds": 5,
        "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6,
    });
    assert_eq!(container["livenessProbe"], liveness);
    let more = json!({"name": "more", "mountPath": "/more"});
    for pod in [allocator, pod("watcher")] {
        let mounts = &pod["spec"]["containers"][0]["volumeMounts"];
        assert!(mounts.as_array().unwrap().contains(&more), "{mounts}");
    }
    assert_eq!(allocator["spec"]["terminationGracePeriodSeconds"], 60);
    let constraints = &pod("watcher")["spec"]["topologySpreadConstraints"];
    let own = &constraints[0]["labelSelector"]["matchLabels"];
    assert_eq!(own["app.kubernetes.io/component"], "watcher");
    let given = json!({"matchLabels": {"team": "network"}});
    assert_eq!(constraints[1]["labelSelector"], given);

    let endpoint = &of_kind(&objects, "ServiceMonitor")[0]["spec"]["endpoints"][0];
    assert_eq!(endpoint["interval"], "30s");
    assert_eq!(endpoint["relabelings"][0]["targetLabel"], "node");
    let mut maps = of_kind(&objects, "ConfigMap").into_iter();
    let mine = maps.find(|map| map["metadata"]["name"] == "lb-dashboard");
    let mine = mine.unwrap();
    assert_eq!(mine["metadata"]["labels"]["grafana_dashboard"], "1");
    let shown = mine["data"]["lb-allocator.json"].as_str().unwrap();
    let file = repository().join("deploy/monitoring/dashboard.json");
    assert_eq!(shown.trim(), fs::read_to_string(file).unwrap().trim());
}
