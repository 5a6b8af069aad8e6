//! Callers of one connection, each with one request in flight.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use lb_proto::v1::{
    AcquireRequest, IpFamily, ReleaseRequest, ServiceKey, Wish,
    allocator_service_client::AllocatorServiceClient,
};
use tokio::task::JoinHandle;
use tonic::{Status, transport::Channel};

use crate::figures::percentile;

/// Releases in flight, between what is measured.
pub const RELEASES: usize = 256;

/// When a stretch of requests ends: whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    pub time: Duration,
    pub requests: u64,
}

/// How long each of its requests took.
pub type Caller = JoinHandle<Result<Vec<Duration>, Status>>;

/// What the callers of one connection saw.
#[derive(Debug)]
pub struct Seen {
    took: Vec<Duration>,
    elapsed: Duration,
}

impl Seen {
    /// What all of these saw, which began then.
    ///
    /// # Errors
    /// When a request was refused.
    pub async fn of(begun: Instant, callers: impl Iterator<Item = Caller>) -> Result<Self> {
        let mut took = Vec::new();
        for caller in callers.collect::<Vec<_>>() {
            took.extend(caller.await??);
        }
        Ok(Self {
            took,
            elapsed: begun.elapsed(),
        })
    }

    /// Together with a later stretch.
    pub fn and(mut self, later: Self) -> Self {
        self.took.extend(later.took);
        self.elapsed += later.elapsed;
        self
    }

    pub const fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Answers per second.
    pub fn rate(&self) -> f64 {
        self.took.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// In milliseconds.
    pub fn percentile(&mut self, percent: usize) -> f64 {
        self.took.sort_unstable();
        percentile(&self.took, percent).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    }
}

/// Asks for addresses for Services that never asked before.
#[derive(Clone)]
pub struct Callers {
    client: AllocatorServiceClient<Channel>,
    next: Arc<AtomicU64>,
}

impl Callers {
    pub fn new(channel: Channel) -> Self {
        Self {
            client: AllocatorServiceClient::new(channel),
            next: Arc::default(),
        }
    }

    /// # Errors
    /// When a request is refused, or none is answered.
    pub async fn acquire(&self, in_flight: usize, until: Until) -> Result<Seen> {
        let end = self.next.load(Ordering::Relaxed) + until.requests;
        let begun = Instant::now();
        let callers = (0..in_flight).map(|_| {
            let Self { mut client, next } = self.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                while begun.elapsed() < until.time {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        break;
                    }
                    let request = acquire(number);
                    let sent = Instant::now();
                    client.acquire(request).await?;
                    took.push(sent.elapsed());
                }
                Ok(took)
            })
        });
        let seen = Seen::of(begun, callers).await?;
        if seen.took.is_empty() {
            bail!("nothing was answered within {:?}", until.time);
        }
        Ok(seen)
    }

    /// Gives back all that was acquired since `first`.
    ///
    /// # Errors
    /// When a request is refused.
    pub async fn release_since(&self, first: u64, in_flight: usize) -> Result<Seen> {
        let end = self.next.load(Ordering::Relaxed);
        let begun = Instant::now();
        let callers = (0..in_flight).map(|caller| {
            let mut client = self.client.clone();
            tokio::spawn(async move {
                let mut took = Vec::new();
                for number in (first..end).skip(caller).step_by(in_flight) {
                    let request = release(number);
                    let sent = Instant::now();
                    client.release(request).await?;
                    took.push(sent.elapsed());
                }
                Ok(took)
            })
        });
        Seen::of(begun, callers).await
    }

    /// The number of the next Service.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }
}

/// In the form that API servers give them.
fn uid(number: u64) -> String {
    let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!("{:08x}-5f3a-4b6c-8d7e-{:012x}", random >> 32, number)
}

fn key(number: u64) -> ServiceKey {
    ServiceKey {
        cluster: "bench".to_owned(),
        namespace: format!("team-{}", number % 100),
        name: format!("service-{number}"),
    }
}

pub fn acquire(number: u64) -> AcquireRequest {
    let wish = Wish {
        families: vec![IpFamily::Ipv4.into()],
        cluster_ip: "10.96.0.1".to_owned(),
        ..Wish::default()
    };
    AcquireRequest {
        created_at: None,
        service: Some(key(number)),
        uid: uid(number),
        wish: Some(wish),
        ..AcquireRequest::default()
    }
}

fn release(number: u64) -> ReleaseRequest {
    ReleaseRequest {
        service: Some(key(number)),
        uid: uid(number),
        ..ReleaseRequest::default()
    }
}
