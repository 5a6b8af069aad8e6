//! The account of a soak, for people and for programs.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde_json::json;

use super::{
    faults::{Fault, Past},
    sight::Wait,
    users::{Count, Operations},
    verdict::Verdict,
};
use crate::figures::percentile;

type Rows = Vec<(&'static str, String)>;

pub struct Account {
    pub minutes: u32,
    pub seed: u64,
    pub operations: Operations,
    pub faults: Vec<Past>,
    pub grants: usize,
    /// Of Services for which there was room at any time.
    pub waits: Vec<Wait>,
    /// From the end of the last fault and the last operation until nothing was left to do.
    pub settled: Option<Duration>,
    /// For an address that somebody has.
    pub waiting: usize,
    pub verdict: Verdict,
}

impl Account {
    pub fn text(&self) -> String {
        let Self {
            minutes,
            seed,
            verdict,
            ..
        } = self;
        let mut text = String::new();
        for (heading, rows) in [
            ("operations of users", self.operation_rows()),
            ("faults", self.fault_rows()),
            ("promises", self.promise_rows()),
            (
                "from create until an address is seen, of a pool that always has one",
                self.wait_rows(),
            ),
        ] {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{heading}");
            for (what, value) in rows {
                let _ = writeln!(text, "  {what:<30} {value}");
            }
        }
        for (what, found) in [
            ("LOST", &verdict.lost),
            ("DOUBLED", &verdict.doubled),
            ("LEAKED", &verdict.leaked),
            ("UNFINISHED", &verdict.unfinished),
        ] {
            for one in found {
                let _ = writeln!(text, "{what}: {one}");
            }
        }
        let _ = writeln!(
            text,
            "again: lb-bench soak --minutes {minutes} --seed {seed}"
        );
        text
    }

    fn operation_rows(&self) -> Rows {
        let row = |(kind, Count { done, unanswered }): (&&'static str, &Count)| {
            let more = Some(unanswered).filter(|n| **n > 0);
            let more = more.map(|n| format!(", and {n} without an answer"));
            (*kind, format!("{done}{}", more.unwrap_or_default()))
        };
        self.operations.iter().map(row).collect()
    }

    fn fault_rows(&self) -> Rows {
        let mut by_fault: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for past in &self.faults {
            by_fault
                .entry(past.fault)
                .or_default()
                .push(past.what.as_str());
        }
        let row = |(fault, all): (Fault, Vec<&str>)| {
            (fault.name(), format!("{}: {}", all.len(), all.join("; ")))
        };
        by_fault.into_iter().map(row).collect()
    }

    fn promise_rows(&self) -> Rows {
        let Verdict {
            lost,
            doubled,
            leaked,
            late,
            ..
        } = &self.verdict;
        let longest = late.iter().max().copied().unwrap_or_default();
        let late = format!("{}, for {} at most", late.len(), seconds(longest));
        vec![
            ("acknowledged grants", self.grants.to_string()),
            ("lost", lost.len().to_string()),
            ("doubled", doubled.len().to_string()),
            ("leaked", leaked.len().to_string()),
            ("told late that one had left", late),
            (
                "until nothing was left to do",
                self.settled.map_or("never".to_owned(), seconds),
            ),
            ("Services that wait at the end", self.waiting.to_string()),
        ]
    }

    fn wait_rows(&self) -> Rows {
        let beside = self.longest_beside().map(|(beside, wait)| {
            let from = wait.from.as_secs_f64();
            format!("{}, {} from {from:.1} s on", seconds(beside), wait.key)
        });
        vec![
            ("Services", self.waits.len().to_string()),
            ("half of them", seconds(self.percentile(50))),
            ("99 %", seconds(self.percentile(99))),
            ("longest", self.longest()),
            ("longest beside faults", beside.unwrap_or_default()),
        ]
    }

    pub fn json(&self) -> String {
        let Verdict {
            lost,
            doubled,
            leaked,
            unfinished,
            late,
        } = &self.verdict;
        let faults = self.faults.iter().map(|past| {
            json!({
                "fault": past.fault.name(),
                "from": past.from.as_secs_f64(),
                "to": past.to.as_secs_f64(),
                "what": past.what,
            })
        });
        let all = json!({
            "minutes": self.minutes,
            "seed": self.seed,
            "operations": self.operations,
            "faults": faults.collect::<Vec<_>>(),
            "acknowledgedGrants": self.grants,
            "lost": lost,
            "doubled": doubled,
            "leaked": leaked,
            "unfinished": unfinished,
            "toldLateSeconds": late.iter().map(Duration::as_secs_f64).collect::<Vec<_>>(),
            "waitSeconds": {
                "services": self.waits.len(),
                "p50": self.percentile(50).as_secs_f64(),
                "p99": self.percentile(99).as_secs_f64(),
                "longest": self.percentile(100).as_secs_f64(),
                "longestWithoutFaults": self.longest_beside().map(|(beside, _)| beside.as_secs_f64()),
                "untilNothingWasLeftToDo": self.settled.map(|it| it.as_secs_f64()),
            },
        });
        format!("{all:#}\n")
    }

    fn percentile(&self, percent: usize) -> Duration {
        let mut all: Vec<_> = self.waits.iter().map(|wait| wait.to - wait.from).collect();
        all.sort_unstable();
        percentile(&all, percent).unwrap_or_default()
    }

    fn longest(&self) -> String {
        let Some(wait) = self.waits.iter().max_by_key(|wait| wait.to - wait.from) else {
            return "nobody waited".to_owned();
        };
        let during = self
            .faults
            .iter()
            .filter(|past| overlap(wait, past) > Duration::ZERO);
        let during: Vec<_> = during.map(|past| past.fault.name()).collect();
        let during = if during.is_empty() {
            "no fault".to_owned()
        } else {
            during.join(", ")
        };
        format!("{} during {during}", seconds(wait.to - wait.from))
    }

    /// The longest time that a Service waited while there was no fault: what a fault
    /// leaves behind when it is over.
    fn longest_beside(&self) -> Option<(Duration, &Wait)> {
        let beside = self.waits.iter().map(|wait| {
            let faults = self.faults.iter().map(|past| overlap(wait, past)).sum();
            ((wait.to - wait.from).saturating_sub(faults), wait)
        });
        beside.max_by_key(|(beside, _)| *beside)
    }
}

/// Faults never overlap each other.
fn overlap(wait: &Wait, past: &Past) -> Duration {
    let from = wait.from.max(past.from);
    wait.to.min(past.to).saturating_sub(from)
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}
