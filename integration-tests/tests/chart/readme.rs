//! The READMEs' commands to install, upgrade and uninstall, run from top to bottom on
//! two clusters without nodes.
//!
//! - ` ```yaml file NAME `: a file that the commands name.
//! - ` ```console install `: commands, each behind a `$`; its other lines are
//!   indented.
//! - ` ```console manifests `: commands on a cluster of its own.
//! - ` ```yaml again ` and ` ```console again `: what another README says, too, and is run there.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use integration_tests::{
    binaries::control_plane_binaries,
    commands::repository,
    control_plane::ControlPlane,
    kubeconfig,
    readme::{Block, blocks},
    scratch::Scratch,
};
use serde_json::{Value, json};

use crate::commands::{Commands, path};

/// A folder in which people type: with the READMEs' files and `deploy/`, and `helm` and
/// `kubectl` on the path.
struct Desk {
    folder: Scratch,
    kubeconfig: PathBuf,
}

impl Desk {
    fn new(kubeconfig: PathBuf) -> Self {
        let folder = Scratch::new("desk").unwrap();
        symlink(repository().join("deploy"), folder.path().join("deploy")).unwrap();
        let path = folder.path().join("bin");
        fs::create_dir(&path).unwrap();
        for tool in control_plane_binaries(["helm", "kubectl"]).unwrap() {
            symlink(&tool, path.join(tool.file_name().unwrap())).unwrap();
        }
        Self { folder, kubeconfig }
    }

    /// Runs what is behind each `$`, and each command has to succeed.
    fn run(&self, block: &Block) {
        let mut script = "set -euo pipefail\n".to_owned();
        for line in block.text.lines() {
            script += line.strip_prefix("$ ").unwrap_or(line);
            script += "\n";
        }
        let path = env::var("PATH").unwrap();
        let output = Command::new("bash")
            .args(["-c", &script])
            .current_dir(self.folder.path())
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("KUBECONFIG", &self.kubeconfig)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}: {}{}",
            block.place,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A kubeconfig of both, by names; the first is the current one.
fn kubeconfig_of(clusters: &[(&str, &ControlPlane)], file: &Path) {
    let mut config = Value::Null;
    for (name, control_plane) in clusters {
        let text = fs::read_to_string(control_plane.kubeconfig()).unwrap();
        let text = text.replace("\"test\"", &format!("\"{name}\""));
        let one: Value = serde_json::from_str(&text).unwrap();
        if config.is_null() {
            config = one;
            continue;
        }
        for list in ["clusters", "contexts", "users"] {
            let more = one[list].as_array().unwrap().clone();
            config[list].as_array_mut().unwrap().extend(more);
        }
    }
    fs::write(file, config.to_string()).unwrap();
}

#[tokio::test]
async fn every_command_to_install_upgrade_and_uninstall_works() {
    let starts = ["prod-eu", "prod-us"].map(ControlPlane::start);
    let started = futures::future::try_join_all(starts).await.unwrap();
    let clusters = [("prod-eu", &started[0]), ("prod-us", &started[1])];
    let file = started[0].kubeconfig().with_file_name("both");
    kubeconfig_of(&clusters, &file);
    let desk = Desk::new(file);
    let mut ran = 0;
    for block in blocks("") {
        if let Some(name) = block.info.strip_prefix("yaml file ") {
            fs::write(desk.path(name), &block.text).unwrap();
        } else if block.info == "console install" {
            desk.run(&block);
            ran += 1;
        }
    }
    assert!(ran > 4, "{ran}");
    for (name, control_plane) in clusters {
        let client = kubeconfig::client(&control_plane.kubeconfig())
            .await
            .unwrap();
        let request = http::Request::get("/apis/apps/v1/deployments").body(Vec::new());
        let left: Value = client.request(request.unwrap()).await.unwrap();
        assert_eq!(left["items"], serde_json::json!([]), "{name}");
    }
    let server = fs::read_to_string(desk.path("tls.key")).unwrap();
    assert!(server.contains("PRIVATE KEY"));
}

#[tokio::test]
async fn the_manifests_are_applied_as_readme_says() {
    let control_plane = ControlPlane::start("manifests").await.unwrap();
    let desk = Desk::new(control_plane.kubeconfig());
    for block in blocks("console manifests") {
        desk.run(&block);
    }
    let client = control_plane.client().await;
    let deployment = "/apis/apps/v1/namespaces/kube-system/deployments/lb-allocator";
    let request = http::Request::get(deployment).body(Vec::new()).unwrap();
    let deployment: Value = client.request(request).await.unwrap();
    let containers = &deployment["spec"]["template"]["spec"]["containers"];
    assert_eq!(
        containers[0]["name"], "allocator",
        "the one that exec takes"
    );

    let edited = "pools: [{name: mine, addresses: [203.0.113.1]}]";
    let patch = json!({"data": {"pools.yaml": edited}}).to_string();
    let pools = ["-n", "kube-system", "configmap", "lb-allocator"];
    let commands = Commands::on(&control_plane);
    commands.kubectl(&[&["patch", "-p", &patch], &pools[..]].concat(), "");
    commands.kubectl(&["apply", "-f", path(&desk.path("deploy/manifests"))], "");
    let now = ["get", "-o", "jsonpath={.data.pools\\.yaml}"];
    let now = commands.kubectl(&[&now, &pools[..]].concat(), "");
    assert_eq!(now, edited, "applying again changes no pools");
}

#[test]
fn what_is_said_again_is_what_is_run_elsewhere() {
    for (again, run) in [
        ("yaml again", "yaml file "),
        ("console again", "console install"),
    ] {
        let run = blocks(run);
        for said in blocks(again) {
            let is_run = run.iter().any(|block| block.text == said.text);
            assert!(is_run, "{}: nothing runs this", said.place);
        }
    }
}
