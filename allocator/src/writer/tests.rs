use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use prometheus_client::registry::Registry;
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    clock::Reading,
    config::Source,
    engine::{
        Acquire, Acquired, Family, PerFamily, Policy, Refusal, Release, Reserve, ServiceKey, Sync,
        Uid, Wish,
    },
};

const HOUR: i64 = 60 * 60 * 1000;
const YEAR: i64 = 365 * 24 * HOUR;

/// A machine with a database, on which a writer runs and is started again.
struct Machine {
    folder: TempDir,
    pools: String,
    up: Arc<AtomicU64>,
    wrong: Arc<AtomicI64>,
}

struct Running {
    writer: Writer,
    stop: CancellationToken,
    task: JoinHandle<Result<(), StoreError>>,
}

impl Machine {
    fn new(pools: &str) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            // Nobody held anything before.
            pools: format!("adoptionWindow: 0s\n{pools}"),
            up: Arc::default(),
            wrong: Arc::default(),
        }
    }

    async fn start(&self) -> Running {
        let (up, wrong) = (Arc::clone(&self.up), Arc::clone(&self.wrong));
        let clock = Clock::new(move || {
            let up = up.load(Relaxed);
            let really = 1_800_000_000_000 + i64::try_from(up).unwrap();
            Reading {
                wall: Timestamp(really + wrong.load(Relaxed)),
                up: Duration::from_millis(up),
            }
        });
        let url = format!("sqlite://{}", self.folder.path().join("a.db").display());
        let (task, writer, _) = WriterTask::load(
            Store::open(&url).await.unwrap(),
            Source::default().with_file(Some(&self.pools)).unwrap(),
            &[],
            WriterMetrics::register(&mut Registry::default()),
            DecisionLog::structured(),
            clock,
        )
        .await
        .unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(task.run(stop.clone()));
        Running { writer, stop, task }
    }

    fn pass(&self, millis: i64) {
        self.up.fetch_add(u64::try_from(millis).unwrap(), Relaxed);
    }

    async fn sql(&self, statement: &'static str) {
        let url = format!("sqlite://{}", self.folder.path().join("a.db").display());
        let mut database = SqliteConnection::connect(&url).await.unwrap();
        sqlx::raw_sql(statement)
            .execute(&mut database)
            .await
            .unwrap();
        database.close().await.unwrap();
    }
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    async fn get(&self, name: &str) -> Result<String, Refusal> {
        let command = Command::Acquire(acquire(name));
        let reply = self.writer.submit(command).await.unwrap().reply;
        if let Reply::Refused(refusal) = reply {
            return Err(refusal);
        }
        let Reply::Acquired(Acquired { addresses, .. }) = reply else {
            panic!("{reply:?}");
        };
        Ok(addresses[0].address.to_string())
    }

    async fn release(&self, name: &str) {
        let key = ServiceKey::parse("a", "default", name).unwrap();
        let command = Command::Release(Release {
            key,
            uid: None,
            current: Vec::new(),
        });
        self.writer.submit(command).await.unwrap();
    }
}

fn acquire(name: &str) -> Acquire {
    Acquire {
        key: Arc::new(ServiceKey::parse("a", "default", name).unwrap()),
        uid: Some(Uid::parse("u").unwrap()),
        created: None,
        was_allocated: false,
        shown_by_others: false,
        cluster_ip: None,
        wish: Wish {
            families: vec![Family::V4],
            policy: Policy::All,
            requested: PerFamily::default(),
            pool: None,
            sharing: None,
            current: Vec::new(),
            labels: Arc::default(),
        },
    }
}

#[tokio::test]
async fn a_clock_that_is_a_year_off_for_a_while_or_at_a_start_ends_and_freezes_nothing() {
    for wrong in [YEAR, -YEAR] {
        for over_a_start in [false, true] {
            let machine =
                Machine::new("pools: [{name: p, addresses: [192.0.2.1-192.0.2.2], cooldown: 30m}]");
            let mut running = machine.start().await;
            running.get("old").await.unwrap();
            running.release("old").await;
            let reserved = Command::Reserve(Reserve {
                address: "192.0.2.2".parse().unwrap(),
                key: None,
                expires: Some(running.writer.now().after(Duration::from_secs(1800))),
                comment: String::new(),
            });
            running.writer.submit(reserved).await.unwrap();

            machine.wrong.store(wrong, Relaxed);
            if over_a_start {
                running.stop().await;
                running = machine.start().await;
            }
            for _ in 0..2 {
                let refused = running.get("new").await;
                assert!(
                    matches!(refused, Err(Refusal::PoolCoolingDown { .. })),
                    "{wrong} {over_a_start}: {refused:?}"
                );
                machine.pass(HOUR / 4 - 1);
            }
            machine.wrong.store(0, Relaxed);
            if over_a_start {
                running.stop().await;
                running = machine.start().await;
            }
            machine.pass(2);
            assert_eq!(running.get("new").await.unwrap(), "192.0.2.2");
            assert_eq!(running.get("newer").await.unwrap(), "192.0.2.1");
            running.stop().await;
        }
    }
}

#[tokio::test]
async fn a_change_that_the_database_forbids_fails_alone() {
    let machine = Machine::new("pools: [{name: p, addresses: [192.0.2.0/24]}]");
    let running = machine.start().await;
    machine
        .sql(
            "CREATE TRIGGER cursed BEFORE INSERT ON allocations WHEN NEW.name = 'cursed'
             BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        )
        .await;
    for _ in 0..3 {
        let names = ["s1", "cursed", "s2", "s3"];
        let asked = names.map(|name| running.writer.submit(Command::Acquire(acquire(name))));
        let answers = futures::future::join_all(asked).await;
        let failed = answers.iter().map(|answer| answer.as_ref().err().copied());
        assert_eq!(
            failed.collect::<Vec<_>>(),
            [None, Some(WriteError::Forbidden), None, None]
        );
        assert!(*running.writer.store_available().borrow());
        running.release("s2").await;
    }
    let alone = running
        .writer
        .submit(Command::Acquire(acquire("cursed")))
        .await;
    assert_eq!(alone.unwrap_err(), WriteError::Forbidden);
    machine.sql("DROP TRIGGER cursed").await;
    running.get("cursed").await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_database_that_was_moved_away_is_noticed_by_itself_and_when_it_is_back() {
    let machine = Machine::new("pools: [{name: p, addresses: [192.0.2.0/24]}]");
    let running = machine.start().await;
    running.get("s1").await.unwrap();
    let (file, aside) = (
        machine.folder.path().join("a.db"),
        machine.folder.path().join("aside"),
    );
    std::fs::rename(&file, &aside).unwrap();
    let mut available = running.writer.store_available();
    let within = Duration::from_secs(10);
    tokio::time::timeout(within, available.wait_for(|is| !*is))
        .await
        .unwrap()
        .unwrap();
    let refused = running.writer.submit(Command::Acquire(acquire("s2"))).await;
    assert_eq!(refused.unwrap_err(), WriteError::StoreUnavailable);
    std::fs::rename(&aside, &file).unwrap();
    tokio::time::timeout(within, available.wait_for(|is| *is))
        .await
        .unwrap()
        .unwrap();
    running.get("s2").await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn what_a_cluster_has_no_more_waits_no_more_after_its_next_sync() {
    let machine = Machine::new("pools: [{name: p, addresses: [192.0.2.1]}]");
    let running = machine.start().await;
    running.get("holder").await.unwrap();
    for name in ["gone", "live"] {
        running.get(name).await.unwrap_err();
    }
    let waiting = async || running.writer.census().await.unwrap().waiting;
    assert_eq!(waiting().await, 2);
    let sync = |names: &[&str]| {
        Command::Sync(Sync {
            cluster: ClusterName::parse("a").unwrap(),
            services: names.iter().map(|name| acquire(name)).collect(),
            seen: None,
            proves: None,
        })
    };
    running
        .writer
        .submit(sync(&["holder", "live"]))
        .await
        .unwrap();
    assert_eq!(waiting().await, 1);
    let before = Instant::now();
    running.get("new").await.unwrap_err();
    let old_set = sync(&["holder", "live"]);
    running
        .writer
        .submit_since(None, old_set, before)
        .await
        .unwrap();
    assert_eq!(waiting().await, 2, "the set is older than the new one");
    running.stop().await;
}
