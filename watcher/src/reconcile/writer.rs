//! The write of one Service's status, and what comes of its being refused.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use k8s_openapi::jiff::Timestamp;
use tracing::{debug, error, info, warn};

use crate::{
    admin::Health,
    denial::{Denial, Reason},
    informer::service_store::ServiceStore,
    kube::{
        api::{ApiError, ServiceApi},
        key::Key,
        service::Service,
    },
    ledger::{Ledger, Obstacle, Record},
    queue::Requeue,
    reconcile::{notifier::Notifier, view::View},
    request::join,
    status::{self, Desired},
};

/// How long it takes until what was refused is tried again: half a minute to a minute,
/// spread.
const REFUSED: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(REFUSED_AT_LEAST)
    .with_max_delay(REFUSED_AT_LEAST);
const REFUSED_AT_LEAST: Duration = Duration::from_secs(30);

/// Writes statuses.
pub struct StatusWriter {
    /// Where to write.
    pub api: ServiceApi,
    /// Where the outcome is noted before the watch tells of it.
    pub store: Arc<ServiceStore>,
    /// Where it is noted what is in place.
    pub ledger: Arc<Ledger>,
    /// What readiness looks at.
    pub health: Arc<Health>,
    /// Whom to tell.
    pub notifier: Notifier,
}

/// What became of a write.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// The status shows no more an address that it showed, or that was granted before: the
    /// allocator, which keeps that from others, has to be asked once more.
    pub gave_up: bool,
}

/// Whether a grant leaves out what the Service may show.
fn gives_up(view: &View<'_>, desired: &Desired) -> bool {
    let granted = desired.addresses.as_ref();
    granted.is_some_and(|granted| {
        let may_show = view.may_show();
        may_show.iter().any(|before| !granted.contains(before))
    })
}

impl StatusWriter {
    /// Makes the status say what it should, and tells people what is new. On
    /// failure, or when there is more to do at once, says when to look again.
    pub async fn write(&self, view: &View<'_>, desired: &Desired) -> Result<Written, Requeue> {
        let View { key, service, .. } = view;
        let Some(mut body) = status::patch(service, desired, Timestamp::now()) else {
            self.in_place(view, desired);
            let gave_up = gives_up(view, desired);
            return Ok(Written { gave_up });
        };
        let mut list_first = false;
        if status::changes_addresses(&body) {
            self.may_write_list(view, desired).await?;
            // The condition must not say what the list does not show. Where the list did
            // not get there the last time, it has to be seen there first.
            list_first = view.known.is_some_and(Record::is_hindered);
        }
        if list_first {
            status::without_condition(&mut body);
        }
        let updated = match self.api.patch_status(key, &body).await {
            Ok(updated) => updated,
            Err(error) => return Err(self.failed(view, &error).await),
        };
        self.health.status_written();
        let stored = match &desired.addresses {
            Some(addresses) if list_first => status::shows(&updated, addresses),
            Some(_) | None => status::patch(&updated, desired, Timestamp::now()).is_none(),
        };
        if !stored {
            return Err(self.altered(view, updated, desired).await);
        }
        let written = self.written(view, desired, updated);
        if list_first {
            Err(Requeue::Again)
        } else {
            Ok(written)
        }
    }

    /// Whether the address list is ours to write. What somebody else wrote there is
    /// written over where the Service names our class or had its addresses from us: a
    /// few times, in case that was a person.
    async fn may_write_list(&self, view: &View<'_>, desired: &Desired) -> Result<(), Requeue> {
        let Some(addresses) = &desired.addresses else {
            return Ok(());
        };
        let other = status::other_owners(view.service);
        let published = view.published();
        let wrote = !published.is_empty() || status::says_satisfied(view.service);
        if let Some(manager) = &other
            && !wrote
            && !self.store.rule().names_us(view.service)
        {
            return Err(self.yields(view, &written_by(manager)).await);
        }
        let restores =
            published == addresses || (published.is_empty() && self.ledger.is_contested(view.key));
        if other.is_none() && !restores {
            return Ok(());
        }
        let manager = other.as_deref().unwrap_or("unknown");
        if let Err(rest) = self.ledger.puts_back(view.key) {
            let message = format!(
                "{}; lb-watcher put its own back 3 times in 10 minutes, and leaves them as they \
                 are for now",
                written_by(manager)
            );
            let next = self.yields(view, &message).await;
            return Err(match next {
                Requeue::After(_) => Requeue::After(rest),
                Requeue::Done | Requeue::Again | Requeue::Retry | Requeue::RetryAfter(_) => next,
            });
        }
        info!(
            manager,
            "addresses that another controller wrote are written over"
        );
        Ok(())
    }

    /// Another controller writes the address list: it stays as it is.
    pub async fn yields(&self, view: &View<'_>, message: &str) -> Requeue {
        self.ledger.unpublished(view.key);
        let denial = Denial::new(Reason::StatusConflict, message);
        self.hindered(view, view.service, Obstacle::Conflict, &denial)
            .await
    }

    fn written(&self, view: &View<'_>, desired: &Desired, updated: Service) -> Written {
        let shown = status::shown(&updated);
        let gave_up =
            gives_up(view, desired) || view.shown.iter().any(|before| !shown.contains(before));
        self.store.written(updated);
        for transition in status::transitions(view.service, desired, view.published()) {
            self.notifier
                .transition(view.service, &transition, view.has_address());
        }
        self.in_place(view, desired);
        Written { gave_up }
    }

    fn in_place(&self, view: &View<'_>, desired: &Desired) {
        self.ledger.in_place(view.key);
        if let Some(addresses) = &desired.addresses {
            self.ledger.published(view.key, addresses);
        } else if desired.withdrawn {
            self.ledger.unpublished(view.key);
        }
    }

    /// Takes back all we ever wrote.
    pub async fn withdraw(&self, key: &Key, service: &Service) -> Result<(), Requeue> {
        let body = status::withdrawal(service);
        let result = self.api.patch_status(key, &body).await;
        let updated = result.map_err(|error| next(&error))?;
        self.store.written(updated);
        Ok(())
    }

    async fn failed(&self, view: &View<'_>, error: &ApiError) -> Requeue {
        let (by, reason) = match error {
            ApiError::Gone | ApiError::Outdated | ApiError::Unavailable { .. } => {
                return next(error);
            }
            ApiError::Rejected(_) => (Obstacle::Rejected, Reason::StatusRejected),
            ApiError::Forbidden(_) => {
                self.health.status_forbidden(error.to_string());
                (Obstacle::Forbidden, Reason::StatusForbidden)
            }
        };
        let denial = Denial::new(reason, format_args!("status patch failed: {error}"));
        self.hindered(view, view.service, by, &denial).await
    }

    /// The API server took the write, and stored something else.
    async fn altered(&self, view: &View<'_>, updated: Service, desired: &Desired) -> Requeue {
        let what = match &desired.addresses {
            Some(addresses) if !status::shows(&updated, addresses) => {
                let stored = match status::shown(&updated).as_slice() {
                    [] => "nothing".to_owned(),
                    shown => join(shown),
                };
                let wrote = join(addresses);
                format!("lb-watcher wrote {wrote} to status.loadBalancer, and {stored} was stored")
            }
            Some(_) | None => "lb-watcher wrote its condition, and it was not stored".to_owned(),
        };
        self.store.written(updated.clone());
        let message = format!("{what}: a mutating admission policy or webhook changes it");
        let denial = Denial::new(Reason::StatusRejected, message);
        self.hindered(view, &updated, Obstacle::Altered, &denial)
            .await
    }

    /// The status cannot say what it should. That is told once, and the condition says
    /// it, where that can be written. `service` is as it is stored.
    async fn hindered(
        &self,
        view: &View<'_>,
        service: &Service,
        by: Obstacle,
        denial: &Denial,
    ) -> Requeue {
        let desired = Desired::refused(denial);
        let now = Timestamp::now();
        let pending = status::shown(service).is_empty();
        let ledger = &self.ledger;
        if ledger.hindered(view.key, &view.uid, by, now.as_second(), pending) {
            match by {
                Obstacle::Forbidden => error!("{}", denial.message),
                Obstacle::Conflict | Obstacle::Rejected | Obstacle::Altered => {
                    warn!("{}", denial.message);
                }
            }
            for transition in status::transitions(service, &desired, &[]) {
                self.notifier
                    .transition(service, &transition, view.has_address());
            }
        }
        let rest = Requeue::After(rest());
        let body = status::patch(service, &desired, now).filter(|_| by != Obstacle::Forbidden);
        let Some(body) = body else {
            return rest;
        };
        match self.api.patch_status(view.key, &body).await {
            Ok(updated) => {
                self.store.written(updated);
                rest
            }
            Err(error @ (ApiError::Rejected(_) | ApiError::Forbidden(_))) => {
                debug!("nor does the condition say so: {error}");
                rest
            }
            Err(error @ (ApiError::Gone | ApiError::Outdated | ApiError::Unavailable { .. })) => {
                next(&error)
            }
        }
    }
}

fn rest() -> Duration {
    REFUSED.build().next().unwrap_or(REFUSED_AT_LEAST)
}

fn written_by(manager: &str) -> String {
    format!("another controller writes status.loadBalancer: {manager}")
}

fn next(error: &ApiError) -> Requeue {
    match error {
        ApiError::Gone => {
            debug!("the Service changed or went meanwhile");
            Requeue::Done
        }
        // The watch tells of the change, or is about to.
        ApiError::Outdated => {
            debug!("the Service changed meanwhile");
            Requeue::Retry
        }
        ApiError::Rejected(_) | ApiError::Forbidden(_) => {
            warn!("status patch failed: {error}");
            Requeue::After(rest())
        }
        ApiError::Unavailable { retry_after, .. } => {
            warn!("status patch failed: the API server does not answer: {error}");
            retry_after.map_or(Requeue::Retry, Requeue::RetryAfter)
        }
    }
}
