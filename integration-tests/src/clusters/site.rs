//! What most tests start: an allocator and a watcher of their own on a control
//! plane that they share. Each watcher serves a class of its own, so that many
//! run side by side without seeing each other's Services.

use crate::{
    allocator::{self, Allocator},
    control_plane::ControlPlane,
    namespace::random_name,
    service::{ServiceBuilder, service},
    watcher::{self, Watcher},
};

/// An allocator and a watcher, which has no replicas, ready.
#[derive(Debug)]
pub struct Site {
    /// The `spec.loadBalancerClass` that its watcher serves.
    pub class: String,
    /// Its allocator.
    pub allocator: Allocator,
    /// Its watcher.
    pub watcher: Watcher,
}

/// The name of the watcher's cluster.
pub const CLUSTER: &str = "one";

impl Site {
    /// Starts both, with this `IP_LIST`.
    ///
    /// # Panics
    /// When one of them does not get ready.
    pub async fn start(control_plane: &ControlPlane, ip_list: String) -> Self {
        Self::with_options(control_plane, allocator::Options::ip_list(ip_list), |o| o).await
    }

    /// Starts both, with this pools file.
    ///
    /// # Panics
    /// When one of them does not get ready.
    pub async fn with_pools(control_plane: &ControlPlane, pools: &str) -> Self {
        Self::with_options(control_plane, allocator::Options::config(pools), |o| o).await
    }

    /// Starts both, with this pools file and a watcher that reads these peers'
    /// annotations too.
    ///
    /// # Panics
    /// When one of them does not get ready.
    pub async fn with_aliases(control_plane: &ControlPlane, pools: &str, peers: &str) -> Self {
        let options = allocator::Options::config(pools);
        Self::with_options(control_plane, options, |o| o.annotation_aliases(peers)).await
    }

    async fn with_options(
        control_plane: &ControlPlane,
        options: allocator::Options,
        watching: impl FnOnce(watcher::Options) -> watcher::Options,
    ) -> Self {
        let class = random_class();
        let allocator = Allocator::start(options).await;
        let options = watching(watcher::Options::cluster(CLUSTER).class(&class).alone());
        let watcher = Watcher::start(control_plane, &allocator.url(), options).await;
        Self {
            class,
            allocator,
            watcher,
        }
    }

    /// A Service of the class that its watcher serves.
    #[must_use]
    pub fn service(&self, name: &str) -> ServiceBuilder {
        service(name).class(&self.class)
    }
}

/// A class that nobody serves yet.
#[must_use]
pub fn random_class() -> String {
    format!("test.example/{}", random_name("class"))
}
