//! Clusters of kind: a whole Kubernetes each, its node a container.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use anyhow::Result;

use crate::{
    binaries::control_plane_binaries,
    commands::{Run, command, script},
    eventually::eventually,
    scratch::Scratch,
};

pub mod outside;

/// Names the variable with which clusters stay when a test ends, to be looked at.
const KEEP: &str = "KIND_KEEP";

/// Generous: a machine of two cores starts several at once.
const START: Duration = Duration::from_secs(300);

/// For a busy machine: kubeadm by itself gives the API server one minute to come up in,
/// and what could not renew its lease for ten seconds starts again, alone as it is.
const CONFIG: &str = "
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking: {ipFamily: ipv4, kubeProxyMode: MODE}
kubeadmConfigPatches:
- |
  kind: InitConfiguration
  timeouts: {kubernetesAPICall: 4m, controlPlaneComponentHealthCheck: 4m}
- |
  kind: ClusterConfiguration
  controllerManager: {extraArgs: [{name: leader-elect, value: \"false\"}]}
  scheduler: {extraArgs: [{name: leader-elect, value: \"false\"}]}
";

/// Where this project's Pods are, whose logs say why a test failed.
pub const NAMESPACE: &str = "lb-system";

/// How kube-proxy makes a Service's addresses lead to its Pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// By iptables, which is the default of kind.
    Iptables,
    /// By nftables.
    Nftables,
}

/// A cluster of one node.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    folder: Scratch,
    kind: PathBuf,
    kubectl: PathBuf,
    helm: PathBuf,
}

/// The image of every node. It is built or pulled first where it is not there yet.
///
/// # Panics
/// When there is none.
pub async fn node_image() -> String {
    script("integration-tests/kind-node/build").gives().await
}

impl Cluster {
    /// A new one, which is deleted with this value.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn create(name: &str, image: &str, mode: ProxyMode) -> Result<Self> {
        let this = Self::called(name);
        let mode = match mode {
            ProxyMode::Iptables => "iptables",
            ProxyMode::Nftables => "nftables",
        };
        let config = CONFIG.replace("MODE", mode);
        command(&this.kind)
            .args(["create", "cluster", "--name", name, "--image", image])
            .args(["--wait", "240s", "--config", "-"])
            .env("KUBECONFIG", this.kubeconfig())
            .input(&config)
            .within(START)
            .output()
            .await?;
        Ok(this)
    }

    /// One that somebody else creates, and writes into its kubeconfig file. It is
    /// deleted with this value all the same.
    ///
    /// # Panics
    /// When the tools that it takes cannot be built.
    #[must_use]
    pub fn called(name: &str) -> Self {
        let tools = control_plane_binaries(["kind", "kubectl", "helm"]);
        let folder = Scratch::new(name);
        match (tools, folder) {
            (Ok([kind, kubectl, helm]), Ok(folder)) => Self {
                name: name.to_owned(),
                folder,
                kind,
                kubectl,
                helm,
            },
            (Err(error), _) | (_, Err(error)) => panic!("no tools for {name}: {error:#}"),
        }
    }

    /// The name by which kind knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its administrator's kubeconfig file.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// The tools with which it is used: kind, kubectl and helm.
    #[must_use]
    pub fn tools(&self) -> [&Path; 3] {
        [&self.kind, &self.kubectl, &self.helm]
    }

    /// The container that is its node.
    #[must_use]
    pub fn node(&self) -> String {
        format!("{}-control-plane", self.name)
    }

    /// The node's address in Docker's network.
    ///
    /// # Panics
    /// When it has none.
    pub async fn node_address(&self) -> String {
        let format = "{{.NetworkSettings.Networks.kind.IPAddress}}";
        let node = self.node();
        docker(["inspect", "--format", format, &node]).gives().await
    }

    /// Gives the node the images of an archive.
    ///
    /// # Panics
    /// When it cannot read the archive.
    pub async fn load(&self, archive: &Path) {
        command(&self.kind)
            .args(["load", "image-archive", "--name", &self.name])
            .args([archive])
            .gives()
            .await;
    }

    /// `kubectl …`, not run yet.
    #[must_use]
    pub fn kubectl<const N: usize>(&self, args: [&str; N]) -> Run {
        command(&self.kubectl)
            .args(args)
            .env("KUBECONFIG", self.kubeconfig())
    }

    /// `helm …`, not run yet.
    #[must_use]
    pub fn helm<const N: usize>(&self, args: [&str; N]) -> Run {
        command(&self.helm)
            .args(args)
            .env("KUBECONFIG", self.kubeconfig())
            .within(START)
    }

    /// A command on the node, not run yet.
    #[must_use]
    pub fn on_node<const N: usize>(&self, args: [&str; N]) -> Run {
        docker(["exec", &self.node()]).args(args)
    }

    /// Applies manifests.
    ///
    /// # Panics
    /// When the API server refuses one.
    pub async fn apply(&self, manifests: &str) {
        let apply = self.kubectl(["apply", "--filename", "-"]).input(manifests);
        apply.gives().await;
    }

    /// The address that a Service has, once it has one.
    ///
    /// # Panics
    /// When it gets none.
    pub async fn address(&self, service: &str) -> String {
        let what = format!("{service} of {} has an address", self.name);
        let path = "jsonpath={.status.loadBalancer.ingress[*].ip}";
        eventually(Duration::from_secs(90), what, async || {
            let get = self.kubectl(["get", "service", service, "--output", path]);
            let seen = get.output().await.map_err(|error| format!("{error:#}"))?;
            if seen.is_empty() {
                return Err("none".to_owned());
            }
            Ok(seen)
        })
        .await
    }

    /// Starts the node again, as after a power cut of its machine, and waits until the
    /// API server is back.
    ///
    /// # Panics
    /// When it does not come back.
    pub async fn restart_node(&self) {
        docker(["restart", "-t", "0", &self.node()]).gives().await;
        let what = format!("the API server of {} is back", self.name);
        eventually(START, what, async || {
            let ready = self.kubectl(["get", "--raw", "/readyz", "--request-timeout=5s"]);
            ready.output().await.map_err(|error| format!("{error:#}"))
        })
        .await;
    }

    /// What somebody looks at whose test has failed.
    fn report(&self) {
        let show = |args: &[&str]| {
            let output = process::Command::new(&self.kubectl)
                .args(args)
                .arg("--request-timeout=10s")
                .env("KUBECONFIG", self.kubeconfig())
                .output();
            let Ok(output) = output else { return };
            eprintln!("--- {}: kubectl {}", self.name, args.join(" "));
            eprint!("{}", String::from_utf8_lossy(&output.stdout));
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
        };
        show(&["get", "services,pods", "-A", "-o", "wide"]);
        show(&[
            "get",
            "events",
            "-A",
            "--sort-by=.metadata.creationTimestamp",
        ]);
        let ours = "app.kubernetes.io/part-of=kubernetes-lb-controller";
        for namespace in [NAMESPACE, "kube-system"] {
            let logs = ["logs", "-n", namespace, "-l", ours, "--all-containers"];
            show(&[&logs[..], &["--prefix", "--tail=80"]].concat());
            show(&[&logs[..], &["--prefix", "--tail=40", "--previous"]].concat());
        }
        show(&[
            "logs",
            "-n",
            "kube-system",
            "-l",
            "k8s-app=kube-proxy",
            "--tail=40",
        ]);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() && self.kubeconfig().exists() {
            self.report();
        }
        if env::var_os(KEEP).is_some() {
            let kubeconfig = env::temp_dir().join(format!("{}.kubeconfig", self.name));
            let _ = fs::copy(self.kubeconfig(), &kubeconfig);
            eprintln!("{KEEP} is set: KUBECONFIG={}", kubeconfig.display());
            return;
        }
        let _ = process::Command::new(&self.kind)
            .args(["delete", "cluster", "--name", &self.name])
            .env("KUBECONFIG", self.kubeconfig())
            .output();
    }
}

/// `docker …`, not run yet.
#[must_use]
pub fn docker<const N: usize>(args: [&str; N]) -> Run {
    command("docker").args(args)
}
