//! What the engine decides, row by row, and what a database gives back.

use std::{net::IpAddr, sync::Arc};

use super::{
    address::Family,
    clusters::ClusterRecord,
    key::{PoolName, ServiceKey, Uid},
    labels::Labels,
    sharing::Terms,
};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub fn after(self, duration: std::time::Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }

    pub fn before(self, duration: std::time::Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(millis))
    }
}

/// As RFC 3339 writes it.
impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(timestamp) => timestamp.fmt(f),
            Err(_) => write!(f, "{} ms after 1970", self.0),
        }
    }
}

/// The number of the last committed change; it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl Revision {
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What is known of the Service behind a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    pub uid: Option<Uid>,
    /// When the Service of `uid` was created.
    pub created: Option<Timestamp>,
    /// For people who read the routes table.
    pub cluster_ip: Option<IpAddr>,
    /// What selectors of pools look at; `None` where there are no labels.
    pub labels: Option<Arc<Labels>>,
    /// `None`: the Service shares with nobody.
    pub sharing: Option<Arc<Terms>>,
    pub transition: Transition,
}

/// Which Service came before this one, and when this one goes. Few have either, so
/// all others pay one pointer for both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transition(Option<Box<Ends>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ends {
    replaced_uid: Option<Uid>,
    release_at: Option<Timestamp>,
}

impl Transition {
    pub fn new(replaced_uid: Option<Uid>, release_at: Option<Timestamp>) -> Self {
        let is_any = replaced_uid.is_some() || release_at.is_some();
        Self(is_any.then(|| {
            Box::new(Ends {
                replaced_uid,
                release_at,
            })
        }))
    }

    /// The uid that the holder's took over from. A request that still names it comes
    /// from somebody who has not seen the new Service yet.
    pub fn replaced_uid(&self) -> Option<&Uid> {
        self.0.as_ref()?.replaced_uid.as_ref()
    }

    /// Its cluster does not have the Service any more: when the address is taken
    /// back, unless the Service is seen again.
    pub fn release_at(&self) -> Option<Timestamp> {
        self.0.as_ref()?.release_at
    }

    #[must_use]
    pub fn with_release_at(&self, release_at: Option<Timestamp>) -> Self {
        Self::new(self.replaced_uid().cloned(), release_at)
    }
}

/// An address that a Service holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    pub address: IpAddr,
    pub pool: PoolName,
    pub key: Arc<ServiceKey>,
    pub holder: Holder,
    pub since: Timestamp,
    pub revision: Revision,
}

impl Allocation {
    pub const fn family(&self) -> Family {
        Family::of(self.address)
    }
}

/// An address that is kept from everybody, or from all but one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub address: IpAddr,
    /// `None`: nobody gets it, as the router's own.
    pub key: Option<Arc<ServiceKey>>,
    pub expires: Option<Timestamp>,
    pub comment: String,
    /// A handover: who holds the address until it lets go, so that `key` gets it.
    pub from: Option<Arc<ServiceKey>>,
}

/// What it brings a Service that it shows an address which it does not hold; see
/// `engine/shown.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictKind {
    /// Others hold the address, or it is kept for them: a backup was restored, say. The
    /// Service keeps working on it, and gets it when they are gone.
    Claimed,
    /// The Service gave the address up, or a hand wrote it into its status.
    Shown,
    /// As `Claimed`, but its cluster or namespace keeps so many others from addresses already
    /// that this one is kept from nobody.
    BeyondQuota,
}

/// A live Service whose status shows an address that it does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub address: IpAddr,
    /// The Service that shows the address without holding it.
    pub key: Arc<ServiceKey>,
    /// As it will be known when it gets the address.
    pub holder: Holder,
    pub since: Timestamp,
    pub kind: ConflictKind,
}

impl Conflict {
    /// Whether others do not get the address for it.
    pub const fn keeps_away(&self) -> bool {
        match self.kind {
            ConflictKind::Claimed | ConflictKind::Shown => true,
            ConflictKind::BeyondQuota => false,
        }
    }

    /// Whether the Service is to keep working on the address.
    pub const fn is_claim(&self) -> bool {
        match self.kind {
            ConflictKind::Claimed | ConflictKind::BeyondQuota => true,
            ConflictKind::Shown => false,
        }
    }

    /// Its cluster does not have the Service any more: when the conflict ends.
    pub fn release_at(&self) -> Option<Timestamp> {
        self.holder.transition.release_at()
    }
}

/// What happened to an address, or to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Allocated(Arc<Allocation>),
    /// As it was until now.
    Released(Arc<Allocation>),
    /// What is known of the holder changed; as it is from now on.
    Updated(Arc<Allocation>),
    /// A reservation was made or replaced.
    Reserved(Arc<Reservation>),
    /// A reservation ended; as it was until now.
    Unreserved(Arc<Reservation>),
    /// A Service shows an address that it does not hold; as that is from now on.
    Conflicted(Arc<Conflict>),
    /// It does not any more, or got the address.
    ConflictEnded(Arc<Conflict>),
    /// What is known of a cluster from now on.
    Cluster(Arc<ClusterRecord>),
    /// A database that knew nothing gives addresses from now on.
    Opened,
}

impl ChangeKind {
    /// As metrics and history call it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Allocated(_) => "allocated",
            Self::Released(_) => "released",
            Self::Updated(_) => "updated",
            Self::Reserved(_) => "reserved",
            Self::Unreserved(_) => "unreserved",
            Self::Conflicted(_) => "conflicted",
            Self::ConflictEnded(_) => "conflict_ended",
            Self::Cluster(_) => "cluster",
            Self::Opened => "opened",
        }
    }

    /// The address that somebody left, or that is kept for somebody no more.
    pub fn opened_up(&self) -> Option<IpAddr> {
        if let Self::Released(left) = self {
            Some(left.address)
        } else if let Self::Unreserved(left) = self {
            Some(left.address)
        } else if let Self::ConflictEnded(left) = self {
            Some(left.address)
        } else {
            None
        }
    }
}

/// One row of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub revision: Revision,
    pub at: Timestamp,
    pub kind: ChangeKind,
}

impl Change {
    /// Whether it is about a cluster rather than an address.
    pub const fn is_of_a_cluster(&self) -> bool {
        matches!(self.kind, ChangeKind::Cluster(_))
    }

    /// What was given, if this change gave something.
    pub const fn allocated(&self) -> Option<&Arc<Allocation>> {
        if let ChangeKind::Allocated(allocation) = &self.kind {
            Some(allocation)
        } else {
            None
        }
    }
}

/// An address that nobody holds, and who held it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastHeld {
    pub address: IpAddr,
    pub key: Arc<ServiceKey>,
    pub released_at: Timestamp,
}

/// Everything that a database holds of the engine's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub revision: Revision,
    /// When the last change was made.
    pub last_change_at: Timestamp,
    pub allocations: Vec<Arc<Allocation>>,
    pub last_held: Vec<LastHeld>,
    pub reservations: Vec<Arc<Reservation>>,
    pub conflicts: Vec<Arc<Conflict>>,
    pub clusters: Vec<Arc<ClusterRecord>>,
    /// Nothing but what Services showed was ever given: it may take the place of a
    /// database that was lost.
    pub is_new: bool,
}
