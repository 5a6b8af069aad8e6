//! What a row says in JSON: labels and terms of sharing of a holder, and when it has to
//! go; the kind of a conflict; comment, expiry and source of a reservation; the state of a
//! cluster, and whose name it is.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::engine::{
    Backend, ClusterName, ClusterRecord, ClusterState, ConflictKind, Holder, Identity, InvalidName,
    LabelMap, Labels, Namespace, Permitted, Port, Protocol, Reservation, Revision, ServiceKey,
    SharingKey, Terms, Timestamp, Transition, Uid,
};

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HolderDetails {
    #[serde(default, skip_serializing_if = "LabelMap::is_empty")]
    service_labels: LabelMap,
    #[serde(default, skip_serializing_if = "LabelMap::is_empty")]
    namespace_labels: LabelMap,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sharing: Option<SharingDetails>,
    /// Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    release_at: Option<i64>,
    /// Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<i64>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct SharingDetails {
    /// Absent: every namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespaces: Option<Vec<String>>,
    ports: Vec<PortDetails>,
    /// Absent: `externalTrafficPolicy: Cluster`.
    #[serde(skip_serializing_if = "Option::is_none")]
    local_selector: Option<LabelMap>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
enum ProtocolDetails {
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
    #[serde(rename = "SCTP")]
    Sctp,
}

#[derive(Debug, Deserialize, Serialize)]
struct PortDetails(ProtocolDetails, u16);

impl HolderDetails {
    /// `None` where there is nothing to say.
    pub fn of(holder: &Holder) -> Option<Self> {
        let Holder {
            labels,
            sharing,
            created,
            transition,
            uid: _,
            cluster_ip: _,
        } = holder;
        let release_at = transition.release_at();
        let is_plain =
            labels.is_none() && sharing.is_none() && release_at.is_none() && created.is_none();
        if is_plain {
            return None;
        }
        let labels = labels.as_deref().cloned().unwrap_or_default();
        Some(Self {
            service_labels: labels.service,
            namespace_labels: labels.namespace,
            sharing: sharing.as_deref().map(SharingDetails::of),
            release_at: release_at.map(|at| at.0),
            created: created.map(|at| at.0),
        })
    }

    /// All of a holder but the other columns of its row, two of which are parts of what
    /// is here: the key of the terms of sharing, and the uid before.
    pub fn into_holder(
        self,
        key: Option<SharingKey>,
        replaced_uid: Option<Uid>,
    ) -> Result<Holder, InvalidName> {
        let labels = Labels {
            service: self.service_labels,
            namespace: self.namespace_labels,
        };
        let labels = (!labels.is_empty()).then(|| Arc::new(labels));
        let sharing = match (key, self.sharing) {
            (Some(key), Some(sharing)) => Some(Arc::new(sharing.into_terms(key)?)),
            (Some(_), None) | (None, _) => None,
        };
        Ok(Holder {
            labels,
            sharing,
            transition: Transition::new(replaced_uid, self.release_at.map(Timestamp)),
            created: self.created.map(Timestamp),
            ..Holder::default()
        })
    }
}

/// What a conflict says beside its holder.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConflictDetails {
    #[serde(flatten, skip_deserializing)]
    holder: HolderDetails,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<KindDetails>,
}

/// Absent: `Claimed`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum KindDetails {
    Shown,
    BeyondQuota,
}

impl ConflictDetails {
    pub fn of(holder: &Holder, kind: ConflictKind) -> Self {
        Self {
            holder: HolderDetails::of(holder).unwrap_or_default(),
            kind: match kind {
                ConflictKind::Claimed => None,
                ConflictKind::Shown => Some(KindDetails::Shown),
                ConflictKind::BeyondQuota => Some(KindDetails::BeyondQuota),
            },
        }
    }

    pub const fn kind(&self) -> ConflictKind {
        match self.kind {
            None => ConflictKind::Claimed,
            Some(KindDetails::Shown) => ConflictKind::Shown,
            Some(KindDetails::BeyondQuota) => ConflictKind::BeyondQuota,
        }
    }
}

impl SharingDetails {
    fn of(terms: &Terms) -> Self {
        let Terms {
            key: _,
            permitted,
            ports,
            backend,
        } = terms;
        let port = |port: &Port| {
            let protocol = match port.protocol {
                Protocol::Tcp => ProtocolDetails::Tcp,
                Protocol::Udp => ProtocolDetails::Udp,
                Protocol::Sctp => ProtocolDetails::Sctp,
            };
            PortDetails(protocol, port.number)
        };
        Self {
            namespaces: match permitted {
                Permitted::All => None,
                Permitted::Only(set) => Some(set.iter().map(ToString::to_string).collect()),
            },
            ports: ports.iter().map(port).collect(),
            local_selector: match backend {
                Backend::Cluster => None,
                Backend::Local(selector) => Some(selector.clone()),
            },
        }
    }

    fn into_terms(self, key: SharingKey) -> Result<Terms, InvalidName> {
        let port = |PortDetails(protocol, number)| Port {
            protocol: match protocol {
                ProtocolDetails::Tcp => Protocol::Tcp,
                ProtocolDetails::Udp => Protocol::Udp,
                ProtocolDetails::Sctp => Protocol::Sctp,
            },
            number,
        };
        let permitted = match self.namespaces {
            None => Permitted::All,
            Some(names) => {
                let parsed = names.iter().map(|name| Namespace::parse(name));
                Permitted::Only(parsed.collect::<Result<BTreeSet<_>, _>>()?)
            }
        };
        Ok(Terms {
            key,
            permitted,
            ports: self.ports.into_iter().map(port).collect(),
            backend: self.local_selector.map_or(Backend::Cluster, Backend::Local),
        })
    }
}

#[derive(Debug, Default, Deserialize, Serialize)]
pub struct ReservationDetails {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<KeyDetails>,
}

#[derive(Debug, Deserialize, Serialize)]
pub struct KeyDetails {
    cluster: String,
    namespace: String,
    name: String,
}

impl KeyDetails {
    pub fn parse(&self) -> Result<Arc<ServiceKey>, InvalidName> {
        let Self {
            cluster,
            namespace,
            name,
        } = self;
        ServiceKey::parse(cluster, namespace, name).map(Arc::new)
    }
}

impl ReservationDetails {
    pub fn of(reservation: &Reservation) -> Self {
        Self {
            expires: reservation.expires.map(|Timestamp(millis)| millis),
            comment: reservation.comment.clone(),
            from: reservation.from.as_ref().map(|from| KeyDetails {
                cluster: from.cluster.to_string(),
                namespace: from.namespace.to_string(),
                name: from.name.to_string(),
            }),
        }
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterDetails {
    #[serde(flatten)]
    state: StateDetails,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<IdentityDetails>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "state", rename_all = "SCREAMING_SNAKE_CASE")]
enum StateDetails {
    Unsynced,
    Awaited,
    Synced,
    Decommissioned {
        /// Milliseconds since 1970; absent: it has been released.
        #[serde(rename = "releaseAt", skip_serializing_if = "Option::is_none")]
        release_at: Option<i64>,
    },
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct IdentityDetails {
    uid: String,
    /// Milliseconds since 1970.
    since: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    took_over_at: Option<i64>,
}

impl ClusterDetails {
    pub fn of(record: &ClusterRecord) -> Self {
        let ClusterRecord {
            name: _,
            state,
            identity,
        } = record;
        Self {
            state: match *state {
                ClusterState::Unsynced => StateDetails::Unsynced,
                ClusterState::Awaited => StateDetails::Awaited,
                ClusterState::Synced => StateDetails::Synced,
                ClusterState::Decommissioned { release_at } => StateDetails::Decommissioned {
                    release_at: release_at.map(|at| at.0),
                },
            },
            identity: identity.as_ref().map(|identity| IdentityDetails {
                uid: identity.uid.to_string(),
                since: identity.since.0,
                took_over_at: identity.took_over_at.map(|revision| revision.0),
            }),
        }
    }

    pub fn into_record(self, name: ClusterName) -> Result<ClusterRecord, InvalidName> {
        let Self { state, identity } = self;
        let identity = identity.map(|identity| {
            Ok(Identity {
                uid: Uid::parse(&identity.uid)?,
                since: Timestamp(identity.since),
                took_over_at: identity.took_over_at.map(Revision),
            })
        });
        Ok(ClusterRecord {
            name,
            state: match state {
                StateDetails::Unsynced => ClusterState::Unsynced,
                StateDetails::Awaited => ClusterState::Awaited,
                StateDetails::Synced => ClusterState::Synced,
                StateDetails::Decommissioned { release_at } => ClusterState::Decommissioned {
                    release_at: release_at.map(Timestamp),
                },
            },
            identity: identity.transpose()?,
        })
    }
}
