//! A client that behaves: a few Services are acquired and released, again and again.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use integration_tests::rpc::{acquire, of_cluster, release};
use lb_proto::v1::allocator_service_client::AllocatorServiceClient;
use tonic::transport::Channel;

use crate::figures::percentile;

/// Requests in flight.
const CALLERS: usize = 4;
pub const CLUSTER: &str = "neighbour";

/// What somebody felt for a while.
#[derive(Clone, Debug, Default)]
pub struct Felt {
    took: Vec<Duration>,
    /// How often which error.
    pub errors: BTreeMap<String, u64>,
}

impl Felt {
    pub fn note<T>(&mut self, took: Duration, answer: &Result<T, tonic::Status>) {
        match answer {
            Ok(_) => self.took.push(took),
            Err(status) => {
                *self
                    .errors
                    .entry(format!("{:?}", status.code()))
                    .or_default() += 1
            }
        }
    }

    pub fn and(&mut self, other: Self) {
        self.took.extend(other.took);
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }

    pub fn answers(&self) -> usize {
        self.took.len()
    }

    /// In milliseconds.
    pub fn p99(&self) -> f64 {
        let mut sorted = self.took.clone();
        sorted.sort_unstable();
        percentile(&sorted, 99).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    }
}

/// See the module.
pub struct Neighbour(AllocatorServiceClient<Channel>);

impl Neighbour {
    pub fn new(channel: Channel) -> Self {
        Self(AllocatorServiceClient::new(channel))
    }

    /// What it feels until that has ended.
    pub async fn during<T>(&self, what: impl Future<Output = T>) -> (Felt, T) {
        let over = Arc::new(AtomicBool::new(false));
        let callers = (0..CALLERS).map(|caller| {
            let (mut client, over) = (self.0.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut felt = Felt::default();
                let name = format!("service-{caller}");
                let mut ask = of_cluster(CLUSTER, acquire("web", &name));
                ask.created_at = None;
                let mut give_back = release("web", &name);
                give_back.service.clone_from(&ask.service);
                while !over.load(Ordering::Relaxed) {
                    let sent = Instant::now();
                    let answer = client.acquire(ask.clone()).await;
                    felt.note(sent.elapsed(), &answer);
                    let sent = Instant::now();
                    let answer = client.release(give_back.clone()).await;
                    felt.note(sent.elapsed(), &answer);
                }
                felt
            })
        });
        let callers: Vec<_> = callers.collect();
        let ended = pin!(what).await;
        over.store(true, Ordering::Relaxed);
        let mut felt = Felt::default();
        for caller in callers {
            // A caller that panicked felt nothing that counts.
            felt.and(caller.await.unwrap_or_default());
        }
        (felt, ended)
    }
}
