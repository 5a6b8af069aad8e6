//! One line for each decision, as the original controller wrote it:
//! `[Tue 2018-07-17 21:25:02] ADDED IP OK namespace:default service:svc1 destination:192.0.2.1`.
//! A decision that repeats the one before is not told again.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    io::Write,
    sync::Arc,
};

use jiff::{ZonedDateTime, tz::TimeZone};
use tracing_appender::non_blocking::NonBlocking;

use crate::engine::{Allocation, ChangeKind, Command, Outcome, Refusal, Reply, ServiceKey};

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
        for (key, line) in granted(outcome) {
            self.write(&key, &line, several_clusters);
        }
        if let Command::Acquire(acquire) = command {
            if let Some(reason) = self.news_of_refusal(&acquire.key, reply) {
                self.write(&acquire.key, &Line::Refused { reason }, several_clusters);
            }
        } else if let Command::Release(release) = command {
            self.refused.remove(&release.key);
        }
    }

    /// Tells of what ended by itself: the grace of a Service that is gone, say.
    pub fn passed(&mut self, outcome: &Outcome, several_clusters: bool) {
        for (key, line) in granted(outcome) {
            self.write(&key, &line, several_clusters);
        }
    }

    /// Why a Service is refused, unless it was told before.
    fn news_of_refusal(&mut self, key: &Arc<ServiceKey>, reply: &Reply) -> Option<&'static str> {
        let is_granted = reply.acquired().is_some_and(|acquired| acquired.satisfied);
        let refusal = reply.refusals().next().filter(|_| !is_granted);
        let Some(reason) = refusal.map(Refusal::reason) else {
            self.refused.remove(key);
            return None;
        };
        if self.refused.len() >= REMEMBERED {
            self.refused.clear();
        }
        let told = self.refused.insert(Arc::clone(key), reason);
        (told != Some(reason)).then_some(reason)
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

fn granted(outcome: &Outcome) -> Vec<(Arc<ServiceKey>, Line)> {
    let kinds = || outcome.changes.iter().map(|change| &change.kind);
    let mut released = HashSet::new();
    let mut allocated = HashSet::new();
    for kind in kinds() {
        if let ChangeKind::Released(old) = kind {
            released.insert((&old.key, old.family()));
        } else if let ChangeKind::Allocated(new) = kind {
            allocated.insert((&new.key, new.family()));
        }
    }
    let line = |verb, allocation: &Allocation| {
        let address = allocation.address.to_string();
        let line = Line::Granted { verb, address };
        Some((Arc::clone(&allocation.key), line))
    };
    let told = kinds().filter_map(|kind| match kind {
        ChangeKind::Allocated(new) if released.contains(&(&new.key, new.family())) => {
            line("MODIFIED", new)
        }
        ChangeKind::Allocated(new) => line("ADDED", new),
        // That it is gone is told when its address is taken back.
        ChangeKind::Updated(new) if new.holder.transition.release_at().is_some() => None,
        ChangeKind::Updated(new) => line("MODIFIED", new),
        ChangeKind::Released(old) if allocated.contains(&(&old.key, old.family())) => None,
        ChangeKind::Released(old) => line("DELETED", old),
        ChangeKind::Reserved(_)
        | ChangeKind::Unreserved(_)
        | ChangeKind::Conflicted(_)
        | ChangeKind::ConflictEnded(_)
        | ChangeKind::Cluster(_)
        | ChangeKind::Opened => None,
    });
    told.collect()
}
