//! Puts the parts together, and takes them apart in order at the end.

use anyhow::Context;
use lb_process::tasks::Tasks as ProcessTasks;
use lb_tls::{files::Material, metrics::TlsMetrics, reload::Reloading};
use lb_trace::export::Traces;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{error, info, warn};

use crate::{
    admin::Admin,
    allocator::Allocator,
    args::{Args, time_zone},
    kube::connect,
    logging,
    metrics::Metrics,
    request::scope::ClassRule,
    tasks::{Setup, Tasks},
};

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
        admin_listen,
        concurrency,
        log_format,
        log_filter,
        instance,
        traces,
    } = args;
    let files = tls.files(&allocator).map_err(anyhow::Error::msg)?;
    let (traces, refused) = Traces::start(logging::PROGRAM, traces.endpoint());
    let (decisions, _guard) =
        logging::start(log_format, &log_filter, time_zone(), traces.as_ref())?;
    if let Some(error) = refused {
        warn!(
            error = &error as &dyn std::error::Error,
            "there are no traces"
        );
    }
    let stop_signal = stop_signal()?;
    let config = connect::config(kubeconfig, context).await?;
    info!(cluster = cluster.0, api_server = %config.cluster_url, allocator = allocator.text, "starting");
    let client = connect::client(config).context("cannot make a Kubernetes client")?;
    let listener = TcpListener::bind(admin_listen)
        .await
        .with_context(|| format!("cannot listen on --admin-listen {admin_listen}"))?;

    let (metrics, mut registry) = Metrics::new();
    if let Some(traces) = &traces {
        traces.register(&mut registry);
    }
    let certificates = files.map(|files| {
        Reloading::load(files, Material::client, TlsMetrics::register(&mut registry))
            .context("cannot use the certificates for lb-allocator")
    });
    let certificates = certificates.transpose()?;
    let setup = Setup {
        rule: ClassRule::new(load_balancer_class.map(|class| class.0), handle_unclassed),
        peers: annotation_aliases,
        concurrency,
        instance,
    };
    let (allocator, reconnect) = Allocator::new(
        &allocator.endpoint,
        certificates.as_ref().map(Reloading::current),
        cluster.0,
        metrics.clone(),
    );
    let mut tasks = Tasks::start(setup, client, allocator, metrics.clone(), decisions);
    let admin = Admin {
        health: tasks.health.clone(),
        role: tasks.role.clone(),
        certificates_problem: certificates.as_ref().map(Reloading::problem),
        metrics,
        registry,
        queue: tasks.queue.clone(),
        ledger: tasks.ledger.clone(),
    };
    let mut around = ProcessTasks::default();
    around.spawn("admin", admin.serve(listener));
    if let (Some(certificates), Some(reconnect)) = (certificates, reconnect) {
        // They are looked at every second: nobody has to ask for it.
        let (_, never) = watch::channel(());
        around.spawn("certificates", certificates.keep(never));
        around.spawn("reconnect", reconnect.run());
    }

    let failure = tokio::select! {
        biased;
        () = stop_signal => None,
        error = tasks.ended() => Some(error),
        error = around.ended() => Some(error),
    };
    if let Some(error) = &failure {
        error!(
            error = error as &dyn std::error::Error,
            "lb-watcher ends: it cannot do without this part"
        );
    }
    info!("stopping");
    let stopped = tasks.stop().await;
    drop(around);
    if let Some(traces) = traces {
        traces.stop().await;
    }
    failure.map_or(Ok(()), Err)?;
    Ok(stopped?)
}

/// SIGTERM or SIGINT, also if it comes before this is waited for. SIGHUP, with which
/// others have their files read again, changes nothing: they are read every second.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        let _unheard = hangup;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
