//! A database that holds a million allocations. The real allocator makes its
//! tables; the rows are written to `history`, as the allocator writes them, and
//! the real triggers keep the rest. Only that it is one transaction, and not
//! synced, is unlike the allocator: it takes seconds instead of minutes.

use std::path::Path;

use anyhow::Result;
use integration_tests::allocator::{Allocator, Options};
use rusqlite::Connection;

pub const ALLOCATIONS: u64 = 1_000_000;

/// All of them and as many more as a /12 has.
pub const ROOMY: &str = "pools: [{name: bench, addresses: [10.0.0.0/12]}]\n";
/// All of them and [`FREE`] more: 99.9 % full.
pub const NARROW: &str = "pools: [{name: bench, addresses: [10.0.0.1-10.15.70.41]}]\n";
/// Free addresses of [`NARROW`].
pub const FREE: u64 = 1_001;

const ROWS: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -262144;
    BEGIN IMMEDIATE;
    WITH RECURSIVE numbers (n) AS (
        SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000000
    )
    INSERT INTO history (revision, at, kind, address, family, pool, cluster, namespace, name,
                         uid, cluster_ip)
    SELECT n, 1700000000000 + n, 'ALLOCATED',
           format('10.%d.%d.%d', n >> 16, (n >> 8) & 255, n & 255), 4, 'bench', 'bench',
           format('team-%d', n % 100), format('held-%d', n), format('%08x-5f3a-4b6c-8d7e-%012x', n * 2654435761 % 4294967296, n), '10.96.0.1'
    FROM numbers;
    COMMIT;
    PRAGMA wal_checkpoint(TRUNCATE);
";

/// What the Service of this number holds, from 1 on.
pub fn address(number: u64) -> String {
    format!(
        "10.{}.{}.{}",
        number >> 16,
        (number >> 8) & 255,
        number & 255
    )
}

/// # Errors
/// When it cannot be written.
pub async fn make(database: &Path) -> Result<()> {
    let mut allocator = Allocator::start(Options::config(ROOMY).database(database)).await;
    allocator
        .terminate(std::time::Duration::from_secs(10))
        .await;
    let path = database.to_owned();
    tokio::task::spawn_blocking(move || Ok(Connection::open(path)?.execute_batch(ROWS)?)).await?
}
