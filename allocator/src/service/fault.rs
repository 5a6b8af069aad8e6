//! From our errors to gRPC's. Every status that we make is made here.

use std::{collections::HashMap, error::Error};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    engine::{InvalidName, Refusal},
    writer::WriteError,
};

type Metadata = HashMap<String, String>;

fn status(code: Code, message: String, reason: &str, metadata: Metadata) -> Status {
    let details = ErrorDetails::with_error_info(reason, lb_proto::ERROR_DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

/// A field that is missing, malformed or over its limit.
pub fn invalid(field: &str, message: impl std::fmt::Display) -> Status {
    let metadata = Metadata::from([("field".to_owned(), field.to_owned())]);
    let message = format!("{field}: {message}");
    status(Code::InvalidArgument, message, "INVALID_REQUEST", metadata)
}

pub fn invalid_name(field: &str) -> impl FnOnce(InvalidName) -> Status + '_ {
    move |error| invalid(field, error)
}

/// Parts of a wish that contradict each other.
pub fn conflicting(field: &str, message: impl std::fmt::Display) -> Status {
    let metadata = Metadata::from([("field".to_owned(), field.to_owned())]);
    let message = format!("{field}: {message}");
    status(
        Code::InvalidArgument,
        message,
        "CONFLICTING_REQUEST",
        metadata,
    )
}

pub fn not_found(message: String) -> Status {
    status(
        Code::NotFound,
        message,
        "ALLOCATION_NOT_FOUND",
        Metadata::new(),
    )
}

pub fn overloaded() -> Status {
    let message = "too many requests in flight; retry with back-off".to_owned();
    status(
        Code::ResourceExhausted,
        message,
        "OVERLOADED",
        Metadata::new(),
    )
}

pub fn shutting_down() -> Status {
    let message = "the allocator is shutting down; retry with back-off".to_owned();
    status(Code::Unavailable, message, "SHUTTING_DOWN", Metadata::new())
}

/// A fault of ours: the log has the cause, the caller a fixed text.
pub fn internal(error: &(dyn Error + 'static)) -> Status {
    tracing::error!(error, "an RPC failed");
    Status::internal("internal error; the allocator's log has the cause")
}

pub fn not_written(error: WriteError) -> Status {
    match error {
        WriteError::Overloaded => overloaded(),
        WriteError::ShuttingDown => shutting_down(),
        WriteError::StoreUnavailable => status(
            Code::Unavailable,
            "the change could not be made durable and was not made; retry with back-off".to_owned(),
            "STORE_UNAVAILABLE",
            Metadata::new(),
        ),
    }
}

pub fn refused(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::PoolExhausted { .. } => Code::ResourceExhausted,
        Refusal::NoPool { .. }
        | Refusal::PoolNotFound { .. }
        | Refusal::PoolNotAllowed { .. }
        | Refusal::AddressInUse { .. }
        | Refusal::AddressNotInPool { .. }
        | Refusal::AddressExcluded { .. } => Code::FailedPrecondition,
    };
    status(
        code,
        refusal.to_string(),
        refusal.reason(),
        metadata(refusal),
    )
}

/// What lets a person, or a program, act on a refusal.
pub fn metadata(refusal: &Refusal) -> Metadata {
    let mut pairs: Vec<(&str, String)> = Vec::new();
    match refusal {
        Refusal::PoolExhausted { pools, family } => {
            let names: Vec<_> = pools.iter().map(|pool| pool.as_str()).collect();
            pairs.push(("pools", names.join(",")));
            pairs.push(("family", family.to_string()));
        }
        Refusal::NoPool { namespace, family } => {
            pairs.push(("namespace", namespace.to_string()));
            pairs.push(("family", family.to_string()));
        }
        Refusal::PoolNotFound { pool } => pairs.push(("pool", pool.to_string())),
        Refusal::PoolNotAllowed { pool, namespace } => {
            pairs.push(("pool", pool.to_string()));
            pairs.push(("namespace", namespace.to_string()));
        }
        Refusal::AddressInUse {
            address,
            pool,
            holder,
        } => {
            pairs.push(("address", address.to_string()));
            pairs.push(("pool", pool.to_string()));
            if let Some(holder) = holder {
                pairs.push(("holder", holder.to_string()));
            }
        }
        Refusal::AddressNotInPool { address, pool } => {
            pairs.push(("address", address.to_string()));
            if let Some(pool) = pool {
                pairs.push(("pool", pool.to_string()));
            }
        }
        Refusal::AddressExcluded { address, pool } => {
            pairs.push(("address", address.to_string()));
            pairs.push(("pool", pool.to_string()));
        }
    }
    let owned = pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value));
    owned.collect()
}
