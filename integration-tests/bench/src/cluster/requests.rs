//! What the API server was asked, by its own account.

use std::collections::BTreeMap;

use anyhow::Result;
use kube::Client;

/// Requests since it began, by verb and resource, as `APPLY` and `services/status`.
#[derive(Clone, Debug, Default)]
pub struct Requests(BTreeMap<(String, String), f64>);

impl Requests {
    /// Until now.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn now(client: &Client) -> Result<Self> {
        let request = http::Request::get("/metrics").body(Vec::new())?;
        let text = client.request_text(request).await?;
        let mut requests = BTreeMap::new();
        for line in text.lines() {
            let Some(series) = line.strip_prefix("apiserver_request_total{") else {
                continue;
            };
            let Some((labels, value)) = series.rsplit_once(' ') else {
                continue;
            };
            let [verb, resource, subresource] =
                ["verb", "resource", "subresource"].map(|name| label(labels, name));
            // What is no resource is metrics and health.
            if resource.is_empty() {
                continue;
            }
            let resource = match subresource {
                "" => resource.to_owned(),
                _ => format!("{resource}/{subresource}"),
            };
            *requests.entry((verb.to_owned(), resource)).or_default() += value.parse::<f64>()?;
        }
        Ok(Self(requests))
    }

    /// Those since then that `counts` by verb and resource.
    pub fn since(&self, before: &Self, counts: impl Fn(&str, &str) -> bool) -> f64 {
        let counted = self
            .0
            .iter()
            .filter(|((verb, resource), _)| counts(verb, resource));
        let since = |(name, now): (_, &f64)| now - before.0.get(name).copied().unwrap_or_default();
        counted.map(since).sum()
    }

    /// Writes of statuses of Services, by whatever kind of patch.
    pub fn status_writes(&self, before: &Self) -> f64 {
        self.since(before, |_, resource| resource == "services/status")
    }
}

/// No value here has quotation marks of its own.
fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let mut pairs = labels.trim_end_matches('}').split(',');
    let value = pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_default().trim_matches('"')
}
