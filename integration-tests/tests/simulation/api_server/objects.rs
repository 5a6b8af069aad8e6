//! What the API server stores: Services with an account of who wrote their status,
//! namespaces, and the log of changes that watches are fed from.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde_json::{Value, json};

/// Namespace and name.
pub type Key = (String, String);

/// The manager of everything that the watchers write.
pub const WATCHER: &str = "lb-watcher";
/// The manager of what MetalLB writes.
pub const METALLB: &str = "controller";

/// Kinds that can be listed and watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Service,
    Namespace,
}

/// A Service.
#[derive(Clone, Debug)]
pub struct Stored {
    pub object: Value,
    /// Field managers of `status.loadBalancer.ingress`.
    pub owners: BTreeSet<String>,
    /// What a watcher last wrote, as long as nobody asked for anything else: it is
    /// to stay.
    pub promised: Option<BTreeSet<IpAddr>>,
    /// An administrator may take what it has: nothing is promised any more.
    pub may_lose: bool,
}

/// One change.
#[derive(Clone, Debug)]
pub struct Change {
    pub version: u64,
    pub kind: Kind,
    pub verb: &'static str,
    pub object: Value,
}

#[derive(Debug, Default)]
pub struct Objects {
    pub version: u64,
    pub services: BTreeMap<Key, Stored>,
    pub namespaces: BTreeMap<String, Value>,
    pub log: Vec<Change>,
    /// Versions before this one are forgotten.
    pub compacted: u64,
    uids: u64,
}

/// The addresses in a Service's status.
pub fn shown(service: &Value) -> BTreeSet<IpAddr> {
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
    let entries = ingress.into_iter().flatten();
    entries
        .filter_map(|entry| entry["ip"].as_str()?.parse().ok())
        .collect()
}

impl Objects {
    /// A change is made: everybody who watches will hear of it.
    fn log(&mut self, kind: Kind, verb: &'static str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.log.push(Change {
            version: self.version,
            kind,
            verb,
            object: object.clone(),
        });
        object
    }

    pub fn create_namespace(&mut self, name: &str, uid: &str) {
        let labels = json!({"kubernetes.io/metadata.name": name});
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "uid": uid, "labels": labels},
        });
        let object = self.log(Kind::Namespace, "ADDED", object);
        self.namespaces.insert(name.to_owned(), object);
    }

    /// Creates a Service with what is given of it, and returns its uid.
    pub fn create(
        &mut self,
        key: &Key,
        cluster: &str,
        now: &str,
        annotations: Value,
        spec: Value,
    ) -> String {
        self.uids += 1;
        let uid = format!("{cluster}-{}", self.uids);
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "namespace": key.0, "name": key.1, "uid": uid, "annotations": annotations,
                "creationTimestamp": now,
            },
            "spec": spec,
            "status": {"loadBalancer": {}},
        });
        let object = self.log(Kind::Service, "ADDED", object);
        let stored = Stored {
            object,
            owners: BTreeSet::new(),
            promised: None,
            may_lose: false,
        };
        self.services.insert(key.clone(), stored);
        uid
    }

    pub fn delete(&mut self, key: &Key) {
        if let Some(stored) = self.services.remove(key) {
            self.log(Kind::Service, "DELETED", stored.object);
        }
    }

    /// Stores what became of a Service, if it became anything.
    pub fn update(&mut self, key: &Key, mut stored: Stored) -> Value {
        account(&mut stored);
        let before = self.services.get(key).map(|before| &before.object);
        if before != Some(&stored.object) {
            stored.object = self.log(Kind::Service, "MODIFIED", stored.object);
        }
        let object = stored.object.clone();
        self.services.insert(key.clone(), stored);
        object
    }

    /// What a user edits, other than the status. Nothing is promised any more.
    pub fn edit(&mut self, key: &Key, edit: impl FnOnce(&mut Value)) {
        let Some(mut stored) = self.services.get(key).cloned() else {
            return;
        };
        edit(&mut stored.object);
        stored.promised = None;
        if stored.object["spec"]["type"] != "LoadBalancer" {
            stored.object["status"]["loadBalancer"] = json!({});
            stored.owners.clear();
        }
        self.update(key, stored);
    }

    /// Somebody empties the address list by hand.
    pub fn clear_status(&mut self, key: &Key) {
        self.write_status(key, None);
    }

    /// Somebody else than a watcher writes the address list, or empties it.
    pub fn write_status(&mut self, key: &Key, written: Option<(&str, &[IpAddr])>) {
        let Some(mut stored) = self.services.get(key).cloned() else {
            return;
        };
        stored.object["status"]["loadBalancer"] = json!({});
        stored.owners.clear();
        stored.promised = None;
        if let Some((manager, addresses)) = written {
            let list: Vec<_> = addresses.iter().map(|it| json!({"ip": it})).collect();
            stored.object["status"]["loadBalancer"]["ingress"] = json!(list);
            stored.owners.insert(manager.to_owned());
        }
        self.update(key, stored);
    }
}

/// `metadata.managedFields`, as far as the watcher looks at it.
fn account(stored: &mut Stored) {
    let owners = stored.owners.iter();
    let entries: Vec<Value> = owners
        .map(|manager| {
            json!({
                "manager": manager, "operation": "Update", "apiVersion": "v1",
                "fieldsType": "FieldsV1", "subresource": "status",
                "fieldsV1": {"f:status": {"f:loadBalancer": {"f:ingress": {}}}},
            })
        })
        .collect();
    stored.object["metadata"]["managedFields"] = json!(entries);
}
