//! `PoolService`: reads of the published state, and of history.

use std::sync::Arc;

use lb_proto::v1::{self, get_allocation_request::Of, pool_service_server::PoolService};
use tonic::{Request, Response, Status};

use super::{convert, fault, gate::Gate, page, request};
use crate::{
    auth::{Caller, Rpc, Target},
    clock::Clock,
    engine::{Allocation, ClusterName, ClusterState, Revision, ServiceKey},
    published::{Place, Published, State},
    store::{HistoryFilter, HistoryReader},
};

/// See the module.
pub struct PoolReader {
    published: Arc<Published>,
    history: HistoryReader,
    gate: Gate,
    clock: Clock,
}

impl PoolReader {
    pub const fn new(
        published: Arc<Published>,
        history: HistoryReader,
        gate: Gate,
        clock: Clock,
    ) -> Self {
        Self {
            published,
            history,
            gate,
            clock,
        }
    }

    /// Lets a caller pass that asks with a filter for a cluster, or without one.
    fn admit_filter(&self, caller: &Caller, rpc: Rpc, cluster: &str) -> Result<(), Status> {
        // What is no name of a cluster matches none, and is no watcher's own.
        let cluster = ClusterName::parse(cluster).ok();
        let target = cluster.as_ref().map_or(Target::Everything, Target::Cluster);
        self.gate.admit(caller, rpc, target)
    }
}

#[tonic::async_trait]
impl PoolService for PoolReader {
    async fn list_pools(
        &self,
        request: Request<v1::ListPoolsRequest>,
    ) -> Result<Response<v1::ListPoolsResponse>, Status> {
        let (caller, v1::ListPoolsRequest {}) = self.gate.enter(request);
        self.gate
            .admit(&caller, Rpc::ListPools, Target::Everything)?;
        let state = self.published.read();
        Ok(Response::new(v1::ListPoolsResponse {
            revision: state.revision().0,
            pools: convert::pools(&state),
            stranded: state.stranded().values().sum(),
        }))
    }

    async fn list_allocations(
        &self,
        request: Request<v1::ListAllocationsRequest>,
    ) -> Result<Response<v1::ListAllocationsResponse>, Status> {
        let (caller, message) = self.gate.enter(request);
        self.admit_filter(&caller, Rpc::ListAllocations, &message.cluster)?;
        let v1::ListAllocationsRequest {
            pool,
            cluster,
            namespace,
            address,
            page_size,
            page_token,
        } = message;
        let size = page::size(page_size)?;
        let only = request::optional("address", &address, request::address)?;
        let start = request::optional("page_token", &page_token, |_, text| place(text))?;
        let matches = |held: &Allocation| {
            (pool.is_empty() || held.pool.as_str() == pool)
                && (cluster.is_empty() || held.key.cluster.as_str() == cluster)
                && (namespace.is_empty() || held.key.namespace.as_str() == namespace)
        };

        let state = self.published.read();
        let mut response = v1::ListAllocationsResponse {
            revision: state.revision().0,
            ..v1::ListAllocationsResponse::default()
        };
        let pools = state.pools();
        let from = only.map(|address| (address, None));
        for (looked_at, held) in state.allocations_from(start.or(from)).enumerate() {
            if only.is_some_and(|only| only != held.address) {
                break;
            }
            if response.allocations.len() == size || looked_at == page::MAX_SCAN {
                response.next_page_token = token(held);
                break;
            }
            if matches(held) {
                response.allocations.push(convert::allocation(pools, held));
            }
        }
        Ok(Response::new(response))
    }

    async fn get_allocation(
        &self,
        request: Request<v1::GetAllocationRequest>,
    ) -> Result<Response<v1::GetAllocationResponse>, Status> {
        let (caller, message) = self.gate.enter(request);
        let of = message.of;
        let of = of.ok_or_else(|| fault::invalid("of", "give a service or an address"))?;
        let (what, state, allocations) = match of {
            Of::Service(key) => {
                let key = request::service_key("service", Some(key))?;
                let target = Target::Cluster(&key.cluster);
                self.gate.admit(&caller, Rpc::GetAllocation, target)?;
                let state = self.published.read();
                let held = shown(&state, state.by_key(&key));
                (format!("{key} holds nothing"), state, held)
            }
            Of::Address(text) => {
                let address = request::address("address", &text)?;
                let target = Target::Everything;
                self.gate.admit(&caller, Rpc::GetAllocation, target)?;
                let state = self.published.read();
                let held = shown(&state, state.by_address(address));
                (format!("nobody holds {address}"), state, held)
            }
        };
        if allocations.is_empty() {
            return Err(fault::not_found(what));
        }
        Ok(Response::new(v1::GetAllocationResponse {
            revision: state.revision().0,
            allocations,
        }))
    }

    async fn list_history(
        &self,
        request: Request<v1::ListHistoryRequest>,
    ) -> Result<Response<v1::ListHistoryResponse>, Status> {
        let (caller, message) = self.gate.enter(request);
        self.admit_filter(&caller, Rpc::ListHistory, &message.cluster)?;
        let v1::ListHistoryRequest {
            address,
            cluster,
            namespace,
            name,
            page_size,
            page_token,
        } = message;
        let size = page::size(page_size)?;
        let address = request::optional("address", &address, request::address)?;
        let filter = HistoryFilter {
            address: address.map(|address| address.to_string()),
            cluster: Some(cluster).filter(|text| !text.is_empty()),
            namespace: Some(namespace).filter(|text| !text.is_empty()),
            name: Some(name).filter(|text| !text.is_empty()),
        };
        let committed = self.published.read().revision();
        let newest = match page_token.as_str() {
            "" => committed,
            text => match text.parse() {
                Ok(number) if (1..=committed.0).contains(&number) => Revision(number),
                Ok(_) | Err(_) => return Err(page::bad_token(text)),
            },
        };
        // At most as many as fit in an i64.
        let oldest = Revision((newest.0 - page::MAX_SCAN as i64 + 1).max(1));
        let mut rows = self
            .history
            .rows(&filter, newest, oldest, size + 1)
            .await
            .map_err(|error| fault::internal(&error))?;
        let next = if rows.len() > size {
            rows.pop().map(|row| row.revision)
        } else {
            // What is not kept any more is passed over in one step.
            let before = self.history.before(oldest).await;
            let before = before.map_err(|error| fault::internal(&error))?;
            before.map(|revision| revision.0)
        };
        Ok(Response::new(v1::ListHistoryResponse {
            revision: committed.0,
            entries: rows.into_iter().map(convert::history_entry).collect(),
            next_page_token: next
                .map(|revision| revision.to_string())
                .unwrap_or_default(),
        }))
    }

    async fn list_conflicts(
        &self,
        request: Request<v1::ListConflictsRequest>,
    ) -> Result<Response<v1::ListConflictsResponse>, Status> {
        let (caller, v1::ListConflictsRequest {}) = self.gate.enter(request);
        self.gate
            .admit(&caller, Rpc::ListConflicts, Target::Everything)?;
        let state = self.published.read();
        let conflicts = state.conflicts();
        Ok(Response::new(v1::ListConflictsResponse {
            revision: state.revision().0,
            count: conflicts.len() as u64,
            conflicts: conflicts
                .take(page::MAX_SIZE)
                .map(|conflict| convert::conflict(&state, conflict))
                .collect(),
        }))
    }

    async fn list_clusters(
        &self,
        request: Request<v1::ListClustersRequest>,
    ) -> Result<Response<v1::ListClustersResponse>, Status> {
        let (caller, v1::ListClustersRequest {}) = self.gate.enter(request);
        self.gate
            .admit(&caller, Rpc::ListClusters, Target::Everything)?;
        let revision = self.published.read().revision().0;
        let now = self.clock.now();
        let clusters = self
            .published
            .clusters()
            .into_iter()
            .map(|(name, state, allocations)| {
                let (state, release_at) = match state {
                    None | Some(ClusterState::Unsynced) => (v1::ClusterState::Unspecified, None),
                    Some(ClusterState::Awaited) => (v1::ClusterState::Awaited, None),
                    Some(ClusterState::Synced) => (v1::ClusterState::Synced, None),
                    Some(ClusterState::Decommissioned { release_at }) => {
                        (v1::ClusterState::Decommissioned, release_at)
                    }
                };
                let sessions = self.published.streams().sessions(&name);
                let contact = self.published.contacts().of(&name);
                let identity = self.published.read().identity(&name).cloned();
                v1::Cluster {
                    state: state.into(),
                    allocations,
                    last_sync: contact.synced_at.map(convert::timestamp),
                    silent: self.published.is_silent(&name, now),
                    release_at: release_at.map(convert::timestamp),
                    sessions: sessions.into_iter().map(convert::session).collect(),
                    name: name.to_string(),
                    uid: identity.map(|of| of.uid.to_string()).unwrap_or_default(),
                    last_heard: contact.heard_at.map(convert::timestamp),
                    refused: contact.refused.as_ref().map(convert::refused_cluster),
                    false_marks: contact.false_mark_at.map(|at| v1::FalseMarks {
                        last_at: Some(convert::timestamp(at)),
                        count: contact.false_marks,
                    }),
                    proved_loss_at: contact.proved_loss_at.map(convert::timestamp),
                }
            });
        Ok(Response::new(v1::ListClustersResponse {
            revision,
            clusters: clusters.collect(),
        }))
    }
}

fn shown<'a>(
    state: &State,
    held: impl Iterator<Item = &'a Arc<Allocation>>,
) -> Vec<v1::Allocation> {
    let pools = state.pools();
    held.map(|held| convert::allocation(pools, held)).collect()
}

/// Where a page of allocations starts.
fn token(held: &Allocation) -> String {
    format!("{}/{}", held.address, held.key)
}

fn place(token: &str) -> Result<Place, Status> {
    let bad = || page::bad_token(token);
    let parts: Vec<_> = token.split('/').collect();
    let [address, cluster, namespace, name] = parts.as_slice() else {
        return Err(bad());
    };
    let address = address.parse().map_err(|_| bad())?;
    let key = ServiceKey::parse(cluster, namespace, name).map_err(|_| bad())?;
    Ok((address, Some(Arc::new(key))))
}
