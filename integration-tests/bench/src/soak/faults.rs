//! What goes wrong, one after the other, and how it ends.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use integration_tests::eventually::{DEADLINE, within};
use tokio::time::sleep;

use super::world::World;

/// For how long an API server is stopped.
const STOPPED: Duration = Duration::from_secs(20);
/// How much longer every sync takes on a slow disk.
const SLOW: Duration = Duration::from_millis(200);
/// How far the clock is from the true time at most, in seconds. A clock that went
/// ahead and back makes time stand still for so long.
const CLOCK_ERROR: i64 = 30;
/// Room that a file has already has to be used up before a full disk is noticed.
const NOTICED: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    AllocatorKilled,
    WatcherKilled,
    ApiServerKilled,
    EtcdKilled,
    ApiServerStopped,
    DiskFull,
    DiskSlow,
    ConnectionsReset,
    ClockStepped,
}

impl Fault {
    const ALL: [Self; 9] = [
        Self::AllocatorKilled,
        Self::WatcherKilled,
        Self::ApiServerKilled,
        Self::EtcdKilled,
        Self::ApiServerStopped,
        Self::DiskFull,
        Self::DiskSlow,
        Self::ConnectionsReset,
        Self::ClockStepped,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::AllocatorKilled => "lb-allocator killed",
            Self::WatcherKilled => "lb-watcher killed",
            Self::ApiServerKilled => "API server killed",
            Self::EtcdKilled => "etcd and API server killed",
            Self::ApiServerStopped => "API server stopped for 20 s",
            Self::DiskFull => "disk full",
            Self::DiskSlow => "disk slow",
            Self::ConnectionsReset => "connections reset",
            Self::ClockStepped => "clock stepped",
        }
    }
}

/// A fault that was, and what shows that it was one.
#[derive(Clone, Debug)]
pub struct Past {
    pub fault: Fault,
    pub from: Duration,
    pub to: Duration,
    pub what: String,
}

pub struct Faults {
    rng: fastrand::Rng,
    begun: Instant,
    deck: Vec<Fault>,
    clock_error: i64,
}

impl Faults {
    pub fn new(rng: fastrand::Rng, begun: Instant) -> Self {
        Self {
            rng,
            begun,
            deck: Vec::new(),
            clock_error: 0,
        }
    }

    /// One fault after the other, for that long and until each has been there.
    ///
    /// # Errors
    /// When a process does not start again.
    pub async fn strike(mut self, world: &mut World, time: Duration) -> Result<Vec<Past>> {
        let end = self.begun.elapsed() + time;
        let mut past: Vec<Past> = Vec::new();
        while past.len() < Fault::ALL.len() || self.begun.elapsed() < end {
            self.pause(2).await;
            let fault = self.next();
            let from = self.begun.elapsed();
            let what = self.one(world, fault).await.context(fault.name())?;
            let to = self.begun.elapsed();
            eprintln!(
                "{:7.1} s  {} for {:.1} s: {what}",
                from.as_secs_f64(),
                fault.name(),
                (to - from).as_secs_f64()
            );
            world.all_run()?;
            past.push(Past {
                fault,
                from,
                to,
                what,
            });
        }
        world.shim.set_clock(0)?;
        Ok(past)
    }

    /// Each comes once before any comes again.
    fn next(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck = Fault::ALL.to_vec();
            self.rng.shuffle(&mut self.deck);
        }
        self.deck.pop().unwrap_or(Fault::AllocatorKilled)
    }

    async fn one(&mut self, world: &mut World, fault: Fault) -> Result<String> {
        let at = self.rng.usize(..world.clusters.len());
        let name = world.clusters[at].name;
        match fault {
            Fault::AllocatorKilled => {
                let killed = Instant::now();
                world.allocator.kill();
                self.pause(3).await;
                world.allocator.try_start_again().await?;
                world.shim.is_in(world.allocator.process().id())?;
                let away = killed.elapsed().as_secs_f64();
                Ok(format!("away for {away:.1} s"))
            }
            Fault::WatcherKilled => {
                let watcher = &mut world.clusters[at].watcher;
                watcher.kill();
                self.pause(3).await;
                watcher.start_unready();
                Ok(name.to_owned())
            }
            Fault::ApiServerKilled | Fault::EtcdKilled => {
                let control_plane = &mut world.clusters[at].control_plane;
                if fault == Fault::EtcdKilled {
                    control_plane.kill_all_and_restart_etcd()?;
                } else {
                    control_plane.kill_apiserver();
                }
                self.pause(3).await;
                control_plane.start_apiserver().await?;
                Ok(name.to_owned())
            }
            Fault::ApiServerStopped => {
                let control_plane = &world.clusters[at].control_plane;
                control_plane.pause();
                sleep(STOPPED).await;
                control_plane.resume();
                Ok(name.to_owned())
            }
            Fault::DiskFull => self.fill_the_disk(world).await,
            Fault::DiskSlow => {
                let before = world.shim.delayed()?;
                world.shim.slow_down(SLOW)?;
                sleep(Duration::from_secs(4)).await;
                self.pause(3).await;
                world.shim.slow_down(Duration::ZERO)?;
                let syncs = world.shim.delayed()? - before;
                Ok(format!("{syncs} syncs took {SLOW:?} longer"))
            }
            Fault::ConnectionsReset => {
                let times = self.rng.u32(5..=15);
                for _ in 0..times {
                    for cluster in &world.clusters {
                        cluster.relay.reset();
                    }
                    sleep(Duration::from_millis(self.rng.u64(50..600))).await;
                }
                Ok(format!("{times} times, those of all clusters"))
            }
            Fault::ClockStepped => {
                let before = self.clock_error;
                self.clock_error = self.rng.i64(-CLOCK_ERROR..=CLOCK_ERROR);
                world.shim.set_clock(self.clock_error)?;
                self.pause(3).await;
                Ok(format!("by {} s", self.clock_error - before))
            }
        }
    }

    async fn fill_the_disk(&mut self, world: &World) -> Result<String> {
        let admin = world.allocator.admin();
        let failures = async || {
            let metric = "lb_allocator_commit_failures_total";
            within(DEADLINE, async || admin.metric(metric, &[]).await).await
        };
        let before = failures().await?;
        let ballast = world.disk.fill()?;
        let noticed = within(NOTICED, async || match failures().await {
            Ok(now) if now > before => Ok(()),
            Ok(_) | Err(_) => Err(()),
        });
        // Where there was room in its files for as long, that is told.
        let _ = noticed.await;
        sleep(Duration::from_secs(2)).await;
        self.pause(3).await;
        fs::remove_file(ballast)?;
        let refused = failures().await? - before;
        Ok(format!("{refused} commits refused"))
    }

    /// For a random time up to some seconds.
    async fn pause(&mut self, seconds: u64) {
        sleep(Duration::from_millis(self.rng.u64(..seconds * 1000))).await;
    }
}
