//! What a pools file would change at a running allocator, in words.

use lb_proto::v1::{
    self, PlanConfigurationRequest, PlanConfigurationResponse,
    admin_service_client::AdminServiceClient,
};
use lb_tls::{
    client::{ConnectError, connect},
    files::Files,
};
use thiserror::Error;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    #[error("cannot reach an lb-allocator at {url}; is it running, and is --against right?")]
    Connect { url: String, source: ConnectError },
    #[error("lb-allocator at {url}: {}", status.message())]
    Refused {
        url: String,
        status: Box<tonic::Status>,
    },
}

/// Asks the allocator at `url` (`http://HOST:PORT`, `https://HOST:PORT` with these
/// files, or `unix:///path`).
///
/// # Errors
/// If it cannot be reached, or would refuse the file.
pub async fn ask(url: &str, files: Option<Files>, pools_file: String) -> Result<String, AskError> {
    let channel = connect(url, files).await;
    let channel = channel.map_err(|source| AskError::Connect {
        url: url.to_owned(),
        source,
    })?;
    let mut client = AdminServiceClient::new(channel);
    let request = PlanConfigurationRequest { pools_file };
    let answer = client.plan_configuration(request).await;
    let answer = answer.map_err(|status| AskError::Refused {
        url: url.to_owned(),
        status: Box::new(status),
    })?;
    Ok(tell(&answer.into_inner()))
}

fn tell(plan: &PlanConfigurationResponse) -> String {
    let held = |allocation: &v1::Allocation| {
        format!(
            "{} {}",
            allocation.address,
            name(allocation.service.as_ref())
        )
    };
    let stranded: Vec<_> = plan.stranded.iter().map(held).collect();
    let unstranded: Vec<_> = plan.unstranded.iter().map(held).collect();
    let servable = plan.servable.iter().map(|servable| {
        let addresses = servable.addresses.join(" ");
        format!("{addresses} {}", name(servable.service.as_ref()))
    });
    let servable: Vec<_> = servable.collect();
    [
        section(
            "would be stranded (they keep their address)",
            plan.stranded_count,
            &stranded,
        ),
        section(
            "would not be stranded any more",
            plan.unstranded_count,
            &unstranded,
        ),
        section("that wait would be served", plan.servable_count, &servable),
    ]
    .concat()
}

fn section(what: &str, count: u64, lines: &[String]) -> String {
    let mut text = format!("{count} Services {what}\n");
    for line in lines {
        text += &format!("  {line}\n");
    }
    let more = count.saturating_sub(lines.len() as u64);
    if more > 0 {
        text += &format!("  and {more} more\n");
    }
    text
}

fn name(key: Option<&v1::ServiceKey>) -> String {
    key.map_or_else(String::new, |key| {
        format!("{}/{}/{}", key.cluster, key.namespace, key.name)
    })
}
