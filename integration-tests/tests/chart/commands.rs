//! Helm and kubectl, run.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use integration_tests::{
    binaries::control_plane_binaries, commands::repository, control_plane::ControlPlane,
};
use serde_json::Value;

pub fn values(name: &str) -> String {
    let file = format!("integration-tests/chart/values/{name}.yaml");
    repository().join(file).display().to_string()
}

pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Names of all that the chart is checked with.
pub fn all_values() -> Vec<String> {
    let files = fs::read_dir(repository().join("integration-tests/chart/values")).unwrap();
    let names = files.map(|file| {
        let path = file.unwrap().path();
        path.file_stem().unwrap().to_str().unwrap().to_owned()
    });
    names.collect()
}

pub struct Commands {
    helm: PathBuf,
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    chart: String,
}

impl Commands {
    pub fn on(control_plane: &ControlPlane) -> Self {
        let [helm, kubectl] = control_plane_binaries(["helm", "kubectl"]).unwrap();
        Self {
            helm,
            kubectl,
            kubeconfig: control_plane.kubeconfig(),
            chart: repository().join("deploy/chart").display().to_string(),
        }
    }

    /// What `helm VERB RELEASE CHART …` prints; it has to succeed.
    pub fn helm(&self, verb: &str, release: &str, args: &[&str]) -> String {
        let mut command = Command::new(&self.helm);
        command.args([verb, release]);
        if verb != "uninstall" {
            command.arg(&self.chart);
        }
        command.args(args).env("KUBECONFIG", &self.kubeconfig);
        let (out, errors) = run(command, "");
        assert_eq!(errors, "", "helm {verb} {args:?} warns");
        out
    }

    /// What `helm get …` prints; it has to succeed.
    pub fn helm_get(&self, args: &[&str]) -> String {
        let mut command = Command::new(&self.helm);
        command
            .arg("get")
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig);
        run(command, "").0
    }

    /// What kubectl prints; it has to succeed and to warn of nothing.
    pub fn kubectl(&self, args: &[&str], input: &str) -> String {
        let mut command = Command::new(&self.kubectl);
        command.args(args).env("KUBECONFIG", &self.kubeconfig);
        let (out, errors) = run(command, input);
        assert_eq!(errors, "", "kubectl {args:?} warns");
        out
    }
}

fn run(mut command: Command, input: &str) -> (String, String) {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{command:?}: {out}{errors}");
    (out, errors)
}

/// The documents of a YAML stream.
pub fn documents(yaml: &str) -> Vec<Value> {
    let documents = yaml.split("\n---");
    let values = documents.map(|document| match serde_saphyr::from_str(document) {
        Ok(value) => value,
        Err(error) => panic!("{document}: {error}"),
    });
    values.filter(|value: &Value| !value.is_null()).collect()
}
