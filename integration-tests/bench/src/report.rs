//! All that is known of the allocator when everything was measured.

use std::fmt::Write as _;

use serde_json::json;

use crate::{
    allocator::{Extent, Start},
    machine::Disturbance,
    table::Table,
};

pub struct Report {
    pub extent: Extent,
    pub table: Table,
    pub start: Start,
    pub disturbance: Disturbance,
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let Extent {
            rounds,
            time,
            starts,
        } = self.extent;
        let mut text = format!(
            "One connection; median [least..most] of {rounds} rounds of {time:?}\n\
             H: echo and then bare SQLite, 1/(1/echo + 1/rows), with the mean batch of (a)\n"
        );
        text += &self.table.text();
        let Start {
            seconds,
            bare,
            bytes,
        } = &self.start;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "\nWith a million allocations, {starts} starts\n\
             ready after             {seconds:.2} s, {:.1} times bare SQLite reading the rows ({bare:.2} s)\n\
             memory per allocation   {bytes:.0} bytes",
            seconds.per(bare),
        );
        if let Some(warning) = self.disturbance.warning() {
            let _ = writeln!(text, "\n{warning}");
        }
        text
    }

    /// Every round, for programs.
    pub fn json(&self) -> String {
        let Start {
            seconds,
            bare,
            bytes,
        } = &self.start;
        let all = json!({
            "rounds": self.extent.rounds,
            "secondsPerRound": self.extent.time.as_secs_f64(),
            "busyWithOthers": self.disturbance.share(),
            "lines": self.table.json(),
            "start": {
                "seconds": seconds.json(),
                "bareSqliteSeconds": bare.json(),
                "bytesPerAllocation": bytes.json(),
            },
        });
        format!("{all:#}\n")
    }
}
