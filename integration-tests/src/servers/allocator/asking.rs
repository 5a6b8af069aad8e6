//! Clients of a running allocator, and the questions that many tests ask.

use std::time::Duration;

use anyhow::{Context, Result};
use lb_proto::v1::{
    Allocation, Cluster, Conflict, HistoryEntry, ListAllocationsRequest, ListClustersRequest,
    ListConflictsRequest, ListHistoryRequest, ListPoolsRequest, Pool, SyncRequest, SyncedService,
    admin_service_client::AdminServiceClient, allocator_service_client::AllocatorServiceClient,
    pool_service_client::PoolServiceClient,
};
use lb_tls::files::Files;
use tonic::transport::{Channel, Endpoint};

use super::Allocator;
use crate::eventually::{DEADLINE, eventually};

impl Allocator {
    /// A new connection.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn channel(&self) -> Channel {
        match connect(&self.url()).await {
            Ok(channel) => channel,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// A client of its own connection.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn client(&self) -> AllocatorServiceClient<Channel> {
        AllocatorServiceClient::new(self.channel().await)
    }

    /// A client of its own connection.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn pool_client(&self) -> PoolServiceClient<Channel> {
        PoolServiceClient::new(self.channel().await)
    }

    /// What became of an address, the newest first.
    ///
    /// # Panics
    /// When it cannot be told.
    pub async fn history(&self, address: &str) -> Vec<HistoryEntry> {
        let request = ListHistoryRequest {
            address: address.to_owned(),
            ..Default::default()
        };
        match self.pool_client().await.list_history(request).await {
            Ok(answer) => answer.into_inner().entries,
            Err(error) => panic!("cannot list the history of {address}: {error}"),
        }
    }

    /// All pools.
    ///
    /// # Panics
    /// When they cannot be listed.
    pub async fn pools(&self) -> Vec<Pool> {
        match self
            .pool_client()
            .await
            .list_pools(ListPoolsRequest {})
            .await
        {
            Ok(answer) => answer.into_inner().pools,
            Err(error) => panic!("cannot list the pools: {error}"),
        }
    }

    /// A client of its own connection.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn admin_client(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel().await)
    }

    /// All clusters.
    ///
    /// # Panics
    /// When they cannot be listed.
    pub async fn clusters(&self) -> Vec<Cluster> {
        let mut client = self.pool_client().await;
        match client.list_clusters(ListClustersRequest {}).await {
            Ok(answer) => answer.into_inner().clusters,
            Err(error) => panic!("cannot list the clusters: {error}"),
        }
    }

    /// All conflicts.
    ///
    /// # Panics
    /// When they cannot be listed.
    pub async fn conflicts(&self) -> Vec<Conflict> {
        let mut client = self.pool_client().await;
        match client.list_conflicts(ListConflictsRequest {}).await {
            Ok(answer) => answer.into_inner().conflicts,
            Err(error) => panic!("cannot list the conflicts: {error}"),
        }
    }

    /// Tells what a cluster has.
    ///
    /// # Errors
    /// As the allocator answers.
    pub async fn sync(
        &self,
        messages: Vec<SyncRequest>,
    ) -> Result<Vec<SyncedService>, tonic::Status> {
        let mut client = self.client().await;
        let answer = client.sync(futures::stream::iter(messages)).await?;
        let mut pages = answer.into_inner();
        let mut services = Vec::new();
        while let Some(page) = pages.message().await? {
            services.extend(page.services);
        }
        Ok(services)
    }

    /// Waits until these Services, each with its address, hold addresses and no others do.
    /// They are in the order of addresses.
    ///
    /// # Panics
    /// When that does not come about in time.
    pub async fn holds(&self, expected: &[(&str, &str)]) {
        eventually(DEADLINE, format!("{expected:?} are held"), async || {
            let held = self.allocations().await.into_iter();
            let held: Vec<_> = held
                .map(|held| (held.service.unwrap_or_default().name, held.address))
                .collect();
            let same = held
                .iter()
                .map(|(name, address)| (name.as_str(), address.as_str()))
                .eq(expected.iter().copied());
            if same {
                Ok(())
            } else {
                Err(format!("{held:?}"))
            }
        })
        .await;
    }

    /// All allocations, in the order of addresses.
    ///
    /// # Panics
    /// When they cannot be listed.
    pub async fn allocations(&self) -> Vec<Allocation> {
        allocations(self.channel().await).await
    }
}

/// All allocations of the allocator behind a connection, in the order of addresses.
///
/// # Panics
/// When they cannot be listed.
pub async fn allocations(channel: Channel) -> Vec<Allocation> {
    let mut client = PoolServiceClient::new(channel);
    let mut all = Vec::new();
    let mut request = ListAllocationsRequest {
        page_size: 1000,
        ..Default::default()
    };
    loop {
        match client.list_allocations(request.clone()).await {
            Ok(page) => {
                let page = page.into_inner();
                all.extend(page.allocations);
                if page.next_page_token.is_empty() {
                    return all;
                }
                request.page_token = page.next_page_token;
            }
            Err(error) => panic!("cannot list the allocations: {error}"),
        }
    }
}

/// A connection to an allocator that serves TLS, with these certificates. What
/// the allocator makes of them shows with the first call.
///
/// # Errors
/// When it cannot be made.
pub async fn connect_with(url: &str, files: Files) -> Result<Channel> {
    Ok(lb_tls::client::connect(url, Some(files)).await?)
}

/// A connection to an allocator.
///
/// # Errors
/// When it cannot be made.
pub async fn connect(url: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.connect_timeout(Duration::from_secs(5));
    endpoint
        .connect()
        .await
        .with_context(|| format!("cannot connect to {url}"))
}
