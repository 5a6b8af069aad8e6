//! Clusters that share an allocator, each with a watcher and a certificate of its
//! own. Tests share the API servers, and each has a class and a namespace of its own.

use std::{fs, path::PathBuf};

use integration_tests::{
    allocator::{Allocator, Options, connect_with},
    certificates::{Authority, Identity},
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    namespace::{Namespace, random_name},
    secret::Secret,
    service::{ServiceBuilder, service},
    site::random_class,
    watcher::{self, Watcher},
};
use k8s_openapi::api::core::v1::Namespace as KubeNamespace;
use kube::Api;
use lb_proto::v1::{
    Conflict, Denial, ListAllocationsRequest, ListConflictsRequest, ListDenialsRequest,
    ReplaceClusterRequest, ServiceKey, admin_service_client::AdminServiceClient,
    pool_service_client::PoolServiceClient,
};
use tokio::sync::OnceCell;
use tonic::transport::Channel;

static PLANES: [OnceCell<ControlPlane>; 3] = [const { OnceCell::const_new() }; 3];

/// One of the three API servers.
pub async fn plane(number: usize) -> &'static ControlPlane {
    let start = async || ControlPlane::start(&format!("cluster-{number}")).await;
    let plane = PLANES[number].get_or_try_init(start).await;
    plane.expect("the control plane starts")
}

/// What tells the cluster of this API server from others.
pub async fn uid(number: usize) -> String {
    let client = plane(number).await.client().await;
    let namespaces: Api<KubeNamespace> = Api::all(client);
    let found = eventually(DEADLINE, "there is kube-system", async || {
        namespaces.get("kube-system").await
    });
    found.await.metadata.uid.unwrap()
}

/// An allocator that asks for certificates, and who gives them.
pub struct Fleet {
    pub allocator: Allocator,
    pub authority: Authority,
    class: String,
    namespace: String,
    _server: Secret,
    admin: Secret,
}

/// A cluster of a fleet.
pub struct Cluster {
    pub name: &'static str,
    pub ns: Namespace,
    pub watcher: Watcher,
    pub secret: Secret,
}

impl Fleet {
    pub async fn start(config: &str) -> Self {
        Self::start_with(Options::config(config)).await
    }

    /// As [`Self::start`]; certificates are added to these options.
    pub async fn start_with(options: Options) -> Self {
        let authority = Authority::new("fleet").unwrap();
        let secret = |identity| Secret::new(&identity, &authority.certificate);
        let server = secret(authority.server().unwrap());
        let admin = secret(authority.caller("spiffe://test/role/admin").unwrap());
        Self {
            allocator: Allocator::start(options.tls(server.files())).await,
            authority,
            class: random_class(),
            namespace: random_name("many"),
            _server: server,
            admin,
        }
    }

    /// A Service that the watchers of this fleet serve.
    pub fn service(&self, name: &str) -> ServiceBuilder {
        service(name).class(&self.class)
    }

    /// The class that the watchers of this fleet serve.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// What the watcher of this cluster should show.
    pub fn identity(&self, cluster: &str) -> Identity {
        let uri = format!("spiffe://test/cluster/{cluster}/role/watcher");
        self.authority.caller(&uri).unwrap()
    }

    /// A cluster on an API server where this fleet has none yet, its watcher ready.
    pub async fn cluster(&self, name: &'static str, number: usize) -> Cluster {
        let mut cluster = self.prepare(name, number, &self.identity(name)).await;
        cluster.watcher.start_again().await;
        cluster
    }

    /// As [`Self::cluster`], with this certificate, and its watcher not started.
    pub async fn prepare(&self, name: &'static str, number: usize, identity: &Identity) -> Cluster {
        let plane = plane(number).await;
        let secret = Secret::new(identity, &self.authority.certificate);
        let options = watcher::Options::cluster(name)
            .class(&self.class)
            .tls(secret.files());
        Cluster {
            name,
            ns: plane.namespace_called(&self.namespace).await,
            watcher: Watcher::prepare(plane, &self.allocator.url(), options),
            secret,
        }
    }

    pub fn key(&self, cluster: &str, name: &str) -> ServiceKey {
        ServiceKey {
            cluster: cluster.to_owned(),
            namespace: self.namespace.clone(),
            name: name.to_owned(),
        }
    }

    async fn channel(&self) -> Channel {
        let url = self.allocator.url();
        connect_with(&url, self.admin.files()).await.unwrap()
    }

    pub async fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel().await)
    }

    pub async fn pools(&self) -> PoolServiceClient<Channel> {
        PoolServiceClient::new(self.channel().await)
    }

    pub async fn conflicts(&self) -> Vec<Conflict> {
        let mut pools = self.pools().await;
        let answer = pools.list_conflicts(ListConflictsRequest {}).await;
        answer.unwrap().into_inner().conflicts
    }

    pub async fn denials(&self) -> Vec<Denial> {
        let mut admin = self.admin().await;
        let answer = admin.list_denials(ListDenialsRequest::default()).await;
        answer.unwrap().into_inner().denials
    }

    /// Lets the cluster of this API server take a name over.
    pub async fn replace(&self, name: &str, number: usize) {
        let request = ReplaceClusterRequest {
            cluster: name.to_owned(),
            cluster_uid: uid(number).await,
        };
        let mut admin = self.admin().await;
        admin.replace_cluster(request).await.unwrap();
    }

    /// Who holds what: address and `cluster/name`, in the order of addresses.
    pub async fn holders(&self) -> Vec<(String, String)> {
        let request = ListAllocationsRequest {
            page_size: 1000,
            ..ListAllocationsRequest::default()
        };
        let answer = self.pools().await.list_allocations(request).await;
        let held = answer.unwrap().into_inner().allocations.into_iter();
        held.map(|held| {
            let key = held.service.unwrap();
            (held.address, format!("{}/{}", key.cluster, key.name))
        })
        .collect()
    }

    /// The database and what SQLite keeps beside it.
    pub fn database_files(&self) -> Vec<PathBuf> {
        let database = self.allocator.database();
        let name = database.file_name().unwrap().to_str().unwrap();
        let entries = fs::read_dir(database.parent().unwrap()).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                let file = path.file_name().unwrap().to_str().unwrap();
                file.starts_with(name)
            })
            .collect()
    }

    /// Removes the database of an allocator that does not run.
    pub fn remove_database(&self) {
        let files = self.database_files();
        assert!(!files.is_empty(), "there is a database");
        for file in files {
            fs::remove_file(file).unwrap();
        }
    }
}
