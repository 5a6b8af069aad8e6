//! What administrators do.

use std::{net::IpAddr, time::Duration};

use lb_allocator::engine::ClusterState;
use lb_proto::v1::{self, admin_service_client::AdminServiceClient};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Code, transport::Channel};

use crate::{
    api_server::{ApiServer, objects::shown},
    chaos::{Chaos, pick},
    liar::LIAR,
    rpc::REPEATED,
    showing::Place,
    world::World,
};

const DEADLINE: Duration = Duration::from_secs(20);
/// So long a cluster that tells nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Somebody who may do everything, and does not wait for answers.
pub struct Admin {
    client: AdminServiceClient<Channel>,
    chaos: Chaos,
    tasks: JoinSet<()>,
}

macro_rules! ask {
    ($admin:expr, $method:ident, $request:expr) => {{
        let mut client = $admin.client.clone();
        let request = $request;
        $admin.chaos.note(format_args!("admin: {request:?}"));
        $admin.chaos.count(stringify!($method));
        $admin.tasks.spawn(async move {
            let _ = timeout(DEADLINE, client.$method(request)).await;
        });
    }};
}

impl Admin {
    pub fn new(channel: Channel, chaos: Chaos) -> Self {
        Self {
            client: AdminServiceClient::new(channel),
            chaos,
            tasks: JoinSet::new(),
        }
    }

    pub fn decommission(&mut self, cluster: &str) {
        let request = v1::DecommissionClusterRequest {
            cluster: cluster.to_owned(),
            ..Default::default()
        };
        ask!(self, decommission_cluster, request);
    }

    pub fn recommission(&mut self, cluster: &str) {
        ask!(self, recommission_cluster, recommission(cluster));
    }

    pub fn replace(&mut self, server: &ApiServer) {
        ask!(self, replace_cluster, replacement(server));
    }

    /// This cluster has its name, if any has.
    async fn ensure_name(&mut self, server: &ApiServer) {
        loop {
            let asked = self.client.replace_cluster(replacement(server));
            match timeout(DEADLINE, asked).await {
                Ok(Ok(_)) => return,
                Ok(Err(status)) if status.code() == Code::NotFound => return,
                Ok(Err(_)) | Err(_) => sleep(Duration::from_secs(1)).await,
            }
        }
    }

    /// This cluster is in service, whatever is still under way.
    async fn ensure(&mut self, cluster: &str) {
        loop {
            let asked = self.client.recommission_cluster(recommission(cluster));
            if let Ok(Ok(_)) = timeout(DEADLINE, asked).await {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
}

fn replacement(server: &ApiServer) -> v1::ReplaceClusterRequest {
    v1::ReplaceClusterRequest {
        cluster: server.cluster().to_owned(),
        cluster_uid: server.uid(),
    }
}

fn recommission(cluster: &str) -> v1::RecommissionClusterRequest {
    v1::RecommissionClusterRequest {
        cluster: cluster.to_owned(),
    }
}

fn key((cluster, namespace, name): Place) -> v1::ServiceKey {
    v1::ServiceKey {
        cluster,
        namespace,
        name,
    }
}

impl World {
    /// An administrator does something.
    pub async fn admin_acts(&mut self) {
        let mut services: Vec<Place> = Vec::new();
        let mut held: Vec<(Place, IpAddr)> = Vec::new();
        for server in &self.clusters {
            server.objects(|objects| {
                for ((namespace, name), stored) in &objects.services {
                    let cluster = server.cluster().to_owned();
                    let place = (cluster, namespace.clone(), name.clone());
                    let shown = shown(&stored.object);
                    held.extend(shown.into_iter().map(|it| (place.clone(), it)));
                    services.push(place);
                }
            });
        }
        let pool = &self.pools[fastrand::usize(..self.pools.len())];
        let address = pick(&pool.addresses);
        match fastrand::u8(..6) {
            0 => {
                let service = (!services.is_empty() && fastrand::bool()).then(|| pick(&services));
                let request = v1::ReserveRequest {
                    address: address.to_string(),
                    service: service.map(key),
                    ..Default::default()
                };
                ask!(self.admin, reserve, request);
            }
            1 | 2 => {
                let address = address.to_string();
                ask!(self.admin, unreserve, v1::UnreserveRequest { address });
            }
            3 | 4 if !held.is_empty() => {
                let (from, address) = pick(&held);
                let to = pick(&services);
                self.may_lose(&from);
                self.may_lose(&to);
                let request = v1::HandoverRequest {
                    address: address.to_string(),
                    from: Some(key(from)),
                    to: Some(key(to)),
                    ..Default::default()
                };
                ask!(self.admin, handover, request);
            }
            _ => self.decide().await,
        }
    }

    /// Says who keeps an address that two show.
    async fn decide(&mut self) {
        let Some(process) = &self.allocator else {
            return;
        };
        let Ok(inspection) = process.writer.inspect().await else {
            return;
        };
        let conflicts = inspection.engine.conflicts().map(|conflict| {
            let key = &conflict.key;
            let parts = [
                &*key.cluster.to_string(),
                &*key.namespace.to_string(),
                &*key.name.to_string(),
            ]
            .map(str::to_owned);
            (conflict.address, parts.into())
        });
        let mut conflicts: Vec<(IpAddr, Place)> = conflicts.collect();
        conflicts.sort();
        if conflicts.is_empty() {
            return;
        }
        let (address, place) = pick(&conflicts);
        self.may_lose(&place);
        let holders = inspection.engine.allocations();
        for allocation in holders.filter(|it| it.address == address) {
            let key = &allocation.key;
            let parts = [
                key.cluster.as_str(),
                key.namespace.as_str(),
                key.name.as_str(),
            ];
            self.may_lose(&parts.map(str::to_owned).into());
        }
        let winner = pick(&[v1::ConflictWinner::Holder, v1::ConflictWinner::Shower]);
        let request = v1::ResolveConflictRequest {
            address: address.to_string(),
            service: Some(key(place)),
            winner: winner.into(),
        };
        ask!(self.admin, resolve_conflict, request);
    }

    /// After a restore the liar may hold up all others by telling nothing: it is taken out
    /// of service then.
    pub async fn end_waiting(&mut self) {
        sleep(PATIENCE).await;
        let Some(process) = &self.allocator else {
            return;
        };
        let Ok(inspection) = process.writer.inspect().await else {
            return;
        };
        let mut clusters = inspection.engine.clusters();
        if clusters.any(|of| of.name.as_str() == LIAR && of.state == ClusterState::Awaited) {
            self.admin.decommission(LIAR);
        }
    }

    fn may_lose(&self, (cluster, namespace, name): &Place) {
        let mut servers = self.clusters.iter();
        if let Some(server) = servers.find(|server| server.cluster() == cluster) {
            server.change(|objects| {
                let place = (namespace.clone(), name.clone());
                if let Some(stored) = objects.services.get_mut(&place) {
                    stored.may_lose = true;
                    stored.promised = None;
                }
            });
        }
    }

    /// All clusters are in service, under their names.
    pub async fn recommission(&mut self) {
        self.admin.tasks.shutdown().await;
        // What comes twice has come by then.
        sleep(REPEATED).await;
        for server in &self.clusters {
            self.admin.ensure(server.cluster()).await;
        }
        for cluster in &self.rebuilt {
            self.admin.ensure_name(&self.clusters[*cluster]).await;
        }
    }
}
