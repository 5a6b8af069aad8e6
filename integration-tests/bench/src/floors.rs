//! How fast the allocator has to be, as a part of what was measured beside it in the same
//! run. About half of what two quiet cores give: a busy machine stays above, and a design
//! that has become slower does not.

use anyhow::{Result, ensure};

use crate::{
    allocator::{ACQUIRE, BURSTS, RELEASE},
    table::Table,
};

/// Sections, lines and the least median ratio, at every number in flight.
const FLOORS: [(&str, &str, f64); 5] = [
    (ACQUIRE, "(a) empty", 0.2),
    (ACQUIRE, "(b) a million held", 0.4),
    (ACQUIRE, "(d) mTLS", 0.4),
    (RELEASE, "of what (a) got", 0.4),
    (BURSTS, "(c) 99.9 % full", 0.4),
];

/// # Errors
/// When a line is below its floor, or was not measured.
pub fn check(table: &Table) -> Result<()> {
    let mut below = Vec::new();
    for (section, what, floor) in FLOORS {
        let ratios = table.ratios(section, what);
        ensure!(!ratios.is_empty(), "{section}: {what} was not measured");
        for (in_flight, ratio) in ratios {
            if ratio < floor || ratio.is_nan() {
                below.push(format!(
                    "{section}: {what} at {in_flight} in flight has the ratio {ratio:.2}, and {floor} is the least"
                ));
            }
        }
    }
    ensure!(below.is_empty(), "too slow:\n{}", below.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

    use super::*;
    use crate::table::Round;

    fn table(ratio: f64) -> Table {
        let mut table = Table::default();
        for (section, what, floor) in FLOORS {
            for in_flight in [1, 64] {
                let ratio = if in_flight == 64 { ratio } else { floor };
                let round = Round {
                    ratio,
                    ..Round::rate(1.0)
                };
                table.add(section, in_flight, (what, "H"), round);
            }
        }
        table
    }

    #[test]
    fn a_ratio_below_its_floor_is_named_and_one_that_was_not_measured_too() {
        check(&table(1.0)).unwrap();
        let slow = check(&table(0.1)).unwrap_err().to_string();
        assert!(slow.contains("(d) mTLS at 64 in flight has the ratio 0.10, and 0.4"));
        assert_eq!(slow.lines().count(), 1 + FLOORS.len());
        check(&table(f64::NAN)).unwrap_err();
        check(&Table::default()).unwrap_err();
    }
}
