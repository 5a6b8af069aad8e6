//! What of a Service is more than the contract takes. Pure.

use std::collections::BTreeMap;

use kube::ResourceExt;

use crate::{
    denial::{Denial, Reason},
    kube::service::Service,
    request::Labels,
};

/// As many ports as the contract takes.
const PORTS: usize = 10_000;
/// As many labels as the contract takes.
const LABELS: usize = 1000;
/// A message has at most 256 KiB; this much of it is for what a Service says.
const BYTES: usize = 200 * 1024;
/// A port in a message.
const PORT_BYTES: usize = 8;
/// Around each label in a message.
const LABEL_BYTES: usize = 12;

/// A field, how many entries it has, how many it may have, and how many bytes they take.
type Field = (&'static str, usize, usize, usize);

/// Refuses a Service that cannot be told to the allocator as a whole, and names the field.
pub fn check(service: &Service, namespace_labels: &Labels) -> Result<(), Denial> {
    let spec = service.spec.as_ref();
    let ports = spec
        .and_then(|spec| spec.ports.as_ref())
        .map_or(0, Vec::len);
    let selector = spec.and_then(|spec| spec.selector.as_ref());
    let selector = selector.map_or((0, 0), measure);
    let labels = measure(service.labels());
    let of_namespace = measure(namespace_labels);
    let fields: [Field; 4] = [
        ("spec.ports", ports, PORTS, ports * PORT_BYTES),
        ("spec.selector", selector.0, LABELS, selector.1),
        ("metadata.labels", labels.0, LABELS, labels.1),
        (
            "metadata.labels of its namespace",
            of_namespace.0,
            LABELS,
            of_namespace.1,
        ),
    ];
    if let Some((name, count, limit, _)) = fields.iter().find(|(_, count, limit, _)| count > limit)
    {
        return Err(refuse(format!(
            "{name} has {count} entries, and lb-allocator takes at most {limit}"
        )));
    }
    let total: usize = fields.iter().map(|(.., bytes)| bytes).sum();
    match fields.iter().max_by_key(|(.., bytes)| *bytes) {
        Some((name, _, _, bytes)) if total > BYTES => Err(refuse(format!(
            "{name} has {} KiB, and lb-allocator takes at most {} KiB of ports, selector and labels",
            bytes / 1024,
            BYTES / 1024
        ))),
        Some(_) | None => Ok(()),
    }
}

fn measure(labels: &BTreeMap<String, String>) -> (usize, usize) {
    let bytes = labels
        .iter()
        .map(|(name, value)| name.len() + value.len() + LABEL_BYTES);
    (labels.len(), bytes.sum())
}

fn refuse(message: String) -> Denial {
    Denial::new(Reason::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refused(metadata: Value, spec: Value) -> Option<String> {
        let service = json!({"metadata": metadata, "spec": spec});
        let service = serde_json::from_value(service).unwrap();
        let denial = check(&service, &Labels::default()).err()?;
        assert_eq!(denial.reason, "INVALID_REQUEST");
        Some(denial.message)
    }

    fn ports(count: usize) -> Value {
        (0..count).map(|port| json!({"port": port + 1})).collect()
    }

    fn labels(count: usize, length: usize) -> Value {
        let label = |number| (format!("{number:0length$}"), json!("x"));
        Value::Object((0..count).map(label).collect())
    }

    #[test]
    fn the_field_that_is_too_large_is_named_with_the_limit() {
        assert_eq!(refused(json!({}), json!({"ports": ports(1001)})), None);
        assert_eq!(refused(json!({}), json!({"ports": ports(PORTS)})), None);
        for (metadata, spec, words) in [
            (
                json!({}),
                json!({"ports": ports(PORTS + 1)}),
                "spec.ports has 10001 entries, and lb-allocator takes at most 10000",
            ),
            (
                json!({"labels": labels(1001, 4)}),
                json!({}),
                "metadata.labels has 1001 entries, and lb-allocator takes at most 1000",
            ),
            (
                json!({}),
                json!({"selector": labels(1001, 4)}),
                "spec.selector has 1001 entries, and lb-allocator takes at most 1000",
            ),
            (
                json!({"labels": labels(800, 300)}),
                json!({"ports": ports(10)}),
                "metadata.labels has 244 KiB, and lb-allocator takes at most 200 KiB of ports, \
              selector and labels",
            ),
        ] {
            let words = format!("{words}; correct the Service");
            assert_eq!(refused(metadata, spec), Some(words));
        }
    }
}
