//! What was measured, line by line: for people, and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::figures::Figures;

/// One round of one line. What a line does not have is not a number.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    pub rate: f64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
    /// Requests in a transaction.
    pub batch: f64,
    /// The rate, as a part of what the line is compared with.
    pub ratio: f64,
}

impl Round {
    /// A rate alone.
    pub const fn rate(rate: f64) -> Self {
        Self {
            rate,
            p50: f64::NAN,
            p99: f64::NAN,
            batch: f64::NAN,
            ratio: f64::NAN,
        }
    }

    /// Beside what was measured right before or after it: a slow minute of the
    /// machine slows both.
    #[must_use]
    pub fn of(self, other: f64) -> Self {
        Self {
            ratio: self.rate / other,
            ..self
        }
    }
}

/// One line.
#[derive(Debug)]
struct Line {
    section: &'static str,
    in_flight: usize,
    what: &'static str,
    /// What it is compared with.
    of: &'static str,
    rate: Figures,
    p50: Figures,
    p99: Figures,
    batch: Figures,
    ratio: Figures,
}

/// Lines, in the order in which they were first measured.
#[derive(Debug, Default)]
pub struct Table {
    lines: Vec<Line>,
}

impl Table {
    /// Adds a round.
    pub fn add(
        &mut self,
        section: &'static str,
        in_flight: usize,
        (what, of): (&'static str, &'static str),
        round: Round,
    ) {
        let is_it = |line: &Line| {
            line.section == section && line.in_flight == in_flight && line.what == what
        };
        let place = self.lines.iter().position(is_it).unwrap_or_else(|| {
            self.lines.push(Line {
                section,
                in_flight,
                what,
                of,
                rate: Figures::default(),
                p50: Figures::default(),
                p99: Figures::default(),
                batch: Figures::default(),
                ratio: Figures::default(),
            });
            self.lines.len() - 1
        });
        if let Some(line) = self.lines.get_mut(place) {
            line.rate.push(round.rate);
            line.p50.push(round.p50);
            line.p99.push(round.p99);
            line.batch.push(round.batch);
            line.ratio.push(round.ratio);
        }
    }

    /// The median ratio of a line, for each number in flight.
    pub fn ratios(&self, section: &str, what: &str) -> Vec<(usize, f64)> {
        let lines = self.lines.iter();
        let mine = lines.filter(|line| line.section == section && line.what == what);
        mine.map(|line| (line.in_flight, line.ratio.median()))
            .collect()
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut sections: Vec<&str> = Vec::new();
        for line in &self.lines {
            if !sections.contains(&line.section) {
                sections.push(line.section);
            }
        }
        for section in sections {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "\n{section}");
            let headings = ["per second", "p50 ms", "p99 ms", "batch", "ratio"];
            row(&mut text, "in flight", "", headings);
            for line in self.lines.iter().filter(|line| line.section == section) {
                let median = |figures: &Figures, digits: usize| {
                    let median = figures.median();
                    let text = format!("{median:.digits$}");
                    if median.is_finite() {
                        text
                    } else {
                        String::new()
                    }
                };
                let ratio = median(&line.ratio, 2);
                let ratio = if ratio.is_empty() {
                    ratio
                } else {
                    format!("{:.2} of {}", line.ratio, line.of)
                };
                let cells = [
                    &*format!("{:.0}", line.rate),
                    &median(&line.p50, 2),
                    &median(&line.p99, 2),
                    &median(&line.batch, 1),
                    &ratio,
                ];
                row(&mut text, &line.in_flight.to_string(), line.what, cells);
            }
        }
        text
    }

    /// Every round, for programs.
    pub fn json(&self) -> Value {
        let line = |line: &Line| {
            json!({
                "section": line.section,
                "inFlight": line.in_flight,
                "what": line.what,
                "perSecond": line.rate.json(),
                "p50Millis": line.p50.json(),
                "p99Millis": line.p99.json(),
                "batch": line.batch.json(),
                "ratio": line.ratio.json(),
                "ratioOf": line.of,
            })
        };
        self.lines.iter().map(line).collect()
    }
}

fn row(text: &mut String, in_flight: &str, what: &str, cells: [&str; 5]) {
    let [rate, p50, p99, batch, ratio] = cells;
    let _ = writeln!(
        text,
        "{in_flight:>9}  {what:<24}  {rate:>24}  {p50:>7}  {p99:>7}  {batch:>6}  {ratio}"
    );
}
