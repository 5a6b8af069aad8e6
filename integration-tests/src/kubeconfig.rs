//! Kubeconfig files: how everybody finds the API server.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use kube::{Client, Config, config::Kubeconfig};
use serde_json::json;

use crate::certificates;

/// Writes a kubeconfig of the administrator, with its certificates beside it.
/// JSON is YAML: no other library is needed for it.
///
/// # Errors
/// When a file cannot be written.
pub fn write(
    path: &Path,
    port: u16,
    authority: &str,
    admin: &certificates::Identity,
) -> Result<()> {
    let folder = path.parent().context("a kubeconfig is in a folder")?;
    let beside = |name: &str, text: &str| -> Result<String> {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.display().to_string())
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": beside("serving-authority.crt", authority)?,
        }}],
        "users": [{"name": "admin", "user": {
            "client-certificate": beside("admin.crt", &admin.certificate)?,
            "client-key": beside("admin.key", &admin.key)?,
        }}],
    });
    fs::write(path, serde_json::to_vec_pretty(&config)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A client as a kubeconfig file describes it.
///
/// # Errors
/// When the file cannot be used.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
    Ok(Client::try_from(config)?)
}
