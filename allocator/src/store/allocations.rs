//! All allocations of a database, which may be a million.
//!
//! sqlx hands over a row at a time, with memory of its own for each value, which
//! takes longer than SQLite reading it. So SQLite puts a page of rows into one text,
//! and reads the next page while this thread takes in the last one. Values are told
//! apart by control characters, which no name has and JSON escapes.

use std::sync::Arc;

use hashbrown::HashMap;
use sqlx::{Row as _, SqliteConnection};

use super::load::{Corrupt, RowError, address, holder};
use crate::engine::{
    Allocation, ClusterName, InvalidName, Namespace, PoolName, Restoring, Revision, ServiceKey,
    ServiceName, Timestamp,
};

/// Rows of one text.
const PAGE: i64 = 1024;

/// ASCII's information separators, which are `char(31)` and `char(30)` in the query.
const UNIT: char = '\u{1f}';
const RECORD: char = '\u{1e}';

/// A text of rows, and the number of the last one.
struct Page {
    rows: String,
    last: i64,
}

/// Hands over every allocation.
pub(super) async fn restore(
    connection: &mut SqliteConnection,
    restoring: &mut Restoring,
) -> Result<(), RowError> {
    let mut names = Names::default();
    let mut page = next_page(connection, 0).await?;
    while let Some(Page { rows, last }) = page {
        let hold = async {
            for row in rows.split(RECORD) {
                restoring.hold(Arc::new(names.allocation(row)?))?;
            }
            Ok::<_, RowError>(())
        };
        // In this order: SQLite is at work by the time the other one blocks the thread.
        let (next, held) = futures::join!(next_page(connection, last), hold);
        held?;
        page = next?;
    }
    Ok(())
}

async fn next_page(
    connection: &mut SqliteConnection,
    after: i64,
) -> Result<Option<Page>, sqlx::Error> {
    // Where the page ends is looked up first: with a LIMIT of its own, the table would be a
    // subquery, which copies each value once more.
    let row = sqlx::query(
        "SELECT max(rowid),
                group_concat(concat_ws(
                    char(31), cluster, namespace, name, address, pool, ifnull(uid, ''),
                    ifnull(replaced_uid, ''), ifnull(cluster_ip, ''),
                    ifnull(sharing_key, ''), ifnull(details, ''), since, revision
                ), char(30))
         FROM allocations
         WHERE rowid > ?1
           AND rowid <= ifnull((SELECT rowid FROM allocations WHERE rowid > ?1
                                ORDER BY rowid LIMIT 1 OFFSET ?2 - 1), ?3)",
    )
    .bind(after)
    .bind(PAGE)
    .bind(i64::MAX)
    .fetch_one(connection)
    .await?;
    let last: Option<i64> = row.try_get(0)?;
    let page = last.map(|last| {
        Ok(Page {
            rows: row.try_get(1)?,
            last,
        })
    });
    page.transpose()
}

/// Names that many rows have in common, so that each is kept once.
#[derive(Default)]
struct Names {
    clusters: HashMap<String, ClusterName>,
    namespaces: HashMap<String, Namespace>,
    pools: HashMap<String, PoolName>,
}

impl Names {
    /// What is NULL in the database is empty in `row`.
    fn allocation(&mut self, row: &str) -> Result<Allocation, RowError> {
        let malformed = || Corrupt::Row {
            text: row.to_owned(),
        };
        let mut values = row.split(UNIT);
        let mut next = || values.next().ok_or_else(malformed);
        let number = |text: &str| text.parse().map_err(|_| malformed());
        let allocation = Allocation {
            key: Arc::new(ServiceKey {
                cluster: once(&mut self.clusters, next()?, ClusterName::parse)?,
                namespace: once(&mut self.namespaces, next()?, Namespace::parse)?,
                name: ServiceName::parse(next()?)?,
            }),
            address: address(next()?)?,
            pool: once(&mut self.pools, next()?, PoolName::parse)?,
            holder: holder([next()?, next()?, next()?, next()?, next()?])?,
            since: Timestamp(number(next()?)?),
            revision: Revision(number(next()?)?),
        };
        match values.next() {
            None => Ok(allocation),
            Some(_) => Err(malformed().into()),
        }
    }
}

fn once<T: Clone>(
    known: &mut HashMap<String, T>,
    text: &str,
    parse: fn(&str) -> Result<T, InvalidName>,
) -> Result<T, InvalidName> {
    if let Some(name) = known.get(text) {
        return Ok(name.clone());
    }
    let name = parse(text)?;
    known.insert(text.to_owned(), name.clone());
    Ok(name)
}
