//! The limit: what a bare client gets out of the same API server, while a watch tells
//! of it as it does in the other parts.

use std::time::Duration;

use anyhow::Result;
use integration_tests::{control_plane::ControlPlane, site::random_class};

use super::{
    bare::{Bare, Created, Kind},
    cost,
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
    /// For each second of processor time of all that take part: on a machine that is
    /// busy otherwise, this says more.
    pub writes_a_cpu_second: f64,
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
        sheet.put("limit", "in flight at the best", in_flight as f64);
        let writer = Writer {
            control_plane,
            bare: &bare,
            created: &created,
            in_flight,
        };
        let merge = writer.write(Kind::Merge, turn).await?;
        sheet.put("limit", "status writes/s, merge, at the best", merge.rate);
        let what = "status writes a CPU second, merge";
        sheet.put("limit", what, merge.a_cpu_second);
        for (kind, name) in [(Kind::Strategic, "strategic"), (Kind::Apply, "apply")] {
            turn += 1;
            let other = writer.write(kind, turn).await?;
            let what = format!("status writes/s, {name}, at the best");
            sheet.put_beside("limit", what, other.rate, merge.rate);
            let what = format!("status writes a CPU second, {name}");
            sheet.put_beside("limit", what, other.a_cpu_second, merge.a_cpu_second);
        }
        drop(sightings);

        let names: Vec<_> = created.into_iter().map(|created| created.name).collect();
        let took = bare.delete(&names, USUAL).await?;
        let deletes = rate(services, took);
        sheet.put("limit", "deletes/s at 16 in flight", deletes);
        Ok(Self {
            creates,
            writes: merge.rate,
            writes_a_cpu_second: merge.a_cpu_second,
            deletes,
        })
    }
}

/// Writes all statuses.
struct Writer<'a> {
    control_plane: &'a ControlPlane,
    bare: &'a Bare,
    created: &'a [Created],
    in_flight: usize,
}

struct Written {
    rate: f64,
    a_cpu_second: f64,
}

impl Writer<'_> {
    async fn write(&self, kind: Kind, turn: u8) -> Result<Written> {
        let Self {
            control_plane,
            bare,
            created,
            in_flight,
        } = *self;
        let before = cost::of_all(control_plane, &[])?;
        let took = bare.write(created, kind, turn, in_flight).await?;
        let spent = cost::of_all(control_plane, &[])? - before;
        Ok(Written {
            rate: rate(created.len(), took),
            a_cpu_second: created.len() as f64 / spent,
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
