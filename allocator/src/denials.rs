//! What becomes of a denial: a metric at once; within a second, a line in the log
//! and a row in the database. Equal ones are one line and one row with a count,
//! so that a flood costs a bounded amount of memory, log and disk, and nobody who
//! is served waits for any of it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::{Caller, Denied, Role, Rpc, Target},
    engine::Timestamp,
    metrics::AuthMetrics,
    store::{DenialRow, DenialWriter},
};

const FLUSH: Duration = Duration::from_secs(1);
/// Different denials between two flushes; more of them lose the cluster that they
/// asked for, which is the part that a caller can choose.
const MAX_KINDS: usize = 100;
/// And this many different callers are told apart; the rest is only counted.
const MAX_ALL: usize = 1_000;
const MANY_CLUSTERS: &str = "(many)";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    caller: String,
    role: &'static str,
    method: &'static str,
    cluster: String,
    why: &'static str,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Timestamp,
    last: Timestamp,
    count: i64,
}

/// Takes denials; a clone adds to the same ones.
#[derive(Clone, Debug)]
pub struct Denials {
    kinds: Arc<Mutex<HashMap<Kind, Seen>>>,
    metrics: AuthMetrics,
}

impl Denials {
    pub fn new(metrics: AuthMetrics) -> Self {
        Self {
            kinds: Arc::default(),
            metrics,
        }
    }

    pub fn note(
        &self,
        caller: &Caller,
        rpc: Rpc,
        target: Target<'_>,
        denied: &Denied,
        at: Timestamp,
    ) {
        let (name, role) = name_and_role(caller);
        let (method, why) = (rpc.name(), denied.why());
        self.metrics.denied(method, role, why);
        let mut kind = Kind {
            caller: name.to_owned(),
            role,
            method,
            cluster: match target {
                Target::Cluster(cluster) => cluster.to_string(),
                Target::Unread | Target::Everything => String::new(),
            },
            why,
        };
        let mut kinds = self.kinds.lock();
        if kinds.len() >= MAX_KINDS && !kinds.contains_key(&kind) {
            MANY_CLUSTERS.clone_into(&mut kind.cluster);
            if kinds.len() >= MAX_ALL && !kinds.contains_key(&kind) {
                return;
            }
        }
        let seen = kinds.entry(kind).or_insert(Seen {
            first: at,
            last: at,
            count: 0,
        });
        seen.last = seen.last.max(at);
        seen.count += 1;
    }

    /// Writes down what was noted, until told to stop, and then what is left.
    pub async fn keep(self, writer: DenialWriter, stop: CancellationToken) {
        let mut flush = interval(FLUSH);
        flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unwritten = false;
        loop {
            let stopped = tokio::select! {
                _ = flush.tick() => false,
                () = stop.cancelled() => true,
            };
            let rows = self.take();
            if !rows.is_empty() {
                for row in &rows {
                    tell(row);
                }
                match writer.record(&rows).await {
                    Ok(()) => unwritten = false,
                    Err(error) if unwritten => drop(error),
                    Err(error) => {
                        unwritten = true;
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "cannot record denials in the database; this log has them"
                        );
                    }
                }
            }
            if stopped {
                return;
            }
        }
    }

    fn take(&self) -> Vec<DenialRow> {
        let kinds = std::mem::take(&mut *self.kinds.lock());
        let rows = kinds.into_iter().map(|(kind, seen)| DenialRow {
            id: 0,
            first_at: seen.first.0,
            last_at: seen.last.0,
            count: seen.count,
            caller: kind.caller,
            role: kind.role.to_owned(),
            method: kind.method.to_owned(),
            cluster: kind.cluster,
            why: kind.why.to_owned(),
        });
        rows.collect()
    }
}

fn tell(row: &DenialRow) {
    let DenialRow {
        count,
        caller,
        role,
        method,
        cluster,
        why,
        ..
    } = row;
    tracing::warn!(caller, role, method, cluster, why, count, "denied");
}

/// The caller and its role, as logs and ListDenials show them.
pub fn name_and_role(caller: &Caller) -> (&str, &'static str) {
    match caller {
        Caller::Trusted => ("", "trusted"),
        Caller::Unknown => ("", ""),
        Caller::Certified(certificate) => {
            let role = certificate.role.as_ref().map_or("", Role::name);
            (&certificate.name, role)
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::engine::ClusterName;

    #[test]
    fn a_flood_is_a_bounded_number_of_rows_and_loses_no_count() {
        let denials = Denials::new(AuthMetrics::register(&mut Registry::default()));
        for number in 0..50_000 {
            let asked = ClusterName::parse(&format!("c{number}")).unwrap();
            let denied = Denied::NoCertificate;
            let target = Target::Cluster(&asked);
            denials.note(
                &Caller::Unknown,
                Rpc::Acquire,
                target,
                &denied,
                Timestamp(number),
            );
        }
        let rows = denials.take();
        assert_eq!(rows.len(), MAX_KINDS + 1);
        assert_eq!(rows.iter().map(|row| row.count).sum::<i64>(), 50_000);
        let many = rows
            .iter()
            .find(|row| row.cluster == MANY_CLUSTERS)
            .unwrap();
        assert_eq!((many.first_at, many.last_at), (100, 49_999));
        assert!(denials.take().is_empty());
    }
}
