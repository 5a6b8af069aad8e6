//! One line per decision.

use std::{fmt, io::Write, net::IpAddr};

use jiff::{ZonedDateTime, tz::TimeZone};
use tracing::info;
use tracing_appender::non_blocking::NonBlocking;

use crate::{kube::key::Key, request::join};

/// Where decisions are written to.
#[derive(Clone, Debug)]
pub enum DecisionLog {
    /// The line of the original controller.
    Classic {
        /// Stdout, never waited for.
        out: NonBlocking,
        /// Of the time in the line.
        zone: TimeZone,
    },
    /// Among the structured logs.
    Structured,
}

/// What was decided about a Service.
#[derive(Clone, Debug)]
pub enum Decision<'a> {
    /// It got its first addresses.
    Added(&'a [IpAddr]),
    /// It got other addresses.
    Modified(&'a [IpAddr]),
    /// It gave them back.
    Deleted(&'a [IpAddr]),
    /// It has to wait, or to do with what it has, for this reason.
    Pending {
        /// As in the condition.
        reason: &'a str,
        /// Whether it holds an address all the same.
        holding: bool,
    },
}

impl DecisionLog {
    /// Writes one decision.
    pub fn record(&self, key: &Key, decision: &Decision<'_>) {
        match self {
            Self::Classic { out, zone } => {
                let now = ZonedDateTime::now().with_time_zone(zone.clone());
                let line = classic(&now, key, decision) + "\n";
                // Nobody may be reading; that must not stop the work.
                let _ = out.clone().write_all(line.as_bytes());
            }
            Self::Structured => {
                let Key { namespace, name } = key;
                let (verb, verdict) = (decision.verb(), decision.verdict());
                match decision {
                    Decision::Added(to) | Decision::Modified(to) | Decision::Deleted(to) => {
                        let destination = join(to);
                        info!(%namespace, service = %name, %destination, "{verb} IP {verdict}");
                    }
                    Decision::Pending { reason, .. } => {
                        info!(%namespace, service = %name, %reason, "{verb} IP {verdict}");
                    }
                }
            }
        }
    }
}

impl Decision<'_> {
    fn verb(&self) -> &'static str {
        match self {
            Self::Added(_) | Self::Pending { holding: false, .. } => "ADDED",
            Self::Modified(_) | Self::Pending { holding: true, .. } => "MODIFIED",
            Self::Deleted(_) => "DELETED",
        }
    }

    fn verdict(&self) -> &'static str {
        match self {
            Self::Added(_) | Self::Modified(_) | Self::Deleted(_) => "OK",
            Self::Pending { .. } => "PENDING",
        }
    }
}

impl fmt::Display for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added(to) | Self::Modified(to) | Self::Deleted(to) => {
                write!(f, "destination:{}", join(to))
            }
            Self::Pending { reason, .. } => write!(f, "reason:{reason}"),
        }
    }
}

fn classic(now: &ZonedDateTime, key: &Key, decision: &Decision<'_>) -> String {
    format!(
        "[{}] {} IP {} namespace:{} service:{} {decision}",
        now.strftime("%a %Y-%m-%d %H:%M:%S"),
        decision.verb(),
        decision.verdict(),
        key.namespace,
        key.name,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classic_line_reads_as_that_of_the_original_controller() {
        let now: ZonedDateTime = "2018-07-17T21:25:02+00:00[UTC]".parse().unwrap();
        let key = Key {
            namespace: "default".into(),
            name: "svc1".into(),
        };
        let one = ["192.0.2.1".parse().unwrap()];
        let two = [one[0], "2001:db8::1".parse().unwrap()];
        let pending = |holding| Decision::Pending {
            reason: "POOL_EXHAUSTED",
            holding,
        };
        for (decision, line) in [
            (
                Decision::Added(&one),
                "ADDED IP OK namespace:default service:svc1 destination:192.0.2.1",
            ),
            (
                Decision::Modified(&one),
                "MODIFIED IP OK namespace:default service:svc1 destination:192.0.2.1",
            ),
            (
                Decision::Deleted(&two),
                "DELETED IP OK namespace:default service:svc1 destination:192.0.2.1,2001:db8::1",
            ),
            (
                pending(false),
                "ADDED IP PENDING namespace:default service:svc1 reason:POOL_EXHAUSTED",
            ),
            (
                pending(true),
                "MODIFIED IP PENDING namespace:default service:svc1 reason:POOL_EXHAUSTED",
            ),
        ] {
            let expected = format!("[Tue 2018-07-17 21:25:02] {line}");
            assert_eq!(classic(&now, &key, &decision), expected);
        }
    }
}
