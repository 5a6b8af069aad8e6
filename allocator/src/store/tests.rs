use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::engine::{
    Acquire, AddressRange, Backend, Command, Engine, Family, PerFamily, Permitted, Policy,
    PoolName, PoolSpec, Pools, Port, Protocol, Release, Reserve, ServiceKey, Settings, SharingKey,
    Snapshot, Terms, Uid, Wish,
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
    let settings = Settings {
        // The engine that is compared with a restarted one began before the database.
        adoption_window: Duration::ZERO,
        ..Settings::default()
    };
    Arc::new(Pools::new(vec![spec]).unwrap().with_settings(settings))
}

fn acquire(name: &str, uid: &str, families: &[Family]) -> Command {
    Command::Acquire(Acquire {
        was_allocated: false,
        shown_by_others: false,
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
        current: Vec::new(),
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
    for statement in [
        "UPDATE history SET name = 'x'",
        "UPDATE history SET details = 'x'",
        "UPDATE history SET revision = 2",
        "DELETE FROM history",
    ] {
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

/// Two Services that share, and one that holds an address alone.
async fn sharers(directory: &tempfile::TempDir) -> Store {
    let mut store = Store::open(&url(directory)).await.unwrap();
    let mut engine = Engine::restore(pools(), Snapshot::default()).unwrap();
    for command in [
        sharing(acquire("one", "u", &[Family::V4]), 0),
        sharing(acquire("other", "u", &[Family::V4]), 2),
        acquire("alone", "u", &[Family::V4]),
    ] {
        let (_, plan) = engine.plan(&command, Timestamp(1));
        store.commit(&plan.changes).await.unwrap();
    }
    store
}

#[tokio::test]
async fn those_who_share_an_address_agree_on_it_whatever_is_updated() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = sharers(&directory).await;
    for statement in [
        "UPDATE allocations SET sharing_key = NULL WHERE name = 'one'",
        "UPDATE allocations SET sharing_key = 'other' WHERE name = 'one'",
        "UPDATE allocations SET cluster = 'b' WHERE name = 'other'",
        "UPDATE allocations SET address = '192.0.2.1' WHERE name = 'alone'",
        "UPDATE allocations SET address = '192.0.2.1', sharing_key = 'x' WHERE name = 'alone'",
        "UPDATE allocations SET address = '192.0.2.2' WHERE name = 'one'",
        "INSERT INTO history
         SELECT 99, at, 'UPDATED', address, family, pool, cluster, namespace, name, uid,
                replaced_uid, cluster_ip, NULL, NULL
         FROM history WHERE name = 'one'",
    ] {
        let refused = sqlx::query(statement)
            .execute(&mut store.writer)
            .await
            .unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("that do not share it"), "{statement}: {text}");
    }
    let may = "UPDATE allocations SET sharing_key = 'k', pool = 'p' WHERE name = 'alone'";
    sqlx::query(may).execute(&mut store.writer).await.unwrap();
}

#[tokio::test]
async fn history_has_neither_labels_nor_terms_of_sharing_and_a_restart_has_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = sharers(&directory).await;
    let long: Option<String> = sqlx::query_scalar("SELECT max(details) FROM history")
        .fetch_one(&mut store.writer)
        .await
        .unwrap();
    assert_eq!(long, None);
    let engine = store.load(pools()).await.unwrap();
    let terms = engine
        .allocations()
        .filter_map(|held| held.holder.sharing.as_ref())
        .filter(|terms| !terms.ports.is_empty());
    assert_eq!(terms.count(), 2);
}

#[tokio::test]
async fn old_history_is_removed_but_for_what_is_held_and_the_newest_row() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&url(&directory)).await.unwrap();
    let mut engine = Engine::restore(pools(), Snapshot::default()).unwrap();
    let mut at = 0;
    let mut run = |command: Command| {
        at += 1;
        engine.plan(&command, Timestamp(at)).1.changes
    };
    let mut changes = run(acquire("held", "u", &[Family::V4]));
    for _ in 0..1000 {
        changes.extend(run(acquire("s", "u", &[Family::V6])));
        changes.extend(run(release("s")));
    }
    store.commit(&changes).await.unwrap();
    let newest = changes.last().unwrap().revision;

    let all = Retention::default();
    let untouched = store.prune(Revision(0), Timestamp(5000), &all).await;
    assert_eq!(untouched.unwrap(), Pruned::default());

    let (mut after, mut steps, mut rows) = (Revision(0), 0, 0);
    let few = Retention {
        keep_rows: 100,
        ..all
    };
    while let Some(next) = {
        let pruned = store.prune(after, Timestamp(5000), &few).await.unwrap();
        assert!(pruned.rows <= 512, "a step is small");
        rows += pruned.rows;
        pruned.next
    } {
        (after, steps) = (next, steps + 1);
    }
    assert_eq!((steps, rows), (4, 1900));
    let old = Retention {
        keep_for: Duration::from_millis(10),
        ..all
    };
    store.prune(after, Timestamp(50_000), &old).await.unwrap();
    let kept: Vec<i64> = sqlx::query_scalar("SELECT revision FROM history ORDER BY revision")
        .fetch_all(&mut store.writer)
        .await
        .unwrap();
    assert_eq!(kept, [1, newest.0]);
    let reader = store.history_reader();
    assert_eq!(reader.before(newest).await.unwrap(), Some(Revision(1)));
    assert_eq!(reader.before(Revision(1)).await.unwrap(), None);

    for statement in [
        "DELETE FROM history WHERE revision = 1",
        "DELETE FROM history WHERE revision > 1",
    ] {
        let refused = sqlx::query(statement).execute(&mut store.writer).await;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("history is append-only"), "{text}");
    }
    sqlx::raw_sql("DROP TRIGGER history_is_append_only_delete; DELETE FROM history")
        .execute(&mut store.writer)
        .await
        .unwrap();
    let restarted = store.load(pools()).await.unwrap();
    assert!(restarted.revision() >= Revision(1901), "never one twice");
}

#[tokio::test]
async fn a_database_is_copied_before_its_tables_are_migrated_and_only_then() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.db");
    let copies = || {
        let files = std::fs::read_dir(directory.path()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut copies: Vec<_> = names.filter(|name| name.contains("schema")).collect();
        copies.sort();
        copies
    };
    let store = Store::open(&url(&directory)).await.unwrap();
    store.close().await.unwrap();
    let store = Store::open(&url(&directory)).await.unwrap();
    assert_eq!(copies(), [""; 0], "there was nothing to migrate");
    store.close().await.unwrap();

    std::fs::remove_file(&path).unwrap();
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let mut old = SqliteConnection::connect_with(&options).await.unwrap();
    let mut first = sqlx::migrate!("./migrations");
    first.migrations.to_mut().retain(|m| m.version <= 5);
    first.run(&mut old).await.unwrap();
    let row = "INSERT INTO history SELECT 1, 7, 'ALLOCATED', '192.0.2.1', 4, 'p', 'a', 'default',
               's', 'u', NULL, NULL, NULL, NULL";
    sqlx::query(row).execute(&mut old).await.unwrap();
    old.close().await.unwrap();
    let mut store = Store::open(&url(&directory)).await.unwrap();
    assert_eq!(copies(), ["a.db.schema-0005"]);
    assert_eq!(store.load(pools()).await.unwrap().allocations().count(), 1);
    store.close().await.unwrap();

    let copy = format!("sqlite://{}.schema-0005", path.display());
    let mut back = Store::open(&copy).await.unwrap();
    assert_eq!(back.load(pools()).await.unwrap().allocations().count(), 1);
}

#[tokio::test]
async fn a_copy_that_cannot_be_made_leaves_the_database_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&url(&directory)).await.unwrap();
    let path = store.path().to_owned();
    store.close().await.unwrap();
    let mut database = SqliteConnection::connect(&url(&directory)).await.unwrap();
    let last: i64 = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(&mut database)
        .await
        .unwrap();
    sqlx::raw_sql(
        "DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)",
    )
    .execute(&mut database)
    .await
    .unwrap();
    let before: i64 = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(&mut database)
        .await
        .unwrap();
    database.close().await.unwrap();
    // A folder of that name is in the way, as a full disk would be.
    std::fs::create_dir_all(format!("{}.schema-{before:04}/x", path.display())).unwrap();
    let text = error(&url(&directory)).await;
    assert!(
        text.contains("before its tables are migrated") && text.contains("make room"),
        "{text}"
    );
    let mut database = SqliteConnection::connect(&url(&directory)).await.unwrap();
    let now: i64 = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert!(now == before && now < last);
}

#[tokio::test]
async fn nothing_is_written_to_a_database_that_was_deleted_or_replaced() {
    for (file, deleted) in [("a.db", true), ("a.db", false), ("a.db-wal", true)] {
        let directory = tempfile::tempdir().unwrap();
        let mut store = sharers(&directory).await;
        store.check().unwrap();
        let path = directory.path().join(file);
        let aside = directory.path().join("aside");
        std::fs::rename(&path, &aside).unwrap();
        if !deleted {
            std::fs::copy(&aside, &path).unwrap();
        }
        let refused = store.commit(&[]).await.unwrap_err();
        let is_told = if deleted {
            matches!(refused, StoreError::Gone { .. })
        } else {
            matches!(refused, StoreError::Replaced { .. })
        };
        assert!(is_told, "{refused:?}");
        assert!(store.probe().await.is_err());
        std::fs::rename(&aside, &path).unwrap();
        store.probe().await.unwrap();
    }
}

#[tokio::test]
async fn the_latest_time_is_that_of_the_last_change_or_one_that_was_noted() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&url(&directory)).await.unwrap();
    assert_eq!(store.last_time().await.unwrap(), None);
    store.note_time(Timestamp(5)).await.unwrap();
    assert_eq!(store.last_time().await.unwrap(), Some(Timestamp(5)));
    let mut engine = Engine::restore(pools(), Snapshot::default()).unwrap();
    let (_, plan) = engine.plan(&acquire("s", "u", &[Family::V4]), Timestamp(9));
    store.commit(&plan.changes).await.unwrap();
    assert_eq!(store.last_time().await.unwrap(), Some(Timestamp(9)));
    store.note_time(Timestamp(12)).await.unwrap();
    assert_eq!(store.last_time().await.unwrap(), Some(Timestamp(12)));
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
    assert!(refused.is_of_the_change(), "{refused}");
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
             DROP TRIGGER allocations_are_shared_by_agreement_update;
             DROP INDEX one_holder_per_address;
             INSERT INTO allocations
             SELECT address, family, pool, cluster, namespace, 'b', uid, replaced_uid, cluster_ip,
                    sharing_key, details, since, revision
             FROM allocations",
            "contradicts itself",
        ),
        (
            "UPDATE allocations SET address = '192.0.2.256'",
            "contains invalid data",
        ),
        (
            "DELETE FROM allocations WHERE name = 'b';
             UPDATE allocations SET address = '192.0.2.1', name = 'a' || char(31) || 'b'",
            "contains invalid data",
        ),
        (
            "UPDATE allocations SET name = 'a' || char(30) || 'b'",
            "contains invalid data",
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
