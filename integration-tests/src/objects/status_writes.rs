//! Counts requests by the API server's audit log, which also shows what changed
//! nothing and therefore left no trace in the object.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

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

/// The audit log from where it ended when this was made. It is read on, not again: a test
/// binary shares it, and it grows to many megabytes.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    namespace: String,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// After the last whole line.
    offset: u64,
    /// Of Services, the oldest first.
    writes: Vec<Write>,
}

impl AuditLog {
    /// Of a namespace that was not there before.
    #[must_use]
    pub fn of_new(namespace: &str, path: PathBuf) -> Self {
        // Without a file, nothing was written yet.
        let offset = fs::metadata(&path).map_or(0, |file| file.len());
        let writes = Vec::new();
        Self {
            path,
            namespace: namespace.to_owned(),
            seen: Mutex::new(Seen { offset, writes }),
        }
    }

    /// Requests for the Services of the namespace, the oldest first.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn writes(&self) -> Result<Vec<Write>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self
            .read_from(seen.offset)
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n');
        let whole = bytes.get(..whole.map_or(0, |end| end + 1));
        let whole = whole.unwrap_or_default();
        for line in String::from_utf8_lossy(whole).lines() {
            if line.contains(&self.namespace) {
                let entry = serde_json::from_str(line)?;
                seen.writes.extend(self.write(&entry));
            }
        }
        seen.offset += whole.len() as u64;
        Ok(seen.writes.clone())
    }

    fn read_from(&self, offset: u64) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&self, entry: &Value) -> Option<Write> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &entry["objectRef"];
        let is_mine = object["namespace"] == *self.namespace && object["resource"] == "services";
        is_mine.then(|| Write {
            name: text(&object["name"]),
            verb: text(&entry["verb"]),
            uri: text(&entry["requestURI"]),
            code: entry["responseStatus"]["code"].as_u64().unwrap_or_default(),
        })
    }
}
