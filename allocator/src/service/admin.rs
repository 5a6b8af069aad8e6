//! `AdminService`: reservations, handovers, conflicts, clusters, and trying a
//! configuration.

use std::{net::IpAddr, sync::Arc};

use lb_proto::v1::{self, admin_service_server::AdminService};
use tonic::{Request, Response, Status};

use super::{convert, fault, page, request};
use crate::{
    config::{Source, reload::one_line},
    engine::{
        ClusterState, Command, Decommission, Engine, Pools, Reply, Reservation, Timestamp,
        is_stranded,
    },
    published::Published,
    writer::{Answer, Inspection, Waiting, Writer},
};

/// Entries in one list of a plan.
const LISTED: usize = 1000;

/// See the module.
pub struct Admin {
    writer: Writer,
    published: Arc<Published>,
    source: Source,
}

impl Admin {
    pub const fn new(writer: Writer, published: Arc<Published>, source: Source) -> Self {
        Self {
            writer,
            published,
            source,
        }
    }

    async fn submit(&self, command: Command) -> Result<Answer, Status> {
        let answer = self.writer.submit(command).await;
        answer.map_err(fault::not_written)
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn reserve(
        &self,
        request: Request<v1::ReserveRequest>,
    ) -> Result<Response<v1::ReserveResponse>, Status> {
        let command = request::reserve(request.into_inner(), self.writer.now())?;
        let Answer { reply, revision } = self.submit(command).await?;
        let reservation = reserved(&reply)?;
        Ok(Response::new(v1::ReserveResponse {
            revision: revision.0,
            reservation: Some(convert::reservation(reservation)),
        }))
    }

    async fn unreserve(
        &self,
        request: Request<v1::UnreserveRequest>,
    ) -> Result<Response<v1::UnreserveResponse>, Status> {
        let command = request::unreserve(&request.into_inner())?;
        let Answer { reply, revision } = self.submit(command).await?;
        let Reply::Unreserved(reservation) = reply else {
            return Err(fault::wrong_reply());
        };
        Ok(Response::new(v1::UnreserveResponse {
            revision: revision.0,
            reservation: reservation.as_deref().map(convert::reservation),
        }))
    }

    async fn list_reservations(
        &self,
        request: Request<v1::ListReservationsRequest>,
    ) -> Result<Response<v1::ListReservationsResponse>, Status> {
        let v1::ListReservationsRequest {
            page_size,
            page_token,
        } = request.into_inner();
        let size = page::size(page_size)?;
        let start = request::optional("page_token", &page_token, |_, text| {
            text.parse::<IpAddr>().map_err(|_| page::bad_token(text))
        })?;
        let state = self.published.read();
        let mut reservations = state.reservations_from(start);
        Ok(Response::new(v1::ListReservationsResponse {
            revision: state.revision().0,
            reservations: reservations
                .by_ref()
                .take(size)
                .map(|reservation| convert::reservation(reservation))
                .collect(),
            next_page_token: reservations
                .next()
                .map(|next| next.address.to_string())
                .unwrap_or_default(),
        }))
    }

    async fn handover(
        &self,
        request: Request<v1::HandoverRequest>,
    ) -> Result<Response<v1::HandoverResponse>, Status> {
        let command = request::handover(request.into_inner(), self.writer.now())?;
        let Answer { reply, revision } = self.submit(command).await?;
        let reservation = reserved(&reply)?;
        Ok(Response::new(v1::HandoverResponse {
            revision: revision.0,
            reservation: Some(convert::reservation(reservation)),
        }))
    }

    async fn resolve_conflict(
        &self,
        request: Request<v1::ResolveConflictRequest>,
    ) -> Result<Response<v1::ResolveConflictResponse>, Status> {
        let command = request::resolve(request.into_inner(), self.writer.now())?;
        let Answer { reply, revision } = self.submit(command).await?;
        if let Reply::Refused(refusal) = &reply {
            return Err(fault::refused(refusal));
        }
        Ok(Response::new(v1::ResolveConflictResponse {
            revision: revision.0,
        }))
    }

    async fn decommission_cluster(
        &self,
        request: Request<v1::DecommissionClusterRequest>,
    ) -> Result<Response<v1::DecommissionClusterResponse>, Status> {
        let v1::DecommissionClusterRequest {
            cluster,
            dry_run,
            grace,
        } = request.into_inner();
        let cluster = request::cluster("cluster", &cluster)?;
        let release_at = request::grace_end(grace, self.writer.now())?;
        let (revision, release_at) = if dry_run {
            (self.published.read().revision(), Some(release_at))
        } else {
            let command = Command::Decommission(Decommission {
                cluster: cluster.clone(),
                release_at,
            });
            let Answer { reply, revision } = self.submit(command).await?;
            let Reply::Decommissioned(ClusterState::Decommissioned { release_at }) = reply else {
                return Err(fault::wrong_reply());
            };
            (revision, release_at)
        };
        let state = self.published.read();
        let held = state.allocations_from(None);
        let held: Vec<_> = held.filter(|held| held.key.cluster == cluster).collect();
        let shown = held.iter().take(LISTED);
        Ok(Response::new(v1::DecommissionClusterResponse {
            revision: revision.0,
            allocations: shown
                .map(|held| convert::allocation(state.pools(), held))
                .collect(),
            allocation_count: held.len() as u64,
            release_at: release_at.map(convert::timestamp),
        }))
    }

    async fn recommission_cluster(
        &self,
        request: Request<v1::RecommissionClusterRequest>,
    ) -> Result<Response<v1::RecommissionClusterResponse>, Status> {
        let cluster = request::cluster("cluster", &request.into_inner().cluster)?;
        let Answer { revision, .. } = self.submit(Command::Recommission(cluster)).await?;
        Ok(Response::new(v1::RecommissionClusterResponse {
            revision: revision.0,
        }))
    }

    async fn plan_configuration(
        &self,
        request: Request<v1::PlanConfigurationRequest>,
    ) -> Result<Response<v1::PlanConfigurationResponse>, Status> {
        let v1::PlanConfigurationRequest { pools_file } = request.into_inner();
        let configuration = self
            .source
            .with_file(Some(&pools_file))
            .map_err(|error| fault::invalid_configuration(one_line(&error)))?;
        let inspection = self.writer.inspect().await.map_err(fault::not_written)?;
        let Inspection { engine, waiting } = inspection;
        let now = self.writer.now();
        // A million allocations would hold up other requests.
        let planned = tokio::task::spawn_blocking(move || {
            plan(&engine, &waiting, Arc::clone(&configuration.pools), now)
        });
        let planned = planned.await.map_err(|error| fault::internal(&error))?;
        Ok(Response::new(planned?))
    }
}

fn reserved(reply: &Reply) -> Result<&Reservation, Status> {
    if let Reply::Refused(refusal) = reply {
        return Err(fault::refused(refusal));
    }
    let Reply::Reserved(reservation) = reply else {
        return Err(fault::wrong_reply());
    };
    Ok(reservation)
}

/// What would change if `pools` were in force.
fn plan(
    engine: &Engine,
    waiting: &Waiting,
    pools: Arc<Pools>,
    now: Timestamp,
) -> Result<v1::PlanConfigurationResponse, Status> {
    let mut response = v1::PlanConfigurationResponse {
        revision: engine.revision().0,
        ..v1::PlanConfigurationResponse::default()
    };
    let mut held: Vec<_> = engine.allocations().collect();
    held.sort_by(|a, b| (a.address, &a.key).cmp(&(b.address, &b.key)));
    for allocation in held {
        let shown = || convert::allocation(&pools, allocation);
        let now = is_stranded(engine.pools(), allocation);
        match (now, is_stranded(&pools, allocation)) {
            (false, true) => {
                response.stranded_count += 1;
                if response.stranded.len() < LISTED {
                    response.stranded.push(shown());
                }
            }
            (true, false) => {
                response.unstranded_count += 1;
                if response.unstranded.len() < LISTED {
                    response.unstranded.push(shown());
                }
            }
            (true, true) | (false, false) => {}
        }
    }
    let mut tried = engine
        .with_pools(pools)
        .map_err(|error| fault::internal(&error))?;
    for acquire in waiting.iter() {
        let command = Command::Acquire(acquire.clone());
        if let (Reply::Acquired(acquired), _) = tried.plan(&command, now)
            && acquired.unmet.is_empty()
        {
            response.servable_count += 1;
            if response.servable.len() < LISTED {
                let addresses = acquired.addresses.iter();
                response.servable.push(v1::Servable {
                    service: Some(convert::service_key(&acquire.key)),
                    addresses: addresses.map(|held| held.address.to_string()).collect(),
                });
            }
        }
    }
    Ok(response)
}
