//! Everything there is in a run: clusters, the allocator, the network between them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use lb_allocator::{
    clock::{Clock, Reading},
    config::Source,
    decision_log::DecisionLog,
    denials::Denials,
    engine::Timestamp,
    mark::Marks,
    metrics::{AuthMetrics, RpcMetrics, WriterMetrics},
    service::{self, Gate, Parts, Trust},
    store::StoreError,
    writer::{Writer, WriterTask},
};
use lb_watcher::{
    allocator::{Allocator, with_deadlines},
    metrics::Metrics,
    request::scope::ClassRule,
    tasks::{Setup, Tasks},
};
use prometheus_client::registry::Registry;
use tokio::{task::JoinSet, time::Instant};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::{
    admin::Admin,
    api_server::ApiServer,
    cast::Cast,
    chaos::Chaos,
    disk::{self, Disk},
    liar::{LIAR, Liar},
    limits::Limits,
    network::Network,
    pools::{self, NAMESPACES, Pool},
    rpc::{Grant, Grants, Wire},
    showing::Showing,
    workload,
};

/// 2026-01-01, when every run begins.
const BEGIN: i64 = 1_767_225_600_000;

/// See the module.
pub struct World {
    pub chaos: Chaos,
    pub network: Network,
    pub showing: Showing,
    pub clusters: Vec<ApiServer>,
    pub watchers: BTreeMap<String, Watcher>,
    pub allocator: Option<Process>,
    pub pools: Vec<Pool>,
    /// Whether addresses were ever excluded.
    pub has_excluded: bool,
    /// Whether a database was ever lost or restored.
    pub forgets: bool,
    pub cast: Cast,
    /// Another cluster of the name of the first one.
    pub twin: Option<ApiServer>,
    /// How many clusters were made anew, and which.
    pub rebuilt: Vec<usize>,
    pub liar: Option<Liar>,
    pub admin: Admin,
    pub grants: Grants,
    /// Milliseconds by which the allocator's clock is wrong.
    pub clock_error: Arc<AtomicI64>,
    pub disk_full: Arc<AtomicBool>,
    /// Each with what had been acknowledged until then.
    pub backups: Vec<(PathBuf, Vec<Grant>, Limits)>,
    folder: PathBuf,
    databases: u32,
    begun: Instant,
}

/// A watcher, or what is left of it.
pub struct Watcher {
    pub server: ApiServer,
    pub tasks: Option<Tasks>,
}

/// A running allocator.
pub struct Process {
    pub database: PathBuf,
    pub writer: Writer,
    killed: CancellationToken,
    shutdown: CancellationToken,
    stop_writer: CancellationToken,
    tasks: JoinSet<()>,
}

impl World {
    /// `clusters` clusters with `replicas` watchers each; `folder` is empty.
    pub async fn new(
        folder: &Path,
        chaos: Chaos,
        cast: Cast,
        clusters: usize,
        replicas: usize,
    ) -> Self {
        let network = Network::new(chaos.clone());
        let showing = Showing::default();
        let names = ["c0", "c1", "c2"];
        let servers: Vec<_> = names[..clusters]
            .iter()
            .map(|name| {
                let (chaos, showing) = (chaos.clone(), showing.clone());
                ApiServer::new(name, (name, name), &NAMESPACES, chaos, showing)
            })
            .collect();
        let channel = |host| {
            let endpoint = with_deadlines(&Endpoint::from_static("http://allocator"));
            network.channel(host, &endpoint)
        };
        let liar = cast.liar.then(|| Liar::new(channel(LIAR), chaos.clone()));
        let admin = Admin::new(channel("admin"), chaos.clone());
        let mut world = Self {
            cast,
            twin: None,
            rebuilt: Vec::new(),
            liar,
            admin,
            network,
            showing,
            clusters: servers,
            watchers: BTreeMap::new(),
            allocator: None,
            pools: pools::first(),
            has_excluded: false,
            forgets: false,
            grants: Grants::default(),
            clock_error: Arc::default(),
            disk_full: Arc::default(),
            backups: Vec::new(),
            folder: folder.to_owned(),
            databases: 0,
            begun: Instant::now(),
            chaos,
        };
        world.showing.configure(&world.pools);
        for server in &world.clusters {
            if world.cast.foreign_writer && fastrand::bool() {
                workload::migrate(&world, server);
            }
        }
        if !cast.unknown_clusters {
            world.showing.all_is_known();
        }
        world.start_allocator().await;
        for server in world.clusters.clone() {
            let name = server.cluster();
            for replica in 0..replicas {
                let host = format!("{name}-{replica}");
                let watcher = Watcher {
                    server: server.clone(),
                    tasks: None,
                };
                world.watchers.insert(host.clone(), watcher);
                world.start_watcher(&host);
            }
        }
        world
    }

    fn clock(&self) -> Clock {
        let begun = self.begun;
        let error = self.clock_error.clone();
        Clock::new(move || {
            let up = begun.elapsed();
            let elapsed = i64::try_from(up.as_millis()).unwrap();
            Reading {
                wall: Timestamp(BEGIN + elapsed + error.load(Ordering::Relaxed)),
                up,
            }
        })
    }

    /// Where the next process finds its database.
    fn database(&self) -> PathBuf {
        self.folder.join(format!("{}.db", self.databases))
    }

    /// Starts the allocator on the database of the last one, unless it runs. `false`
    /// if it cannot, because of the disk.
    pub async fn start_allocator(&mut self) -> bool {
        if self.allocator.is_some() {
            return true;
        }
        let database = self.database();
        let source = Source::default();
        let text = self.pools_file();
        let configuration = source.with_file(Some(&text)).unwrap();
        let (chaos, showing) = (self.chaos.clone(), self.showing.clone());
        let disk = Disk::open(&database, chaos, showing, self.disk_full.clone()).unwrap();
        let history = disk.store().history_reader();
        let marks = Marks::new(disk.store().identity());
        let mut registry = Registry::default();
        let loaded = WriterTask::load(
            disk,
            configuration,
            &[],
            WriterMetrics::register(&mut registry),
            DecisionLog::structured(),
            self.clock(),
        );
        let (task, writer, published) = match loaded.await {
            Ok(parts) => parts,
            Err(StoreError::Write { .. }) => {
                self.chaos.note("the allocator cannot start");
                return false;
            }
            Err(error) => panic!("{error:?}"),
        };
        let killed = CancellationToken::new();
        let shutdown = CancellationToken::new();
        let stop_writer = CancellationToken::new();
        let denials = Denials::new(AuthMetrics::register(&mut registry));
        let gate = Gate::new(
            Trust::Everybody,
            published.decommissioned().clone(),
            denials,
            writer.clock(),
        );
        let parts = Parts {
            writer: writer.clone(),
            published,
            history,
            marks,
            source,
            gate: gate.clone(),
            shutdown: shutdown.clone(),
        };
        let wire = Wire {
            chaos: self.chaos.clone(),
            grants: self.grants.clone(),
            showing: self.showing.clone(),
            killed: killed.clone(),
        };
        let router = service::server(RpcMetrics::register(&mut registry), gate)
            .layer(wire)
            .add_routes(service::routes(parts).await.unwrap());
        let incoming = UnboundedReceiverStream::new(self.network.listen());
        let mut tasks = JoinSet::new();
        let writing = task.run(stop_writer.clone());
        tasks.spawn(async { writing.await.unwrap() });
        // Without tonic's signal for the end, which wakes connections in an order
        // that no seed replays: they are cut after what is under way.
        tasks.spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
        self.chaos.note("the allocator starts");
        self.showing.restarted();
        self.allocator = Some(Process {
            database,
            writer,
            killed,
            shutdown,
            stop_writer,
            tasks,
        });
        true
    }

    /// Ends the allocator as kill -9 does. What is on the disk stays.
    pub fn kill_allocator(&mut self) {
        if let Some(process) = self.allocator.take() {
            process.killed.cancel();
            self.network.close();
            // The next process reads what is there now; this one may still hold
            // the file open for a while.
            disk::copy(&process.database, &self.next_database()).unwrap();
            self.chaos.note("the allocator is killed");
        }
    }

    /// The database is another one. `waits`: one that gives nothing before it was told all
    /// that is there.
    fn forget(&mut self, waits: bool, limits: Limits) {
        self.forgets = true;
        self.showing.allocator_forgot(waits, limits);
    }

    /// Keeps a copy of the database, of which another may be made later.
    pub fn back_up(&mut self) {
        let Some(process) = &self.allocator else {
            return;
        };
        let number = self.backups.len();
        let path = self.folder.join(format!("backup-{number}.db"));
        disk::copy(&process.database, &path).unwrap();
        self.chaos.note(format_args!("backup {number} is made"));
        let grants = self.grants.lock().clone();
        self.backups.push((path, grants, self.showing.limits()));
    }

    /// Kills the allocator. The next one starts on a backup.
    pub fn restore(&mut self, backup: usize) {
        self.kill_allocator();
        let (path, grants, limits) = self.backups[backup].clone();
        self.forget(false, limits);
        disk::copy(&path, &self.next_database()).unwrap();
        *self.grants.lock() = grants;
        self.chaos.note(format_args!("backup {backup} is restored"));
    }

    /// Kills the allocator. The next one starts on an empty disk, and `waits` until it was
    /// told all that is there.
    pub fn lose_disk(&mut self, waits: bool) {
        self.kill_allocator();
        self.forget(waits, Limits::default());
        self.next_database();
        self.grants.lock().clear();
        self.chaos.note("the disk is lost");
    }

    fn next_database(&mut self) -> PathBuf {
        self.databases += 1;
        self.database()
    }

    /// Ends the allocator as SIGTERM does.
    pub async fn stop_allocator(&mut self) {
        if let Some(mut process) = self.allocator.take() {
            process.shutdown.cancel();
            let drained = tokio::time::sleep(std::time::Duration::from_secs(5));
            drained.await;
            self.network.close();
            process.stop_writer.cancel();
            // Whoever does not end by itself is killed.
            let all = async { while process.tasks.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(std::time::Duration::from_secs(20), all).await;
            process.killed.cancel();
            disk::copy(&process.database, &self.next_database()).unwrap();
            self.chaos.note("the allocator has stopped");
        }
    }

    /// A second cluster under the name of the first one, with the same manifests.
    pub fn add_twin(&mut self) {
        let twin = self.remade(0, "twin", "twin");
        self.chaos.note("a second cluster has the name c0");
        self.twin = Some(twin.clone());
        let watcher = Watcher {
            server: twin,
            tasks: None,
        };
        self.watchers.insert("twin-0".to_owned(), watcher);
        self.start_watcher("twin-0");
    }

    /// A cluster is lost, and made anew from the same manifests.
    pub fn rebuild(&mut self, cluster: usize) {
        let old = self.clusters[cluster].clone();
        self.rebuilt.push(cluster);
        let label = format!("{}-made-{}", old.cluster(), self.rebuilt.len());
        old.end();
        let new = self.remade(cluster, &label, old.cluster());
        self.clusters[cluster] = new.clone();
        self.chaos
            .note(format_args!("{label} takes the place of {}", old.label()));
        let hosts = self.watchers.iter();
        let hosts = hosts.filter(|(_, watcher)| watcher.server.label() == old.label());
        for host in hosts.map(|(host, _)| host.clone()).collect::<Vec<_>>() {
            self.kill_watcher(&host);
            self.watchers.get_mut(&host).unwrap().server = new.clone();
            self.start_watcher(&host);
        }
    }

    fn remade(&self, cluster: usize, label: &str, shown_as: &str) -> ApiServer {
        let original = &self.clusters[cluster];
        let (chaos, showing) = (self.chaos.clone(), self.showing.clone());
        let name = original.cluster();
        let server = ApiServer::new(name, (label, shown_as), &NAMESPACES, chaos, showing);
        let now = self.chaos.time();
        for (key, stored) in original.objects(|objects| objects.services.clone()) {
            let annotations = stored.object["metadata"]["annotations"].clone();
            let spec = stored.object["spec"].clone();
            if fastrand::u8(..4) > 0 {
                server.change(|objects| objects.create(&key, label, &now, annotations, spec));
            }
        }
        server
    }

    fn pools_file(&self) -> String {
        let named = self.clusters.iter().filter(|_| !self.cast.unknown_clusters);
        let clusters: Vec<_> = named.map(ApiServer::cluster).collect();
        pools::file(&self.pools, &clusters)
    }

    /// Puts other pools in force.
    pub async fn configure(&mut self, pools: Vec<Pool>) {
        self.pools = pools;
        self.showing.configure(&self.pools);
        self.chaos
            .note(format_args!("pools: {}", self.pools_file()));
        let source = Source::default();
        let text = self.pools_file();
        let configuration = source.with_file(Some(&text)).unwrap();
        if let Some(process) = &self.allocator {
            let _ = process.writer.configure(configuration).await;
        }
    }

    /// Starts this watcher, unless it runs.
    pub fn start_watcher(&mut self, host: &str) {
        let watcher = self.watchers.get_mut(host).unwrap();
        if watcher.tasks.is_some() {
            return;
        }
        let server = &watcher.server;
        let endpoint = with_deadlines(&Endpoint::from_static("http://allocator"));
        let channel = self.network.channel(host, &endpoint);
        let (metrics, _registry) = Metrics::new();
        let allocator = Allocator::over(channel, server.cluster().to_owned(), metrics.clone());
        let setup = Setup {
            rule: ClassRule::new(None, false),
            peers: Vec::new(),
            concurrency: 4,
            instance: host.to_owned(),
        };
        watcher.tasks = Some(Tasks::start(
            setup,
            server.client(),
            allocator,
            metrics,
            lb_watcher::decision_log::DecisionLog::Structured,
        ));
        self.chaos.note(format_args!("{host} starts"));
    }

    /// Whether anybody asks for the Services of this cluster.
    pub fn is_watched(&self, cluster: &str) -> bool {
        let mut watchers = self.watchers.values();
        watchers.any(|watcher| watcher.tasks.is_some() && watcher.server.cluster() == cluster)
    }

    /// Ends this watcher wherever it is.
    pub fn kill_watcher(&mut self, host: &str) {
        let watcher = self.watchers.get_mut(host).unwrap();
        if watcher.tasks.take().is_some() {
            self.network.cut(|of| of == host);
            self.chaos.note(format_args!("{host} is killed"));
        }
    }

    /// Lets this watcher end what it is doing.
    pub async fn stop_watcher(&mut self, host: &str) {
        let watcher = self.watchers.get_mut(host).unwrap();
        if let Some(tasks) = watcher.tasks.take() {
            tasks.stop().await.unwrap();
            self.chaos.note(format_args!("{host} has stopped"));
        }
    }
}
