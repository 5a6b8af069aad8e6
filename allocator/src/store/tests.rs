use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::engine::{
    Acquire, AddressRange, Backend, Command, Engine, Family, PerFamily, Permitted, Policy,
    PoolName, PoolSpec, Pools, Port, Protocol, Release, Reserve, ServiceKey, SharingKey, Snapshot,
    Terms, Uid, Wish,
};

fn url(directory: &tempfile::TempDir) -> String {
    format!("sqlite://{}", directory.path().join("a.db").display())
}

fn range(first: &str, last: &str) -> AddressRange {
    AddressRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap()
}

fn pools() -> Arc<Pools> {
    let addresses = vec![
        range("192.0.2.1", "192.0.2.4"),
        range("2001:db8::1", "2001:db8::3"),
    ];
    let spec = PoolSpec {
        sticky_for: Duration::from_millis(50),
        cooldown: Duration::from_millis(30),
        ..PoolSpec::new(PoolName::parse("p").unwrap(), addresses)
    };
    Arc::new(Pools::new(vec![spec]).unwrap())
}

fn acquire(name: &str, uid: &str, families: &[Family]) -> Command {
    Command::Acquire(Acquire {
        was_allocated: false,
        key: Arc::new(ServiceKey::parse("a", "default", name).unwrap()),
        uid: Some(Uid::parse(uid).unwrap()),
        created: None,
        cluster_ip: Some("10.0.0.1".parse().unwrap()),
        wish: Wish {
            families: families.to_vec(),
            policy: if families.len() == 1 {
                Policy::All
            } else {
                Policy::Any
            },
            requested: PerFamily::default(),
            pool: None,
            sharing: None,
            current: Vec::new(),
            labels: Arc::default(),
        },
    })
}

fn release(name: &str) -> Command {
    Command::Release(Release {
        key: ServiceKey::parse("a", "default", name).unwrap(),
        uid: None,
    })
}

/// The same with a sharing key, labels, and a port of its own.
fn sharing(command: Command, port: u8) -> Command {
    let Command::Acquire(mut acquire) = command else {
        return command;
    };
    acquire.wish.sharing = Some(Arc::new(Terms {
        key: SharingKey::parse("k").unwrap(),
        permitted: Permitted::All,
        ports: [Port {
            protocol: Protocol::Udp,
            number: 80 + u16::from(port) / 2,
        }]
        .into(),
        backend: Backend::Local([("app".to_owned(), "x".to_owned())].into()),
    }));
    let labels = Arc::make_mut(&mut acquire.wish.labels);
    labels.service.insert("tier".to_owned(), "web".to_owned());
    Command::Acquire(acquire)
}

fn reserve(who: u8) -> Command {
    let key = ServiceKey::parse("a", "default", &format!("s{who}")).unwrap();
    Command::Reserve(Reserve {
        address: "192.0.2.3".parse().unwrap(),
        key: (who > 1).then(|| Arc::new(key)),
        expires: (who > 2).then_some(Timestamp(300)),
        comment: "the router's".to_owned(),
    })
}

async fn error(url: &str) -> String {
    Store::open(url).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_second_process_is_refused_whatever_name_it_uses_for_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&url(&directory)).await.unwrap();
    assert!(
        error(&url(&directory))
            .await
            .contains("is in use by another lb-allocator")
    );
    let link = directory.path().join("link.db");
    std::os::unix::fs::symlink(directory.path().join("a.db"), &link).unwrap();
    let by_link = format!("sqlite://{}", link.display());
    assert!(
        error(&by_link)
            .await
            .contains("is in use by another lb-allocator")
    );
    drop(store);
    Store::open(&by_link).await.unwrap();
}

#[tokio::test]
async fn what_is_no_database_of_ours_is_refused_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    assert!(
        error("postgres://x")
            .await
            .contains("is not a database URL")
    );
    assert!(
        error("sqlite::memory:")
            .await
            .contains("is not a database URL")
    );
    let nowhere = format!("sqlite://{}/no/such/a.db", directory.path().display());
    assert!(error(&nowhere).await.contains("no/such/a.db"));
    std::fs::write(
        &path,
        "this is a text file, and long enough to have a header".repeat(20),
    )
    .unwrap();
    assert!(
        error(&url(&directory))
            .await
            .contains(&path.display().to_string())
    );
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&url(&directory)).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations
         VALUES (9999, 'from the future', CURRENT_TIMESTAMP, TRUE, x'00', 0)",
    )
    .execute(&mut store.writer)
    .await
    .unwrap();
    store.close().await.unwrap();
    let text = error(&url(&directory)).await;
    assert!(
        text.contains("was written by a newer lb-allocator"),
        "{text}"
    );
}

#[tokio::test]
async fn history_can_only_be_added_to() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&url(&directory)).await.unwrap();
    let mut engine = Engine::restore(pools(), Snapshot::default()).unwrap();
    let plan = engine
        .plan(&acquire("s", "u", &[Family::V4]), Timestamp(1))
        .1;
    store.commit(&plan.changes).await.unwrap();
    for statement in ["UPDATE history SET name = 'x'", "DELETE FROM history"] {
        let refused = sqlx::query(statement)
            .execute(&mut store.writer)
            .await
            .unwrap_err();
        assert!(
            refused.to_string().contains("history is append-only"),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_batch_that_gives_an_address_twice_is_refused_whole() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&url(&directory)).await.unwrap();
    let mut one = Engine::restore(pools(), Snapshot::default()).unwrap();
    let mut changes = one
        .plan(&acquire("one", "u", &[Family::V6]), Timestamp(1))
        .1
        .changes;
    store.commit(&changes).await.unwrap();

    let mut other = Engine::restore(pools(), Snapshot::default()).unwrap();
    let _ = other.plan(&acquire("other", "u", &[Family::V4]), Timestamp(1));
    changes = other
        .plan(
            &acquire("other", "u", &[Family::V4, Family::V6]),
            Timestamp(2),
        )
        .1
        .changes;
    let refused = store.commit(&changes).await.unwrap_err();
    assert!(matches!(refused, StoreError::Write { .. }), "{refused}");
    let snapshot = store.load(pools()).await.unwrap().snapshot();
    assert_eq!(snapshot.allocations.len(), 1);
    assert_eq!(snapshot.revision, Revision(1));
}

#[tokio::test]
async fn a_database_that_cannot_be_ours_is_refused_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&url(&directory)).await.unwrap();
    let mut engine = Engine::restore(pools(), Snapshot::default()).unwrap();
    let (_, given) = engine.plan(&acquire("a", "u1", &[Family::V4]), Timestamp(1));
    store.commit(&given.changes).await.unwrap();
    for (edit, expected) in [
        (
            "DROP TRIGGER allocations_are_shared_by_agreement;
             DROP INDEX one_holder_per_address;
             INSERT INTO allocations
             SELECT address, family, pool, cluster, namespace, 'b', uid, replaced_uid, cluster_ip,
                    sharing_key, details, since, revision
             FROM allocations",
            "contradicts itself",
        ),
        (
            "UPDATE allocations SET address = '192.0.2.256'",
            "holds what this program never writes",
        ),
        (
            "DELETE FROM allocations WHERE name = 'b';
             UPDATE allocations SET address = '192.0.2.1', name = 'a' || char(31) || 'b'",
            "holds what this program never writes",
        ),
        (
            "UPDATE allocations SET name = 'a' || char(30) || 'b'",
            "holds what this program never writes",
        ),
    ] {
        sqlx::raw_sql(edit)
            .execute(&mut store.writer)
            .await
            .unwrap();
        let error = store.load(pools()).await.unwrap_err().to_string();
        let file = store.path().display();
        let expected = format!("the database {file} {expected}; restore a backup");
        assert_eq!(error, expected);
    }
}

#[tokio::test]
async fn more_rows_than_a_page_with_gaps_between_them_are_read_once_each() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&url(&directory)).await.unwrap();
    let addresses = vec![range("10.0.0.0", "10.0.255.255")];
    let spec = PoolSpec::new(PoolName::parse("p").unwrap(), addresses);
    let pools = Arc::new(Pools::new(vec![spec]).unwrap());
    let mut engine = Engine::restore(Arc::clone(&pools), Snapshot::default()).unwrap();
    // A page is 1024 rows: it ends with the table, in a gap, behind one, or is not there.
    for (count, released) in [
        (1024, 0..0),
        (2049, 1000..1030),
        (3000, 0..1024),
        (3000, 0..3000),
    ] {
        let names = || (0..count).map(|number| format!("s{number}"));
        let get = names().map(|name| acquire(&name, "u", &[Family::V4]));
        let gone = names().skip(released.start).take(released.len());
        let mut changes = Vec::new();
        for command in get.chain(gone.map(|name| release(&name))) {
            changes.extend(engine.plan(&command, Timestamp(1)).1.changes);
        }
        store.commit(&changes).await.unwrap();
        let held = |engine: &Engine| {
            let mut held = engine.snapshot().allocations;
            held.sort_by_key(|allocation| allocation.address);
            held
        };
        let restarted = store.load(Arc::clone(&pools)).await.unwrap();
        assert_eq!(held(&restarted), held(&engine));
    }
}

#[tokio::test]
async fn history_is_read_newest_first_within_its_filter() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&url(&directory)).await.unwrap();
    let mut engine = Engine::restore(pools(), Snapshot::default()).unwrap();
    let commands = [
        acquire("a", "u1", &[Family::V4]),
        acquire("b", "u2", &[Family::V4]),
        release("a"),
        acquire("a", "u3", &[Family::V4]),
    ];
    for command in &commands {
        let changes = engine.plan(command, Timestamp(7)).1.changes;
        store.commit(&changes).await.unwrap();
    }
    let reader = store.history_reader();
    let filter = HistoryFilter {
        name: Some("a".to_owned()),
        ..HistoryFilter::default()
    };
    let rows = reader
        .rows(&filter, Revision(4), Revision(1), 10)
        .await
        .unwrap();
    let shown: Vec<_> = rows
        .iter()
        .map(|r| (r.revision, r.kind, r.uid.as_str()))
        .collect();
    assert_eq!(
        shown,
        [
            (4, HistoryKind::Allocated, "u3"),
            (3, HistoryKind::Released, "u1"),
            (1, HistoryKind::Allocated, "u1")
        ]
    );
    let limited = reader
        .rows(&HistoryFilter::default(), Revision(3), Revision(2), 1)
        .await;
    assert_eq!(limited.unwrap()[0].revision, 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_restart_from_the_database_decides_as_if_there_had_been_none(
        steps in prop::collection::vec((0..7u8, 0..5u8, 0..3u8, any::<bool>()), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let mut store = Store::open(&url(&directory)).await.unwrap();
            let mut engine = Engine::restore(pools(), Snapshot::default()).unwrap();
            let mut now = Timestamp(0);
            for (what, who, uid, reopen) in steps {
                now = Timestamp(now.0 + 20);
                let name = format!("s{who}");
                let command = match what {
                    0 => release(&name),
                    4 => sharing(acquire(&name, &format!("u{uid}"), &[Family::V4]), who),
                    5 => reserve(who),
                    6 => Command::Unreserve("192.0.2.3".parse().unwrap()),
                    1 => acquire(&name, &format!("u{uid}"), &[Family::V6, Family::V4]),
                    _ => acquire(&name, &format!("u{uid}"), &[Family::V4]),
                };
                if reopen {
                    store.close().await.unwrap();
                    store = Store::open(&url(&directory)).await.unwrap();
                }
                let mut restarted = store.load(pools()).await.unwrap();
                let plan = engine.plan(&command, now);
                let (reply, outcome) = restarted.plan(&command, now);
                prop_assert_eq!((&reply, &outcome.changes), (&plan.0, &plan.1.changes));
                if !plan.1.changes.is_empty() {
                    store.commit(&plan.1.changes).await.unwrap();
                }
            }
            Ok(())
        })?;
    }
}
