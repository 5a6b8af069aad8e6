//! The write of one Service's status, and what comes of its being refused.

use std::sync::Arc;

use k8s_openapi::{api::core::v1::Service, jiff::Timestamp};
use tracing::{debug, info, warn};

use crate::{
    key::Key,
    ledger::Ledger,
    news::News,
    queue::Next,
    reason::{Reason, Refusal},
    service_api::{ApiError, ServiceApi},
    service_store::ServiceStore,
    status::{self, Desired},
    view::View,
};

/// Writes statuses.
pub struct StatusWriter {
    /// Where to write.
    pub api: ServiceApi,
    /// Where the outcome is noted before the watch tells of it.
    pub store: Arc<ServiceStore>,
    /// Where it is noted what is in place.
    pub ledger: Arc<Ledger>,
    /// Whom to tell.
    pub news: News,
}

/// What became of a write.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// The status shows no more an address that it showed: the allocator, which keeps
    /// that from others, has to be asked once more.
    pub gave_up: bool,
}

impl StatusWriter {
    /// Makes the status say what it should, and tells people what is new. On
    /// failure, or when there is more to do at once, says when to look again.
    pub async fn write(&self, view: &View<'_>, desired: &Desired) -> Result<Written, Next> {
        let View { key, service, .. } = view;
        let Some(body) = status::patch(service, desired, Timestamp::now()) else {
            self.published(view, desired);
            return Ok(Written { gave_up: false });
        };
        if status::changes_addresses(&body)
            && let Some(manager) = status::other_owners(service)
        {
            if !self.may_force(view) {
                return Err(self.yield_to(view, &manager).await);
            }
            info!(manager, "status written over");
        }
        match self.api.patch_status(key, &body).await {
            Ok(updated) => self.written(view, desired, updated),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Ours beyond doubt is a Service that names our class. Else we put back what we
    /// wrote, some times, in case a person edited it.
    fn may_force(&self, view: &View<'_>) -> bool {
        let wrote = !view.published().is_empty() || status::says_satisfied(view.service);
        self.store.rule().names_us(view.service) || (wrote && self.ledger.may_force(view.key))
    }

    /// Another controller writes the address list: it stays as it is.
    async fn yield_to(&self, view: &View<'_>, manager: &str) -> Next {
        self.ledger.unpublished(view.key);
        let refusal = Refusal::new(
            Reason::StatusConflict,
            format_args!("another controller writes status.loadBalancer: {manager}"),
        );
        let desired = Desired::refused(&refusal);
        if let Some(body) = status::patch(view.service, &desired, Timestamp::now()) {
            match self.api.patch_status(view.key, &body).await {
                Ok(updated) => {
                    if let Err(next) = self.written(view, &desired, updated) {
                        return next;
                    }
                }
                Err(error) => return failed(&error),
            }
        }
        Next::Retry
    }

    /// The object that comes back takes the place of the event that is to come, and
    /// of any before it: an edit that it brings along has to be looked at.
    fn written(
        &self,
        view: &View<'_>,
        desired: &Desired,
        mut updated: Service,
    ) -> Result<Written, Next> {
        status::trim(&mut updated);
        let edited = status::asks_otherwise(view.service, &updated);
        let shown = status::shown(&updated);
        let gave_up = view.shown.iter().any(|before| !shown.contains(before));
        if gave_up {
            self.ledger.expire(view.key);
        }
        self.store.written(updated);
        for transition in status::transitions(view.service, desired, view.published()) {
            self.news
                .transition(view.service, &transition, view.has_address());
        }
        self.published(view, desired);
        if edited {
            return Err(Next::Again);
        }
        Ok(Written { gave_up })
    }

    fn published(&self, view: &View<'_>, desired: &Desired) {
        if let Some(addresses) = &desired.addresses {
            self.ledger.published(view.key, addresses);
        } else if desired.withdrawn {
            self.ledger.unpublished(view.key);
        }
    }

    /// Takes back all we ever wrote.
    pub async fn withdraw(&self, key: &Key, service: &Service) -> Result<(), Next> {
        let body = status::withdrawal(service);
        let result = self.api.patch_status(key, &body).await;
        let mut updated = result.map_err(|error| failed(&error))?;
        status::trim(&mut updated);
        self.store.written(updated);
        Ok(())
    }
}

fn failed(error: &ApiError) -> Next {
    match error {
        ApiError::Gone => {
            debug!("the Service changed or went meanwhile");
            Next::Done
        }
        // The watch tells of the change, or is about to.
        ApiError::Outdated => {
            debug!("the Service changed meanwhile");
            Next::Retry
        }
        ApiError::Invalid(_) => {
            warn!("not written, and not tried again before the Service changes: {error}");
            Next::Done
        }
        ApiError::Unavailable(_) => {
            warn!("not written: {error}");
            Next::Retry
        }
    }
}
