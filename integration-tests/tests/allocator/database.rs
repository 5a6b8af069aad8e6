//! The database belongs to one process of one version, and is never guessed at.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use integration_tests::{
    allocator::{Allocator, Options},
    eventually::{DEADLINE, eventually},
    rpc::{acquire, held},
    scratch::Scratch,
};
use lb_proto::v1::AcquireRequest;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

async fn sql(database: &Path, statement: &str) {
    let url = format!("sqlite://{}", database.display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}

fn options() -> Options {
    Options::ip_list("web:192.0.2.1 web:192.0.2.2")
}

#[tokio::test]
async fn a_second_process_on_the_same_database_is_refused_and_the_first_goes_on() {
    let mut first = Allocator::start(options()).await;
    first
        .client()
        .await
        .acquire(acquire("web", "a"))
        .await
        .unwrap();

    let link = Scratch::new("link").unwrap();
    let other_name = link.path().join("other-name.db");
    std::os::unix::fs::symlink(first.database(), &other_name).unwrap();
    for database in [first.database(), other_name] {
        let (status, errors) = Allocator::start_refused(options().database(database)).await;
        assert!(!status.success());
        let file = first
            .database()
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        assert!(
            errors.contains(&file) && errors.contains("another"),
            "{errors}"
        );
    }

    let answer = first
        .client()
        .await
        .acquire(acquire("web", "b"))
        .await
        .unwrap();
    assert_eq!(held(answer.get_ref()), ["192.0.2.2"]);
    first.kill();
    first.start_again().await;
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_left_as_it_is() {
    let mut allocator = Allocator::start(options()).await;
    allocator
        .client()
        .await
        .acquire(acquire("web", "a"))
        .await
        .unwrap();
    allocator.kill();
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (999999, 'of tomorrow', 1, x'00', 0)";
    sql(&allocator.database(), newer).await;

    let (status, errors) = Allocator::start_refused(options().database(allocator.database())).await;
    assert!(!status.success());
    let file = allocator.database().display().to_string();
    assert!(
        errors.contains(&file) && errors.contains("newer"),
        "{errors}"
    );

    sql(
        &allocator.database(),
        "DELETE FROM _sqlx_migrations WHERE version = 999999",
    )
    .await;
    allocator.start_again().await;
    assert_eq!(allocator.allocations().await.len(), 1);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let scratch = Scratch::new("database").unwrap();
    let file = scratch.path().join("holiday.jpg");
    let content = b"this is not a database, and somebody may want it back\n".repeat(100);
    fs::write(&file, &content).unwrap();
    let (status, errors) = Allocator::start_refused(options().database(&file)).await;
    assert!(!status.success());
    assert!(
        errors.contains("holiday.jpg") && errors.contains("not a database"),
        "{errors}"
    );
    assert_eq!(fs::read(&file).unwrap(), content);
}

#[tokio::test]
async fn a_database_whose_pages_are_damaged_is_refused() {
    let mut allocator = Allocator::start(options()).await;
    allocator
        .client()
        .await
        .acquire(acquire("web", "a"))
        .await
        .unwrap();
    allocator.terminate(Duration::from_secs(10)).await;
    let mut bytes = fs::read(allocator.database()).unwrap();
    // The first page, with the schema, is left as it is.
    bytes[4096..].fill(0xff);
    fs::write(allocator.database(), &bytes).unwrap();
    let (status, errors) = Allocator::start_refused(options().database(allocator.database())).await;
    assert!(!status.success());
    assert!(
        errors.contains("allocator.db") && errors.contains("malformed"),
        "{errors}"
    );
}

#[tokio::test]
async fn a_database_url_that_could_mean_another_file_or_none_is_refused_with_the_reason() {
    let scratch = Scratch::new("database").unwrap();
    for (name, why) in [
        ("a.db?mode=memory", "parameters are not supported"),
        ("a.db?vfs=memdb", "parameters are not supported"),
        ("%41.db", "escapes"),
        ("a#b.db", "# is not supported"),
    ] {
        let (status, errors) =
            Allocator::start_refused(options().database(scratch.path().join(name))).await;
        assert!(!status.success());
        assert!(
            errors.contains(why) && errors.contains("sqlite:///absolute/path"),
            "{errors}"
        );
    }
    let left = fs::read_dir(scratch.path()).unwrap().count();
    assert_eq!(left, 0, "nothing was made");
}

fn labels(request: &mut AcquireRequest) -> &mut HashMap<String, String> {
    &mut request.wish.as_mut().unwrap().service_labels
}

#[tokio::test]
async fn labels_that_no_selector_looks_at_cost_nothing_however_often_they_change() {
    let mut allocator = Allocator::start(Options::config(
        "pools: [{name: p, addresses: [192.0.2.1], serviceSelector: {matchLabels: {tier: web}}}]",
    ))
    .await;
    let mut client = allocator.client().await;
    let size = || {
        let log = allocator.database().with_extension("db-wal");
        let files = [allocator.database(), log];
        files.map(|file| fs::metadata(file).map_or(0, |file| file.len()))
    };
    let mut request = acquire("web", "a");
    labels(&mut request).insert("tier".into(), "web".into());
    client.acquire(request.clone()).await.unwrap();
    let before: u64 = size().iter().sum();
    for edit in 0..187 {
        let labels = labels(&mut request);
        labels.extend((0..900).map(|n| (format!("example.com/{n:0100}"), format!("{edit:063}"))));
        let answer = client.acquire(request.clone()).await.unwrap();
        assert_eq!(answer.get_ref().revision, 1);
    }
    let grown = size().iter().sum::<u64>() - before;
    assert!(grown < 100_000, "{grown} bytes");
    let before = resident(allocator.process().id());
    for waiter in 0..300 {
        let mut vain = request.clone();
        vain.service.as_mut().unwrap().name = format!("w{waiter}");
        client.acquire(vain).await.unwrap_err();
    }
    // The labels of all of them are 52 MB.
    let grown = resident(allocator.process().id()).saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} kB");
}

/// In kB.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let kilobytes = status.lines().find_map(|line| {
        let kilobytes = line.strip_prefix("VmRSS:")?.strip_suffix("kB")?;
        kilobytes.trim().parse::<u64>().ok()
    });
    kilobytes.unwrap()
}

#[tokio::test]
async fn a_database_file_that_is_deleted_under_the_process_is_noticed_and_told() {
    let mut allocator = Allocator::start(options()).await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    fs::remove_file(allocator.database()).unwrap();
    let admin = allocator.admin();
    eventually(DEADLINE, "it is not ready", async || {
        let ready = admin.get("/readyz").await;
        anyhow::ensure!(ready.is_err(), "{ready:?}");
        anyhow::Ok(())
    })
    .await;
    let is_0 = |seen: f64| seen == 0.0;
    admin
        .sees("lb_allocator_database_writable", &[], is_0)
        .await;
    let status = client.acquire(acquire("web", "b")).await.unwrap_err();
    let refusal = integration_tests::rpc::refusal(&status);
    assert_eq!(refusal.reason, "STORE_UNAVAILABLE");
    assert!(status.message().contains("may or may not"), "{status}");
    let said = allocator.process().errors();
    assert!(said.contains("cannot be found; move it back"), "{said}");
}

#[tokio::test]
async fn two_services_can_never_be_written_for_one_address() {
    let mut allocator = Allocator::start(options()).await;
    allocator
        .client()
        .await
        .acquire(acquire("web", "a"))
        .await
        .unwrap();
    allocator.kill();
    let url = format!("sqlite://{}", allocator.database().display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let columns: String = sqlx::query_scalar(
        "SELECT group_concat(name, ', ') FROM pragma_table_info('allocations') WHERE name NOT IN ('name')",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    let statement =
        format!("INSERT INTO allocations (name, {columns}) SELECT 'b', {columns} FROM allocations");
    let error = sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("Services that do not share it"), "{text}");
}

#[tokio::test]
async fn every_configuration_that_was_in_force_is_kept_for_history_once() {
    let pools = |name: &str| format!("pools: [{{name: {name}, addresses: [192.0.2.1]}}]");
    let mut allocator = Allocator::start(Options::config(pools("first"))).await;
    allocator
        .client()
        .await
        .acquire(acquire("web", "a"))
        .await
        .unwrap();
    allocator.kill();
    allocator.start_again().await;
    for (text, in_force) in [
        ("pools: [".to_owned(), "first"),
        (pools("second"), "second"),
        (pools("first"), "first"),
    ] {
        allocator.write_config(&text);
        eventually(DEADLINE, format!("{text:?} was read"), async || {
            let ready = allocator.admin().get("/readyz?verbose").await?;
            let bad = ready.contains("[-]config failed");
            let name = allocator.pools().await.remove(0).name;
            let is_read = bad == text.ends_with("[") && name == in_force;
            anyhow::ensure!(is_read, "{name}: {ready}");
            anyhow::Ok(())
        })
        .await;
    }
    let url = format!("sqlite://{}", allocator.database().display());
    // Pools are in force a moment before that is written down.
    eventually(DEADLINE, "all are kept, and nothing twice", async || {
        let mut connection = SqliteConnection::connect(&url).await?;
        let kept: Vec<(i64, String)> =
            sqlx::query_as("SELECT revision, pools FROM configurations ORDER BY id")
                .fetch_all(&mut connection)
                .await?;
        let expected = [(0, "first"), (1, "second"), (1, "first")];
        let is_it = |((revision, pools), (expected, name)): (&(i64, String), (i64, &str))| {
            *revision == expected && pools.contains(name)
        };
        anyhow::ensure!(
            kept.len() == expected.len() && kept.iter().zip(expected).all(is_it),
            "{kept:?}"
        );
        anyhow::Ok(())
    })
    .await;
}
