//! Kubeconfig files: how everybody finds the API server.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use kube::{Client, Config, config::Kubeconfig};
use serde_json::{Value, json};

use crate::{certificates, namespace::random_name};

/// The file beside each kubeconfig that holds the API server's authority.
const AUTHORITY: &str = "serving-authority.crt";

/// Writes a kubeconfig of the administrator, with its certificates beside it.
///
/// # Errors
/// When a file cannot be written.
pub fn write(
    path: &Path,
    url: &str,
    authority: &str,
    admin: &certificates::Identity,
) -> Result<()> {
    let beside = |name: &str, text: &str| -> Result<PathBuf> {
        let path = path.with_file_name(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    };
    beside(AUTHORITY, authority)?;
    let user = json!({
        "client-certificate": beside("admin.crt", &admin.certificate)?,
        "client-key": beside("admin.key", &admin.key)?,
    });
    write_of(path, url, user)
}

/// Writes a kubeconfig of a service account beside that of the administrator.
///
/// # Errors
/// When the file cannot be written.
pub fn write_of_account(path: &Path, url: &str, token: &str) -> Result<()> {
    write_of(path, url, json!({"token": token}))
}

/// Writes a copy of a kubeconfig by which the API server is reached otherwise, and
/// returns its path.
///
/// # Errors
/// When the file cannot be written.
pub fn write_by(original: &Path, url: &str) -> Result<PathBuf> {
    let mut config: Value = serde_json::from_slice(&fs::read(original)?)?;
    config["clusters"][0]["cluster"]["server"] = json!(url);
    let path = original.with_file_name(random_name("kubeconfig"));
    fs::write(&path, serde_json::to_vec_pretty(&config)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// JSON is YAML: no other library is needed for it.
fn write_of(path: &Path, url: &str, user: Value) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {
            "server": url,
            "certificate-authority": path.with_file_name(AUTHORITY),
        }}],
        "users": [{"name": "test", "user": user}],
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
