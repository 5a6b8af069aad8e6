//! The table of a running allocator, asked for over gRPC.

use jiff::{ZonedDateTime, tz::TimeZone};
use lb_proto::v1::{
    ListAllocationsRequest, ListPoolsRequest, ListReservationsRequest,
    admin_service_client::AdminServiceClient, pool_service_client::PoolServiceClient,
};
use lb_tls::{
    client::{ConnectError, connect},
    files::Files,
};
use thiserror::Error;

use super::table;

/// Why there is no table.
#[derive(Debug, Error)]
pub enum RoutesError {
    #[error("cannot reach an lb-allocator at {url}; is it running, and is --allocator right?")]
    Connect { url: String, source: ConnectError },
    #[error("lb-allocator at {url} refused")]
    Refused {
        url: String,
        source: Box<tonic::Status>,
    },
}

/// Asks the allocator at `url` (`http://HOST:PORT`, `https://HOST:PORT` with these
/// files, or `unix:///path`) and draws the table.
///
/// # Errors
/// If it cannot be reached or does not answer.
pub async fn fetch(url: &str, files: Option<Files>, zone: TimeZone) -> Result<String, RoutesError> {
    let refused = |source| RoutesError::Refused {
        url: url.to_owned(),
        source: Box::new(source),
    };
    let channel = connect(url, files).await;
    let channel = channel.map_err(|source| RoutesError::Connect {
        url: url.to_owned(),
        source,
    })?;
    let mut client = PoolServiceClient::new(channel.clone());
    let pools = client
        .list_pools(ListPoolsRequest {})
        .await
        .map_err(refused)?;
    let mut allocations = Vec::new();
    let mut request = ListAllocationsRequest {
        page_size: 1000,
        ..ListAllocationsRequest::default()
    };
    loop {
        let page = client
            .list_allocations(request.clone())
            .await
            .map_err(refused)?;
        let page = page.into_inner();
        allocations.extend(page.allocations);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let mut admin = AdminServiceClient::new(channel);
    let mut reservations = Vec::new();
    let mut request = ListReservationsRequest {
        page_size: 1000,
        ..ListReservationsRequest::default()
    };
    loop {
        let page = admin
            .list_reservations(request.clone())
            .await
            .map_err(refused)?;
        let page = page.into_inner();
        reservations.extend(page.reservations);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let time = ZonedDateTime::now().with_time_zone(zone);
    Ok(table::render(
        &pools.into_inner().pools,
        &allocations,
        &reservations,
        &time,
    ))
}
