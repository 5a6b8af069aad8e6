//! What a row says in JSON: labels and terms of sharing of a holder, comment and
//! expiry of a reservation.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::engine::{
    Backend, Holder, InvalidName, LabelMap, Labels, Namespace, Permitted, Port, Protocol,
    Reservation, SharingKey, Terms, Timestamp,
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

/// What a holder has besides the columns of its row.
pub type HolderParts = (Option<Arc<Labels>>, Option<Arc<Terms>>);

impl HolderDetails {
    /// `None` where there is nothing to say.
    pub fn of(holder: &Holder) -> Option<Self> {
        let Holder {
            labels, sharing, ..
        } = holder;
        if labels.is_none() && sharing.is_none() {
            return None;
        }
        let labels = labels.as_deref().cloned().unwrap_or_default();
        Some(Self {
            service_labels: labels.service,
            namespace_labels: labels.namespace,
            sharing: sharing.as_deref().map(SharingDetails::of),
        })
    }

    /// The labels and, with its key, the terms of sharing.
    pub fn into_parts(self, key: Option<SharingKey>) -> Result<HolderParts, InvalidName> {
        let labels = Labels {
            service: self.service_labels,
            namespace: self.namespace_labels,
        };
        let labels = (!labels.is_empty()).then(|| Arc::new(labels));
        let sharing = match (key, self.sharing) {
            (Some(key), Some(sharing)) => Some(Arc::new(sharing.into_terms(key)?)),
            (Some(_), None) | (None, _) => None,
        };
        Ok((labels, sharing))
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
}

impl ReservationDetails {
    pub fn of(reservation: &Reservation) -> Self {
        Self {
            expires: reservation.expires.map(|Timestamp(millis)| millis),
            comment: reservation.comment.clone(),
        }
    }
}
