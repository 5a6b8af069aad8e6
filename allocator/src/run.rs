//! Puts the parts together, and takes them apart in order.

use std::{fs, future::IntoFuture, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use lb_tls::{files::Material, metrics::TlsMetrics, reload::Reloading};
use lb_trace::export::{Program, Traces};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Admin,
    args::{self, Backup, CheckConfig, Cli, Cluster, Command, Routes, Serve},
    backup, certs,
    config::{self, Source, reload::Reload},
    connections,
    denials::Denials,
    listen::{self, Protection},
    log,
    mark::Marks,
    metrics::{
        self, AuthMetrics, ConfigMetrics, ConnectionMetrics, RpcMetrics, StateCollector,
        WriterMetrics,
    },
    routes::{self, RoutesFile},
    service::{self, Gate, Parts, Trust},
    silence,
    store::Store,
    tls::Handshakes,
    writer::{Clock, WriterTask},
};

/// Whose spans the traces show.
pub const PROGRAM: Program = Program {
    name: "lb-allocator",
    version: env!("CARGO_PKG_VERSION"),
    target: "lb_allocator",
};

/// How long requests that were begun may take after SIGTERM.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the last commit may take after that.
const LAST_COMMIT: Duration = Duration::from_secs(2);

/// # Errors
/// Whatever stops the command; the chain tells all of it.
pub async fn run(cli: Cli) -> Result<()> {
    let Cli { command } = cli;
    match command {
        Command::Serve(args) => serve(*args).await,
        Command::Routes(args) => show_routes(args).await,
        Command::CheckConfig(args) => check_config(args).await,
        Command::Backup(Backup { file, database }) => {
            let told = backup::run(&database, &file).await?;
            if backup::is_standard_output(&file) {
                eprint!("{told}");
            } else {
                print!("{told}");
            }
            Ok(())
        }
        Command::Certs(command) => {
            print!("{}", certs::run(command)?);
            Ok(())
        }
    }
}

async fn show_routes(args: Routes) -> Result<()> {
    let Routes {
        allocator,
        routes_file,
        tls,
        zone,
    } = args;
    let kept = routes_file.filter(|file| allocator.is_none() && file.exists());
    let table = match kept {
        Some(file) => fs::read_to_string(&file)
            .with_context(|| format!("cannot read the routes file {}", file.display()))?,
        None => {
            let url = allocator.as_deref().unwrap_or(args::HERE);
            routes::fetch(url, tls.files(), zone.time_zone()).await?
        }
    };
    print!("{table}");
    Ok(())
}

async fn check_config(args: CheckConfig) -> Result<()> {
    let CheckConfig {
        file,
        ip_list,
        against,
        tls,
    } = args;
    let source = Source::new(ip_list.items, Some(file));
    match against {
        None => print!("{}", config::explain(&source.load()?.pools)),
        Some(url) => {
            let text = source.read_file()?.unwrap_or_default();
            print!("{}", config::ask(&url, tls.files(), text).await?);
        }
    }
    Ok(())
}

async fn serve(args: Serve) -> Result<()> {
    let Serve {
        listen,
        tls,
        insecure_plaintext,
        database,
        config,
        ip_list,
        assume_absent,
        adoption_window,
        admin_listen,
        routes_file,
        log_format,
        zone,
        traces,
    } = args;
    let zone = zone.time_zone();
    let (traces, refused) = Traces::start(PROGRAM, traces.endpoint());
    let (decisions, _flushed_at_the_end) = log::start(log_format, zone.clone(), traces.as_ref());
    if let Some(error) = refused {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "there are no traces"
        );
    }
    // Before anybody can see this process at work, and signal it: unheard, either would kill it.
    let shutdown = CancellationToken::new();
    tokio::spawn(cancel_on_signal(shutdown.clone())?);
    // Also without a file to read again: it would end the process otherwise.
    let hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let protection = listen::protection(&listen, tls.files(), insecure_plaintext)?;
    if protection == Protection::None {
        tracing::warn!(
            %listen,
            "--insecure-plaintext: whoever reaches this port may do everything, unseen and unencrypted"
        );
    }
    let source = Source::new(ip_list.items, config).with_adoption_window(adoption_window.0);
    let pools_file = source.read_file()?;
    let configuration = source.with_file(pools_file.as_deref())?;
    let store = Store::open(&database).await?;
    let history = store.history_reader();
    let marks = Marks::new(store.identity());
    let denial_writer = store.denial_writer();

    let assumed_absent: Vec<_> = assume_absent
        .into_iter()
        .map(|Cluster(name)| name)
        .collect();
    let database_file = store.path().to_owned();
    let mut registry = metrics::registry();
    if let Some(traces) = &traces {
        traces.register(&mut registry);
    }
    let (task, writer, published) = WriterTask::load(
        store,
        configuration,
        &assumed_absent,
        WriterMetrics::register(&mut registry),
        decisions,
        Clock::machine(),
    )
    .await?;
    let census = Arc::new(Mutex::default());
    let collector = StateCollector {
        published: Arc::clone(&published),
        census: Arc::clone(&census),
        store_available: writer.store_available(),
        database: database_file,
        clock: writer.clock(),
    };
    collector.register(&mut registry);
    let metrics = RpcMetrics::register(&mut registry);
    let config_metrics = ConfigMetrics::register(&mut registry);
    let (reload, config_problem) =
        Reload::new(source.clone(), pools_file, writer.clone(), config_metrics);

    let auth_metrics = AuthMetrics::register(&mut registry);
    let denials = Denials::new(auth_metrics.clone());
    let (trust, certificates) = match protection {
        Protection::Local | Protection::None => (Trust::Everybody, None),
        Protection::Tls(files) => {
            let metrics = TlsMetrics::register(&mut registry);
            let certificates = Reloading::load(files, Material::server, metrics);
            let certificates = certificates.context("cannot serve TLS")?;
            (Trust::Certificates, Some(certificates))
        }
    };
    let handshakes = certificates.as_ref().map(|certificates| {
        let scheme = tls.client_identity.into();
        Handshakes::new(certificates.current(), scheme, auth_metrics)
    });
    let connection_metrics = ConnectionMetrics::register(&mut registry);

    let admin = Admin {
        registry: Arc::new(registry),
        writer: writer.clone(),
        census,
        store_available: writer.store_available(),
        config_problem,
        tls_problem: certificates.as_ref().map(Reloading::problem),
        shutdown: shutdown.clone(),
    };
    let admin_socket = TcpListener::bind(admin_listen).await.with_context(|| {
        format!("cannot listen on {admin_listen} (--admin-listen); is another process there?")
    })?;
    let listener = listen::bind(&listen, handshakes).await?;
    let incoming = connections::incoming(listener, connections::limit(), connection_metrics);
    let clock = writer.clock();
    let decommissioned = published.decommissioned().clone();
    let gate = Gate::new(trust, decommissioned, denials.clone(), clock.clone());
    let parts = Parts {
        writer,
        published: Arc::clone(&published),
        history,
        marks,
        source: source.clone(),
        gate: gate.clone(),
        shutdown: shutdown.clone(),
    };
    let router = service::router(parts, metrics).await?;

    tokio::spawn(silence::report(Arc::clone(&published), clock));
    if let Some(path) = routes_file {
        let mut file = RoutesFile::new(path, published, zone);
        file.write().await;
        tokio::spawn(file.keep());
    }
    let admin = tokio::spawn(axum::serve(admin_socket, admin.router()).into_future());
    let stop_writer = CancellationToken::new();
    let writer_task = tokio::spawn(task.run(stop_writer.clone()));
    let denials = tokio::spawn(denials.keep(denial_writer, stop_writer.clone()));
    if let Some(certificates) = certificates {
        tokio::spawn(certificates.keep());
    }
    if source.file().is_some() {
        tokio::spawn(reload.watch(hangup));
    }
    tracing::info!(%listen, %admin_listen, %database, "serving");

    let stop = shutdown.clone().cancelled_owned();
    let serving = router.serve_with_incoming_shutdown(incoming, stop);
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served.context("cannot serve gRPC")?,
        () = drained => tracing::warn!("closing connections that are still open"),
    }
    stop_writer.cancel();
    if timeout(LAST_COMMIT, denials).await.is_err() {
        tracing::warn!("the last denials are in this log only");
    }
    match timeout(LAST_COMMIT, writer_task).await {
        Ok(ended) => ended.context("the writer failed")??,
        Err(_) => tracing::warn!("the last commit takes too long; not waiting for it"),
    }
    admin.abort();
    tracing::info!("stopped");
    if let Some(traces) = traces {
        traces.stop().await;
    }
    Ok(())
}

fn cancel_on_signal(shutdown: CancellationToken) -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down");
        shutdown.cancel();
    })
}
