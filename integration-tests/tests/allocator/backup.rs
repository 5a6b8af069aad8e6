//! `lb-allocator backup`: a copy of the database of a running allocator, and what
//! an allocator that starts with it knows.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use integration_tests::{
    allocator::{Allocator, Options, run},
    eventually::{DEADLINE, eventually},
    rpc::{Asking, acquire, held, key, release, sync_of},
    scratch::Scratch,
    small_disk::SmallDisk,
};
use lb_proto::v1::{SyncRequest, sync_request::Part};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::Mutex;

use crate::write_lock::WriteLock;

const POOLS: &str = "pools: [{name: big, addresses: [10.0.0.0/16]}]";
const STOP: Duration = Duration::from_secs(20);

fn url(database: &Path) -> String {
    format!("sqlite://{}", database.display())
}

/// What the command printed, or what it said against it.
pub async fn back_up(database: &Path, file: &Path) -> Result<String, String> {
    let args = ["backup", file.to_str().unwrap()];
    let (status, out, errors) = run(&args, &[("LB_ALLOCATOR_DATABASE", url(database))]).await;
    if status.success() {
        Ok(out)
    } else {
        assert_eq!(out, "");
        Err(errors)
    }
}

/// As allocator/README.md says: the allocator does not run, and nothing of the old database is left.
pub fn put_in_place(allocator: &Allocator, backup: &Path) {
    let database = allocator.database();
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", database.display()));
    }
    fs::copy(backup, database).unwrap();
}

async fn holders(allocator: &Allocator) -> BTreeMap<String, String> {
    let allocations = allocator.allocations().await;
    let count = allocations.len();
    let holders: BTreeMap<_, _> = allocations
        .into_iter()
        .map(|a| (a.address, a.service.unwrap().name))
        .collect();
    assert_eq!(holders.len(), count, "an address is held twice");
    holders
}

/// Every change that is recorded in a database, up to a revision.
async fn history(database: &Path, last: i64) -> Vec<(i64, String, String, String)> {
    let options = SqliteConnectOptions::new()
        .filename(database)
        .read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let rows = sqlx::query_as(
        "SELECT revision, kind, address, name FROM history WHERE revision <= ? ORDER BY revision",
    )
    .bind(last)
    .fetch_all(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    rows
}

/// The number before this word in what was printed.
fn number(told: &str, before: &str) -> i64 {
    let words: Vec<_> = told
        .split([' ', ',', '\n'])
        .filter(|w| !w.is_empty())
        .collect();
    let at = words.iter().position(|word| *word == before).unwrap();
    words[at - 1].parse().unwrap()
}

fn revision(told: &str) -> i64 {
    let (_, rest) = told.split_once("revision ").unwrap();
    rest.split(',').next().unwrap().parse().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Services that come and go all the time, and some that stay.
struct Load {
    stop: Arc<AtomicBool>,
    changes: Arc<AtomicU64>,
    /// Acknowledged, and never released: name and address.
    kept: Arc<Mutex<Vec<(String, String)>>>,
    callers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    async fn start(allocator: &Allocator) -> Self {
        let mut this = Self {
            stop: Arc::default(),
            changes: Arc::default(),
            kept: Arc::default(),
            callers: Vec::new(),
        };
        for caller in 0..8 {
            let mut client = allocator.client().await;
            let (stop, changes) = (Arc::clone(&this.stop), Arc::clone(&this.changes));
            let kept = Arc::clone(&this.kept);
            this.callers.push(tokio::spawn(async move {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = format!("s-{caller}-{number}");
                    let answer = client.acquire(acquire("web", &name)).await.unwrap();
                    if number % 4 == 0 {
                        let address = held(answer.get_ref())[0].to_owned();
                        kept.lock().await.push((name, address));
                    } else {
                        client.release(release("web", &name)).await.unwrap();
                    }
                    changes.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        this
    }

    /// Waits for that many more changes.
    async fn goes_on(&self, more: u64) {
        let until = self.changes.load(Ordering::Relaxed) + more;
        eventually(DEADLINE, "the load goes on", async || {
            let now = self.changes.load(Ordering::Relaxed);
            if now >= until { Ok(()) } else { Err(now) }
        })
        .await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_has_all_that_was_acknowledged_before_it_began() {
    let folder = Scratch::new("backup").unwrap();
    let mut allocator = Allocator::start(Options::config(POOLS)).await;
    let load = Load::start(&allocator).await;
    load.goes_on(200).await;

    let mut backups = Vec::new();
    for round in 0..3 {
        let before = load.kept.lock().await.clone();
        let file = folder.path().join(format!("{round}.db"));
        let told = back_up(&allocator.database(), &file).await.unwrap();
        assert!(told.contains(file.to_str().unwrap()), "{told}");
        let bytes = fs::metadata(&file).unwrap().len();
        assert_eq!(number(&told, "bytes"), i64::try_from(bytes).unwrap());
        backups.push((file, before, revision(&told)));
        load.goes_on(50).await;
    }
    load.end().await;
    assert_eq!(names(folder.path()), ["0.db", "1.db", "2.db"]);

    allocator.terminate(STOP).await;
    let whole = Scratch::new("whole").unwrap();
    let whole = whole.path().join("whole.db");
    fs::copy(allocator.database(), &whole).unwrap();
    for (file, before, revision) in backups {
        let told = history(&file, i64::MAX).await;
        assert_eq!(told.len(), usize::try_from(revision).unwrap());
        assert_eq!(told, history(&whole, revision).await, "a moment that was");

        put_in_place(&allocator, &file);
        allocator.start_again().await;
        let holders = holders(&allocator).await;
        for (name, address) in &before {
            assert_eq!(holders.get(address), Some(name), "revision {revision}");
        }
        let mut client = allocator.client().await;
        let answer = client.acquire(acquire("web", "after")).await.unwrap();
        let address = held(answer.get_ref())[0].to_owned();
        assert!(!holders.contains_key(&address), "{address} is held");
        allocator.terminate(STOP).await;
    }
}

#[tokio::test]
async fn a_backup_waits_for_no_writer_and_lets_none_wait() {
    let folder = Scratch::new("backup").unwrap();
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    let lock = WriteLock::take(&allocator.database()).await;
    let told = back_up(&allocator.database(), &folder.path().join("lb.db")).await;
    lock.give_back().await;
    let told = told.unwrap();
    assert_eq!((revision(&told), number(&told, "allocations")), (1, 1));
}

#[tokio::test]
async fn a_backup_has_what_a_crash_left_in_the_write_ahead_log() {
    let folder = Scratch::new("backup").unwrap();
    let mut allocator = Allocator::start(Options::config(POOLS)).await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    allocator.kill();
    let file = folder.path().join("lb.db");
    let told = back_up(&allocator.database(), &file).await.unwrap();
    assert_eq!(number(&told, "allocations"), 1);
    assert_eq!(names(folder.path()), ["lb.db"], "it needs no other file");
    put_in_place(&allocator, &file);
    allocator.start_again().await;
    assert_eq!(holders(&allocator).await.len(), 1);
}

#[tokio::test]
async fn a_backup_to_standard_output_is_the_same_and_leaves_nothing_behind() {
    let folder = Scratch::new("backup").unwrap();
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    let database = allocator.database();
    let before = names(database.parent().unwrap());
    let binary = integration_tests::binaries::workspace_binary("lb-allocator").unwrap();
    let output = std::process::Command::new(binary)
        .args(["backup", "-", "--database", &url(&database)])
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    assert!(told.starts_with("standard output: revision 1, 1 allocations"));
    let file = folder.path().join("lb.db");
    fs::write(&file, output.stdout).unwrap();
    assert_eq!(history(&file, i64::MAX).await.len(), 1);
    assert_eq!(names(database.parent().unwrap()), before);
}

#[tokio::test]
async fn what_cannot_be_backed_up_is_named_and_nothing_is_written() {
    let folder = Scratch::new("backup").unwrap();
    let path = |name: &str| folder.path().join(name);
    let allocator = Allocator::start(Options::config(POOLS)).await;

    fs::write(path("taken"), "of somebody").unwrap();
    let refused = back_up(&allocator.database(), &path("taken")).await;
    let refused = refused.unwrap_err();
    assert!(
        refused.contains("taken") && refused.contains("exists"),
        "{refused}"
    );
    assert_eq!(fs::read(path("taken")).unwrap(), b"of somebody");

    std::os::unix::fs::symlink(path("nowhere"), path("link")).unwrap();
    let refused = back_up(&allocator.database(), &path("link")).await;
    assert!(refused.unwrap_err().contains("exists"));

    let refused = back_up(&path("absent.db"), &path("backup"))
        .await
        .unwrap_err();
    assert!(refused.contains("absent.db"), "{refused}");
    let refused = back_up(&path("taken"), &path("backup")).await.unwrap_err();
    assert!(refused.contains("not a database"), "{refused}");
    let refused = back_up(&allocator.database(), &path("no/folder")).await;
    assert!(refused.unwrap_err().contains("no/folder"));
    assert_eq!(names(folder.path()), ["link", "taken"]);

    let other = path("other.db");
    let options = SqliteConnectOptions::new()
        .filename(&other)
        .create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("CREATE TABLE photos (id INTEGER)")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let refused = back_up(&other, &path("backup")).await.unwrap_err();
    assert!(
        refused.contains("other.db") && refused.contains("history"),
        "{refused}"
    );
    assert_eq!(names(folder.path()), ["link", "other.db", "taken"]);
}

#[tokio::test]
async fn a_backup_that_finds_no_room_leaves_nothing_behind() {
    let disk = SmallDisk::mount(crate::full_disk::KILOBYTES).unwrap();
    disk.fill().unwrap();
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let refused = back_up(&allocator.database(), &disk.path().join("lb.db")).await;
    let refused = refused.unwrap_err();
    assert!(refused.contains("full"), "{refused}");
    assert_eq!(names(disk.path()), ["ballast"]);
}

#[tokio::test]
async fn after_an_old_backup_what_services_show_counts_more_than_what_it_says() {
    let folder = Scratch::new("backup").unwrap();
    let mut allocator = Allocator::start(Options::config(POOLS)).await;
    let mut client = allocator.client().await;
    let mut get = async |name: &str| {
        let answer = client.acquire(acquire("web", name)).await.unwrap();
        held(answer.get_ref())[0].to_owned()
    };
    let (stays, goes) = (get("stays").await, get("goes").await);
    let file = folder.path().join("lb.db");
    back_up(&allocator.database(), &file).await.unwrap();

    // What the backup does not know: a new Service, and one on another's address.
    let new = get("new").await;
    client.release(release("web", "goes")).await.unwrap();
    let moved = acquire("web", "moved").addresses(&[&goes]);
    client.acquire(moved.clone()).await.unwrap();
    allocator.terminate(STOP).await;
    put_in_place(&allocator, &file);
    allocator.start_again().await;

    let shown = vec![
        acquire("web", "stays").showing(&stays),
        acquire("web", "new").showing(&new),
        acquire("web", "moved").showing(&goes),
    ];
    let cluster = key("web", "").cluster;
    let mut messages = sync_of(&cluster, shown);
    if let Some(SyncRequest {
        part: Some(Part::Begin(begin)),
    }) = messages.first_mut()
    {
        begin.seen_revision = 100;
    }
    allocator.sync(messages).await.unwrap();
    let expected = [(stays, "stays"), (goes, "moved"), (new, "new")];
    let expected: BTreeMap<_, _> = expected.map(|(a, name)| (a, name.to_owned())).into();
    eventually(DEADLINE, "all hold what they show", async || {
        let holders = holders(&allocator).await;
        if holders == expected {
            Ok(())
        } else {
            Err(format!("{holders:?}"))
        }
    })
    .await;
}
