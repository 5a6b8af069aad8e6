//! When a bare client, by a watch, saw each Service with its address.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use integration_tests::namespace::addresses;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, ResourceExt,
    runtime::watcher::{self, Event},
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

/// Far above what the slowest machine takes.
const PATIENCE: Duration = Duration::from_secs(600);

type Seen = HashMap<String, Instant>;

/// The watch, while this lives.
pub struct Sightings {
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

impl Sightings {
    /// Watches, from when this returns on.
    ///
    /// # Errors
    /// When the first list is not there in time.
    pub async fn begin(services: Api<Service>) -> Result<Self> {
        let (sender, seen) = watch::channel(Seen::new());
        let listed = Arc::new(tokio::sync::Notify::new());
        let task = tokio::spawn({
            let listed = listed.clone();
            async move {
                let events = watcher::watcher(services, watcher::Config::default());
                let mut events = events.boxed();
                while let Some(event) = events.next().await {
                    match event {
                        Ok(Event::Apply(service) | Event::InitApply(service)) => {
                            note(&sender, &service);
                        }
                        Ok(Event::InitDone) => listed.notify_one(),
                        Ok(Event::Delete(_) | Event::Init) => {}
                        Err(error) => eprintln!("the watch broke: {error}"),
                    }
                }
            }
        });
        let this = Self { seen, task };
        timeout(PATIENCE, listed.notified()).await?;
        Ok(this)
    }

    /// When each of them was seen, once all are.
    ///
    /// # Errors
    /// When one is not in time.
    pub async fn of(&self, names: &[String]) -> Result<Vec<Instant>> {
        let mut seen = self.seen.clone();
        let mut missing: Vec<&String> = names.iter().rev().collect();
        let all = seen.wait_for(|seen| {
            // The one that was missing last time is likely to be missing still.
            while missing.last().is_some_and(|name| seen.contains_key(*name)) {
                missing.pop();
            }
            missing.is_empty()
        });
        let found = match timeout(PATIENCE, all).await {
            Ok(seen) => {
                let seen = seen.context("the watch ended")?;
                names
                    .iter()
                    .filter_map(|name| seen.get(name).copied())
                    .collect()
            }
            Err(_) => bail!("a Service has no address after {PATIENCE:?}"),
        };
        Ok(found)
    }
}

fn note(seen: &watch::Sender<Seen>, service: &Service) {
    let now = Instant::now();
    if !addresses(service).is_empty() {
        seen.send_if_modified(|seen| {
            let mut news = false;
            seen.entry(service.name_any()).or_insert_with(|| {
                news = true;
                now
            });
            news
        });
    }
}

impl Drop for Sightings {
    fn drop(&mut self) {
        self.task.abort();
    }
}
