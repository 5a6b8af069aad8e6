//! What most tests start: an allocator and a watcher of their own on a control
//! plane that they share. Each watcher serves a class of its own, so that many
//! run side by side without seeing each other's Services.

use crate::{
    allocator::{self, Allocator},
    control_plane::ControlPlane,
    namespace::{Namespace, condition, random_name},
    service::{ServiceBuilder, service},
    watcher::{self, Watcher},
};

/// An allocator and a watcher, ready.
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
    /// Starts both on the shared control plane, with a namespace that gets these addresses:
    /// `192.0.2.1 192.0.2.2`.
    ///
    /// # Panics
    /// When one of them does not get ready.
    pub async fn of(addresses: &str) -> (Namespace, Self) {
        let control_plane = ControlPlane::shared().await;
        let ns = control_plane.namespace().await;
        let addresses = addresses.split(' ');
        let list: Vec<_> = addresses.map(|address| format!("{ns}:{address}")).collect();
        let site = Self::start(control_plane, list.join(" ")).await;
        (ns, site)
    }

    /// Starts both on the shared control plane, with this pools file and a namespace.
    ///
    /// # Panics
    /// When one of them does not get ready.
    pub async fn of_pools(pools: &str) -> (Namespace, Self) {
        let control_plane = ControlPlane::shared().await;
        let ns = control_plane.namespace().await;
        (ns, Self::with_pools(control_plane, pools).await)
    }

    /// As [`Site::of_pools`], with a watcher that reads these peers' annotations too.
    ///
    /// # Panics
    /// When one of them does not get ready.
    pub async fn of_aliases(pools: &str, peers: &str) -> (Namespace, Self) {
        let control_plane = ControlPlane::shared().await;
        let ns = control_plane.namespace().await;
        (ns, Self::with_aliases(control_plane, pools, peers).await)
    }

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
        let options = watching(watcher::Options::cluster(CLUSTER).class(&class));
        let watcher = Watcher::start(control_plane, &allocator.url(), options).await;
        Self {
            class,
            allocator,
            watcher,
        }
    }

    /// Ends when a Service that comes now was looked at, written and told of: whatever was
    /// under way for others is done by then, and nothing more comes of it.
    ///
    /// # Panics
    /// When the watcher does not look at it.
    pub async fn fence(&self, ns: &Namespace) {
        let name = random_name("fence");
        // Of no pool: it takes nothing from anybody.
        ns.create(self.service(&name).ips("203.0.113.254")).await;
        ns.was_told(&name, ["AllocationFailed"]).await;
        let what = format!("{name} has a condition");
        ns.sees(what, &name, |service| condition(service).is_some())
            .await;
        ns.delete(&name).await;
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
