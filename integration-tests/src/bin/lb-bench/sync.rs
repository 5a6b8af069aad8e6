//! A whole cluster told to an allocator that knows nothing of it, and told again.

use std::time::Instant;

use anyhow::{Result, ensure};
use integration_tests::rpc::sync_of;
use lb_proto::v1::{AcquireRequest, SyncRequest, sync_request::Part};

use crate::{
    allocator::Extent,
    bare_sqlite, load, million,
    running::Empty,
    table::{Round, Table},
};

const SYNC: &str = "Sync of 10,000 Services (Services per second, p50 of the whole)";
const SERVICES: u64 = 10_000;
/// Services of one message: within the 256 KiB that the allocator takes.
const MESSAGE: usize = 500;
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
    for what in ["adopted by an empty one", "told again"] {
        let begun = Instant::now();
        let synced = empty.running.allocator.sync(messages()).await?;
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

fn messages() -> Vec<SyncRequest> {
    let services: Vec<_> = (1..=SERVICES).map(showing).collect();
    let mut messages = sync_of("bench", services);
    let parts = messages
        .iter_mut()
        .filter_map(|message| match &mut message.part {
            Some(Part::Services(services)) => Some(std::mem::take(&mut services.services)),
            Some(Part::Begin(_) | Part::End(_)) | None => None,
        });
    let services: Vec<AcquireRequest> = parts.flatten().collect();
    let end = messages.pop();
    messages.truncate(1);
    messages.extend(services.chunks(MESSAGE).map(|services| SyncRequest {
        part: Some(Part::Services(lb_proto::v1::sync_request::Services {
            services: services.to_vec(),
        })),
    }));
    messages.extend(end);
    messages
}

fn showing(number: u64) -> AcquireRequest {
    let mut request = load::acquire(number);
    let wish = request.wish.get_or_insert_default();
    wish.current_addresses = vec![million::address(number)];
    request
}
