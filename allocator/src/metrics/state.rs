//! What is read off the state at each scrape, so that nothing has to be counted
//! while requests are served.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    path::PathBuf,
    sync::Arc,
};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, NoLabelSet},
    metrics::MetricType,
    registry::Registry,
};
use tokio::sync::watch;

use super::Census;
use crate::{
    clock::Clock,
    engine::{Family, Located, PerFamily, PoolIndex, PoolName},
    published::{Published, State},
};

/// See the module.
#[derive(Debug)]
pub struct StateCollector {
    pub published: Arc<Published>,
    /// What the writer last said.
    pub census: Arc<Mutex<Census>>,
    pub store_available: watch::Receiver<bool>,
    /// The database file.
    pub database: PathBuf,
    pub clock: Clock,
}

/// One family of one pool.
struct PoolRow {
    pool: String,
    family: Family,
    /// A gauge is a float; a /64 loses its last digits.
    size: f64,
    used: u64,
    reserved: u64,
    cooling: u64,
    waiting: u64,
}

impl StateCollector {
    pub fn register(self, registry: &mut Registry) {
        registry.register_collector(Box::new(self));
    }

    fn pool_rows(&self, state: &State) -> Vec<PoolRow> {
        let reserved = reserved(state);
        let census = self.census.lock();
        let mut rows = Vec::new();
        for index in state.pools().indexes() {
            let pool = &state.pools().spec(index).name;
            for (family, usable) in state.pools().usable(index).iter() {
                if usable.is_empty() {
                    continue;
                }
                let counted = census.of(pool, family);
                rows.push(PoolRow {
                    pool: pool.to_string(),
                    family,
                    size: usable.len() as f64,
                    used: state.used(index, family),
                    reserved: reserved.get(&index).map_or(0, |count| *count.get(family)),
                    cooling: counted.cooling,
                    waiting: counted.waiting,
                });
            }
        }
        rows
    }

    /// Clusters are few: each has a watcher that operators started.
    fn encode_clusters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let now = self.clock.now();
        let published = &self.published;
        let clusters = published.clusters();
        let names = || clusters.iter().map(|(cluster, _, held)| (cluster, held));
        gauges(
            encoder,
            "cluster_allocations",
            "Addresses that Services of the cluster hold",
            names().map(|(cluster, held)| ([("cluster", cluster.as_str())], *held)),
        )?;
        gauges(
            encoder,
            "cluster_silent",
            "1 if the cluster has not told what it has for longer than clusterSilence",
            names().map(|(cluster, _)| {
                let silent = u64::from(published.is_silent(cluster, now));
                ([("cluster", cluster.as_str())], silent)
            }),
        )?;
        gauges(
            encoder,
            "cluster_last_sync_timestamp_seconds",
            "When the cluster last told what it has, in seconds since 1970; none since the start: no series",
            names().filter_map(|(cluster, _)| {
                // Exact until the year 287396.
                let at = published.last_sync(cluster)?.0 as f64 / 1000.0;
                Some(([("cluster", cluster.as_str())], at))
            }),
        )?;
        let contacts: Vec<_> = names()
            .map(|(cluster, _)| (cluster, published.contacts().of(cluster)))
            .collect();
        counters(
            encoder,
            "cluster_identity_refused",
            "Requests that were refused because another cluster uses the name of this one, or this one another name",
            contacts
                .iter()
                .map(|(cluster, of)| ([("cluster", cluster.as_str())], of.refusals)),
        )?;
        counters(
            encoder,
            "false_marks",
            "Syncs of the cluster that showed a mark which the allocator did not make",
            contacts
                .iter()
                .map(|(cluster, of)| ([("cluster", cluster.as_str())], of.false_marks)),
        )?;
        gauges(
            encoder,
            "watch_streams",
            "Open Watch streams of the cluster: one for each watcher that leads",
            names().map(|(cluster, _)| {
                let open = published.streams().count(cluster) as u64;
                ([("cluster", cluster.as_str())], open)
            }),
        )
    }

    fn encode_database(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        gauge(
            encoder,
            "database_writable",
            "1 if the last change could be made durable, 0 until one can again",
            u64::from(*self.store_available.borrow()),
        )?;
        let files = ["main", "wal"].map(|file| {
            let mut path = self.database.clone().into_os_string();
            if file != "main" {
                path.push("-wal");
            }
            // The log is not there while it is empty.
            let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
            ([("file", file)], bytes)
        });
        gauges(
            encoder,
            "database_bytes",
            "Size of the database and of its write-ahead log",
            files,
        )
    }
}

/// Reservations are what people made, so few that a scan holds nobody up.
fn reserved(state: &State) -> BTreeMap<PoolIndex, PerFamily<u64>> {
    let mut counts = BTreeMap::<_, PerFamily<u64>>::new();
    for reservation in state.reservations_from(None) {
        if let Located::In(pool) = state.pools().locate(reservation.address) {
            let family = Family::of(reservation.address);
            *counts.entry(pool).or_default().get_mut(family) += 1;
        }
    }
    counts
}

/// Of all pools that there are, and of those that are gone.
fn stranded(state: &State) -> BTreeMap<PoolName, u64> {
    let pools = state.pools();
    let names = pools.indexes().map(|index| pools.spec(index).name.clone());
    let mut stranded: BTreeMap<_, _> = names.map(|name| (name, 0)).collect();
    stranded.extend(state.stranded().clone());
    stranded
}

impl Collector for StateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let (revision, stranded, (conflicts, shown), rows) = {
            let state = self.published.read();
            // Few.
            let all = state.conflicts();
            let count = all.len() as u64;
            let conflicts = all.filter(|conflict| conflict.is_claim()).count() as u64;
            let rows = self.pool_rows(&state);
            let shown = count - conflicts;
            (
                state.revision().0,
                stranded(&state),
                (conflicts, shown),
                rows,
            )
        };
        gauge(encoder, "revision", "The last committed revision", revision)?;
        gauge(
            encoder,
            "conflicts",
            "Addresses that Services show while others hold them, or beyond their quotas",
            conflicts,
        )?;
        gauge(
            encoder,
            "shown_addresses",
            "Addresses that Services do not hold and that are kept from others while a status shows them",
            shown,
        )?;
        gauges(
            encoder,
            "stranded_addresses",
            "Held addresses whose holders would not get them today, by the pool they came from, which may be gone",
            stranded
                .iter()
                .map(|(pool, count)| ([("pool", pool.as_str())], *count)),
        )?;
        gauge(
            encoder,
            "services_waiting",
            "Services that wait for an address",
            self.census.lock().waiting,
        )?;
        self.encode_clusters(encoder)?;
        self.encode_database(encoder)?;
        gauge(
            encoder,
            "clock_offset_seconds",
            "How far the machine's clock is ahead of the time that the allocator goes by",
            // Exact until the year 287396.
            self.clock.offset() as f64 / 1000.0,
        )?;
        let row = |value: fn(&PoolRow) -> f64| {
            rows.iter().map(move |row| {
                let labels = [("pool", row.pool.as_str()), ("family", row.family.as_str())];
                (labels, value(row))
            })
        };
        gauges(
            encoder,
            "pool_addresses",
            "Addresses of the pool, without excluded ones",
            row(|row| row.size),
        )?;
        gauges(
            encoder,
            "pool_addresses_used",
            "Addresses of the pool that are held or reserved",
            row(|row| row.used as f64),
        )?;
        gauges(
            encoder,
            "pool_addresses_reserved",
            "Addresses of the pool that are reserved, held or not",
            row(|row| row.reserved as f64),
        )?;
        gauges(
            encoder,
            "pool_addresses_cooling",
            "Free addresses of the pool that only their last holders get for now",
            row(|row| row.cooling as f64),
        )?;
        gauges(
            encoder,
            "pool_services_waiting",
            "Services that any address of the pool would serve",
            row(|row| row.waiting as f64),
        )
    }
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, None, MetricType::Gauge)?
        .encode_gauge(&value)
}

/// Not even a description where there is no series, as the registry does it.
fn gauges<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = ([(&'a str, &'a str); N], impl EncodeGaugeValue)>,
) -> fmt::Result {
    let mut series = series.into_iter().peekable();
    if series.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        family.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

/// As [`gauges`], of what only grows.
fn counters<'a, const N: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl IntoIterator<Item = ([(&'a str, &'a str); N], u64)>,
) -> fmt::Result {
    let mut series = series.into_iter().peekable();
    if series.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in series {
        family
            .encode_family(&labels)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
    }
    Ok(())
}
