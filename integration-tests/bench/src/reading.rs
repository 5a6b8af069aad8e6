//! Reads beside writes: neither waits for the other.

use std::time::Instant;

use anyhow::Result;
use lb_proto::v1::{
    GetAllocationRequest, get_allocation_request::Of, pool_service_client::PoolServiceClient,
};
use tonic::transport::Channel;

use crate::{
    allocator::{Extent, ROOM, round_of},
    load::{RELEASES, Seen, Until},
    million,
    running::Running,
    table::Table,
};

const READING: &str = "GetAllocation of 16 callers, and Acquire of 64, with a million held";
const READERS: usize = 16;
const WRITERS: usize = 64;

/// # Errors
/// When a request is refused.
pub async fn measure(table: &mut Table, extent: Extent, running: &Running) -> Result<()> {
    let client = running.allocator.pool_client().await;
    let until = extent.for_its_time();
    let writes = Until {
        requests: ROOM,
        ..until
    };
    let (alone, _) = running.stretch(WRITERS, writes).await?;
    let reads = round_of(read(&client, until).await?, f64::NAN);
    let first = running.callers.next();
    let (both, beside) = tokio::join!(
        read(&client, until),
        running.callers.acquire(WRITERS, writes)
    );
    running.callers.release_since(first, RELEASES).await?;
    let alone = round_of(alone, f64::NAN);
    let both = round_of(both?, f64::NAN).of(reads.rate);
    let beside = round_of(beside?, f64::NAN).of(alone.rate);
    table.add(READING, READERS, ("reads alone", ""), reads);
    table.add(
        READING,
        READERS,
        ("reads beside writes", "those alone"),
        both,
    );
    table.add(READING, WRITERS, ("writes alone", ""), alone);
    table.add(
        READING,
        WRITERS,
        ("writes beside reads", "those alone"),
        beside,
    );
    Ok(())
}

async fn read(client: &PoolServiceClient<Channel>, until: Until) -> Result<Seen> {
    let begun = Instant::now();
    let callers = (0..READERS as u64).map(|caller| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let mut took = Vec::new();
            let mut number = caller;
            while begun.elapsed() < until.time {
                // A prime stride: all over the pool.
                number = (number + 7919) % million::ALLOCATIONS;
                let address = million::address(number + 1);
                let request = GetAllocationRequest {
                    of: Some(Of::Address(address)),
                };
                let sent = Instant::now();
                client.get_allocation(request).await?;
                took.push(sent.elapsed());
            }
            Ok(took)
        })
    });
    Seen::of(begun, callers).await
}
