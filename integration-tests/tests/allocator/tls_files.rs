//! Certificate files change while the allocator runs.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use integration_tests::{
    allocator::{Allocator, Options, connect_with},
    certificates::{Authority, Identity},
    eventually::{DEADLINE, eventually},
    rpc::{acquire, release},
    secret::Secret,
    settings::Given,
};
use lb_proto::v1::allocator_service_client::AllocatorServiceClient;
use lb_tls::files::Files;
use tokio::task::JoinSet;

const POOLS: &str = "pools: [{name: big, addresses: [10.0.0.0/8]}]";
const WATCHER: &str = "spiffe://test/cluster/one/role/watcher";
const EXPIRY: &str = "lb_allocator_certificate_expiry_timestamp_seconds";
const RELOADED: &str = "lb_allocator_tls_last_reload_successful";

fn year(authority: &Authority) -> Identity {
    authority.server_until(time::Duration::days(365)).unwrap()
}

/// Callers that keep a connection, and callers that make one each time.
struct Load {
    stop: Arc<AtomicBool>,
    /// Counts how often those that keep one were told to make another.
    rotated: Arc<AtomicUsize>,
    served: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Load {
    fn start(url: &str, files: &Files) -> Self {
        let (stop, served) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let rotated = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for number in 0..6 {
            let (url, files) = (url.to_owned(), files.clone());
            let (stop, served, rotated) = (stop.clone(), served.clone(), rotated.clone());
            tasks.spawn(async move {
                let name = format!("s{number}");
                let connect = || async {
                    let channel = connect_with(&url, files.clone()).await;
                    AllocatorServiceClient::new(channel.expect("a connection"))
                };
                let mut client = connect().await;
                let mut seen = 0;
                while !stop.load(Ordering::Relaxed) {
                    let rotation = rotated.load(Ordering::Relaxed);
                    if number % 2 == 0 || rotation != seen {
                        client = connect().await;
                        seen = rotation;
                    }
                    client.acquire(acquire("web", &name)).await.unwrap();
                    client.release(release("web", &name)).await.unwrap();
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self {
            stop,
            rotated,
            served,
            tasks,
        }
    }

    /// Each makes a new connection, with the certificate that is there now, as watchers
    /// do by themselves.
    fn rotate(&self) {
        self.rotated.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until each caller was served anew.
    async fn goes_on(&mut self) {
        let before = self.served.load(Ordering::Relaxed);
        eventually(DEADLINE, "the load goes on", async || {
            match self.tasks.try_join_next() {
                Some(ended) => {
                    ended.expect("no caller fails");
                    panic!("a caller ended")
                }
                None if self.served.load(Ordering::Relaxed) > before + 50 => Ok(()),
                None => Err(self.served.load(Ordering::Relaxed)),
            }
        })
        .await;
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no caller fails");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_authorities_rotate_under_load_and_nobody_notices() {
    let (old, new) = (
        Authority::new("old").unwrap(),
        Authority::new("new").unwrap(),
    );
    let both = format!("{}{}", old.certificate, new.certificate);
    let server = Secret::new(&year(&old), &old.certificate);
    let allocator = Allocator::start(Options::config(POOLS).tls(server.files())).await;
    let admin = allocator.admin();
    let client = Secret::new(&old.caller(WATCHER).unwrap(), &both);
    let mut load = Load::start(&allocator.url(), &client.files());
    load.goes_on().await;

    let ends_at = async |days: i64| {
        let end = time::OffsetDateTime::now_utc() + time::Duration::days(days);
        let end = end.unix_timestamp() as f64;
        admin
            .sees(EXPIRY, &[], |seen| (seen - end).abs() < 3600.0)
            .await;
    };
    ends_at(365).await;
    let days =
        |authority: &Authority, days| authority.server_until(time::Duration::days(days)).unwrap();
    server.swap(&days(&old, 400), &both);
    ends_at(400).await;
    load.goes_on().await;
    server.swap(&days(&new, 500), &both);
    ends_at(500).await;
    load.goes_on().await;
    client.swap(&new.caller(WATCHER).unwrap(), &new.certificate);
    load.rotate();
    load.goes_on().await;
    let stale = Secret::new(&old.caller(WATCHER).unwrap(), &both);
    server.swap(&days(&new, 600), &new.certificate);
    ends_at(600).await;
    load.goes_on().await;
    load.end().await;
    let refused = match connect_with(&allocator.url(), stale.files()).await {
        Ok(channel) => {
            let mut client = AllocatorServiceClient::new(channel);
            client.acquire(acquire("web", "a")).await.is_err()
        }
        Err(_) => true,
    };
    assert!(refused, "the old authority counts no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_files_leave_the_last_good_ones_in_force_and_are_told_of_once() {
    let authority = Authority::new("test").unwrap();
    let good = year(&authority);
    let server = Secret::new(&good, &authority.certificate);
    let mut allocator = Allocator::start(Options::config(POOLS).tls(server.files())).await;
    let admin = allocator.admin();
    let client = Secret::new(&authority.caller(WATCHER).unwrap(), &authority.certificate);
    let mut load = Load::start(&allocator.url(), &client.files());
    assert_eq!(admin.metric(RELOADED, &[]).await.unwrap(), 1.0);

    let mixed = Identity {
        certificate: good.certificate.clone(),
        key: year(&authority).key,
    };
    server.swap(&mixed, &authority.certificate);
    admin.sees(RELOADED, &[], |seen| seen == 0.0).await;
    let verbose = admin.get("/readyz?verbose").await.unwrap();
    assert!(
        verbose.contains("[-]certificates failed") && verbose.contains("tls.key"),
        "{verbose}"
    );
    // Each of these looks is at least one more look at the files.
    for _ in 0..3 {
        let begun = tokio::time::Instant::now();
        eventually(DEADLINE, "more than a second", async || {
            if begun.elapsed() > Duration::from_millis(1100) {
                Ok(())
            } else {
                Err("")
            }
        })
        .await;
        load.goes_on().await;
    }
    let told = "certificates rejected, keeping the previous ones";
    let errors = allocator.process().errors();
    assert_eq!(errors.matches(told).count(), 1, "{errors}");

    fs::remove_file(&server.files().key).unwrap();
    eventually(DEADLINE, "another problem is told", async || {
        let errors = allocator.process().errors();
        if errors.matches(told).count() == 2 {
            Ok(())
        } else {
            Err(errors)
        }
    })
    .await;
    load.goes_on().await;
    fs::write(&server.files().key, &good.key).unwrap();
    admin.sees(RELOADED, &[], |seen| seen == 1.0).await;
    let verbose = admin.get("/readyz?verbose").await.unwrap();
    assert!(verbose.contains("[+]certificates ok"), "{verbose}");
    load.end().await;
}

#[tokio::test]
async fn a_certificate_is_warned_of_before_it_expires() {
    let authority = Authority::new("test").unwrap();
    let soon = authority.server_until(time::Duration::days(13)).unwrap();
    let server = Secret::new(&soon, &authority.certificate);
    let mut options = Options::config(POOLS).tls(server.files());
    options.given = Given::InEnvironment;
    let mut allocator = Allocator::start(options).await;
    let warnings = |allocator: &mut Allocator| {
        let errors = allocator.process().errors();
        errors.matches("is about to expire").count()
    };
    assert_eq!(warnings(&mut allocator), 1);
    server.swap(&year(&authority), &authority.certificate);
    allocator.admin().sees(EXPIRY, &[], |seen| seen > 0.0).await;
    let client = Secret::new(&authority.caller(WATCHER).unwrap(), &authority.certificate);
    let channel = connect_with(&allocator.url(), client.files()).await;
    let mut client = AllocatorServiceClient::new(channel.unwrap());
    client.acquire(acquire("web", "a")).await.unwrap();
    assert_eq!(
        warnings(&mut allocator),
        1,
        "the new one is good for a year"
    );
}
