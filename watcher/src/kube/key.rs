//! Which Service: the key of the queue, the store and the ledger.

use std::fmt;

use kube::ResourceExt;
use lb_proto::v1;

use crate::kube::service::Service;

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Key {
    /// The key of an object that the API server sent.
    pub fn of(service: &Service) -> Self {
        Self {
            namespace: service.namespace().unwrap_or_default(),
            name: service.name_any(),
        }
    }
}

/// Of a Service of this cluster.
impl From<v1::ServiceKey> for Key {
    fn from(service: v1::ServiceKey) -> Self {
        Self {
            namespace: service.namespace,
            name: service.name,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
