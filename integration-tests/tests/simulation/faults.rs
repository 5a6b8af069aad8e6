//! What goes wrong for a while, and how it ends.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::{Instant, sleep};

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
    Recommission(String),
    Replace(usize),
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
                Cure::Recommission(name) => world.admin.recommission(&name),
                Cure::Replace(cluster) => {
                    let server = world.clusters[cluster].clone();
                    world.admin.replace(&server);
                }
                Cure::RoomOnDisk => world.disk_full.store(false, Ordering::Relaxed),
            }
        }
    }
}

/// Whether the database may be lost. An excluded address is in no pool, and of two
/// clusters of one name a new database knows the one that comes first.
const fn may_forget(world: &World) -> bool {
    !world.has_excluded && world.twin.is_none()
}

/// One thing that goes wrong.
pub async fn strike(world: &mut World, cures: &mut Cures) {
    let hosts: Vec<String> = world.watchers.keys().cloned().collect();
    let host = pick(&hosts);
    let cluster = fastrand::usize(..world.clusters.len());
    let minute = Duration::from_secs(60);
    let what = match fastrand::u8(..22) {
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
            let year = 366 * 24 * 3_600_000;
            let error = if world.cast.far_clock {
                pick(&[-year, year])
            } else {
                fastrand::i64(-600_000..600_000)
            };
            world.clock_error.store(error, Ordering::Relaxed);
            world
                .chaos
                .note(format_args!("the clock is {error} ms off"));
            "clock jumped"
        }
        13 | 14 => {
            world.back_up();
            "backup made"
        }
        15 if !world.backups.is_empty() && may_forget(world) => {
            world.restore(fastrand::usize(..world.backups.len()));
            cures.after(minute, Cure::StartAllocator);
            "backup restored"
        }
        16 if may_forget(world) => {
            world.lose_disk(!world.cast.unknown_clusters);
            cures.after(minute, Cure::StartAllocator);
            "disk lost"
        }
        17 if may_forget(world) => {
            // Whoever is there at once is heard before anything is given, also where no
            // pools file says who is there.
            world.chaos.set_rates(Rates::calm());
            cures.all(world).await;
            sleep(minute).await;
            world.lose_disk(true);
            sleep(random_up_to(minute)).await;
            world.start_allocator().await;
            sleep(minute).await;
            "disk lost while all are there"
        }
        19 if world.cast.twin && world.twin.is_none() && world.showing.is_known_cluster("c0") => {
            world.add_twin();
            "second cluster of a name"
        }
        20 if world.cast.rebuilds => {
            world.rebuild(cluster);
            cures.after(minute, Cure::Replace(cluster));
            "cluster made anew"
        }
        18 if world.cast.admin => {
            let name = world.clusters[cluster].cluster().to_owned();
            world.admin.decommission(&name);
            cures.after(minute, Cure::Recommission(name));
            "cluster decommissioned"
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
