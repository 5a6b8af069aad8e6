//! The admin port: `/metrics`, `/healthz`, `/readyz` (with `?verbose`, each
//! check in a line, as Kubernetes' own servers answer).

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use parking_lot::Mutex;
use prometheus_client::{encoding::text, registry::Registry};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{metrics::Census, writer::Writer};

/// How long a scrape waits for the writer, which may wait for a slow disk. What it
/// said last is shown then.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the admin port tells of.
#[derive(Clone)]
pub struct Admin {
    pub registry: Arc<Registry>,
    pub writer: Writer,
    /// What the writer last said, which the registry shows.
    pub census: Arc<Mutex<Census>>,
    pub store_available: watch::Receiver<bool>,
    /// Why the pools file as it is now is not in force.
    pub config_problem: watch::Receiver<Option<String>>,
    /// Why the certificate files as they are now are not in force, with TLS.
    pub tls_problem: Option<watch::Receiver<Option<String>>>,
    pub shutdown: CancellationToken,
}

impl Admin {
    pub fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(self)
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    if let Ok(Ok(census)) = timeout(PATIENCE, admin.writer.census()).await {
        *admin.census.lock() = census;
    }
    let mut body = String::new();
    match text::encode(&mut body, &admin.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], body).into_response()
        }
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot encode metrics"
            );
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn ready(
    State(admin): State<Admin>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let checks = [
        ("store", *admin.store_available.borrow()),
        ("shutdown", !admin.shutdown.is_cancelled()),
    ];
    let ready = checks.iter().all(|(_, ok)| *ok);
    // Told, but no reason to send nobody here: the last good ones are in force.
    let config = admin.config_problem.borrow().clone();
    let tls = admin.tls_problem.map(|problem| problem.borrow().clone());
    let mut body = String::new();
    if !ready || query.contains_key("verbose") {
        for (name, ok) in checks {
            let line = if ok {
                format!("[+]{name} ok\n")
            } else {
                format!("[-]{name} failed\n")
            };
            body += &line;
        }
        let told = [("config", Some(config)), ("certificates", tls)];
        for (name, problem) in told {
            body += &match problem {
                None => continue,
                Some(None) => format!("[+]{name} ok\n"),
                Some(Some(problem)) => format!("[-]{name} failed: {problem}\n"),
            };
        }
    }
    let (code, word) = if ready {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    };
    (code, body + word).into_response()
}
