//! What abuse of the port costs those who behave. A neighbour with a certificate of
//! its own acquires and releases all the time; beside it, one kind of abuse after the
//! other comes from a process that has the certificate of another cluster, and leaves.
//!
//! Two processors serve the abuser, the allocator and the neighbour, so a part of
//! what the neighbour feels is the machine. A bystander measures that part: it calls
//! an echo server that nobody abuses, in the same seconds.

mod abuse;
mod bystander;
mod neighbour;
mod outcomes;
mod raw;
mod table;
mod usage;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use integration_tests::allocator::{Options, Secured};

pub use self::{
    abuse::{Kind, Target, run as abuse},
    table::Table,
};
use self::{
    bystander::Bystander,
    neighbour::{Felt, Neighbour},
    outcomes::Account,
    usage::{Usage, Watched},
};
use crate::on_disk::OnDisk;

/// Room for everybody, and a pool that is never enough.
const POOLS: &str = "
pools:
- {name: roomy, addresses: [10.0.0.0/8]}
- {name: scarce, addresses: [192.0.2.1], autoAssign: false}
";

/// How long each stretch is.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// Without abuse, before each.
    calm: Duration,
    /// Under it, besides the time that it takes to begin.
    abuse: Duration,
    /// After it, before memory is looked at.
    after: Duration,
}

impl Extent {
    const QUICK: Self = Self {
        calm: Duration::from_secs(2),
        abuse: Duration::from_secs(5),
        after: Duration::from_secs(2),
    };
    /// A half-open stream ends after ten seconds: some of each end by themselves.
    const FULL: Self = Self {
        calm: Duration::from_secs(5),
        abuse: Duration::from_secs(25),
        after: Duration::from_secs(5),
    };
}

/// One kind of abuse and what it did.
struct Row {
    kind: Kind,
    account: Account,
    calm: Felt,
    abused: Felt,
    bystander_calm: Felt,
    bystander_abused: Felt,
    usage: Usage,
    refused: f64,
}

/// # Errors
/// When something does not start, or the allocator ends.
pub async fn measure(quick: bool, only: &[Kind]) -> Result<Table> {
    let extent = if quick { Extent::QUICK } else { Extent::FULL };
    let bystander = Bystander::start().await?;
    let mut rows = Vec::new();
    for kind in Kind::value_variants() {
        if only.is_empty() || only.contains(kind) {
            eprintln!("{}", kind.name());
            rows.push(row(*kind, extent, &bystander).await?);
        }
    }
    Ok(Table::new(rows))
}

fn watcher_of(cluster: &str) -> String {
    format!("spiffe://bench/cluster/{cluster}/role/watcher")
}

async fn row(kind: Kind, extent: Extent, bystander: &Bystander) -> Result<Row> {
    let database = OnDisk::new("overload")?;
    let options = Options::config(POOLS).database(database.path());
    let mut secured = Secured::start(options.without_routes_file()).await;
    let neighbour = Neighbour::new(secured.caller(&watcher_of(neighbour::CLUSTER)).await);
    let stolen = secured.secret(&watcher_of(abuse::CLUSTER))?;
    let allocator = &mut secured.allocator;
    // Connections and caches are then as they stay.
    neighbour.during(tokio::time::sleep(extent.calm)).await;
    let calm = async { tokio::time::sleep(extent.calm).await };
    let ((calm, ()), (bystander_calm, ())) =
        tokio::join!(neighbour.during(calm), bystander.during(extent.calm));

    let watched = Watched::begin(allocator.process().id())?;
    let address = allocator.address();
    let abuser = abuse::Process::start(kind, &address, stolen.folder(), extent.abuse)?;
    let (over, is_over) = tokio::sync::watch::channel(false);
    let end = async {
        let ended = abuser.ended(&watched).await;
        over.send_replace(true);
        ended
    };
    let ((abused, ended), bystander_abused) =
        tokio::join!(neighbour.during(end), bystander.until(is_over));
    let (account, abuser_seconds) = ended.context(kind.name())?;
    tokio::time::sleep(extent.after).await;
    let usage = watched.end(abuser_seconds)?;
    let refused = allocator
        .admin()
        .metric(
            "lb_allocator_rpc_requests_total",
            &[("code", "RESOURCE_EXHAUSTED")],
        )
        .await?;
    Ok(Row {
        kind,
        account,
        calm,
        abused,
        bystander_calm,
        bystander_abused,
        usage,
        refused,
    })
}
