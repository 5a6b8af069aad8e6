//! A client of an echo server that nobody abuses: it feels what the machine does to
//! everybody.

use std::time::{Duration, Instant};

use anyhow::Result;
use integration_tests::{process::Process, rpc::acquire};
use lb_proto::v1::allocator_service_client::AllocatorServiceClient;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tonic::transport::Channel;

use super::neighbour::Felt;
use crate::stand_in;

/// One call in this time: hardly any load.
const EVERY: Duration = Duration::from_millis(2);

pub struct Bystander {
    client: AllocatorServiceClient<Channel>,
    _echo: Process,
}

impl Bystander {
    /// # Errors
    /// When the echo server does not start.
    pub async fn start() -> Result<Self> {
        let (process, channel) = stand_in::start("echo", &[]).await?;
        Ok(Self {
            client: AllocatorServiceClient::new(channel),
            _echo: process,
        })
    }

    pub async fn during(&self, time: Duration) -> (Felt, ()) {
        let (over, is_over) = watch::channel(false);
        let (felt, ()) = tokio::join!(self.until(is_over), async {
            tokio::time::sleep(time).await;
            over.send_replace(true);
        });
        (felt, ())
    }

    pub async fn until(&self, over: watch::Receiver<bool>) -> Felt {
        let mut client = self.client.clone();
        let mut felt = Felt::default();
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*over.borrow() {
            ticks.tick().await;
            let sent = Instant::now();
            let answer = client.acquire(acquire("web", "echo")).await;
            felt.note(sent.elapsed(), &answer);
        }
        felt
    }
}
