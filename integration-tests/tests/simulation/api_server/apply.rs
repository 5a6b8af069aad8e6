//! Server-side apply on a Service's status, as far as a watcher can tell it from
//! the real one.

use serde_json::{Value, json};

use super::{
    answer::{Failure, MODIFIED},
    objects::{Key, Objects, shown},
};

impl Objects {
    /// What becomes of the Service, or why not.
    pub fn apply_status(
        &mut self,
        key: &Key,
        manager: &str,
        force: bool,
        body: &Value,
        now: &str,
    ) -> Result<Value, Failure> {
        let Some(mut stored) = self.services.get(key).cloned() else {
            return Err(Failure::new(409, "Conflict", "the object does not exist"));
        };
        if body["metadata"]["uid"] != stored.object["metadata"]["uid"] {
            let mut failure = Failure::new(422, "Invalid", "the uid is immutable");
            failure.causes = vec![json!({
                "reason": "FieldValueInvalid", "message": "field is immutable",
                "field": "metadata.uid",
            })];
            return Err(failure);
        }
        let version = &body["metadata"]["resourceVersion"];
        if !version.is_null() && *version != stored.object["metadata"]["resourceVersion"] {
            return Err(Failure::new(409, "Conflict", MODIFIED));
        }
        let wanted = &body["status"]["loadBalancer"]["ingress"];
        let balanced = stored.object["spec"]["type"] == "LoadBalancer";
        if !wanted.is_null() && !balanced {
            return Err(Failure::new(
                422,
                "Invalid",
                "status.loadBalancer.ingress may only be used when type is LoadBalancer",
            ));
        }
        let current = &stored.object["status"]["loadBalancer"]["ingress"];
        let others: Vec<_> = stored.owners.iter().filter(|o| *o != manager).collect();
        if wanted.is_null() {
            if stored.owners.remove(manager) && stored.owners.is_empty() {
                stored.object["status"]["loadBalancer"] = json!({});
            }
        } else if wanted == current {
            stored.owners.insert(manager.to_owned());
        } else if !others.is_empty() && !force {
            let mut failure = Failure::new(409, "Conflict", "Apply failed with 1 conflict");
            failure.causes = vec![json!({
                "reason": "FieldManagerConflict",
                "message": format!("conflict with {:?}", others[0]),
                "field": ".status.loadBalancer.ingress",
            })];
            return Err(failure);
        } else {
            stored.object["status"]["loadBalancer"] = json!({"ingress": wanted});
            stored.owners.clear();
            stored.owners.insert(manager.to_owned());
        }
        // There are no conditions but the watcher's.
        match &body["status"]["conditions"] {
            Value::Null => {
                stored.object["status"]
                    .as_object_mut()
                    .unwrap()
                    .remove("conditions");
            }
            conditions => {
                let mut conditions = conditions.clone();
                let time = &mut conditions[0]["lastTransitionTime"];
                if *time != stored.object["status"]["conditions"][0]["lastTransitionTime"] {
                    // The watcher's clock is the machine's, which no seed replays.
                    *time = json!(now);
                }
                stored.object["status"]["conditions"] = conditions;
            }
        }
        // One that asks for an address or a pool may get another when it can.
        let annotations = &stored.object["metadata"]["annotations"];
        let asks = annotations
            .as_object()
            .is_some_and(|asked| !asked.is_empty());
        stored.promised = Some(shown(&stored.object)).filter(|_| !asks);
        Ok(self.update(key, stored))
    }
}
