//! Why a wish was not granted, and what the watcher does about it.

use std::{borrow::Cow, fmt};

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// What to do with a Service that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Ask again when the allocator says that an address was freed.
    WaitForFreed,
    /// Ask again when the allocator says that its pools were changed.
    WaitForPools,
    /// Ask again after either.
    WaitForEither,
    /// Ask again when the Service is edited.
    WaitForEdit,
    /// Ask again soon, with back-off: nothing is wrong with the wish.
    RetrySoon,
    /// Only a person can mend it: ask seldom, and say so loudly.
    RetrySeldom,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal => $remedy:ident, $advice:literal;)*) => {
        /// The machine readable reasons, as in `google.rpc.ErrorInfo`, in the
        /// condition and in Events.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$variant,)*];

            /// As it is written in `ErrorInfo` and in the condition.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The reason of that name.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)* _ => None }
            }

            /// What the watcher does.
            pub fn remedy(self) -> Remedy {
                match self { $(Self::$variant => Remedy::$remedy,)* }
            }

            /// What happens next, or what a person can do.
            pub fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

reasons! {
    /// Every address it may have is held.
    PoolExhausted = "POOL_EXHAUSTED" => WaitForFreed,
        "it is served as soon as an address is free";
    /// Free addresses there are, but they cool down.
    PoolCoolingDown = "POOL_COOLING_DOWN" => WaitForFreed,
        "it is served when the time is over";
    /// The namespace or cluster holds as many as it may.
    QuotaExceeded = "QUOTA_EXCEEDED" => WaitForFreed,
        "it is served when another Service gives an address back";
    /// No pool serves it.
    NoPool = "NO_POOL" => WaitForPools,
        "it is served when a pool serves it";
    /// The pool it names does not exist.
    PoolNotFound = "POOL_NOT_FOUND" => WaitForPools,
        "correct the annotation, or add the pool to lb-allocator";
    /// The pool it names does not serve it.
    PoolNotAllowed = "POOL_NOT_ALLOWED" => WaitForPools,
        "name another pool or address, or let the pool serve this namespace";
    /// The pool it names is switched off.
    PoolDisabled = "POOL_DISABLED" => WaitForPools,
        "name another pool, or enable this one";
    /// Another Service holds the address it asked for.
    AddressInUse = "ADDRESS_IN_USE" => WaitForEither,
        "it is granted as soon as it is free; or ask for another one";
    /// The address it asked for is in no pool.
    AddressNotInPool = "ADDRESS_NOT_IN_POOL" => WaitForEither,
        "ask for an address of a pool, or add this one to a pool";
    /// The pool excludes the address it asked for.
    AddressExcluded = "ADDRESS_EXCLUDED" => WaitForEither,
        "ask for another address";
    /// It may not share for its ports.
    SharingPortClash = "SHARING_PORT_CLASH" => WaitForEither,
        "use another port or another sharing key";
    /// It may not share for its key.
    SharingKeyMismatch = "SHARING_KEY_MISMATCH" => WaitForEither,
        "use the same sharing key on both Services";
    /// It may not share for its namespace.
    SharingNotPermitted = "SHARING_NOT_PERMITTED" => WaitForEither,
        "share within one cluster, let both Services name the other's namespace, and use the same \
         externalTrafficPolicy and selector";
    /// Others hold the address that it shows.
    AddressConflict = "ADDRESS_CONFLICT" => WaitForEither,
        "both keep working; decide with lb-allocator's ResolveConflict, or delete one of the two";
    /// The wish cannot be read.
    InvalidRequest = "INVALID_REQUEST" => WaitForEdit,
        "correct the Service";
    /// The wish contradicts itself.
    ConflictingRequest = "CONFLICTING_REQUEST" => WaitForEdit,
        "remove one of the two";
    /// The allocator does not serve this watcher.
    PermissionDenied = "PERMISSION_DENIED" => RetrySeldom,
        "check the cluster name and the credentials of lb-watcher";
    /// Another cluster has the name of this one.
    ClusterNameInUse = "CLUSTER_NAME_IN_USE" => RetrySeldom,
        "start lb-watcher of one of the two clusters with another --cluster, or let this one take over";
    /// The allocator knows this cluster by another name.
    ClusterHasOtherName = "CLUSTER_HAS_OTHER_NAME" => RetrySeldom,
        "start lb-watcher with the name that the allocator knows";
    /// The allocator has not heard of all clusters yet.
    AwaitingSync = "AWAITING_SYNC" => RetrySoon,
        "lb-watcher tries again by itself";
    /// The allocator cannot make changes durable.
    StoreUnavailable = "STORE_UNAVAILABLE" => RetrySoon,
        "lb-watcher tries again by itself";
    /// The allocator is going away.
    ShuttingDown = "SHUTTING_DOWN" => RetrySoon,
        "lb-watcher tries again by itself";
    /// The allocator has too much to do.
    Overloaded = "OVERLOADED" => RetrySoon,
        "lb-watcher tries again by itself";
    /// The allocator does not answer, or not usefully.
    AllocatorUnavailable = "ALLOCATOR_UNAVAILABLE" => RetrySoon,
        "it is served when the allocator answers; nothing needs to be done to the Service";
    /// Another controller writes `status.loadBalancer` of the Service.
    StatusConflict = "STATUS_CONFLICT" => RetrySoon,
        "let only one load balancer implementation serve it, for instance by spec.loadBalancerClass";
    /// What is written to the Service's status is refused, or not stored.
    StatusRejected = "STATUS_REJECTED" => RetrySoon,
        "let the policy or webhook accept what lb-watcher writes to services/status; it tries \
         again within a minute";
    /// The watcher may not write the Service's status.
    StatusForbidden = "STATUS_FORBIDDEN" => RetrySoon,
        "give the account of lb-watcher the verb patch on services/status; it tries again within \
         a minute";
}

/// A wish that was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Machine readable; a [`Reason`], or one that a newer allocator knows.
    pub reason: Cow<'static, str>,
    /// What is done about it.
    pub remedy: Remedy,
    /// For people: what and why.
    pub message: String,
    /// For people: what happens next, or what to do. May be empty.
    pub advice: &'static str,
}

impl Refusal {
    /// A refusal for a known reason.
    pub fn new(reason: Reason, message: impl fmt::Display) -> Self {
        Self {
            reason: reason.as_str().into(),
            remedy: reason.remedy(),
            message: message.to_string(),
            advice: reason.advice(),
        }
    }

    /// Whether it may be for the allocator's pools alone, whoever holds what.
    pub fn is_about_pools(&self) -> bool {
        let reason = Reason::parse(&self.reason);
        self.remedy == Remedy::WaitForPools
            || matches!(
                reason,
                Some(Reason::AddressNotInPool | Reason::AddressExcluded)
            )
    }

    /// Whether the allocator takes this cluster for another one, whatever the Service.
    pub fn is_about_the_cluster(&self) -> bool {
        let reason = Reason::parse(&self.reason);
        matches!(
            reason,
            Some(Reason::ClusterNameInUse | Reason::ClusterHasOtherName)
        )
    }

    /// Whether a Service goes on with the address that it shows, though it does not
    /// hold it.
    pub fn keeps_the_address(&self) -> bool {
        Reason::parse(&self.reason) == Some(Reason::AddressConflict)
    }

    /// All that people are told.
    pub fn words(&self) -> String {
        match self.advice {
            "" => self.message.clone(),
            advice => format!("{}; {advice}", self.message),
        }
    }

    /// A refusal for a reason that may be newer than this program.
    pub fn named(reason: &str, code: Code, message: &str) -> Self {
        match Reason::parse(reason) {
            Some(reason) => Self::new(reason, message),
            None => Self {
                reason: reason.to_owned().into(),
                remedy: remedy_of(code),
                message: message.to_owned(),
                advice: "",
            },
        }
    }
}

impl From<&Status> for Refusal {
    fn from(status: &Status) -> Self {
        let told = status
            .get_details_error_info()
            .filter(|info| info.domain == lb_proto::ERROR_DOMAIN && is_reason(&info.reason));
        if let Some(info) = told {
            let message = match info.metadata.get("command") {
                Some(command) => format!("{}: {command}", status.message()),
                None => status.message().to_owned(),
            };
            return Self::named(&info.reason, status.code(), &message);
        }
        match remedy_of(status.code()) {
            Remedy::RetrySeldom => Self::new(
                Reason::PermissionDenied,
                format_args!("the allocator refuses lb-watcher: {}", status.message()),
            ),
            Remedy::WaitForEdit => Self::new(Reason::InvalidRequest, status.message()),
            // Without a reason there is nothing to wait for: this is the
            // transport or a proxy speaking, not the allocator's rules.
            Remedy::RetrySoon
            | Remedy::WaitForFreed
            | Remedy::WaitForPools
            | Remedy::WaitForEither => Self::new(
                Reason::AllocatorUnavailable,
                format_args!("the allocator does not answer: {}", cause(status)),
            ),
        }
    }
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
fn is_reason(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

fn remedy_of(code: Code) -> Remedy {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Remedy::WaitForEdit,
        Code::FailedPrecondition | Code::NotFound | Code::AlreadyExists => Remedy::WaitForEither,
        Code::ResourceExhausted => Remedy::WaitForFreed,
        Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => Remedy::RetrySeldom,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Remedy::RetrySoon,
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn status(code: Code, domain: &str, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, domain, []);
        Status::with_error_details(code, "why", details)
    }

    #[test]
    fn every_reason_reads_back_as_itself() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
            assert!(is_reason(reason.as_str()));
        }
    }

    #[test]
    fn each_reason_leads_to_what_the_specification_says() {
        for (reasons, remedy) in [
            (
                &["POOL_EXHAUSTED", "POOL_COOLING_DOWN", "QUOTA_EXCEEDED"][..],
                Remedy::WaitForFreed,
            ),
            (
                &[
                    "NO_POOL",
                    "POOL_NOT_FOUND",
                    "POOL_NOT_ALLOWED",
                    "POOL_DISABLED",
                ],
                Remedy::WaitForPools,
            ),
            (
                &[
                    "ADDRESS_IN_USE",
                    "ADDRESS_NOT_IN_POOL",
                    "ADDRESS_EXCLUDED",
                    "SHARING_PORT_CLASH",
                    "SHARING_KEY_MISMATCH",
                    "SHARING_NOT_PERMITTED",
                ],
                Remedy::WaitForEither,
            ),
            (
                &["INVALID_REQUEST", "CONFLICTING_REQUEST"],
                Remedy::WaitForEdit,
            ),
            (
                &[
                    "PERMISSION_DENIED",
                    "CLUSTER_NAME_IN_USE",
                    "CLUSTER_HAS_OTHER_NAME",
                ],
                Remedy::RetrySeldom,
            ),
            (
                &[
                    "AWAITING_SYNC",
                    "STORE_UNAVAILABLE",
                    "SHUTTING_DOWN",
                    "OVERLOADED",
                ],
                Remedy::RetrySoon,
            ),
        ] {
            for reason in reasons {
                assert_eq!(
                    Reason::parse(reason).map(Reason::remedy),
                    Some(remedy),
                    "{reason}"
                );
            }
        }
    }

    #[test]
    fn a_refusal_carries_the_allocators_reason_words_and_what_to_do() {
        let refusal = Refusal::from(&status(
            Code::ResourceExhausted,
            lb_proto::ERROR_DOMAIN,
            "POOL_EXHAUSTED",
        ));
        assert_eq!(refusal.reason, "POOL_EXHAUSTED");
        assert_eq!(refusal.remedy, Remedy::WaitForFreed);
        assert!(refusal.words().starts_with("why; it is served"));
    }

    #[test]
    fn a_reason_of_a_newer_allocator_is_treated_by_its_code() {
        let ours = lb_proto::ERROR_DOMAIN;
        for (code, remedy) in [
            (Code::FailedPrecondition, Remedy::WaitForEither),
            (Code::ResourceExhausted, Remedy::WaitForFreed),
            (Code::InvalidArgument, Remedy::WaitForEdit),
            (Code::Unavailable, Remedy::RetrySoon),
            (Code::PermissionDenied, Remedy::RetrySeldom),
        ] {
            let refusal = Refusal::from(&status(code, ours, "OF_TOMORROW"));
            assert_eq!((&*refusal.reason, refusal.remedy), ("OF_TOMORROW", remedy));
        }
    }

    #[test]
    fn without_a_reason_of_ours_the_allocator_counts_as_away() {
        for status in [
            Status::unavailable("connection refused"),
            Status::unknown("transport error"),
            Status::internal("h2"),
            Status::resource_exhausted("message too large"),
            status(
                Code::FailedPrecondition,
                "proxy.example.org",
                "POOL_EXHAUSTED",
            ),
            status(
                Code::FailedPrecondition,
                lb_proto::ERROR_DOMAIN,
                "not a word",
            ),
        ] {
            let refusal = Refusal::from(&status);
            assert_eq!(refusal.reason, "ALLOCATOR_UNAVAILABLE", "{status}");
            assert_eq!(refusal.remedy, Remedy::RetrySoon);
        }
    }
}
