//! The database belongs to one process of one version, and is never guessed at.

use std::{fs, path::Path, time::Duration};

use integration_tests::{
    allocator::{Allocator, Options},
    eventually::{DEADLINE, eventually},
    rpc::{acquire, held},
    scratch::Scratch,
};
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
