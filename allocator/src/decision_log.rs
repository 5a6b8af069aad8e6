//! One line for each decision, as the original controller wrote it:
//! `[Tue 2018-07-17 21:25:02] ADDED IP OK namespace:default service:svc1 destination:192.0.2.1`.
//! A decision that repeats the one before is not told again.

use std::{collections::HashMap, fmt, io::Write, sync::Arc};

use jiff::{ZonedDateTime, tz::TimeZone};
use tracing_appender::non_blocking::NonBlocking;

use crate::engine::{Allocation, ChangeKind, Command, Outcome, Reply, ServiceKey};

/// Services whose last refusal is remembered, so that their retries are not told.
const REMEMBERED: usize = 10_000;

/// What became of an address, or why there is none.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Granted { verb: &'static str, address: String },
    Refused { reason: &'static str },
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granted { verb, .. } => write!(f, "{verb} IP OK"),
            Self::Refused { .. } => f.write_str("ADDED IP PENDING"),
        }
    }
}

/// Where lines go.
#[derive(Debug)]
enum Sink {
    /// Standard output, never waited for.
    Classic { out: NonBlocking, zone: TimeZone },
    /// An event with fields, among the others.
    Structured,
}

/// See the module.
#[derive(Debug)]
pub struct DecisionLog {
    sink: Sink,
    refused: HashMap<Arc<ServiceKey>, &'static str>,
}

impl DecisionLog {
    /// Lines on `out`, with times of `zone`.
    pub fn classic(out: NonBlocking, zone: TimeZone) -> Self {
        Self::new(Sink::Classic { out, zone })
    }

    /// Events with fields, for `--log-format pretty` and `json`.
    pub fn structured() -> Self {
        Self::new(Sink::Structured)
    }

    fn new(sink: Sink) -> Self {
        Self {
            sink,
            refused: HashMap::new(),
        }
    }

    /// Tells of a command that was carried out. The cluster is named only where
    /// there is more than one.
    pub fn decided(
        &mut self,
        command: &Command,
        reply: &Reply,
        outcome: &Outcome,
        several_clusters: bool,
    ) {
        let key = match command {
            Command::Acquire(acquire) => &*acquire.key,
            Command::Release(release) => &release.key,
            Command::Reserve(_) | Command::Unreserve(_) => return,
        };
        for line in self.lines(command, reply, outcome) {
            self.write(key, &line, several_clusters);
        }
    }

    fn lines(&mut self, command: &Command, reply: &Reply, outcome: &Outcome) -> Vec<Line> {
        let refusal = match reply {
            Reply::Refused(refusal) => Some(refusal.reason()),
            Reply::Acquired(acquired) if !acquired.satisfied => {
                acquired.unmet.first().map(|unmet| unmet.refusal.reason())
            }
            Reply::Acquired(_) | Reply::Released(_) | Reply::Reserved(_) | Reply::Unreserved(_) => {
                None
            }
        };
        let mut lines = granted(outcome);
        match (command, refusal) {
            (Command::Acquire(acquire), Some(reason)) => {
                if self.refused.len() >= REMEMBERED {
                    self.refused.clear();
                }
                if self.refused.insert(Arc::clone(&acquire.key), reason) != Some(reason) {
                    lines.push(Line::Refused { reason });
                }
            }
            (Command::Acquire(acquire), None) => {
                self.refused.remove(&acquire.key);
            }
            (Command::Release(release), _) => {
                self.refused.remove(&release.key);
            }
            (Command::Reserve(_) | Command::Unreserve(_), _) => {}
        }
        lines
    }

    fn write(&mut self, key: &ServiceKey, line: &Line, several_clusters: bool) {
        let ServiceKey {
            cluster,
            namespace,
            name,
        } = key;
        match &mut self.sink {
            Sink::Classic { out, zone } => {
                let time = ZonedDateTime::now().with_time_zone(zone.clone());
                let detail = match line {
                    Line::Granted { address, .. } => format!("destination:{address}"),
                    Line::Refused { reason } => format!("reason:{reason}"),
                };
                let cluster = if several_clusters {
                    format!(" cluster:{cluster}")
                } else {
                    String::new()
                };
                let text = format!(
                    "[{}] {line} namespace:{namespace} service:{name} {detail}{cluster}\n",
                    time.strftime("%a %Y-%m-%d %H:%M:%S")
                );
                // In one piece: what does not fit in the buffer is lost rather
                // than waited for, and half a line would mislead.
                let _ = out.write_all(text.as_bytes());
            }
            Sink::Structured => {
                let (address, reason) = match line {
                    Line::Granted { address, .. } => (Some(address.as_str()), None),
                    Line::Refused { reason } => (None, Some(*reason)),
                };
                tracing::info!(%cluster, %namespace, service = %name, address, reason, "{line}");
            }
        }
    }
}

fn granted(outcome: &Outcome) -> Vec<Line> {
    let kinds = || outcome.changes.iter().map(|change| &change.kind);
    let released = |family| {
        kinds().any(|kind| matches!(kind, ChangeKind::Released(old) if old.family() == family))
    };
    let allocated = |family| {
        kinds().any(|kind| matches!(kind, ChangeKind::Allocated(new) if new.family() == family))
    };
    let line = |verb, allocation: &Allocation| Line::Granted {
        verb,
        address: allocation.address.to_string(),
    };
    let told = kinds().filter_map(|kind| match kind {
        ChangeKind::Allocated(new) if released(new.family()) => Some(line("MODIFIED", new)),
        ChangeKind::Allocated(new) => Some(line("ADDED", new)),
        ChangeKind::Updated(new) => Some(line("MODIFIED", new)),
        ChangeKind::Released(old) if allocated(old.family()) => None,
        ChangeKind::Released(old) => Some(line("DELETED", old)),
        ChangeKind::Reserved(_) | ChangeKind::Unreserved(_) => None,
    });
    told.collect()
}
