//! Two clusters of one allocator, which is in the first of them, installed by the
//! chart as deploy/README.md says it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use integration_tests::{
    commands::repository,
    eventually::eventually,
    images::Images,
    kind::{Cluster, NAMESPACE, ProxyMode, docker, node_image, outside::Outside},
    namespace::random_name,
};

use crate::hello;

/// The allocator's port on the first cluster's node.
const NODE_PORT: &str = "30373";

/// After a node started again, its Pods come back one after the other.
const ANSWERS: Duration = Duration::from_secs(120);

pub struct Pair {
    /// The clusters, by the names that the allocator knows.
    pub clusters: BTreeMap<&'static str, Cluster>,
    outside: Outside,
    /// Addresses of Services so far, by cluster and Service.
    pub held: BTreeMap<(&'static str, String), String>,
    /// The network of the nodes, and what all addresses begin with.
    subnet: String,
    pub base: String,
}

pub fn chart() -> String {
    repository().join("deploy/chart").display().to_string()
}

/// Prints a command and what it gave: the log of the test shows what a user sees.
pub fn show(prompt: &str, output: &str) {
    println!("$ {prompt}\n{}\n", output.trim_end());
}

impl Pair {
    /// Two clusters, with all images and Pods of their own; nothing of ours runs yet.
    pub async fn create() -> Self {
        let run = random_name("lb");
        let image = node_image().await;
        let images = Images::build().await;
        let create =
            async |name, mode| Cluster::create(&format!("{run}-{name}"), &image, mode).await;
        // Both are complete, or not begun, before either of them can end the test.
        let (a, b) = tokio::join!(
            create("a", ProxyMode::Iptables),
            create("b", ProxyMode::Nftables),
        );
        let clusters = BTreeMap::from([("a", a.unwrap()), ("b", b.unwrap())]);
        for (name, cluster) in &clusters {
            for archive in images.ours().iter().chain([&images.hello()]) {
                cluster.load(archive).await;
            }
            hello::deploy(cluster, name).await;
        }
        let subnets = "{{range .IPAM.Config}}{{println .Subnet}}{{end}}";
        let subnets = docker(["network", "inspect", "kind", "--format", subnets]);
        let subnets = subnets.gives().await;
        let subnet = subnets.lines().find(|subnet| subnet.contains('.')).unwrap();
        let node = clusters["a"].node_address().await;
        let (base, _) = node.rsplit_once('.').unwrap();
        Self {
            outside: Outside::start(&image).await,
            subnet: subnet.to_owned(),
            base: base.to_owned(),
            held: BTreeMap::new(),
            clusters,
        }
    }

    /// The allocator and two watchers in `a`, two watchers in `b`, each proving who it
    /// is by a certificate that the first release made, and the first release is tested.
    pub async fn install(&self) {
        let (a, b) = (&self.clusters["a"], &self.clusters["b"]);
        let address = a.node_address().await;
        let config = format!(
            r#"{{"clusters": ["a", "b"],
                "pools": [{{"name": "shared", "addresses": ["{}.64-{}.95"]}}]}}"#,
            self.base, self.base
        );
        let others = format!(r#"[{{"ipBlock": {{"cidr": "{}"}}}}]"#, self.subnet);
        for cluster in [a, b] {
            let restricted = "pod-security.kubernetes.io/enforce=restricted";
            let create = ["create", "namespace", NAMESPACE];
            cluster.kubectl(create).gives().await;
            let label = ["label", "namespace", NAMESPACE, restricted];
            cluster.kubectl(label).gives().await;
        }
        install(a)
            .args(["--set", "cluster=a,tls.clusters={b}"])
            .args(["--set", &format!("tls.ipAddresses={{{address}}}")])
            .args(["--set", "allocator.service.type=NodePort"])
            .args(["--set", &format!("allocator.service.nodePort={NODE_PORT}")])
            .args(["--set-json", &format!("allocator.config={config}")])
            .args(["--set-json", &format!("networkPolicy.clients={others}")])
            .gives()
            .await;
        let test = ["test", "lb", "--namespace", NAMESPACE, "--timeout=2m"];
        show("helm test lb", &a.helm(test).gives().await);

        let secret = ["-n", NAMESPACE, "get", "secret", "lb-watcher-tls-b"];
        let secret = a.kubectl(secret).args(["-o", "yaml"]).gives().await;
        b.apply(&secret).await;
        let allocator = format!("allocator.address=https://{address}:{NODE_PORT}");
        install(b)
            .args(["--set", "cluster=b,allocator.enabled=false"])
            .args(["--set", &allocator])
            .args([
                "--set",
                "tls.mode=secrets,tls.watcherSecret=lb-watcher-tls-b",
            ])
            .gives()
            .await;
    }

    /// A new Service in each cluster gets an address that nobody has, and answers on it.
    /// Those that were there have their addresses still, and answer too.
    pub async fn all_is_well(&mut self, service: &str) {
        self.nobody_moved().await;
        let names: Vec<_> = self.clusters.keys().copied().collect();
        for name in names {
            let cluster = &self.clusters[name];
            hello::expose(cluster, service).await;
            let address = cluster.address(service).await;
            let node = cluster.node_address().await;
            self.outside.route(&address, &node).await;
            self.held.insert((name, service.to_owned()), address);
        }
        let distinct: BTreeSet<_> = self.held.values().collect();
        assert_eq!(distinct.len(), self.held.len(), "{:?}", self.held);
        self.all_answer().await;
    }

    pub async fn nobody_moved(&self) {
        for ((name, service), address) in &self.held {
            let seen = self.clusters[name].address(service).await;
            assert_eq!(&seen, address, "{service} of {name} moved");
        }
    }

    /// Each Service answers on its address, on its node and from outside.
    pub async fn all_answer(&self) {
        for ((name, service), address) in &self.held {
            let cluster = &self.clusters[name];
            let what = format!("{service} of {name} answers on {address}");
            let answers = async || {
                let url = format!("http://{address}/");
                let curl = ["curl", "-sS", "--max-time", "5", &url];
                let inside = cluster.on_node(curl).output().await;
                let inside = inside.map_err(|error| format!("on the node: {error:#}"))?;
                let outside = self.outside.curl(address).await;
                let outside = outside.map_err(|error| format!("from outside: {error:#}"))?;
                Ok::<_, String>([inside, outside])
            };
            let answers = eventually(ANSWERS, what, answers).await;
            let greeting = hello::greeting(name);
            for answer in &answers {
                assert!(answer.starts_with(&greeting), "{address}: {answer}");
            }
            show(
                &format!("curl http://{address}/   # on the node of {name}, and from outside"),
                &answers.concat(),
            );
        }
    }

    /// Prints all Services, as the closing words of a step.
    pub async fn show_services(&self) {
        for (name, cluster) in &self.clusters {
            let services = cluster.kubectl(["get", "svc", "-A"]).gives().await;
            show(&format!("kubectl get svc -A   # cluster {name}"), &services);
        }
    }

    pub async fn rolled_out(&self, name: &str, deployment: &str) {
        let deployment = format!("deployment/{deployment}");
        let cluster = &self.clusters[name];
        cluster
            .kubectl(["-n", NAMESPACE, "rollout", "status", &deployment])
            .args(["--timeout=110s"])
            .gives()
            .await;
    }
}

/// `helm install` as it begins everywhere.
pub fn install(cluster: &Cluster) -> integration_tests::commands::Run {
    cluster
        .helm(["install", "lb", &chart(), "--namespace", NAMESPACE])
        .args(["--create-namespace", "--wait", "--timeout=4m"])
}
