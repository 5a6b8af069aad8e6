//! `/metrics`, `/healthz` and `/readyz`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    ledger::Ledger,
    metrics::Metrics,
    queue::Queue,
    session::role::{Role, RoleKeeper},
};

const ALLOCATOR: &str = "allocator-answered";

/// What must have happened once before the watcher counts as ready. It stays
/// ready when the allocator goes away: held addresses are as good as before.
#[derive(Debug, Default)]
pub struct Health {
    namespaces_listed: AtomicBool,
    /// Why not.
    namespaces_error: Mutex<String>,
    services_listed: AtomicBool,
    allocator_answered: AtomicBool,
    was_ready: AtomicBool,
    /// Why the allocator does not serve this cluster.
    cluster_refused: Mutex<Option<String>>,
    /// Why statuses cannot be written, if nothing but a missing right is to blame.
    status_error: Mutex<Option<String>>,
}

impl Health {
    /// The first list of namespaces is complete.
    pub fn namespaces_listed(&self) {
        self.namespaces_listed.store(true, Ordering::Relaxed);
    }

    /// Namespaces cannot be watched, for this reason.
    pub fn namespaces_broken(&self, error: String) {
        *self.namespaces_error.lock() = error;
    }

    /// The first list of Services is complete.
    pub fn services_listed(&self) {
        self.services_listed.store(true, Ordering::Relaxed);
    }

    /// The allocator answered.
    pub fn allocator_answered(&self) {
        self.allocator_answered.store(true, Ordering::Relaxed);
    }

    /// The allocator takes this cluster for another one, for this reason; or it does not.
    pub fn cluster_refused(&self, why: Option<String>) {
        *self.cluster_refused.lock() = why;
    }

    /// A status was written.
    pub fn status_written(&self) {
        *self.status_error.lock() = None;
    }

    /// Statuses cannot be written for want of a right.
    pub fn status_forbidden(&self, error: String) {
        *self.status_error.lock() = Some(format!("cannot write services/status: {error}"));
    }

    fn checks(&self) -> [(&'static str, bool); 3] {
        [
            (
                "namespaces-listed",
                self.namespaces_listed.load(Ordering::Relaxed),
            ),
            (
                "services-listed",
                self.services_listed.load(Ordering::Relaxed),
            ),
            (ALLOCATOR, self.allocator_answered.load(Ordering::Relaxed)),
        ]
    }
}

/// What the pages show.
pub struct Admin {
    /// For `/readyz`.
    pub health: Arc<Health>,
    /// For both.
    pub role: Arc<RoleKeeper>,
    /// Why the certificate files as they are now are not in force, with TLS.
    pub certificates_problem: Option<watch::Receiver<Option<String>>>,
    /// For `/metrics`.
    pub metrics: Metrics,
    /// For `/metrics`.
    pub registry: Registry,
    /// For `/metrics`.
    pub queue: Arc<Queue>,
    /// For `/metrics`.
    pub ledger: Arc<Ledger>,
}

impl Admin {
    /// Serves for ever.
    pub async fn serve(self, listener: TcpListener) -> std::io::Result<()> {
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(Arc::new(self));
        axum::serve(listener, router).await
    }
}

async fn readyz(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> impl IntoResponse {
    let verbose = query.is_some_and(|query| query.split('&').any(|q| q.starts_with("verbose")));
    let (ready, mut text) = report(&admin.health, admin.role.get(), verbose);
    if let Some(problem) = admin.certificates_problem.as_ref().filter(|_| verbose) {
        text = certificates(problem.borrow().as_deref()) + &text;
    }
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, text)
}

/// Told, but no reason to be unready: the last good ones are in force.
fn certificates(problem: Option<&str>) -> String {
    problem.map_or_else(
        || "[+]certificates ok\n".to_owned(),
        |problem| format!("[-]certificates failed: {problem}\n"),
    )
}

fn report(health: &Health, role: Role, verbose: bool) -> (bool, String) {
    let mut checks = health.checks();
    for (name, ok) in &mut checks {
        *ok |= *name == ALLOCATOR && health.was_ready.load(Ordering::Relaxed);
    }
    // Not for a while, as an allocator that is away: until somebody has decided.
    let refused = health.cluster_refused.lock().clone();
    // Who stands by does not write.
    let writes = role != Role::Standby;
    let forbidden = health.status_error.lock().clone().filter(|_| writes);
    let works = refused.is_none() && forbidden.is_none();
    let ready = works && checks.iter().all(|(_, ok)| *ok);
    health.was_ready.fetch_or(ready, Ordering::Relaxed);
    let mut text = String::new();
    for (name, ok) in checks.iter().filter(|(_, ok)| verbose || !ok) {
        let (sign, word) = if *ok { ('+', "ok") } else { ('-', "not yet") };
        text += &format!("[{sign}]{name} {word}\n");
    }
    if verbose {
        text += match role {
            Role::Acting => "[+]session acting\n",
            Role::Standby => "[+]session standby\n",
            Role::Alone => "[-]session none\n",
        };
    }
    match &forbidden {
        Some(error) => text += &format!("[-]status-writable failed: {error}\n"),
        None if verbose => text += "[+]status-writable ok\n",
        None => {}
    }
    let error = health.namespaces_error.lock();
    if !health.namespaces_listed.load(Ordering::Relaxed) && !error.is_empty() {
        text += &error;
        text += "\n";
    }
    if let Some(refused) = refused {
        text += &format!("[-]cluster-accepted refused\n{refused}\n");
    }
    text += if ready { "ok\n" } else { "not ready\n" };
    (ready, text)
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let Admin {
        role,
        metrics,
        registry,
        queue,
        ledger,
        ..
    } = &*admin;
    let text = metrics.scrape(registry, queue.depth(), &ledger.census(), role.acts());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_waits_for_lists_and_allocator_and_says_for_which() {
        let health = Health::default();
        assert!(!report(&health, Role::Standby, false).0);
        health.namespaces_broken("cannot watch Namespaces: forbidden".into());
        let (ready, text) = report(&health, Role::Standby, false);
        assert!(!ready && text.contains("[-]namespaces-listed not yet\n"));
        assert!(text.contains("cannot watch Namespaces: forbidden\n"));
        health.namespaces_listed();
        health.namespaces_broken("for a moment".into());
        health.services_listed();
        let (ready, text) = report(&health, Role::Standby, false);
        let expected = "[-]allocator-answered not yet\nnot ready\n";
        assert_eq!((ready, text.as_str()), (false, expected));
        health.allocator_answered();
        for (role, line) in [
            (Role::Acting, "[+]session acting"),
            (Role::Standby, "[+]session standby"),
            (Role::Alone, "[-]session none"),
        ] {
            assert_eq!(report(&health, role, false), (true, "ok\n".into()));
            let verbose = format!(
                "[+]namespaces-listed ok\n[+]services-listed ok\n[+]allocator-answered ok\n\
                 {line}\n[+]status-writable ok\nok\n"
            );
            assert_eq!(report(&health, role, true), (true, verbose));
        }
        health.status_forbidden("forbidden: User \"u\" cannot patch".into());
        let expected = "[-]status-writable failed: cannot write services/status: forbidden: User \
                        \"u\" cannot patch\nnot ready\n";
        let acting = report(&health, Role::Acting, false);
        assert_eq!(acting, (false, expected.into()));
        let standby = report(&health, Role::Standby, false);
        assert!(standby.0, "who stands by writes nothing");
        health.status_written();
        assert!(report(&health, Role::Acting, false).0);
    }

    #[test]
    fn a_cluster_that_the_allocator_takes_for_another_one_is_not_ready_and_says_why() {
        let health = Health::default();
        health.namespaces_listed();
        health.services_listed();
        health.allocator_answered();
        assert!(report(&health, Role::Alone, false).0);
        health.cluster_refused(Some("the name is in use".into()));
        let expected = "[-]cluster-accepted refused\nthe name is in use\nnot ready\n";
        assert_eq!(
            report(&health, Role::Alone, false),
            (false, expected.into())
        );
        health.cluster_refused(None);
        assert!(report(&health, Role::Alone, false).0);
    }
}
