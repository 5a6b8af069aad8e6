//! What SQLite can do with the same rows when nothing else is done: the limit of
//! the commits, and of reading at the start.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use rusqlite::{Connection, params};

use crate::on_disk::OnDisk;

/// The rows and the indexes that the promises need, without the checks of the
/// real tables.
const TABLES: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE history (
        revision INTEGER PRIMARY KEY, at INTEGER, kind TEXT, address TEXT, pool TEXT,
        cluster TEXT, namespace TEXT, name TEXT, uid TEXT, cluster_ip TEXT
    ) STRICT;
    CREATE TABLE allocations (
        address TEXT UNIQUE, pool TEXT, cluster TEXT, namespace TEXT, name TEXT, uid TEXT,
        cluster_ip TEXT, since INTEGER, revision INTEGER,
        PRIMARY KEY (cluster, namespace, name)
    ) STRICT;
";

/// Transactions before the first that is measured: more pages than SQLite keeps in
/// the WAL.
const WARM_UP: usize = 100;

/// Allocations per second, one connection, this many in each durable transaction:
/// a row of history and a row of state each, prepared once.
///
/// # Errors
/// When the database cannot be written.
pub fn rows_per_second(batch: u64, time: Duration) -> Result<f64> {
    let file = OnDisk::new("bare")?;
    let connection = Connection::open(file.path())?;
    connection.execute_batch(TABLES)?;
    let mut history = connection
        .prepare("INSERT INTO history VALUES (?1, ?2, 'ALLOCATED', ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?;
    let mut state = connection
        .prepare("INSERT INTO allocations VALUES (?3, ?4, ?5, ?6, ?7, ?8, ?9, ?2, ?1)")?;
    let mut rows = 0_i64;
    let mut commit = |batch: u64| -> Result<()> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for _ in 0..batch {
            rows += 1;
            let row = params![
                rows,
                1_700_000_000_000_i64 + rows,
                format!("10.{}.{}.{}", rows >> 16, (rows >> 8) & 255, rows & 255),
                "bench",
                "bench",
                format!("team-{}", rows % 100),
                format!("service-{rows}"),
                format!("{:08x}-5f3a-4b6c-8d7e-{rows:012x}", rows * 7919),
                "10.96.0.1",
            ];
            history.execute(row)?;
            state.execute(row)?;
        }
        connection.execute_batch("COMMIT")?;
        Ok(())
    };
    // A WAL that still grows is slower than one that is written again from its
    // beginning, as it is from the first checkpoint on.
    for _ in 0..WARM_UP {
        commit(32)?;
    }
    let (mut commits, begun) = (0, Instant::now());
    while begun.elapsed() < time {
        commit(batch)?;
        commits += 1;
    }
    Ok((commits * batch) as f64 / begun.elapsed().as_secs_f64())
}

/// How long it takes to read every column of every allocation, in seconds.
///
/// # Errors
/// When the database cannot be read.
pub fn read_all(database: &Path) -> Result<f64> {
    let connection = Connection::open(database)?;
    let begun = Instant::now();
    let mut select = connection.prepare("SELECT * FROM allocations")?;
    let columns = select.column_count();
    let mut rows = select.query([])?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        for column in 0..columns {
            bytes += row
                .get_ref(column)?
                .as_bytes_or_null()
                .ok()
                .flatten()
                .map_or(8, <[u8]>::len);
        }
    }
    std::hint::black_box(bytes);
    Ok(begun.elapsed().as_secs_f64())
}
