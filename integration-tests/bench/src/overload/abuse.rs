//! The abuser, a process of its own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use futures::future::join_all;
use integration_tests::{
    allocator::connect_with,
    logs, process,
    rpc::{Asking, acquire, of_cluster, release},
    secret::files_in,
    unfinished,
};
use lb_proto::v1::{WatchRequest, allocator_service_client::AllocatorServiceClient};
use lb_tls::client::Connector;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tonic::{body::Body, transport::Channel};

use super::{
    outcomes::{Account, Outcomes},
    raw::Raw,
    usage::Watched,
};
use crate::machine::processor_seconds;

pub const CLUSTER: &str = "abuser";
const MIB: usize = 1 << 20;

/// Who is abused, with whose certificate, for how long.
#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    address: SocketAddr,
    /// The folder with the certificate of a watcher.
    certificate: PathBuf,
    seconds: u64,
}

impl Target {
    async fn connect(&self) -> Result<Channel> {
        let url = format!("https://{}", self.address);
        connect_with(&url, files_in(&self.certificate)).await
    }

    fn raw(&self) -> Result<Raw> {
        let files = files_in(&self.certificate);
        let config = files.parse(&files.read()?)?.client()?;
        let (_, config) = watch::channel(Arc::new(config));
        Ok(Raw {
            address: self.address,
            connector: Connector::new(config),
        })
    }
}

/// What is done to the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// 10,000 connections that are held.
    Connections,
    /// 100,000 requests in flight over 100 connections.
    Requests,
    /// As many over 10,000 connections.
    ManyCallers,
    /// 100,000 streams whose body never comes.
    HalfOpen,
    /// 25,000 messages of 200 KiB whose last bytes never come.
    Unfinished,
    /// Messages of 4 MiB, and of 64.
    Messages,
    /// Random bytes.
    Random,
    /// 10,000 Watch streams that nobody reads.
    SlowReaders,
}

impl Kind {
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Does it, and prints what came back.
///
/// # Errors
/// When nothing can be done at all.
pub async fn run(kind: Kind, target: &Target) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(target.seconds);
    let outcomes = Outcomes::default();
    let sent = match kind {
        Kind::Connections => {
            let raw = target.raw()?;
            let all = (0..10_000).map(|number| raw.clone().hold(number, until, outcomes.clone()));
            join_all(all.map(tokio::spawn)).await;
            "10,000 connections: silent, half a handshake, idle".to_owned()
        }
        Kind::Requests => {
            requests(target, (100, 1_000), until, &outcomes).await;
            "100 connections with 1,000 Acquires in flight each".to_owned()
        }
        Kind::ManyCallers => {
            requests(target, (10_000, 10), until, &outcomes).await;
            "10,000 connections with 10 Acquires in flight each".to_owned()
        }
        Kind::HalfOpen => {
            streams(target, (100, 1_000), until, &outcomes, unfinished::never).await;
            "100 connections with 1,000 streams each without a body".to_owned()
        }
        Kind::Unfinished => {
            let body = || unfinished::unfinished(200 * 1024, 199 * 1024);
            streams(target, (100, 250), until, &outcomes, body).await;
            "100 connections with 250 messages each of which 199 of 200 KiB come".to_owned()
        }
        Kind::Messages => {
            let small = messages(target, (8, 8), 4 * MIB, until, &outcomes);
            let large = messages(target, (2, 2), 64 * MIB, until, &outcomes);
            tokio::join!(small, large);
            "8 connections with 8 messages of 4 MiB each, 2 with 2 of 64 MiB".to_owned()
        }
        Kind::Random => {
            let raw = target.raw()?;
            let all = (0..64).map(|_| raw.clone().random(until, outcomes.clone()));
            join_all(all.map(tokio::spawn)).await;
            "64 connections at a time with up to 64 KiB of random bytes".to_owned()
        }
        Kind::SlowReaders => {
            slow_readers(target, (100, 100), until, &outcomes).await?;
            "100 connections with 100 Watch streams each, never read".to_owned()
        }
    };
    println!("{}", serde_json::to_string(&outcomes.account(sent).await)?);
    Ok(())
}

/// Every caller asks again as soon as it is answered.
async fn requests(target: &Target, many: (usize, usize), until: Instant, outcomes: &Outcomes) {
    let each = |mut channel: AllocatorServiceClient<Channel>, caller: usize, outcomes: Outcomes| async move {
        for number in 0.. {
            let name = format!("s{caller}-{number}");
            let request = of_cluster(CLUSTER, acquire("web", &name));
            match timeout_at(until, channel.acquire(request)).await {
                Err(_) => break,
                Ok(Ok(_)) => outcomes.count("OK").await,
                Ok(Err(status)) => outcomes.count(unfinished::code(status.code())).await,
            }
        }
    };
    over(
        target,
        many,
        until,
        outcomes,
        move |channel, caller, outcomes| {
            each(AllocatorServiceClient::new(channel), caller, outcomes)
        },
    )
    .await;
}

/// Every stream that has ended is followed by another one.
async fn streams(
    target: &Target,
    many: (usize, usize),
    until: Instant,
    outcomes: &Outcomes,
    body: impl Fn() -> Body + Copy + Send + Sync + 'static,
) {
    over(
        target,
        many,
        until,
        outcomes,
        move |mut channel, _, outcomes: Outcomes| async move {
            loop {
                let ended = unfinished::call(&mut channel, unfinished::ACQUIRE, body());
                match timeout_at(until, ended).await {
                    Err(_) => {
                        outcomes.count("unanswered at the end").await;
                        break;
                    }
                    Ok(ended) => outcomes.count(ended).await,
                }
            }
        },
    )
    .await;
}

async fn messages(
    target: &Target,
    many: (usize, usize),
    size: usize,
    until: Instant,
    outcomes: &Outcomes,
) {
    over(
        target,
        many,
        until,
        outcomes,
        move |channel, _, outcomes: Outcomes| async move {
            let mut client = AllocatorServiceClient::new(channel);
            let request = acquire("web", "a").wishing(|wish| wish.pool = "x".repeat(size));
            while let Ok(answer) = timeout_at(until, client.acquire(request.clone())).await {
                let code = answer.map_or_else(|status| status.code(), |_| tonic::Code::Ok);
                outcomes.count(unfinished::code(code)).await;
            }
        },
    )
    .await;
}

/// Opens Watch streams and never reads them, while a Service frees again and again
/// what others wait for.
async fn slow_readers(
    target: &Target,
    many: (usize, usize),
    until: Instant,
    outcomes: &Outcomes,
) -> Result<()> {
    let mut client = AllocatorServiceClient::new(target.connect().await?);
    let scarce = |name: &str| {
        of_cluster(CLUSTER, acquire("web", name)).wishing(|wish| wish.pool = "scarce".to_owned())
    };
    client.acquire(scarce("holder")).await?;
    for number in 0..100 {
        // They wait: there is one address.
        let _ = client.acquire(scarce(&format!("waits-{number}"))).await;
    }
    let mut give_back = release("web", "holder");
    give_back.service = scarce("holder").service;
    let reading = over(
        target,
        many,
        until,
        outcomes,
        |channel, _, outcomes: Outcomes| async move {
            let mut client = AllocatorServiceClient::new(channel);
            let request = WatchRequest {
                cluster: CLUSTER.to_owned(),
                ..WatchRequest::default()
            };
            let opened = timeout_at(until, client.watch(request)).await;
            match opened {
                Err(_) => outcomes.count("unanswered at the end").await,
                Ok(Err(status)) => outcomes.count(unfinished::code(status.code())).await,
                Ok(Ok(stream)) => {
                    outcomes.count("a stream began").await;
                    tokio::time::sleep_until(until).await;
                    let mut stream = stream.into_inner();
                    while let Ok(read) =
                        timeout_at(until + Duration::from_secs(1), stream.message()).await
                    {
                        match read {
                            Ok(Some(_)) => {}
                            Ok(None) => break,
                            Err(status) => {
                                outcomes
                                    .count(format!("then {}", unfinished::code(status.code())))
                                    .await;
                                break;
                            }
                        }
                    }
                }
            }
        },
    );
    let freeing = async {
        while Instant::now() < until {
            let _ = client.acquire(scarce("holder")).await;
            let _ = client.release(give_back.clone()).await;
        }
    };
    tokio::join!(reading, freeing);
    Ok(())
}

/// So many connections, and over each of them so many tasks.
async fn over<F>(
    target: &Target,
    (connections, tasks): (usize, usize),
    until: Instant,
    outcomes: &Outcomes,
    task: impl Fn(Channel, usize, Outcomes) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut all = JoinSet::new();
    for connection in 0..connections {
        match timeout_at(until, target.connect()).await {
            Ok(Ok(channel)) => {
                for number in 0..tasks {
                    let caller = connection * tasks + number;
                    all.spawn(task(channel.clone(), caller, outcomes.clone()));
                }
            }
            Ok(Err(_)) => outcomes.count("not connected").await,
            Err(_) => outcomes.count("not connected in time").await,
        }
    }
    all.join_all().await;
}

/// The abuser's process.
pub struct Process(process::Process);

impl Process {
    /// # Errors
    /// When it cannot be started.
    pub fn start(kind: Kind, address: &str, stolen: &Path, time: Duration) -> Result<Self> {
        let name = kind.name();
        let seconds = time.as_secs().to_string();
        let args = [
            "abuse".to_owned(),
            name.clone(),
            address.to_owned(),
            stolen.display().to_string(),
            seconds,
        ];
        let binary = std::env::current_exe()?;
        let name = format!("abuser-{name}-{}", std::process::id());
        let process = process::Process::start(&name, &binary, &args, &[], &logs::folder()?)?;
        Ok(Self(process))
    }

    /// What came back, once it has ended, and its processor time.
    ///
    /// # Errors
    /// When it failed, or the allocator ended.
    pub async fn ended(mut self, allocator: &Watched) -> Result<(Account, f64)> {
        let mut used = 0.0;
        loop {
            allocator.look()?;
            match self.0.status()? {
                None => used = processor_seconds(self.0.id()).unwrap_or(used),
                Some(status) if status.success() => break,
                Some(status) => bail!("the abuser ended with {status}\n{}", self.0.tail()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let output = self.0.output();
        let last = output.lines().last().unwrap_or_default();
        let account = serde_json::from_str(last).context("the abuser told nothing")?;
        Ok((account, used))
    }
}
