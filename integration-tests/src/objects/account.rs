//! A service account with exactly the rights that a test gives it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use kube::{Api, Client, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{control_plane::ControlPlane, kubeconfig, namespace::random_name};

/// A kubeconfig file of a service account that is there already.
///
/// # Errors
/// When the API server refuses, or the file cannot be written.
pub async fn kubeconfig_of(
    control_plane: &ControlPlane,
    namespace: &str,
    name: &str,
) -> Result<PathBuf> {
    let accounts: Api<ServiceAccount> = Api::namespaced(control_plane.client().await, namespace);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec::default()),
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(name, &PostParams::default(), &request)
        .await?;
    let token = answer.status.and_then(|status| status.token);
    let token = token.context("no token in the answer")?;
    let file = format!("{namespace}-{name}.kubeconfig");
    let kubeconfig = control_plane.kubeconfig().with_file_name(file);
    kubeconfig::write_of_account(&kubeconfig, &control_plane.url(), &token)?;
    Ok(kubeconfig)
}

/// A service account of a namespace.
pub struct Account {
    client: Client,
    namespace: String,
    name: String,
    /// For whoever is to be this account.
    pub kubeconfig: PathBuf,
}

impl Account {
    /// One without any rights.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn new(control_plane: &ControlPlane, namespace: &str) -> Result<Self> {
        let client = control_plane.client().await;
        let name = random_name("account");
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        let object = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        accounts.create(&PostParams::default(), &object).await?;
        let kubeconfig = kubeconfig_of(control_plane, namespace, &name).await?;
        Ok(Self {
            client,
            namespace: namespace.to_owned(),
            name,
            kubeconfig,
        })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives it rights in the whole cluster.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn may_everywhere(&self, rules: Value) -> Result<()> {
        let roles: Api<ClusterRole> = Api::all(self.client.clone());
        let bindings: Api<ClusterRoleBinding> = Api::all(self.client.clone());
        self.create(roles, json!({"rules": rules})).await?;
        self.create(bindings, self.binding("ClusterRole")).await
    }

    /// Gives it rights in a namespace.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn may_in(&self, namespace: &str, rules: Value) -> Result<()> {
        let roles: Api<Role> = Api::namespaced(self.client.clone(), namespace);
        let bindings: Api<RoleBinding> = Api::namespaced(self.client.clone(), namespace);
        self.create(roles, json!({"rules": rules})).await?;
        self.create(bindings, self.binding("Role")).await
    }

    fn binding(&self, kind: &str) -> Value {
        let Self {
            namespace, name, ..
        } = self;
        json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        })
    }

    async fn create<K>(&self, api: Api<K>, mut object: Value) -> Result<()>
    where
        K: Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    {
        object["metadata"] = json!({"name": self.name});
        let object = serde_json::from_value(object)?;
        api.create(&PostParams::default(), &object).await?;
        Ok(())
    }
}
