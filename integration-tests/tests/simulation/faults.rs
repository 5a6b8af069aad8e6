//! What goes wrong for a while, and how it ends.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use crate::{
    chaos::{Rates, pick, random_up_to},
    world::World,
};

/// What ends a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cure {
    StartAllocator,
    StartWatcher(String),
    Reconnect(String),
    ApiServerBack(usize),
    RoomOnDisk,
}

/// Cures that are yet to come.
#[derive(Debug, Default)]
pub struct Cures(Vec<(Instant, Cure)>);

impl Cures {
    fn after(&mut self, limit: Duration, cure: Cure) {
        self.0.push((Instant::now() + random_up_to(limit), cure));
    }

    /// Carries out those that are due.
    pub async fn due(&mut self, world: &mut World) {
        self.until(world, Instant::now()).await;
    }

    /// Carries out all.
    pub async fn all(&mut self, world: &mut World) {
        world.disk_full.store(false, Ordering::Relaxed);
        self.until(world, Instant::now() + Duration::from_secs(1_000_000))
            .await;
    }

    async fn until(&mut self, world: &mut World, time: Instant) {
        let (due, later) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(at, _)| *at <= time);
        self.0 = later;
        let due: Vec<(Instant, Cure)> = due;
        for (_, cure) in due {
            world.chaos.note(format_args!("cure: {cure:?}"));
            match cure {
                Cure::StartAllocator => {
                    if !world.start_allocator().await {
                        self.after(Duration::from_secs(10), Cure::StartAllocator);
                    }
                }
                Cure::StartWatcher(host) => world.start_watcher(&host),
                Cure::Reconnect(host) => world.network.part(&host, false),
                Cure::ApiServerBack(cluster) => world.clusters[cluster].set_away(false),
                Cure::RoomOnDisk => world.disk_full.store(false, Ordering::Relaxed),
            }
        }
    }
}

/// One thing that goes wrong.
pub async fn strike(world: &mut World, cures: &mut Cures) {
    let hosts: Vec<String> = world.watchers.keys().cloned().collect();
    let host = pick(&hosts);
    let cluster = fastrand::usize(..world.clusters.len());
    let minute = Duration::from_secs(60);
    let what = match fastrand::u8(..20) {
        0 | 1 => {
            world.kill_allocator();
            cures.after(minute, Cure::StartAllocator);
            "allocator killed"
        }
        2 => {
            world.stop_allocator().await;
            cures.after(minute, Cure::StartAllocator);
            "allocator stopped"
        }
        3 | 4 => {
            world.kill_watcher(&host);
            cures.after(minute * 2, Cure::StartWatcher(host));
            "watcher killed"
        }
        5 => {
            world.stop_watcher(&host).await;
            cures.after(minute, Cure::StartWatcher(host));
            "watcher stopped"
        }
        6 => {
            world.network.cut(|of| of == host);
            "connections cut"
        }
        7 | 8 => {
            world.network.part(&host, true);
            cures.after(minute, Cure::Reconnect(host));
            "network parted"
        }
        9 => {
            world.clusters[cluster].set_away(true);
            cures.after(minute, Cure::ApiServerBack(cluster));
            "API server away"
        }
        10 => {
            world.clusters[cluster].compact();
            "watch history forgotten"
        }
        11 => {
            world.disk_full.store(true, Ordering::Relaxed);
            cures.after(minute, Cure::RoomOnDisk);
            "disk full"
        }
        12 => {
            let error = fastrand::i64(-600_000..600_000);
            world.clock_error.store(error, Ordering::Relaxed);
            "clock jumped"
        }
        13 | 14 => {
            world.back_up();
            "backup made"
        }
        // An excluded address is in no pool, so that a database which does not know
        // of its holder leaves it to nobody.
        15 if !world.backups.is_empty() && !world.has_excluded => {
            world.forget();
            world.restore(fastrand::usize(..world.backups.len()));
            cures.after(minute, Cure::StartAllocator);
            "backup restored"
        }
        16 if !world.has_excluded => {
            world.forget();
            world.lose_disk();
            cures.after(minute, Cure::StartAllocator);
            "disk lost"
        }
        _ => {
            let rates = Rates::random();
            world.chaos.set_rates(rates);
            world.chaos.note(format_args!("{rates:?}"));
            "weather changed"
        }
    };
    world.chaos.count(what);
    world.chaos.note(format_args!("fault: {what}"));
}
