//! A whole cluster told to an allocator that knows nothing of it, and told again.

use std::time::Instant;

use anyhow::{Result, ensure};
use integration_tests::rpc::sync_of;
use lb_proto::v1::AcquireRequest;

use crate::{
    allocator::Extent,
    bare_sqlite, load, million,
    running::Empty,
    table::{Round, Table},
};

const SYNC: &str = "Sync of 10,000 Services (Services per second, p50 of the whole)";
const SERVICES: u64 = 10_000;
/// Rows of a statement of the allocator.
const ROWS: u64 = 1024;

/// # Errors
/// When a Sync is refused.
pub async fn measure(table: &mut Table, extent: Extent) -> Result<()> {
    let time = extent.time;
    let bare = tokio::task::spawn_blocking(move || bare_sqlite::rows_per_second(ROWS, time));
    let bare = bare.await??;
    table.add(SYNC, 1, ("bare SQLite", ""), Round::rate(bare));
    let empty = Empty::start("sync").await?;
    let services: Vec<_> = (1..=SERVICES).map(showing).collect();
    for what in ["adopted by an empty one", "told again"] {
        let messages = sync_of("bench", services.clone());
        let begun = Instant::now();
        let synced = empty.running.allocator.sync(messages).await?;
        let seconds = begun.elapsed().as_secs_f64();
        ensure!(
            synced.len() == SERVICES as usize,
            "{} of {SERVICES} Services were told of",
            synced.len()
        );
        let round = Round {
            p50: seconds * 1e3,
            ..Round::rate(SERVICES as f64 / seconds)
        };
        table.add(SYNC, 1, (what, "bare SQLite"), round.of(bare));
    }
    Ok(())
}

fn showing(number: u64) -> AcquireRequest {
    let mut request = load::acquire(number);
    let wish = request.wish.get_or_insert_default();
    wish.current_addresses = vec![million::address(number)];
    request
}
