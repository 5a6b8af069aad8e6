//! Puts the parts together, and takes them apart in order at the end.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use lb_tls::{files::Material, metrics::TlsMetrics, reload::Reloading};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    admin::{Admin, Health},
    allocator::Allocator,
    announcements::{Announcements, Link},
    args::{Args, time_zone},
    cluster_sync::ClusterSync,
    election::{Election, Place},
    events,
    leadership::Leadership,
    lease::Candidate,
    lease_name::lease_name,
    ledger::Ledger,
    logging,
    metrics::Metrics,
    namespace_store::NamespaceStore,
    namespace_watch::NamespaceWatch,
    news::News,
    queue::{Next, Queue},
    scope::ClassRule,
    service_api::ServiceApi,
    service_store::ServiceStore,
    service_watch::{ServiceWatch, WATCH_SECONDS},
    status_writer::StatusWriter,
    sync::Syncer,
};

/// How long what is under way may take once the end was asked for.
const GRACE: Duration = Duration::from_secs(10);
/// How long Events may still be sent, and the lease released, after that.
const FAREWELL: Duration = Duration::from_secs(3);

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let Args {
        allocator,
        tls,
        cluster,
        kubeconfig,
        context,
        load_balancer_class,
        handle_unclassed,
        annotation_aliases,
        leader_elect,
        leader_elect_lease_namespace,
        admin_listen,
        concurrency,
        log_format,
        log_filter,
        instance,
    } = args;
    let files = tls.files(&allocator).map_err(anyhow::Error::msg)?;
    let (decisions, _guard) = logging::start(log_format, &log_filter, time_zone())?;
    let stop_signal = stop_signal()?;
    let config = kube_config(kubeconfig, context).await?;
    info!(cluster = cluster.0, api_server = %config.cluster_url, allocator = allocator.text, "starting");
    let place = Place {
        namespace: leader_elect_lease_namespace.unwrap_or_else(|| own_namespace(&config)),
        name: lease_name(&cluster, load_balancer_class.as_ref(), handle_unclassed),
    };
    let client = Client::try_from(config).context("cannot make a Kubernetes client")?;
    let listener = TcpListener::bind(admin_listen)
        .await
        .with_context(|| format!("cannot listen on --admin-listen {admin_listen}"))?;

    let rule = ClassRule::new(load_balancer_class.map(|class| class.0), handle_unclassed);
    let (metrics, mut registry) = Metrics::new();
    let certificates = files.map(|files| {
        Reloading::load(files, Material::client, TlsMetrics::register(&mut registry))
            .context("cannot use the certificates for lb-allocator")
    });
    let certificates = certificates.transpose()?;
    let store = Arc::new(ServiceStore::new(rule));
    let namespaces = Arc::new(NamespaceStore::default());
    let ledger = Arc::new(Ledger::default());
    let queue = Arc::new(Queue::default());
    let health = Arc::new(Health::default());
    let leadership = Arc::new(Leadership::default());
    queue.stand_by();
    let (allocator, reconnect) = Allocator::new(
        &allocator.endpoint,
        certificates.as_ref().map(Reloading::current),
        cluster.0,
        metrics.clone(),
    );
    let api = ServiceApi::new(client.clone(), metrics.clone());
    let identity = format!("{instance}_{:016x}", fastrand::u64(..));
    let (events, sender) = events::channel(client.clone(), instance, metrics.clone());
    let (link_sender, link) = watch::channel(Link::Connecting);
    let (lists, lists_receiver) = watch::channel(0);
    let (namespaces_listed, namespaces_listed_receiver) = watch::channel(false);
    let news = News { events, decisions };
    let syncer = Arc::new(Syncer {
        store: store.clone(),
        namespaces: namespaces.clone(),
        peers: annotation_aliases.clone(),
        ledger: ledger.clone(),
        allocator: allocator.clone(),
        link,
        writer: StatusWriter {
            api: api.clone(),
            store: store.clone(),
            ledger: ledger.clone(),
            news: news.clone(),
        },
        news,
    });

    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let spawn = |task| tasks.spawn(stop.clone().run_until_cancelled_owned(task));
    let admin = Admin {
        health: health.clone(),
        leadership: leadership.clone(),
        certificates_problem: certificates.as_ref().map(Reloading::problem),
        metrics: metrics.clone(),
        registry,
        queue: queue.clone(),
        ledger: ledger.clone(),
    };
    tasks.spawn(admin.serve(listener, stop.clone()));
    if let (Some(certificates), Some(reconnect)) = (certificates, reconnect) {
        spawn(boxed(certificates.keep()));
        spawn(boxed(reconnect.run()));
    }
    let announcements = Announcements {
        cluster: ClusterSync {
            allocator: allocator.clone(),
            store: store.clone(),
            namespaces: namespaces.clone(),
            peers: annotation_aliases,
            ledger: ledger.clone(),
        },
        allocator,
        lists: lists_receiver.clone(),
        link: link_sender,
        ledger: ledger.clone(),
        store: store.clone(),
        queue: queue.clone(),
        health: health.clone(),
        metrics: metrics.clone(),
    };
    spawn(boxed(in_each_term(leadership.clone(), move || {
        announcements.clone().run()
    })));
    let election = Election {
        leadership: leadership.clone(),
        store: store.clone(),
        ledger: ledger.clone(),
        queue: queue.clone(),
        health: health.clone(),
    };
    let resign = CancellationToken::new();
    let election = if leader_elect {
        let Place { namespace, name } = &place;
        info!(namespace, name, identity, "standing for election");
        let candidate = Candidate::new(client.clone(), namespace, name.clone(), identity);
        tokio::spawn(election.run(candidate, place, lists_receiver, resign.clone()))
    } else {
        election.unopposed();
        tokio::spawn(async {})
    };
    spawn(boxed(
        NamespaceWatch {
            namespaces,
            services: store.clone(),
            ledger: ledger.clone(),
            queue: queue.clone(),
            listed: namespaces_listed,
            health: health.clone(),
            metrics: metrics.clone(),
        }
        .run(client.clone()),
    ));
    spawn(boxed(
        ServiceWatch {
            store,
            ledger,
            queue: queue.clone(),
            lists,
            health,
            metrics: metrics.clone(),
        }
        .run(client, namespaces_listed_receiver),
    ));
    let events = tokio::spawn(sender.run(queue.busy()));
    for _ in 0..concurrency {
        let (queue, syncer, metrics) = (queue.clone(), syncer.clone(), metrics.clone());
        tasks.spawn(in_each_term(leadership.clone(), move || {
            work(queue.clone(), syncer.clone(), metrics.clone())
        }));
    }
    drop(syncer);

    stop_signal.await;
    info!("stopping");
    stop.cancel();
    queue.close();
    leadership.retire();
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        warn!("gave up on what was still under way; it is taken up at the next start");
    }
    // What is told now was done while this replica led.
    resign.cancel();
    let farewell = async { tokio::join!(election, events) };
    let _rest_is_lost = tokio::time::timeout(FAREWELL, farewell).await;
    Ok(())
}

fn boxed(
    task: impl Future<Output = ()> + Send + 'static,
) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(task)
}

async fn in_each_term<F: Future<Output = ()>>(leadership: Arc<Leadership>, start: impl Fn() -> F) {
    leadership.each_term(start).await;
}

/// One worker.
async fn work(queue: Arc<Queue>, syncer: Arc<Syncer>, metrics: Metrics) {
    while let Some(job) = queue.pop().await {
        let start = Instant::now();
        let next = syncer.sync(&job).await;
        queue.done(&job.key, next);
        let outcome = match next {
            Next::Done => "done",
            Next::Again => "again",
            Next::After(_) => "waiting",
            Next::Retry => "retry",
        };
        metrics.sync(outcome, start.elapsed());
    }
}

async fn kube_config(
    file: Option<std::path::PathBuf>,
    context: Option<String>,
) -> anyhow::Result<Config> {
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    let mut config = match file {
        Some(file) => {
            let kubeconfig = Kubeconfig::read_from(&file)
                .with_context(|| format!("cannot read --kubeconfig {}", file.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .with_context(|| format!("cannot use --kubeconfig {}", file.display()))?
        }
        None if options.context.is_some() => Config::from_kubeconfig(&options)
            .await
            .context("cannot use the kubeconfig with --context")?,
        None => Config::infer().await.context(
            "found no way to the API server: neither a kubeconfig nor a Pod's service account; \
             name one with --kubeconfig",
        )?,
    };
    // Retries are the queue's business: a call that sleeps holds a worker.
    config.default_retry = false;
    // For a list that never ends; watches say something more often than this.
    config.read_timeout = Some(Duration::from_secs(u64::from(WATCH_SECONDS) + 10));
    config.reset_reader_on_write = true;
    Ok(config)
}

/// The Pod's namespace where the cluster is the Pod's own.
fn own_namespace(config: &Config) -> String {
    match Config::incluster() {
        Ok(own) if own.cluster_url == config.cluster_url => own.default_namespace,
        Ok(_) | Err(_) => "kube-system".to_owned(),
    }
}

/// SIGTERM or SIGINT, also if it comes before this is waited for.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
