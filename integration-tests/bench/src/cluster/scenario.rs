//! The parts of a round, each beside what the bare client got out of the same servers.

use std::time::{Duration, Instant};

use anyhow::Result;
use integration_tests::control_plane::ControlPlane;

use super::{
    bare::Created,
    cost,
    limit::{Limit, USUAL, rate, then},
    sheet::Sheet,
    site::Site,
};
use crate::{figures::percentile, machine::resident};

/// What SIGTERM may take.
const FAREWELL: Duration = Duration::from_secs(20);

/// One round.
///
/// # Errors
/// When a request is refused, or a Service waits for minutes.
pub async fn round(control_plane: &ControlPlane, services: usize, sheet: &mut Sheet) -> Result<()> {
    let limit = Limit::measure(control_plane, services, sheet).await?;
    stream(control_plane, services, &limit, sheet).await?;
    let mut held = backlog(control_plane, services, &limit, sheet).await?;
    let few = services / 10;
    held.restart(services / 100, sheet).await?;
    held.freed(few, &limit, sheet).await?;
    held.more(few, &limit, sheet).await
}

/// Services are created while the watcher runs.
async fn stream(
    control_plane: &ControlPlane,
    services: usize,
    limit: &Limit,
    sheet: &mut Sheet,
) -> Result<()> {
    let part = "stream";
    let mut site = Site::new(control_plane, part, services).await?;
    site.watcher.start_again().await;
    let before = site.before(true).await?;
    let names = creates(&site, part, services, limit, sheet).await?;
    site.quiet(services).await?;
    site.put_costs(&before, sheet, part, services).await?;
    site.watcher.terminate(FAREWELL).await;
    site.bare.delete(&names, USUAL).await?;
    Ok(())
}

/// Creates Services, and tells how long each waited. The API server has both to do,
/// so the limit is both.
async fn creates(
    site: &Site<'_>,
    part: &'static str,
    services: usize,
    limit: &Limit,
    sheet: &mut Sheet,
) -> Result<Vec<String>> {
    let begun = Instant::now();
    let (created, _) = site.bare.create(part, services, USUAL).await?;
    let names = names(&created);
    let seen = site.sightings.of(&names).await?;
    let best = then(limit.creates, limit.writes);
    let rate = rate(services, last(&seen) - begun);
    sheet.put_beside(part, "Services/s, created and served", rate, best);
    let waits = created.iter().zip(&seen);
    let mut waits: Vec<f64> = waits
        .map(|(created, seen)| seen.saturating_duration_since(created.at).as_secs_f64() * 1e3)
        .collect();
    waits.sort_unstable_by(f64::total_cmp);
    for percent in [50, 99] {
        let wait = percentile(&waits, percent).unwrap_or(f64::NAN);
        sheet.put(part, format!("ms behind the create, p{percent}"), wait);
    }
    Ok(names)
}

/// A site whose Services hold all that there is.
struct Held<'a> {
    site: Site<'a>,
    names: Vec<String>,
    /// Events of the watcher since it was started.
    told: usize,
}

/// Services wait when the watcher starts.
async fn backlog<'a>(
    control_plane: &'a ControlPlane,
    services: usize,
    limit: &Limit,
    sheet: &mut Sheet,
) -> Result<Held<'a>> {
    let part = "backlog";
    let mut site = Site::new(control_plane, part, services).await?;
    let (created, _) = site.bare.create(part, services, USUAL).await?;
    let names = names(&created);
    let empty = site.database_bytes()?;
    let before = site.before(false).await?;
    let allocator = site.allocator.process().id();
    let idle = cost::of_all(control_plane, &[allocator])?;
    let begun = Instant::now();
    site.watcher.start_unready();
    let seen = site.sightings.of(&names).await?;
    let watcher = site.watcher.process().id();
    let spent = cost::of_all(control_plane, &[allocator, watcher])? - idle;
    let took = last(&seen) - begun;
    sheet.put(part, "s from start to the last address", took.as_secs_f64());
    sheet.put_beside(part, "Services/s", rate(services, took), limit.writes);
    let what = "Services a CPU second of all processes";
    let served = services as f64 / spent;
    sheet.put_beside(part, what, served, limit.writes_a_cpu_second);
    site.quiet(services).await?;
    let quiet = begun.elapsed() - took;
    sheet.put(part, "s until the Events are out too", quiet.as_secs_f64());
    site.put_costs(&before, sheet, part, services).await?;
    let rpcs = site.rpcs().await? / services as f64;
    sheet.put(part, "calls of lb-allocator a Service", rpcs);
    let bytes = (site.database_bytes()? - empty) / services as f64;
    sheet.put(part, "bytes in SQLite a Service", bytes);
    let memory = resident(site.watcher.process().id())? / 1e6;
    sheet.put(part, "MB resident, lb-watcher", memory);
    Ok(Held {
        site,
        names,
        told: services,
    })
}

impl Held<'_> {
    /// The watcher starts again; others wait, for whom there are addresses by now, and
    /// one more is created when it starts.
    async fn restart(&mut self, few: usize, sheet: &mut Sheet) -> Result<()> {
        let part = "restart";
        let Self { site, names, told } = self;
        let (created, _) = site.bare.create(part, few, USUAL).await?;
        site.pending(few, *told + few).await?;
        site.watcher.terminate(FAREWELL).await;
        let waiting = self::names(&created);
        site.resize(names.len() + few + 1).await?;

        let before = site.before(false).await?;
        let begun = Instant::now();
        site.watcher.start_unready();
        let (created, _) = site.bare.create("fresh", 1, 1).await?;
        let fresh = self::names(&created);
        let served = last(&site.sightings.of(&fresh).await?) - begun;
        sheet.put(part, "s until a fresh one is served", served.as_secs_f64());
        let served = last(&site.sightings.of(&waiting).await?) - begun;
        let what = "s until all that waited are";
        sheet.put(part, what, served.as_secs_f64());
        *told = few + 1;
        site.quiet(*told).await?;
        let (was, now) = site.requests_since(&before).await?;
        let writes = now.status_writes(&was) - (few + 1) as f64;
        sheet.put(part, "status writes of those that hold", writes);
        sheet.put(part, "calls of lb-allocator", site.rpcs().await?);
        sheet.put(part, "s of the Sync of all", site.syncing().await?);
        names.extend(waiting);
        names.extend(fresh);
        Ok(())
    }

    /// Some are deleted, and as many wait for that.
    async fn freed(&mut self, few: usize, limit: &Limit, sheet: &mut Sheet) -> Result<()> {
        let part = "freed";
        let Self { site, names, told } = self;
        let (created, _) = site.bare.create(part, few, USUAL).await?;
        site.pending(few, *told + few).await?;
        let waiting = self::names(&created);
        let leaving: Vec<_> = names.drain(..few).collect();
        let begun = Instant::now();
        let deleted = site.bare.delete(&leaving, USUAL).await?;
        let took = last(&site.sightings.of(&waiting).await?) - begun;
        sheet.put(
            part,
            "s from the first delete to the last address",
            took.as_secs_f64(),
        );
        sheet.put(
            part,
            "of that, s behind the last delete",
            (took.saturating_sub(deleted)).as_secs_f64(),
        );
        let best = then(limit.deletes, limit.writes);
        sheet.put_beside(
            part,
            "Services/s, deleted and served",
            rate(few, took),
            best,
        );
        names.extend(waiting);
        // That each waits, what it gets, and each release.
        *told += 3 * few;
        site.quiet(*told).await
    }

    /// More are created beside those that hold.
    async fn more(&mut self, few: usize, limit: &Limit, sheet: &mut Sheet) -> Result<()> {
        let Self { site, names, .. } = self;
        site.resize(names.len() + few).await?;
        creates(site, "more", few, limit, sheet).await?;
        Ok(())
    }
}

fn names(created: &[Created]) -> Vec<String> {
    created.iter().map(|created| created.name.clone()).collect()
}

fn last(seen: &[Instant]) -> Instant {
    seen.iter().max().copied().unwrap_or_else(Instant::now)
}
