//! `AdminService`: reservations, handovers, conflicts, clusters, trying a
//! configuration, and who was refused.

use std::{net::IpAddr, sync::Arc};

use lb_proto::v1::{self, admin_service_server::AdminService};
use tonic::{Request, Response, Status};

use super::{convert, fault, gate::Gate, page, planning::Planning, request};
use crate::{
    auth::{Rpc, Target},
    config::Source,
    engine::{ClusterState, Command, Decommission, Reply, Reservation},
    published::Published,
    store::{DenialPlace, HistoryReader},
    writer::{Answer, Writer},
};

/// Entries in a list of what would be released.
const LISTED: usize = 1000;

pub struct Admin {
    writer: Writer,
    published: Arc<Published>,
    history: HistoryReader,
    source: Source,
    planning: Planning,
    gate: Gate,
}

impl Admin {
    pub fn new(
        writer: Writer,
        published: Arc<Published>,
        history: HistoryReader,
        source: Source,
        gate: Gate,
    ) -> Self {
        Self {
            writer,
            published,
            history,
            source,
            planning: Planning::default(),
            gate,
        }
    }

    /// The message, if its sender may do this. None of it is a watcher's business.
    fn admit<T>(&self, request: Request<T>, rpc: Rpc) -> Result<T, Status> {
        let (caller, message) = self.gate.enter(request);
        self.gate.admit(&caller, rpc, Target::Everything)?;
        Ok(message)
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
        let asked = self.admit(request, Rpc::Reserve)?;
        let command = request::reserve(asked, self.writer.now())?;
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
        let command = request::unreserve(&self.admit(request, Rpc::Unreserve)?)?;
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
        } = self.admit(request, Rpc::ListReservations)?;
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
        let asked = self.admit(request, Rpc::Handover)?;
        let command = request::handover(asked, self.writer.now())?;
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
        let asked = self.admit(request, Rpc::ResolveConflict)?;
        let command = request::resolve(asked, self.writer.now())?;
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
        } = self.admit(request, Rpc::DecommissionCluster)?;
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
        let request = self.admit(request, Rpc::RecommissionCluster)?;
        let cluster = request::cluster("cluster", &request.cluster)?;
        let Answer { revision, .. } = self.submit(Command::Recommission(cluster)).await?;
        Ok(Response::new(v1::RecommissionClusterResponse {
            revision: revision.0,
        }))
    }

    async fn replace_cluster(
        &self,
        request: Request<v1::ReplaceClusterRequest>,
    ) -> Result<Response<v1::ReplaceClusterResponse>, Status> {
        let asked = self.admit(request, Rpc::ReplaceCluster)?;
        let command = request::replace_cluster(&asked)?;
        let Answer { reply, revision } = self.submit(command).await?;
        if let Reply::Refused(refusal) = &reply {
            return Err(fault::refused(refusal));
        }
        let Reply::Replaced { before } = reply else {
            return Err(fault::wrong_reply());
        };
        Ok(Response::new(v1::ReplaceClusterResponse {
            revision: revision.0,
            replaced_uid: before.map(|uid| uid.to_string()).unwrap_or_default(),
        }))
    }

    async fn plan_configuration(
        &self,
        request: Request<v1::PlanConfigurationRequest>,
    ) -> Result<Response<v1::PlanConfigurationResponse>, Status> {
        let message = self.admit(request, Rpc::PlanConfiguration)?;
        let v1::PlanConfigurationRequest { pools_file } = message;
        let (writer, source) = (self.writer.clone(), self.source.clone());
        let planned = self.planning.plan(writer, source, pools_file).await?;
        Ok(Response::new(planned))
    }

    async fn list_denials(
        &self,
        request: Request<v1::ListDenialsRequest>,
    ) -> Result<Response<v1::ListDenialsResponse>, Status> {
        let v1::ListDenialsRequest {
            page_size,
            page_token,
        } = self.admit(request, Rpc::ListDenials)?;
        let size = page::size(page_size)?;
        let start = request::optional("page_token", &page_token, |_, text| denial_place(text))?;
        let rows = self.history.denials(start, size + 1).await;
        let mut rows = rows.map_err(|error| fault::internal(&error))?;
        let next = (rows.len() > size).then(|| rows.pop()).flatten();
        Ok(Response::new(v1::ListDenialsResponse {
            revision: self.published.read().revision().0,
            denials: rows.into_iter().map(convert::denial).collect(),
            next_page_token: next
                .map(|row| format!("{}/{}", row.last_at, row.id))
                .unwrap_or_default(),
        }))
    }
}

fn denial_place(token: &str) -> Result<DenialPlace, Status> {
    let place = token.split_once('/').and_then(|(last_at, id)| {
        Some(DenialPlace {
            last_at: last_at.parse().ok()?,
            id: id.parse().ok()?,
        })
    });
    place.ok_or_else(|| page::bad_token(token))
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
