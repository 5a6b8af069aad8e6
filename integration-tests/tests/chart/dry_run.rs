//! Everything that is rendered is taken by an API server that knows the types of
//! cert-manager and prometheus-operator, and every Pod keeps to the restricted Pod
//! Security Standard.

use std::{path::PathBuf, process::Command};

use integration_tests::{
    commands::repository, control_plane::ControlPlane, namespace::random_name,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

use crate::commands::{Commands, all_values, documents, path, values};

/// Definitions of the types that the chart uses, in the modules of their projects.
const DEFINITIONS: [&str; 4] = [
    "deploy/crds/cert-manager.io_certificates.yaml",
    "deploy/crds/cert-manager.io_issuers.yaml",
    "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
];

/// Folders of the modules that have them, downloaded where they are not there yet.
fn modules() -> Vec<PathBuf> {
    let folder = repository().join("integration-tests/control-plane/crds");
    let required = Command::new("go")
        .args(["mod", "download", "-json"])
        .args([
            "github.com/cert-manager/cert-manager",
            "github.com/prometheus-operator/prometheus-operator",
        ])
        .current_dir(folder)
        .output()
        .unwrap();
    let modules = serde_json::Deserializer::from_slice(&required.stdout).into_iter::<Value>();
    let folders = modules.map(|module| {
        let module = module.unwrap();
        let folder = module["Dir"].as_str();
        PathBuf::from(folder.unwrap_or_else(|| panic!("{module}")))
    });
    folders.collect()
}

fn define_types(commands: &Commands) {
    let modules = modules();
    for file in DEFINITIONS {
        let mut paths = modules.iter().map(|module| module.join(file));
        let found = paths.find(|path| path.exists());
        let file = found.unwrap_or_else(|| panic!("{file} is in none of {modules:?}"));
        commands.kubectl(&["apply", "--server-side", "-f", path(&file)], "");
    }
    let established = "--for=condition=Established";
    commands.kubectl(&["wait", established, "crd", "--all", "--timeout=60s"], "");
}

/// The Pods of rendered objects, those of Deployments as their controller would create them.
pub fn pods(objects: &[Value]) -> Vec<Value> {
    let templates = objects
        .iter()
        .filter_map(|object| match object["kind"].as_str().unwrap() {
            "Deployment" => Some(&object["spec"]["template"]),
            "Pod" => Some(object),
            _ => None,
        });
    templates.map(pod).collect()
}

fn pod(template: &Value) -> Value {
    let mut pod = json!({"metadata": template["metadata"], "spec": template["spec"]});
    pod["metadata"]["generateName"] = json!("pod-");
    pod
}

/// The containers that are not as the standard wants them: what refuses the Pod.
async fn refusal(pods: &Api<Pod>, pod: Value) -> Option<String> {
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pod = serde_json::from_value(pod).unwrap();
    let refused = pods.create(&params, &pod).await.err();
    refused.map(|error| error.to_string())
}

#[tokio::test]
async fn an_api_server_takes_every_object_and_the_restricted_standard_every_pod() {
    let control_plane = ControlPlane::shared().await;
    let commands = Commands::on(control_plane);
    define_types(&commands);
    let namespace = random_name("dry-run");
    commands.kubectl(&["create", "namespace", &namespace], "");
    let level = "pod-security.kubernetes.io/enforce=restricted";
    commands.kubectl(&["label", "namespace", &namespace, level], "");
    let pods: Api<Pod> = Api::namespaced(control_plane.client().await, &namespace);

    let mut rendered: Vec<_> = all_values()
        .iter()
        .map(|name| {
            let args = ["--namespace", &namespace, "--values", &values(name)];
            (name.clone(), commands.helm("template", "lb", &args))
        })
        .collect();
    let manifests = ["examples/pools.yaml", "manifests/lb-allocator.yaml"]
        .map(|name| std::fs::read_to_string(repository().join("deploy").join(name)));
    let manifests = manifests.map(|text| text.unwrap() + "\n").concat();
    rendered.push(("deploy/manifests".to_owned(), manifests));
    let class = "{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: gvisor}, handler: runsc}";
    commands.kubectl(&["apply", "-f", "-"], class);
    assert!(rendered.len() > 5);

    let mut checked = 0;
    for (name, yaml) in rendered {
        let objects = documents(&yaml);
        let apply = ["apply", "--server-side", "--dry-run=server", "-f", "-"];
        let taken = commands.kubectl(&apply, &yaml);
        let lines = taken
            .lines()
            .filter(|line| line.ends_with("(server dry run)"));
        assert_eq!(lines.count(), objects.len(), "{name}: {taken}");

        for pod in self::pods(&objects) {
            checked += 1;
            assert_eq!(refusal(&pods, pod.clone()).await, None, "{name}");
            let mut lax = pod;
            lax["spec"]["securityContext"]["runAsNonRoot"] = json!(false);
            let refused = refusal(&pods, lax).await.unwrap();
            assert!(
                refused.contains("violates PodSecurity"),
                "{name}: {refused}"
            );
        }
    }
    assert!(checked > 14, "{checked}");
}
