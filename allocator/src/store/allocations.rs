//! All allocations of a database, which may be a million.
//!
//! sqlx hands over a row at a time, with memory of its own for each value, which
//! takes longer than SQLite reading it. So SQLite puts a page of rows into one text
//! of JSON, and reads the next page while this thread takes in the last one.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use serde::Deserialize;
use sqlx::{Row as _, SqliteConnection};

use super::load::{RowError, address, holder};
use crate::engine::{
    Allocation, ClusterName, InvalidName, Namespace, PoolName, Restoring, Revision, ServiceKey,
    ServiceName, Timestamp,
};

/// Rows of one text.
const PAGE: i64 = 1024;

/// One row, as the query below puts it; what may be NULL is empty then.
#[derive(Deserialize)]
struct Row<'a>(
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    #[serde(borrow)] Cow<'a, str>,
    i64,
    i64,
);

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
            for row in serde_json::from_str::<Vec<Row<'_>>>(&rows)? {
                restoring.hold(Arc::new(names.allocation(&row)?))?;
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
    let row = sqlx::query(
        "SELECT max(number),
                json_group_array(json_array(
                    cluster, namespace, name, address, pool, ifnull(uid, ''),
                    ifnull(replaced_uid, ''), ifnull(cluster_ip, ''),
                    ifnull(sharing_key, ''), ifnull(details, ''), since, revision
                ))
         FROM (SELECT rowid AS number, * FROM allocations
               WHERE rowid > ?1 ORDER BY rowid LIMIT ?2)",
    )
    .bind(after)
    .bind(PAGE)
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
    fn allocation(&mut self, row: &Row<'_>) -> Result<Allocation, RowError> {
        let Row(
            cluster,
            namespace,
            name,
            address_text,
            pool,
            uid,
            replaced_uid,
            cluster_ip,
            sharing_key,
            details,
            since,
            revision,
        ) = row;
        Ok(Allocation {
            key: Arc::new(ServiceKey {
                cluster: once(&mut self.clusters, cluster, ClusterName::parse)?,
                namespace: once(&mut self.namespaces, namespace, Namespace::parse)?,
                name: ServiceName::parse(name)?,
            }),
            address: address(address_text)?,
            pool: once(&mut self.pools, pool, PoolName::parse)?,
            holder: holder([uid, replaced_uid, cluster_ip, sharing_key, details])?,
            since: Timestamp(*since),
            revision: Revision(*revision),
        })
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
