//! Puts the parts together, and takes them apart in order.

use std::{error::Error, fs, future::IntoFuture, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use lb_process::{print, print_error, tasks::Tasks};
use lb_tls::{files::Material, metrics::TlsMetrics, reload::Reloading};
use lb_trace::export::{Program, Traces};
use parking_lot::Mutex;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::Admin,
    args::{self, Backup, CheckConfig, Cli, Cluster, Command, Routes, Serve},
    backup, certs,
    clock::Clock,
    config::{self, Source},
    connections,
    denials::Denials,
    listen::{self, Protection},
    log,
    mark::Marks,
    metrics::{
        self, AuthMetrics, ConfigMetrics, ConnectionMetrics, RpcMetrics, StateCollector,
        WriterMetrics,
    },
    reload::Reload,
    routes::{self, RoutesFile},
    service::{self, Gate, Parts, Trust},
    signals::Signals,
    silence,
    store::Store,
    tls::Handshakes,
    writer::WriterTask,
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
                print_error(&told)?;
            } else {
                print(&told)?;
            }
            Ok(())
        }
        Command::Certs(command) => {
            print(&certs::run(command)?)?;
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
    print(&table)?;
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
    let told = match against {
        None => {
            let configuration = source.load()?;
            for warning in &configuration.warnings {
                print_error(&format!("warning: {warning}\n"))?;
            }
            config::explain(&configuration.pools)
        }
        Some(url) => {
            let text = source.read_file()?.unwrap_or_default();
            config::ask(&url, tls.files(), text).await?
        }
    };
    print(&told)?;
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
    let mut tasks = Tasks::default();
    // Before anybody can see this process at work, and signal it.
    let shutdown = CancellationToken::new();
    let signals = Signals::listen()?;
    let hangups = signals.hangups();
    tasks.spawn("signals", signals.obey(shutdown.clone()));
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
    let (incoming, acceptor) =
        connections::incoming(listener, connections::limit(), connection_metrics);
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

    tasks.spawn("silence", silence::report(Arc::clone(&published), clock));
    if let Some(path) = routes_file {
        let mut file = RoutesFile::new(path, published, zone);
        file.write().await;
        tasks.spawn("routes file", file.keep());
    }
    tasks.spawn(
        "admin",
        axum::serve(admin_socket, admin.router()).into_future(),
    );
    tasks.spawn("acceptor", acceptor.run());
    if let Some(certificates) = certificates {
        tasks.spawn("certificates", certificates.keep(hangups.clone()));
    }
    if source.file().is_some() {
        tasks.spawn("pools file", reload.watch(hangups));
    }
    // These end last, after what was taken is answered.
    let stop_writer = CancellationToken::new();
    let mut last = Tasks::default();
    last.spawn("writer", task.run(stop_writer.clone()));
    last.spawn("denials", denials.keep(denial_writer, stop_writer.clone()));
    tracing::info!(%listen, %admin_listen, %database, "serving");

    let stop = shutdown.clone().cancelled_owned();
    let mut serving = pin!(router.serve_with_incoming_shutdown(incoming, stop));
    let failure = tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        error = tasks.ended() => Some(error),
        error = last.ended() => Some(error),
        served = &mut serving => {
            served.context("cannot serve gRPC")?;
            bail!("cannot serve gRPC: the server ended");
        }
    };
    if let Some(error) = &failure {
        tracing::error!(
            error = error as &dyn Error,
            "lb-allocator ends: it cannot do without this part"
        );
        shutdown.cancel();
    }
    match timeout(DRAIN, serving).await {
        Ok(served) => served.context("cannot serve gRPC")?,
        Err(_) => tracing::warn!("closing connections that are still open"),
    }
    stop_writer.cancel();
    match timeout(LAST_COMMIT, last.all_ended()).await {
        Ok(ended) => ended?,
        Err(_) => tracing::warn!("the last commit takes too long; not waiting for it"),
    }
    tracing::info!("stopped");
    if let Some(traces) = traces {
        traces.stop().await;
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}
