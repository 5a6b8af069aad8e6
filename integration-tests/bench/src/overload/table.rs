//! The table and the JSON file.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Felt, Row, Usage};

const MIB: f64 = 1024.0 * 1024.0;

pub struct Table(Vec<Row>);

impl Table {
    pub(super) const fn new(rows: Vec<Row>) -> Self {
        Self(rows)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = "A neighbour acquires and releases, 4 in flight over its own connection; \
             p99 in ms, before and under abuse.\n\
             The bystander calls an echo server that nobody abuses: what the machine alone does.\n"
            .to_owned();
        for row in &self.0 {
            let Row {
                kind,
                account,
                calm,
                abused,
                bystander_calm,
                bystander_abused,
                usage,
                refused,
            } = row;
            let Usage {
                before,
                peak,
                after,
                allocator,
                abuser,
            } = usage;
            let came_back = account.to_string().replace('\n', "\n             ");
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n{}\n  sent       {}\n  came back  {came_back}\n  \
                 neighbour  {}, {} answers, {}\n  bystander  {}\n  \
                 memory     {:.0} MiB before, {:.0} peak, {:.0} after\n  \
                 processors allocator {allocator:.2}, abuser {abuser:.2}; \
                 the allocator counted {refused} RESOURCE_EXHAUSTED\n",
                kind.name(),
                account.sent,
                felt(calm, abused),
                abused.answers(),
                errors(abused),
                felt(bystander_calm, bystander_abused),
                before / MIB,
                peak / MIB,
                after / MIB,
            );
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> String {
        let rows = self.0.iter().map(|row| {
            json!({
                "abuse": row.kind.name(),
                "sent": row.account.sent,
                "cameBack": row.account.came_back,
                "neighbour": both(&row.calm, &row.abused),
                "bystander": both(&row.bystander_calm, &row.bystander_abused),
                "residentBytes": {
                    "before": row.usage.before,
                    "peak": row.usage.peak,
                    "after": row.usage.after,
                },
                "processors": {"allocator": row.usage.allocator, "abuser": row.usage.abuser},
                "resourceExhausted": row.refused,
            })
        });
        format!("{:#}\n", Value::Array(rows.collect()))
    }
}

fn felt(calm: &Felt, abused: &Felt) -> String {
    let (before, under) = (calm.p99(), abused.p99());
    format!("{before:.2} → {under:.2}, {:.1} times", under / before)
}

fn errors(felt: &Felt) -> String {
    if felt.errors.is_empty() {
        return "no errors".to_owned();
    }
    let all = felt.errors.iter();
    let all = all.map(|(error, count)| format!("{count} × {error}"));
    format!("ERRORS: {}", all.collect::<Vec<_>>().join(", "))
}

fn both(calm: &Felt, abused: &Felt) -> Value {
    let (before, under) = (calm.p99(), abused.p99());
    json!({
        "p99MillisBefore": before,
        "p99Millis": under,
        "ratio": under / before,
        "answers": abused.answers(),
        "errors": abused.errors,
    })
}
