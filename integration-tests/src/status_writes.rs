//! Counts requests by the API server's audit log, which also shows what changed
//! nothing and therefore left no trace in the object.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

/// One answered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// `metadata.name` of the object; empty on a create with a generated name.
    pub name: String,
    /// `create`, `update` or `patch`.
    pub verb: String,
    /// The path and the query, with the field manager.
    pub uri: String,
    /// The HTTP status of the answer.
    pub code: u64,
}

impl Write {
    /// Whether it came from this field manager.
    #[must_use]
    pub fn is_by(&self, manager: &str) -> bool {
        self.uri
            .split(['?', '&'])
            .any(|part| part == format!("fieldManager={manager}"))
    }
}

/// Requests of the namespace for the resource, the oldest first.
///
/// # Errors
/// When the log cannot be read.
pub fn writes(audit_log: &Path, namespace: &str, resource: &str) -> Result<Vec<Write>> {
    let log = fs::read_to_string(audit_log)
        .with_context(|| format!("cannot read {}", audit_log.display()))?;
    let wanted = |entry: &Value| {
        entry["objectRef"]["namespace"] == namespace && entry["objectRef"]["resource"] == resource
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(log
        .lines()
        .filter(|line| line.contains(namespace))
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(wanted)
        .map(|entry: Value| Write {
            name: text(&entry["objectRef"]["name"]),
            verb: text(&entry["verb"]),
            uri: text(&entry["requestURI"]),
            code: entry["responseStatus"]["code"].as_u64().unwrap_or_default(),
        })
        .collect())
}
