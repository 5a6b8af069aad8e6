//! What came back to an abuser, counted.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

/// What was sent in words, and what came back: how often what.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Account {
    pub sent: String,
    pub came_back: BTreeMap<String, u64>,
}

/// Outcomes that many tasks count.
#[derive(Clone, Debug, Default)]
pub struct Outcomes(Arc<Mutex<BTreeMap<String, u64>>>);

impl Outcomes {
    pub async fn count(&self, outcome: impl Into<String>) {
        *self.0.lock().await.entry(outcome.into()).or_default() += 1;
    }

    pub async fn account(&self, sent: String) -> Account {
        Account {
            sent,
            came_back: self.0.lock().await.clone(),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.came_back.iter();
        let all = all.map(|(outcome, count)| format!("{count} × {outcome}"));
        f.write_str(&all.collect::<Vec<_>>().join("\n"))
    }
}
