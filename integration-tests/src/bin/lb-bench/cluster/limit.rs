//! The limit: what a bare client gets out of the same API server, while a watch tells
//! of it as it does in the other parts.

use std::time::Duration;

use anyhow::Result;
use integration_tests::{control_plane::ControlPlane, site::random_class};

use super::{
    bare::{Bare, Kind},
    sheet::Sheet,
    sightings::Sightings,
};

/// Numbers in flight of which the best is the limit.
const IN_FLIGHT: [usize; 4] = [4, 8, 16, 32];
/// In flight, where that is not what is looked for.
pub const USUAL: usize = 16;
/// For which number in flight is the best, a part is enough.
const TRIED: usize = 2_000;

/// Per second.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub creates: f64,
    pub writes: f64,
    pub deletes: f64,
}

impl Limit {
    /// # Errors
    /// When a request is refused.
    pub async fn measure(
        control_plane: &ControlPlane,
        services: usize,
        sheet: &mut Sheet,
    ) -> Result<Self> {
        let namespace = control_plane.namespace().await;
        let bare = Bare::new(&namespace, &random_class());
        let sightings = Sightings::begin(namespace.services()).await?;
        let (created, took) = bare.create("limit", services, USUAL).await?;
        let creates = rate(services, took);
        sheet.put("limit", "creates/s at 16 in flight", creates);

        let tried = &created[..services.min(TRIED)];
        let mut best = (0.0, USUAL);
        let mut turn = 1;
        for in_flight in IN_FLIGHT {
            let took = bare.write(tried, Kind::Merge, turn, in_flight).await?;
            let rate = rate(tried.len(), took);
            let what = format!("status writes/s, merge, {in_flight} in flight");
            sheet.put("limit", what, rate);
            if rate > best.0 {
                best = (rate, in_flight);
            }
            turn += 1;
        }
        let (_, in_flight) = best;
        let took = bare.write(&created, Kind::Merge, turn, in_flight).await?;
        let writes = rate(services, took);
        sheet.put("limit", "in flight at the best", in_flight as f64);
        sheet.put("limit", "status writes/s, merge, at the best", writes);
        for (kind, name) in [(Kind::Strategic, "strategic"), (Kind::Apply, "apply")] {
            turn += 1;
            let took = bare.write(&created, kind, turn, in_flight).await?;
            let what = format!("status writes/s, {name}, at the best");
            sheet.put_beside("limit", what, rate(services, took), writes);
        }
        drop(sightings);

        let names: Vec<_> = created.into_iter().map(|created| created.name).collect();
        let took = bare.delete(&names, USUAL).await?;
        let deletes = rate(services, took);
        sheet.put("limit", "deletes/s at 16 in flight", deletes);
        Ok(Self {
            creates,
            writes,
            deletes,
        })
    }
}

/// Per second.
pub fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// Of two things of which each Service needs both, on processors that are busy.
pub fn then(one: f64, other: f64) -> f64 {
    1.0 / (1.0 / one + 1.0 / other)
}
