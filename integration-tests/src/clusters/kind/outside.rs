//! Somebody outside of all clusters, in the network that their nodes are in.

use std::process;

use crate::{kind::docker, namespace::random_name};

/// A container that is no node, which is removed with this value.
#[derive(Debug)]
pub struct Outside(String);

impl Outside {
    /// Starts one. The image is that of the nodes: it has what asks and what routes.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(image: &str) -> Self {
        let this = Self(random_name("lb-outside"));
        docker(["run", "--detach", "--name", &this.0, "--network", "kind"])
            .args(["--cap-add", "NET_ADMIN", "--entrypoint", "sleep", image])
            .args(["infinity"])
            .gives()
            .await;
        this
    }

    /// Has packets for an address sent to a node from now on.
    ///
    /// # Panics
    /// When that cannot be.
    pub async fn route(&self, address: &str, node: &str) {
        let route = ["ip", "route", "replace", address, "via", node];
        docker(["exec", &self.0]).args(route).gives().await;
    }

    /// What answers at `http://ADDRESS/`.
    ///
    /// # Errors
    /// When nothing does.
    pub async fn curl(&self, address: &str) -> anyhow::Result<String> {
        let url = format!("http://{address}/");
        let curl = ["curl", "--silent", "--show-error", "--max-time", "5", &url];
        docker(["exec", &self.0]).args(curl).output().await
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = process::Command::new("docker")
            .args(["rm", "--force", "--volumes", &self.0])
            .output();
    }
}
