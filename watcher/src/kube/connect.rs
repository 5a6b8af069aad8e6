//! How the API server is reached: kubeconfig or the Pod's service account, proxy, token.

use std::{env, path::PathBuf, time::Duration};

use anyhow::Context;
use http::Uri;
use kube::{
    Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use tower::util::MapRequestLayer;

use crate::kube::{
    bearer::{self, Bearer},
    proxy,
    watch::WATCH_SECONDS,
};

/// Where the API server is, and who we are there.
///
/// # Errors
/// When that is not to be found, or not usable.
pub async fn config(file: Option<PathBuf>, context: Option<String>) -> anyhow::Result<Config> {
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    let mut config = match file {
        Some(file) => {
            let kubeconfig = Kubeconfig::read_from(&file)
                .with_context(|| format!("cannot read --kubeconfig {}", file.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .with_context(|| format!("cannot use --kubeconfig {}", file.display()))?
        }
        None if options.context.is_some() => Config::from_kubeconfig(&options)
            .await
            .context("cannot use the kubeconfig with --context")?,
        None => Config::infer().await.context(
            "found no way to the API server: neither a kubeconfig nor a Pod's service account; \
             name one with --kubeconfig",
        )?,
    };
    config.proxy_url = proxy(&config)?;
    // Retries are the queue's business: a call that sleeps holds a worker.
    config.default_retry = false;
    // For a list that never ends; watches say something more often than this.
    config.read_timeout = Some(Duration::from_secs(u64::from(WATCH_SECONDS) + 10));
    config.reset_reader_on_write = true;
    Ok(config)
}

/// A client as the configuration says.
///
/// # Errors
/// When the configuration cannot be used.
pub fn client(mut config: Config) -> anyhow::Result<Client> {
    let file = bearer::take_file(&mut config.auth_info);
    let builder = ClientBuilder::try_from(config)?;
    let Some(file) = file else {
        return Ok(builder.build());
    };
    let bearer = Bearer::read_from(file)?;
    let sign = MapRequestLayer::new(move |request| bearer.sign(request));
    Ok(builder.with_layer(&sign).build())
}

/// The proxy of the kubeconfig, or else that of the environment. A Pod reaches the API
/// server of its own cluster without one.
fn proxy(config: &Config) -> anyhow::Result<Option<Uri>> {
    if is_of_pod(config) {
        return Ok(None);
    }
    let variable = |names: [&str; 2]| {
        let set = names.into_iter().filter_map(|name| env::var(name).ok());
        set.into_iter().find(|value| !value.is_empty())
    };
    let https_proxy = variable(["HTTPS_PROXY", "https_proxy"]);
    // kube read the same variables, and asks whether NO_PROXY names the proxy.
    let of_environment = https_proxy.as_ref().and_then(|text| text.parse().ok());
    if config.proxy_url.is_some() && config.proxy_url != of_environment {
        return Ok(config.proxy_url.clone());
    }
    let no_proxy = variable(["NO_PROXY", "no_proxy"]);
    let api_server = &config.cluster_url;
    proxy::from_environment(api_server, https_proxy.as_deref(), no_proxy.as_deref())
        .with_context(|| format!("HTTPS_PROXY={}: not a URL", https_proxy.unwrap_or_default()))
}

/// Whether the cluster is the Pod's own.
fn is_of_pod(config: &Config) -> bool {
    Config::incluster().is_ok_and(|own| own.cluster_url == config.cluster_url)
}
