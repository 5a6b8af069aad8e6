//! The table and the JSON file.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

use crate::{
    allocator::{Extent, Measured, Row, Start},
    figures::Figures,
    machine::Disturbance,
};

pub struct Report {
    pub extent: Extent,
    pub measured: BTreeMap<usize, Measured>,
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
            "Acquire, each durable before it is answered; one connection; \
             median [least..most] of {rounds} rounds of {time:?}\n\
             H: echo and then bare SQLite, 1/(1/echo + 1/rows), with the mean batch of (a)\n\n"
        );
        let heading = |text: &mut String, compared: &str| {
            line(
                text,
                [
                    "in flight",
                    "",
                    "per second",
                    "p50 ms",
                    "p99 ms",
                    "batch",
                    compared,
                ],
            );
        };
        heading(&mut text, "of H, or of (a)");
        for (in_flight, measured) in &self.measured {
            let Measured {
                echo,
                bare,
                empty,
                million,
                ..
            } = measured;
            let limit = echo.rate.then(bare);
            let n = in_flight.to_string();
            row(&mut text, &n, "tonic echo", echo, None);
            let rate = format!("{bare:.0}");
            line(
                &mut text,
                [
                    &n,
                    "bare SQLite",
                    &rate,
                    "",
                    "",
                    &format!("{:.1}", empty.batch.median()),
                    "",
                ],
            );
            line(&mut text, [&n, "H", &format!("{limit:.0}"), "", "", "", ""]);
            row(&mut text, &n, "(a) empty", empty, Some(&limit));
            row(
                &mut text,
                &n,
                "(b) a million held",
                million,
                Some(&empty.rate),
            );
        }
        text += "\nIn bursts of 1,000, released in between\n";
        heading(&mut text, "of (a)");
        for (in_flight, measured) in &self.measured {
            let Measured {
                empty_bursts,
                full_bursts,
                ..
            } = measured;
            let n = in_flight.to_string();
            row(&mut text, &n, "(a) empty", empty_bursts, None);
            row(
                &mut text,
                &n,
                "(c) 99.9 % full",
                full_bursts,
                Some(&empty_bursts.rate),
            );
        }
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
        let in_flight = self.measured.iter().map(|(in_flight, measured)| {
            let Measured {
                echo,
                bare,
                empty,
                million,
                empty_bursts,
                full_bursts,
            } = measured;
            let limit = echo.rate.then(bare);
            json!({
                "inFlight": in_flight,
                "echo": row_json(echo, None),
                "bareSqlite": bare.json(),
                "limit": limit.json(),
                "empty": row_json(empty, Some(&limit)),
                "million": row_json(million, Some(&empty.rate)),
                "emptyBursts": row_json(empty_bursts, None),
                "fullBursts": row_json(full_bursts, Some(&empty_bursts.rate)),
            })
        });
        let Start {
            seconds,
            bare,
            bytes,
        } = &self.start;
        let all = json!({
            "rounds": self.extent.rounds,
            "secondsPerRound": self.extent.time.as_secs_f64(),
            "busyWithOthers": self.disturbance.share(),
            "acquire": in_flight.collect::<Vec<_>>(),
            "start": {
                "seconds": seconds.json(),
                "bareSqliteSeconds": bare.json(),
                "bytesPerAllocation": bytes.json(),
            },
        });
        format!("{all:#}\n")
    }
}

fn row(text: &mut String, in_flight: &str, what: &str, row: &Row, limit: Option<&Figures>) {
    let Row {
        rate,
        p50,
        p99,
        batch,
    } = row;
    let ratio = limit.map(|limit| format!("{:.2}", rate.per(limit)));
    let batch = Some(batch.median()).filter(|batch| batch.is_finite());
    let batch = batch.map(|batch| format!("{batch:.1}"));
    line(
        text,
        [
            in_flight,
            what,
            &format!("{rate:.0}"),
            &format!("{:.2}", p50.median()),
            &format!("{:.2}", p99.median()),
            &batch.unwrap_or_default(),
            &ratio.unwrap_or_default(),
        ],
    );
}

fn line(text: &mut String, cells: [&str; 7]) {
    let [n, what, rate, p50, p99, batch, ratio] = cells;
    let _ = writeln!(
        text,
        "{n:>9}  {what:<18}  {rate:>24}  {p50:>7}  {p99:>7}  {batch:>6}  {ratio:>18}"
    );
}

fn row_json(row: &Row, limit: Option<&Figures>) -> Value {
    let Row {
        rate,
        p50,
        p99,
        batch,
    } = row;
    json!({
        "perSecond": rate.json(),
        "p50Millis": p50.json(),
        "p99Millis": p99.json(),
        "batch": batch.json(),
        "ratio": limit.map(|limit| rate.per(limit).json()),
    })
}
