//! An allocator, a watcher and the Services of one namespace, as long as a scenario
//! takes.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, anyhow};
use integration_tests::{
    allocator::{self, Allocator},
    control_plane::ControlPlane,
    eventually::within,
    site::random_class,
    watcher::{self, Watcher},
};
use kube::Client;

use super::{bare::Bare, cost::Spent, requests::Requests, sheet::Sheet, sightings::Sightings};
use crate::on_disk::OnDisk;

/// Far above what the slowest machine takes.
const PATIENCE: Duration = Duration::from_secs(600);
/// The first address of the pool.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);

pub struct Site<'a> {
    pub bare: Bare,
    pub sightings: Sightings,
    pub allocator: Allocator,
    pub watcher: Watcher,
    control_plane: &'a ControlPlane,
    client: Client,
    /// The allocator's.
    database: OnDisk,
}

/// A moment before something is measured.
pub struct Before {
    requests: Requests,
    spent: Spent,
}

impl<'a> Site<'a> {
    /// With a pool of as many addresses. The watcher does not run yet.
    ///
    /// # Errors
    /// When something cannot be started.
    pub async fn new(
        control_plane: &'a ControlPlane,
        name: &str,
        addresses: usize,
    ) -> Result<Self> {
        let namespace = control_plane.namespace().await;
        let class = random_class();
        let database = OnDisk::new(name)?;
        let options = allocator::Options::config(pools(addresses)).database(database.path());
        let allocator = Allocator::start(options).await;
        let options = watcher::Options::cluster(name).class(&class);
        Ok(Self {
            bare: Bare::new(&namespace, &class),
            sightings: Sightings::begin(namespace.services()).await?,
            watcher: Watcher::prepare(control_plane, &allocator.url(), options),
            allocator,
            client: control_plane.client().await,
            control_plane,
            database,
        })
    }

    /// Makes the pool as large, and waits until the allocator knows.
    ///
    /// # Errors
    /// When it does not take it.
    pub async fn resize(&self, addresses: usize) -> Result<()> {
        self.allocator.write_config(&pools(addresses));
        let admin = self.allocator.admin();
        let size = || admin.metric("lb_allocator_pool_addresses", &[]);
        is(size, addresses as f64).await
    }

    /// Waits until as many Services are refused for want of an address, and nothing is
    /// under way.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn pending(&self, services: usize, events: usize) -> Result<()> {
        let admin = self.watcher.admin();
        let pending = || admin.metric("lb_watcher_services_pending", &[]);
        is(pending, services as f64).await?;
        self.quiet(events).await
    }

    /// Waits until the watcher has sent, or given up, as many Events since it began,
    /// and no Service waits for it.
    ///
    /// # Errors
    /// When it has not in time.
    pub async fn quiet(&self, events: usize) -> Result<()> {
        let admin = self.watcher.admin();
        let events = events as f64;
        let missing = async || {
            let create = [("kind", "create_event")];
            let sent = admin.metric("lb_watcher_api_calls_total", &create).await?;
            let lost = admin.metric("lb_watcher_events_dropped_total", &[]).await?;
            let queued = admin.metric("lb_watcher_queue_depth", &[]).await?;
            Ok((events - sent - lost).max(0.0) + queued)
        };
        is(missing, 0.0).await
    }

    /// Calls of lb-allocator by the watcher since it began.
    ///
    /// # Errors
    /// When it does not tell.
    pub async fn rpcs(&self) -> Result<f64> {
        let admin = self.watcher.admin();
        admin.metric("lb_watcher_allocator_rpcs_total", &[]).await
    }

    /// Seconds that its Syncs took.
    ///
    /// # Errors
    /// When it does not tell.
    pub async fn syncing(&self) -> Result<f64> {
        let admin = self.watcher.admin();
        let name = "lb_watcher_allocator_rpc_seconds_sum";
        admin.metric(name, &[("method", "Sync")]).await
    }

    /// Bytes of the allocator's database, with what is not in its main file yet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn database_bytes(&self) -> Result<f64> {
        let database = rusqlite::Connection::open(self.database.path())?;
        let bytes = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        Ok(database.query_row(bytes, [], |row| row.get(0))?)
    }

    /// Now. A watcher that is about to start has spent nothing.
    ///
    /// # Errors
    /// When somebody does not tell.
    pub async fn before(&mut self, watcher_runs: bool) -> Result<Before> {
        let watcher = watcher_runs.then_some(&mut self.watcher);
        Ok(Before {
            requests: Requests::now(&self.client).await?,
            spent: Spent::now(self.control_plane, &mut self.allocator, watcher)?,
        })
    }

    /// The requests that the API server got since then.
    ///
    /// # Errors
    /// When it does not tell.
    pub async fn requests_since(&self, before: &Before) -> Result<(Requests, Requests)> {
        let now = Requests::now(&self.client).await?;
        Ok((before.requests.clone(), now))
    }

    /// What it has cost since then, for each of as many Services.
    ///
    /// # Errors
    /// When somebody does not tell.
    pub async fn put_costs(
        &mut self,
        before: &Before,
        sheet: &mut Sheet,
        part: &'static str,
        services: usize,
    ) -> Result<()> {
        let (was, now) = self.requests_since(before).await?;
        let writes = now.status_writes(&was);
        let events = now.since(&was, |_, resource| resource == "events");
        // Creates are the bench's, and each makes the API server ask itself for the
        // ClusterIP.
        let others = now.since(&was, |verb, resource| {
            let create = verb == "POST" && matches!(resource, "services" | "ipaddresses");
            !create && !matches!(resource, "services/status" | "events")
        });
        sheet.put(part, "status writes a Service", writes / services as f64);
        sheet.put(part, "Events a Service", events / services as f64);
        sheet.put(part, "other API requests, in all", others);
        let spent = Spent::now(
            self.control_plane,
            &mut self.allocator,
            Some(&mut self.watcher),
        )?;
        spent.put(&before.spent, sheet, part, services);
        Ok(())
    }
}

/// A pool of as many addresses.
fn pools(addresses: usize) -> String {
    let first = u32::from(FIRST);
    let last = u32::try_from(addresses).map_or(u32::MAX, |addresses| first + addresses - 1);
    let last = Ipv4Addr::from(last);
    format!("pools: [{{name: bench, addresses: [{FIRST}-{last}]}}]\n")
}

/// Waits until a number is as expected.
async fn is(look: impl AsyncFn() -> Result<f64>, expected: f64) -> Result<()> {
    let seen = within(PATIENCE, async || match look().await {
        Ok(number) if (number - expected).abs() < 0.5 => Ok(()),
        Ok(number) => Err(format!("{number} instead of {expected}")),
        Err(error) => Err(format!("{error:#}")),
    });
    let seen = seen.await;
    seen.map_err(|seen| anyhow!("not within {PATIENCE:?}: {seen}"))
}
