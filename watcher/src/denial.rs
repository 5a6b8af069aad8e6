//! Why a Service gets nothing, or not all that it asks for, and what is done about it. The
//! allocator says both in its [`Instructions`], and that is copied; the few reasons that
//! only this program can know are here.

use std::{borrow::Cow, fmt};

use lb_proto::v1::{self, Instructions, StatusAction};
use prost::Message;
use tonic::{Code, Status};
use tonic_types::pb;

/// When to ask again. An edit of the Service is always a reason to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Soon, with back-off.
    Soon,
    /// When the allocator says so; after some minutes in any case.
    OnNotice,
    /// Only after an edit of the Service.
    AfterEdit,
    /// After some minutes: a person has to look.
    Seldom,
}

impl From<v1::Retry> for Retry {
    fn from(retry: v1::Retry) -> Self {
        match retry {
            v1::Retry::Unspecified | v1::Retry::Soon => Self::Soon,
            v1::Retry::OnNotice => Self::OnNotice,
            v1::Retry::AfterEdit => Self::AfterEdit,
            v1::Retry::Seldom => Self::Seldom,
        }
    }
}

/// The reasons that are found here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The allocator does not answer, or not usefully.
    AllocatorUnavailable,
    /// Something refuses what the watcher tells or asks, and gives no reason of the contract.
    PermissionDenied,
    /// What the Service asks for cannot be read.
    InvalidRequest,
    /// What the Service asks for contradicts itself.
    ConflictingRequest,
    /// Another controller writes `status.loadBalancer` of the Service.
    StatusConflict,
    /// What is written to the Service's status is refused, or not stored.
    StatusRejected,
    /// The watcher may not write the Service's status.
    StatusForbidden,
}

impl Reason {
    /// As it is written in the condition, when to ask again, and what happens next or what a
    /// person can do.
    const fn row(self) -> (&'static str, Retry, &'static str) {
        match self {
            Self::AllocatorUnavailable => (
                "ALLOCATOR_UNAVAILABLE",
                Retry::Soon,
                "it is served when the allocator answers; nothing needs to be done to the Service",
            ),
            Self::PermissionDenied => (
                "PERMISSION_DENIED",
                Retry::Seldom,
                "check the cluster name and the credentials of lb-watcher",
            ),
            Self::InvalidRequest => ("INVALID_REQUEST", Retry::AfterEdit, "correct the Service"),
            Self::ConflictingRequest => (
                "CONFLICTING_REQUEST",
                Retry::AfterEdit,
                "remove one of the two",
            ),
            Self::StatusConflict => (
                "STATUS_CONFLICT",
                Retry::Soon,
                "let only one load balancer implementation serve it, for instance by \
                 spec.loadBalancerClass",
            ),
            Self::StatusRejected => (
                "STATUS_REJECTED",
                Retry::Soon,
                "let the policy or webhook accept what lb-watcher writes to services/status; it \
                 tries again within a minute",
            ),
            Self::StatusForbidden => (
                "STATUS_FORBIDDEN",
                Retry::Soon,
                "give the account of lb-watcher the verb patch on services/status; it tries \
                 again within a minute",
            ),
        }
    }

    /// As it is written in the condition.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }
}

/// Why a Service gets nothing, or not all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Machine readable.
    pub reason: Cow<'static, str>,
    /// For people: what happened, why, and what happens next or what to do.
    pub message: String,
    /// When to ask again.
    pub retry: Retry,
    /// It may be over in a moment, and says less than a reason that stands already.
    pub transient: bool,
    /// The addresses that were written are to go.
    pub takes_off: bool,
}

impl Denial {
    /// For a reason that was found here.
    pub fn new(reason: Reason, what: impl fmt::Display) -> Self {
        let (text, retry, advice) = reason.row();
        Self {
            reason: text.into(),
            message: format!("{what}; {advice}"),
            retry,
            transient: reason == Reason::AllocatorUnavailable,
            takes_off: false,
        }
    }

    /// The allocator does not answer, as far as can be told: `why`.
    pub fn no_answer(why: impl fmt::Display) -> Self {
        let what = format_args!("the allocator does not answer: {why}");
        Self::new(Reason::AllocatorUnavailable, what)
    }

    /// As the allocator says. Its reason has to be a word, for the condition.
    fn copied(told: Instructions) -> Option<Self> {
        let (retry, action) = (told.retry().into(), told.action());
        is_reason(&told.reason).then(|| Self {
            reason: told.reason.into(),
            message: told.message,
            retry,
            transient: told.transient,
            takes_off: action == StatusAction::TakeOff,
        })
    }
}

impl From<&Status> for Denial {
    fn from(status: &Status) -> Self {
        if let Some(denial) = instructions(status).and_then(Self::copied) {
            return denial;
        }
        // This is the transport or a proxy speaking, not the allocator.
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => Self::new(
                Reason::PermissionDenied,
                format_args!("the allocator refuses lb-watcher: {}", status.message()),
            ),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::InvalidArgument
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => Self::no_answer(cause(status)),
        }
    }
}

fn instructions(status: &Status) -> Option<Instructions> {
    let details = pb::Status::decode(status.details()).ok()?.details;
    let told = details
        .iter()
        .find(|detail| detail.type_url == lb_proto::INSTRUCTIONS_TYPE)?;
    Instructions::decode(&*told.value).ok()
}

/// The transport says what failed, and further down why.
fn cause(status: &Status) -> String {
    let first = std::error::Error::source(status);
    let root = std::iter::successors(first, |error| error.source()).last();
    match root.map(ToString::to_string) {
        Some(root) if root != status.message() => format!("{}: {root}", status.message()),
        Some(_) | None => status.message().to_owned(),
    }
}

/// The condition's reason has to be a word.
pub fn is_reason(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use prost_types::Any;

    use super::*;

    fn status(code: Code, type_url: &str, told: &Instructions) -> Status {
        let details = pb::Status {
            details: vec![Any {
                type_url: type_url.to_owned(),
                value: told.encode_to_vec(),
            }],
            ..pb::Status::default()
        };
        Status::with_details(code, "for people", details.encode_to_vec().into())
    }

    fn invented() -> Instructions {
        Instructions {
            action: StatusAction::TakeOff.into(),
            reason: "OF_TOMORROW".into(),
            message: "something new; do that".into(),
            retry: v1::Retry::OnNotice.into(),
            transient: true,
            ..Instructions::default()
        }
    }

    #[test]
    fn a_reason_that_only_a_newer_allocator_knows_is_copied_with_all_that_follows_from_it() {
        for code in [Code::FailedPrecondition, Code::Unavailable, Code::NotFound] {
            let denial = Denial::from(&status(code, lb_proto::INSTRUCTIONS_TYPE, &invented()));
            let expected = Denial {
                reason: "OF_TOMORROW".into(),
                message: "something new; do that".into(),
                retry: Retry::OnNotice,
                transient: true,
                takes_off: true,
            };
            assert_eq!(denial, expected, "{code:?}");
        }
    }

    #[test]
    fn without_instructions_the_allocator_counts_as_away() {
        let unreadable = Instructions {
            reason: "not a word".into(),
            ..invented()
        };
        for status in [
            Status::unavailable("connection refused"),
            Status::unknown("transport error"),
            Status::internal("h2"),
            Status::resource_exhausted("message too large"),
            status(Code::FailedPrecondition, "example.org/other", &invented()),
            status(
                Code::FailedPrecondition,
                lb_proto::INSTRUCTIONS_TYPE,
                &unreadable,
            ),
        ] {
            let denial = Denial::from(&status);
            assert_eq!(denial.reason, "ALLOCATOR_UNAVAILABLE", "{status}");
            assert_eq!((denial.retry, denial.takes_off), (Retry::Soon, false));
        }
        let denial = Denial::from(&Status::unimplemented("no Watch"));
        assert_eq!(denial.reason, "PERMISSION_DENIED");
        assert_eq!(denial.retry, Retry::Seldom);
    }
}
