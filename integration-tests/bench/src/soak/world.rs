//! Everything that a soak runs: three clusters, a watcher for each, an allocator for
//! all of them.
//!
//! ```text
//!  users ─► API server ◄─ lb-watcher ─► Relay ─┐
//!  users ─► API server ◄─ lb-watcher ─► Relay ─┼─► lb-allocator ─► SmallDisk
//!  users ─► API server ◄─ lb-watcher ─► Relay ─┘   with Shim
//! ```

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use integration_tests::{
    allocator::{self, Allocator},
    control_plane::ControlPlane,
    relay::Relay,
    small_disk::SmallDisk,
    watcher::{self, Watcher},
};
use kube::Client;

use super::{
    pools::{self, NAMESPACES},
    shim::Shim,
};

const CLUSTERS: [&str; 3] = ["east", "west", "north"];

pub struct Cluster {
    pub name: &'static str,
    pub control_plane: ControlPlane,
    /// Connections of its watcher to the allocator.
    pub relay: Relay,
    pub watcher: Watcher,
}

pub struct World {
    pub clusters: Vec<Cluster>,
    pub allocator: Allocator,
    pub shim: Shim,
    pub disk: SmallDisk,
}

impl World {
    /// Starts everything, with a disk of that size.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(disk_kilobytes: u32) -> Result<Self> {
        let control_planes = CLUSTERS.map(|name| async move {
            let control_plane = ControlPlane::start(name).await?;
            for namespace in NAMESPACES {
                control_plane.namespace_called(namespace).await;
            }
            anyhow::Ok((name, control_plane))
        });
        let control_planes = try_join_all(control_planes).await?;

        let shim = Shim::build()?;
        let disk = SmallDisk::mount(disk_kilobytes)?;
        let mut options = allocator::Options::config(pools::file(&CLUSTERS))
            .database(disk.path().join("allocator.db"));
        for (name, value) in shim.envs() {
            options = options.env(name, &value);
        }
        let mut allocator = Allocator::start(options).await;
        shim.is_in(allocator.process().id())?;

        let address = allocator.address();
        let port = address.rsplit_once(':').map(|(_, port)| port.parse());
        let port = port.context("the allocator's address has no port")??;
        let mut clusters = Vec::new();
        for (name, control_plane) in control_planes {
            let relay = Relay::start(port).await?;
            let url = format!("http://127.0.0.1:{}", relay.port);
            let options = watcher::Options::cluster(name);
            let watcher = Watcher::start(&control_plane, &url, options).await;
            clusters.push(Cluster {
                name,
                control_plane,
                relay,
                watcher,
            });
        }
        Ok(Self {
            clusters,
            allocator,
            shim,
            disk,
        })
    }

    /// Connections of their own to every API server.
    pub async fn clients(&self) -> Vec<(&'static str, Client)> {
        let mut clients = Vec::new();
        for cluster in &self.clusters {
            clients.push((cluster.name, cluster.control_plane.client().await));
        }
        clients
    }

    /// # Errors
    /// When a process has ended that nobody has ended.
    pub fn all_run(&mut self) -> Result<()> {
        let allocator = self.allocator.process().status()?;
        if let Some(status) = allocator {
            bail!(
                "lb-allocator ended by itself: {status}\n{}",
                self.allocator.process().tail()
            );
        }
        for Cluster { name, watcher, .. } in &mut self.clusters {
            if let Some(status) = watcher.process().status()? {
                bail!(
                    "lb-watcher of {name} ended by itself: {status}\n{}",
                    watcher.process().tail()
                );
            }
        }
        Ok(())
    }
}
