//! The figures of one size, by part, in the order in which they came up first.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::figures::Figures;

/// One line.
struct Line {
    part: &'static str,
    what: String,
    figures: Figures,
    /// Of the same rounds; none where there is no limit.
    limit: Figures,
}

pub struct Sheet {
    services: usize,
    rounds: usize,
    lines: Vec<Line>,
}

impl Sheet {
    pub fn new(services: usize, rounds: usize) -> Self {
        Self {
            services,
            rounds,
            lines: Vec::new(),
        }
    }

    /// A figure of this round.
    pub fn put(&mut self, part: &'static str, what: impl Into<String>, value: f64) {
        self.line(part, what.into()).figures.push(value);
    }

    /// A figure of this round, and what it could be at the best.
    pub fn put_beside(
        &mut self,
        part: &'static str,
        what: impl Into<String>,
        value: f64,
        limit: f64,
    ) {
        let line = self.line(part, what.into());
        line.figures.push(value);
        line.limit.push(limit);
    }

    fn line(&mut self, part: &'static str, what: String) -> &mut Line {
        let known = |line: &Line| line.part == part && line.what == what;
        let at = self.lines.iter().position(known).unwrap_or_else(|| {
            self.lines.push(Line {
                part,
                what,
                figures: Figures::default(),
                limit: Figures::default(),
            });
            self.lines.len() - 1
        });
        &mut self.lines[at]
    }

    pub fn text(&self) -> String {
        let Self {
            services,
            rounds,
            lines,
        } = self;
        let times = if *rounds == 1 { "round" } else { "rounds" };
        let mut text = format!("\n{services} Services, {rounds} {times}\n");
        let mut before = "";
        for line in lines {
            let Line {
                part,
                what,
                figures,
                limit,
            } = line;
            let part = if *part == before { "" } else { part };
            before = line.part;
            let figures = rounded(figures);
            // Writing to a String cannot fail.
            let _ = write!(text, "  {part:<8} {what:<44} {figures:>26}");
            if limit.median().is_finite() {
                let ratio = line.figures.per(limit);
                let _ = write!(text, "  limit {}  ratio {ratio:.2}", rounded(limit));
            }
            text.push('\n');
        }
        text
    }

    pub fn json(&self) -> Value {
        let lines = self.lines.iter().map(|line| {
            let limited = line.limit.median().is_finite();
            json!({
                "part": line.part,
                "what": line.what,
                "figures": line.figures.json(),
                "limit": limited.then(|| line.limit.json()),
                "ratio": limited.then(|| line.figures.per(&line.limit).json()),
            })
        });
        json!({
            "services": self.services,
            "rounds": self.rounds,
            "lines": lines.collect::<Vec<_>>(),
        })
    }
}

/// Small figures with their decimals.
fn rounded(figures: &Figures) -> String {
    match figures.median() {
        median if median >= 100.0 => format!("{figures:.0}"),
        median if median >= 10.0 => format!("{figures:.1}"),
        _ => format!("{figures:.3}"),
    }
}
