//! Strategic merge patch on a Service's status, as far as a watcher can tell it from
//! the real one.

use serde_json::{Value, json};

use super::{
    answer::{Failure, MODIFIED},
    objects::{Key, Objects, WATCHER, shown},
};

impl Objects {
    /// What becomes of the Service, or why not.
    pub fn patch_status(
        &mut self,
        key: &Key,
        manager: &str,
        body: &Value,
        now: &str,
    ) -> Result<Value, Failure> {
        let Some(mut stored) = self.services.get(key).cloned() else {
            return Err(Failure::new(404, "NotFound", "the object does not exist"));
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
            let mut failure = Failure::new(409, "Conflict", MODIFIED);
            failure.kind = "services";
            return Err(failure);
        }
        let list = body["status"]["loadBalancer"].get("ingress");
        let balanced = stored.object["spec"]["type"] == "LoadBalancer";
        if list.is_some_and(|list| !list.is_null()) && !balanced {
            return Err(Failure::new(
                422,
                "Invalid",
                "status.loadBalancer.ingress may only be used when type is LoadBalancer",
            ));
        }
        if let Some(wanted) = list {
            stored.object["status"]["loadBalancer"] = json!({});
            stored.owners.clear();
            if !wanted.is_null() {
                stored.object["status"]["loadBalancer"]["ingress"] = wanted.clone();
                stored.owners.insert(manager.to_owned());
            }
        }
        // There are no conditions but the watcher's.
        match &body["status"]["conditions"] {
            Value::Null => {}
            conditions if conditions[0]["$patch"] == "delete" => {
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
        let stays = !asks && !stored.may_lose && stored.owners.contains(WATCHER);
        stored.promised = stays.then(|| shown(&stored.object));
        Ok(self.update(key, stored))
    }
}
