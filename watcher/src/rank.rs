//! Where a Service belongs in the queue.

use k8s_openapi::api::core::v1::Service;

use crate::{
    key::Key, ledger::Ledger, queue::Rank, scope::Scope, service_store::ServiceStore, status,
};

/// Since when a Service is there, seconds since 1970.
pub fn created(service: &Service) -> i64 {
    let created = service.metadata.creation_timestamp.as_ref();
    created.map_or(0, |time| time.0.as_second())
}

/// Where a Service belongs in the queue.
pub fn rank(store: &ServiceStore, ledger: &Ledger, key: &Key) -> Rank {
    match store.get(key) {
        Some(service) if store.rule().scope(&service) == Scope::Ours => {
            let held = ledger
                .get(key)
                .is_some_and(|record| !record.held.is_empty());
            if held || !status::shown(&service).is_empty() {
                Rank::Holder
            } else {
                Rank::Pending(created(&service))
            }
        }
        // It gives back what it has, which others may wait for.
        Some(_) | None => Rank::Holder,
    }
}
