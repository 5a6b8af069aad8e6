//! Several rounds of one figure.

use std::fmt;

use serde_json::{Value, json};

/// Of values in their order; none of nothing.
pub fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let at = sorted.len().saturating_sub(1) * percent / 100;
    sorted.get(at).copied()
}

/// The rounds of one figure, in the order they were measured.
#[derive(Clone, Debug, Default)]
pub struct Figures(Vec<f64>);

impl Figures {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Round by round: what was measured one after the other is compared, so that
    /// a slow minute of the machine slows both.
    pub fn per(&self, other: &Self) -> Self {
        let pairs = self.0.iter().zip(&other.0);
        Self(pairs.map(|(one, other)| one / other).collect())
    }

    pub fn json(&self) -> Value {
        json!({"median": self.median(), "rounds": self.0})
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// `median [least..most]`, with the precision of the formatter.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(0);
        let sorted = self.sorted();
        let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else {
            return f.write_str("-");
        };
        let median = self.median();
        let text = format!("{median:.digits$} [{least:.digits$}..{most:.digits$}]");
        f.pad_integral(true, "", &text)
    }
}
