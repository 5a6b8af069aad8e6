//! From our errors to gRPC's. Every status that we make is made here.

use std::{collections::HashMap, error::Error};

use lb_proto::v1::StatusAction;
use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::pb::{self, ErrorInfo};

use super::{MAX_MESSAGE, instructions::Cause};
use crate::{
    auth::{Caller, Denied, Rpc, Target},
    denials::name_and_role,
    engine::{ClusterName, InvalidName, PoolName, Refusal, Timestamp},
    streams::TooMany,
    writer::WriteError,
};

type Metadata = HashMap<String, String>;

const ERROR_INFO_TYPE: &str = "type.googleapis.com/google.rpc.ErrorInfo";

fn status(code: Code, message: String, cause: Cause<'_>, metadata: Metadata) -> Status {
    with_action(code, message, cause, metadata, StatusAction::Keep)
}

fn with_action(
    code: Code,
    message: String,
    cause: Cause<'_>,
    metadata: Metadata,
    action: StatusAction,
) -> Status {
    let words = match metadata.get("command") {
        Some(command) => format!("{message}: {command}"),
        None => message.clone(),
    };
    let instructions = cause.instructions(&words, action);
    let info = ErrorInfo {
        reason: cause.reason().to_owned(),
        domain: lb_proto::ERROR_DOMAIN.to_owned(),
        metadata,
    };
    let any = |type_url: &str, value: Vec<u8>| Any {
        type_url: type_url.to_owned(),
        value,
    };
    let details = pb::Status {
        code: code.into(),
        message: message.clone(),
        details: vec![
            any(ERROR_INFO_TYPE, info.encode_to_vec()),
            any(lb_proto::INSTRUCTIONS_TYPE, instructions.encode_to_vec()),
        ],
    };
    Status::with_details(code, message, details.encode_to_vec().into())
}

/// A field that is missing, malformed or over its limit.
pub fn invalid(field: &str, message: impl std::fmt::Display) -> Status {
    let metadata = Metadata::from([("field".to_owned(), field.to_owned())]);
    let message = format!("{field}: {message}");
    status(
        Code::InvalidArgument,
        message,
        Cause::InvalidRequest,
        metadata,
    )
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
        Cause::ConflictingRequest,
        metadata,
    )
}

pub fn not_found(message: String) -> Status {
    status(
        Code::NotFound,
        message,
        Cause::AllocationNotFound,
        Metadata::new(),
    )
}

pub fn overloaded() -> Status {
    let message = "too many requests in flight; retry with back-off".to_owned();
    status(
        Code::ResourceExhausted,
        message,
        Cause::Overloaded,
        Metadata::new(),
    )
}

pub fn planning_overloaded() -> Status {
    let message = "another configuration is being planned; retry with back-off".to_owned();
    let metadata = Metadata::new();
    status(
        Code::ResourceExhausted,
        message,
        Cause::Overloaded,
        metadata,
    )
}

/// The caller's deadline has passed, or what the allocator allows.
pub fn deadline_exceeded() -> Status {
    Status::deadline_exceeded(
        "the deadline has passed; a change may or may not have been made, and asking again is safe",
    )
}

pub fn too_many_streams(_: TooMany) -> Status {
    let message = "too many Watch streams are open; close some, or retry with back-off".to_owned();
    let metadata = Metadata::new();
    status(
        Code::ResourceExhausted,
        message,
        Cause::Overloaded,
        metadata,
    )
}

/// A message of the caller that is larger than any may be.
pub fn too_large() -> Status {
    let message = format!("a message is larger than {MAX_MESSAGE} bytes");
    let metadata = Metadata::new();
    status(
        Code::ResourceExhausted,
        message,
        Cause::InvalidRequest,
        metadata,
    )
}

/// A stream whose reader let its buffer fill up.
pub fn slow_consumer() -> Status {
    let message = "this stream was read too slowly; open another one".to_owned();
    let metadata = Metadata::new();
    status(
        Code::ResourceExhausted,
        message,
        Cause::SlowConsumer,
        metadata,
    )
}

pub fn shutting_down() -> Status {
    let message = "the allocator is shutting down; retry with back-off".to_owned();
    status(
        Code::Unavailable,
        message,
        Cause::ShuttingDown,
        Metadata::new(),
    )
}

/// A fault of ours: the log has the cause, the caller a fixed text.
pub fn internal(error: &(dyn Error + 'static)) -> Status {
    tracing::error!(error, "an RPC failed");
    fixed_internal()
}

fn fixed_internal() -> Status {
    Status::internal("internal error; the allocator's log has the cause")
}

#[derive(Debug, thiserror::Error)]
#[error("the engine answered another command than the one it was asked")]
struct WrongReply;

pub fn wrong_reply() -> Status {
    internal(&WrongReply)
}

pub fn not_written(error: WriteError) -> Status {
    match error {
        WriteError::Overloaded => overloaded(),
        WriteError::ShuttingDown => shutting_down(),
        WriteError::StoreUnavailable => status(
            Code::Unavailable,
            "the allocator's database cannot be written; the change may or may not have been made; \
             retry with back-off"
                .to_owned(),
            Cause::StoreUnavailable,
            Metadata::new(),
        ),
        // The writer has logged it.
        WriteError::Forbidden => fixed_internal(),
    }
}

/// A caller that may not do this.
pub fn denied(caller: &Caller, rpc: Rpc, target: Target<'_>, denied: &Denied) -> Status {
    let (name, role) = name_and_role(caller);
    let cluster = match target {
        Target::Cluster(cluster) => cluster.as_str(),
        Target::Unread | Target::Everything => "",
    };
    let pairs = [
        ("caller", name),
        ("role", role),
        ("method", rpc.name()),
        ("cluster", cluster),
        ("why", denied.why()),
    ];
    let told = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    let metadata = told.map(|(key, value)| (key.to_owned(), value.to_owned()));
    status(
        Code::PermissionDenied,
        denied.to_string(),
        Cause::PermissionDenied,
        metadata.collect(),
    )
}

/// A pools file that would be refused.
pub fn invalid_configuration(message: String) -> Status {
    status(
        Code::InvalidArgument,
        message,
        Cause::InvalidConfiguration,
        Metadata::new(),
    )
}

/// For a watcher. `last_heard` is of the cluster that has the name, where another one does;
/// `is_its_own` is as in [`Cause::action`].
pub fn refused_caller(
    refusal: &Refusal,
    last_heard: Option<Timestamp>,
    is_its_own: bool,
) -> Status {
    let is_about_identity = matches!(
        refusal,
        Refusal::ClusterNameInUse { .. } | Refusal::ClusterHasOtherName { .. }
    );
    let heard = last_heard.filter(|_| is_about_identity);
    let heard = heard.map(|at| ("last_heard".to_owned(), at.to_string()));
    refused_with(refusal, heard, is_its_own)
}

pub fn refused(refusal: &Refusal) -> Status {
    refused_with(refusal, None, true)
}

fn refused_with(refusal: &Refusal, more: Option<(String, String)>, is_its_own: bool) -> Status {
    let code = match refusal {
        Refusal::PoolExhausted { .. }
        | Refusal::PoolCoolingDown { .. }
        | Refusal::QuotaExceeded { .. } => Code::ResourceExhausted,
        Refusal::NoPool { .. }
        | Refusal::PoolNotFound { .. }
        | Refusal::PoolNotAllowed { .. }
        | Refusal::PoolDisabled { .. }
        | Refusal::AddressInUse { .. }
        | Refusal::AddressReserved { .. }
        | Refusal::AddressShown { .. }
        | Refusal::AddressNotInPool { .. }
        | Refusal::AddressExcluded { .. }
        | Refusal::SharingPortClash { .. }
        | Refusal::SharingKeyMismatch { .. }
        | Refusal::SharingNotPermitted { .. }
        | Refusal::AddressConflict { .. }
        | Refusal::ClusterNameInUse { .. }
        | Refusal::ClusterHasOtherName { .. } => Code::FailedPrecondition,
        Refusal::NotTheHolder { .. } | Refusal::NoConflict { .. } | Refusal::NoCluster { .. } => {
            Code::NotFound
        }
        Refusal::AwaitingSync { .. } => Code::Unavailable,
        Refusal::ClusterDecommissioned { .. } => Code::PermissionDenied,
    };
    let cause = Cause::Engine(refusal);
    with_action(
        code,
        refusal.to_string(),
        cause,
        metadata(refusal).into_iter().chain(more).collect(),
        cause.action(is_its_own),
    )
}

/// What lets a person, or a program, act on a refusal.
pub fn metadata(refusal: &Refusal) -> Metadata {
    let list = |pools: &[PoolName]| {
        let names: Vec<_> = pools.iter().map(PoolName::as_str).collect();
        names.join(",")
    };
    let pairs: Vec<(&str, String)> = match refusal {
        Refusal::PoolExhausted { pools, family } => {
            vec![("pools", list(pools)), ("family", family.to_string())]
        }
        Refusal::PoolCoolingDown {
            pools,
            family,
            until,
        } => vec![
            ("pools", list(pools)),
            ("family", family.to_string()),
            ("until", until.to_string()),
        ],
        Refusal::QuotaExceeded { pool, reached } => vec![
            ("pool", pool.to_string()),
            ("quota", reached.scope.key().to_owned()),
            ("limit", reached.limit.to_string()),
            ("used", reached.used.to_string()),
        ],
        Refusal::NoPool { namespace, family } => vec![
            ("namespace", namespace.to_string()),
            ("family", family.to_string()),
        ],
        Refusal::PoolNotFound { pool } | Refusal::PoolDisabled { pool } => {
            vec![("pool", pool.to_string())]
        }
        Refusal::PoolNotAllowed { pool, namespace } => vec![
            ("pool", pool.to_string()),
            ("namespace", namespace.to_string()),
        ],
        Refusal::AddressInUse {
            address,
            pool,
            holder,
        }
        | Refusal::AddressShown {
            address,
            pool,
            by: holder,
        } => {
            let mut pairs = vec![("address", address.to_string()), ("pool", pool.to_string())];
            pairs.extend(holder.as_ref().map(|holder| ("holder", holder.to_string())));
            pairs
        }
        Refusal::AddressNotInPool { address, pool } => {
            let mut pairs = vec![("address", address.to_string())];
            pairs.extend(pool.as_ref().map(|pool| ("pool", pool.to_string())));
            pairs
        }
        Refusal::AddressReserved { address, pool } | Refusal::AddressExcluded { address, pool } => {
            vec![("address", address.to_string()), ("pool", pool.to_string())]
        }
        Refusal::SharingPortClash {
            address,
            port,
            holder,
        } => vec![
            ("address", address.to_string()),
            ("port", port.to_string()),
            ("holder", holder.to_string()),
        ],
        Refusal::SharingKeyMismatch { address } | Refusal::SharingNotPermitted { address } => {
            vec![("address", address.to_string())]
        }
        Refusal::AddressConflict {
            address,
            holder,
            is_held: _,
        } => {
            let mut pairs = vec![("address", address.to_string())];
            pairs.extend(holder.as_ref().map(|holder| ("holder", holder.to_string())));
            pairs
        }
        Refusal::NotTheHolder { address, key } | Refusal::NoConflict { address, key } => vec![
            ("address", address.to_string()),
            ("service", key.to_string()),
        ],
        Refusal::AwaitingSync { clusters, until } => {
            let names: Vec<_> = clusters.iter().map(ClusterName::as_str).collect();
            let mut pairs = vec![("clusters", names.join(","))];
            pairs.extend(until.map(|until| ("until", until.to_string())));
            pairs
        }
        Refusal::ClusterNameInUse {
            cluster,
            uid,
            owner,
        } => vec![
            ("cluster", cluster.to_string()),
            ("since", owner.since.to_string()),
            (
                "command",
                format!(
                    "grpcurl -d '{{\"cluster\":\"{cluster}\",\"cluster_uid\":\"{uid}\"}}' ALLOCATOR \
                     lballocator.v1.AdminService/ReplaceCluster"
                ),
            ),
        ],
        Refusal::ClusterHasOtherName {
            cluster: _,
            known_as,
            owner,
        } => vec![
            ("cluster", known_as.to_string()),
            ("since", owner.since.to_string()),
            (
                "command",
                format!(
                    "grpcurl -d '{{\"cluster\":\"{known_as}\"}}' ALLOCATOR \
                     lballocator.v1.AdminService/DecommissionCluster"
                ),
            ),
        ],
        Refusal::ClusterDecommissioned { cluster } | Refusal::NoCluster { cluster } => {
            vec![("cluster", cluster.to_string())]
        }
    };
    let owned = pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value));
    owned.collect()
}
