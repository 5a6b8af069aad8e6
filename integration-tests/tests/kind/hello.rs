//! What is behind the Services: two Pods that say which cluster they are of.

use integration_tests::{images::HELLO, kind::Cluster};

pub fn greeting(cluster: &str) -> String {
    format!("hello from cluster {cluster}")
}

/// Starts the Pods. Services of them are made with [`expose`].
pub async fn deploy(cluster: &Cluster, name: &str) {
    let greeting = greeting(name);
    cluster
        .apply(&format!(
            r"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: hello}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: hello}}}}
  template:
    metadata: {{labels: {{app: hello}}}}
    spec:
      containers:
      - name: hello
        image: {HELLO}
        imagePullPolicy: IfNotPresent
        env: [{{name: GREETING, value: {greeting}}}]
        ports: [{{containerPort: 8080}}]
"
        ))
        .await;
    let rolled_out = ["rollout", "status", "deployment/hello", "--timeout=110s"];
    cluster.kubectl(rolled_out).gives().await;
}

pub async fn expose(cluster: &Cluster, service: &str) {
    let expose = cluster.kubectl(["expose", "deployment", "hello", "--name", service]);
    let ports = ["--type=LoadBalancer", "--port=80", "--target-port=8080"];
    expose.args(ports).gives().await;
}
