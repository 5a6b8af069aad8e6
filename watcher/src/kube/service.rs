//! A Service as it is read: the fields that are used. All else is skipped while it is
//! parsed; most of an object tells who wrote which of its fields.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::LoadBalancerIngress,
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time},
};
use kube::Resource;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use crate::kube::annotations;

/// The type of our condition.
pub const CONDITION: &str = "lb-allocator.io/AddressAllocated";

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "Object")]
pub struct Service {
    /// Name, namespace, uid, version, times, labels, and the annotations that mean
    /// something here.
    pub metadata: ObjectMeta,
    /// The field managers that wrote `status.loadBalancer.ingress`.
    pub list_owners: Vec<String>,
    /// What it is to be.
    pub spec: Option<ServiceSpec>,
    /// What became of it.
    pub status: Option<ServiceStatus>,
}

/// `spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "they are those of Kubernetes")]
pub struct ServiceSpec {
    #[serde(rename = "type")]
    pub type_: Option<String>,
    pub load_balancer_class: Option<String>,
    #[serde(rename = "loadBalancerIP")]
    pub load_balancer_ip: Option<String>,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Option<Vec<String>>,
    pub ip_families: Option<Vec<String>>,
    pub ip_family_policy: Option<String>,
    pub external_traffic_policy: Option<String>,
    pub ports: Option<Vec<ServicePort>>,
    pub selector: Option<BTreeMap<String, String>>,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "they are those of Kubernetes")]
pub struct ServicePort {
    pub protocol: Option<String>,
    pub port: i32,
}

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// The addresses.
    pub load_balancer: Option<LoadBalancerStatus>,
    /// Ours alone.
    #[serde(default, deserialize_with = "ours")]
    pub conditions: Option<Vec<Condition>>,
}

/// `status.loadBalancer`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct LoadBalancerStatus {
    /// The addresses.
    pub ingress: Option<Vec<LoadBalancerIngress>>,
}

impl Resource for Service {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Service".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "services".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A Service as it is sent.
#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Metadata,
    spec: Option<ServiceSpec>,
    status: Option<ServiceStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<Known>,
    managed_fields: Option<Vec<Managed>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Managed {
    manager: Option<String>,
    fields_v1: Option<Fields>,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "f:status")]
    status: Option<StatusFields>,
}

#[derive(Deserialize)]
struct StatusFields {
    #[serde(rename = "f:loadBalancer")]
    load_balancer: Option<ListFields>,
}

#[derive(Deserialize)]
struct ListFields {
    #[serde(rename = "f:ingress")]
    ingress: Option<IgnoredAny>,
}

impl Managed {
    fn owns_list(&self) -> bool {
        let status = self.fields_v1.as_ref().and_then(|f| f.status.as_ref());
        let list = status.and_then(|status| status.load_balancer.as_ref());
        list.is_some_and(|list| list.ingress.is_some())
    }
}

impl From<Object> for Service {
    fn from(object: Object) -> Self {
        let Object {
            metadata,
            spec,
            status,
        } = object;
        let managed = metadata.managed_fields.unwrap_or_default().into_iter();
        let owners = managed.filter(Managed::owns_list);
        Self {
            list_owners: owners.filter_map(|entry| entry.manager).collect(),
            metadata: ObjectMeta {
                name: metadata.name,
                namespace: metadata.namespace,
                uid: metadata.uid,
                resource_version: metadata.resource_version,
                creation_timestamp: metadata.creation_timestamp,
                deletion_timestamp: metadata.deletion_timestamp,
                labels: metadata.labels,
                annotations: metadata.annotations.map(|known| known.0),
                ..ObjectMeta::default()
            },
            spec,
            status,
        }
    }
}

/// The annotations that mean something here. The others can be long: what was applied last
/// is one of them.
struct Known(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Known {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Known;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Known, A::Error> {
                let mut known = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if annotations::is_known(&name) {
                        known.insert(name, map.next_value()?);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Known(known))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

fn ours<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Condition>>, D::Error> {
    let mut all = Option::<Vec<Condition>>::deserialize(deserializer)?;
    if let Some(conditions) = &mut all {
        conditions.retain(|condition| condition.type_ == CONDITION);
        conditions.shrink_to_fit();
    }
    Ok(all)
}

/// Since when a Service is there, seconds since 1970.
pub fn created(service: &Service) -> i64 {
    let created = service.metadata.creation_timestamp.as_ref();
    created.map_or(0, |time| time.0.as_second())
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_used_of_a_service_is_read_and_the_rest_is_skipped() {
        let owner = |manager: &str, status: serde_json::Value| {
            json!({"manager": manager, "operation": "Update", "fieldsType": "FieldsV1",
                   "fieldsV1": {"f:metadata": {"f:labels": {".": {}}}, "f:status": status}})
        };
        let condition = |type_: &str| {
            json!({"type": type_, "status": "True", "reason": "R", "message": "m",
                   "lastTransitionTime": "2026-01-02T03:04:05Z"})
        };
        let service: Service = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "svc", "namespace": "ns", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"app": "a"},
                "annotations": {
                    "lb-allocator.io/ips": "192.0.2.1", "metallb.io/address-pool": "p",
                    "kubectl.kubernetes.io/last-applied-configuration": "{}"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n", "uid": "o"}],
                "managedFields": [
                    owner("lb-watcher", json!({"f:loadBalancer": {"f:ingress": {}}})),
                    owner("kubectl", json!(null)),
                    owner("cleaner", json!({"f:loadBalancer": {}})),
                    owner("speaker", json!({"f:conditions": {}, "f:loadBalancer": {"f:ingress": {"k": []}}})),
                ],
            },
            "spec": {
                "type": "LoadBalancer", "loadBalancerIP": "192.0.2.1", "clusterIP": "10.0.0.1",
                "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "externalIPs": ["192.0.2.7"],
                "ports": [{"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080}],
            },
            "status": {
                "loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "VIP"}]},
                "conditions": [condition("other"), condition(CONDITION)],
            },
        }))
        .unwrap();
        assert_eq!(service.name_any(), "svc");
        assert_eq!(service.labels()["app"], "a");
        let annotations: Vec<_> = service.annotations().keys().collect();
        assert_eq!(
            annotations,
            ["lb-allocator.io/ips", "metallb.io/address-pool"]
        );
        assert_eq!(service.list_owners, ["lb-watcher", "speaker"]);
        assert!(service.managed_fields().is_empty() && service.owner_references().is_empty());
        let spec = service.spec.unwrap();
        assert_eq!(spec.load_balancer_ip.as_deref(), Some("192.0.2.1"));
        assert_eq!(spec.cluster_ips.unwrap(), [spec.cluster_ip.unwrap()]);
        assert_eq!(spec.ports.unwrap()[0].port, 80);
        let status = service.status.unwrap();
        assert_eq!(status.conditions.unwrap().len(), 1);
        let ingress = status.load_balancer.unwrap().ingress.unwrap();
        assert_eq!(ingress[0].ip.as_deref(), Some("192.0.2.1"));
    }
}
