//! One cluster: the real lb-watcher and lb-allocator with a real API server and etcd,
//! against the limit, which is a bare client that does nothing but write as many
//! statuses.
//!
//! ```text
//!   each size, each round, a control plane of its own:
//!     limit     creates, status writes by kind of patch and number in flight, deletes
//!     stream    the watcher runs, Services are created at 16 in flight
//!     backlog   as many wait when the watcher starts
//!     restart   those hold, a hundredth as many wait for addresses that now exist
//!     freed     a tenth is deleted, as many wait for that
//!     more      a tenth as many as hold are created at 16 in flight
//! ```

mod bare;
mod cost;
mod limit;
mod requests;
mod scenario;
mod sheet;
mod sightings;
mod site;

use anyhow::Result;
use integration_tests::control_plane::ControlPlane;

use self::sheet::Sheet;
use crate::machine::Disturbance;

/// Services, and how often they are measured.
type Size = (usize, usize);

const QUICK: [Size; 2] = [(300, 1), (1_000, 1)];
/// A round of ten thousand takes minutes.
const FULL: [Size; 2] = [(1_000, 3), (10_000, 1)];

/// All figures.
pub struct Report {
    sheets: Vec<Sheet>,
    disturbance: Disturbance,
}

/// # Errors
/// When something cannot be started, a request is refused, or a Service waits for
/// minutes.
pub async fn measure(quick: bool) -> Result<Report> {
    let mut disturbance = Disturbance::default();
    let mut sheets = Vec::new();
    for (services, rounds) in if quick { QUICK } else { FULL } {
        let mut sheet = Sheet::new(services, rounds);
        for round in 1..=rounds {
            eprintln!("{services} Services, round {round} of {rounds}");
            disturbance.look().await?;
            let control_plane = ControlPlane::start("bench").await?;
            scenario::round(&control_plane, services, &mut sheet).await?;
        }
        sheets.push(sheet);
    }
    Ok(Report {
        sheets,
        disturbance,
    })
}

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = "lb-watcher and lb-allocator (database on disk) beside kube-apiserver and \
                        etcd (in memory, not synced), all on this machine\n\
                        median [least..most] of the rounds; ratio: to the limit of the same round\n"
            .to_owned();
        for sheet in &self.sheets {
            text += &sheet.text();
        }
        if let Some(warning) = self.disturbance.warning() {
            text += &format!("\n{warning}\n");
        }
        text
    }

    /// Every round, for programs.
    pub fn json(&self) -> String {
        let sheets: Vec<_> = self.sheets.iter().map(Sheet::json).collect();
        let all = serde_json::json!({
            "busyWithOthers": self.disturbance.share(),
            "sizes": sheets,
        });
        format!("{all:#}\n")
    }
}
