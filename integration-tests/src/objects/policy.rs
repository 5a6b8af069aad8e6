//! Admission policies of a test, for the status of the Services of its namespace.

use anyhow::Result;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    namespace::{Namespace, addresses, random_name},
    service::service,
};

/// One that is in force.
pub struct Policy {
    client: Client,
    pub name: String,
    mutates: bool,
}

impl Policy {
    /// Refuses each status for which the expression is false.
    ///
    /// # Panics
    /// When the API server does not take it.
    pub async fn refusing(
        control_plane: &ControlPlane,
        ns: &Namespace,
        expression: &str,
        message: &str,
    ) -> Self {
        let rules = json!({"validations": [{"expression": expression, "message": message}]});
        let policy = Self::create(control_plane, ns, false, rules).await;
        policy.is_in_force(ns).await;
        policy
    }

    /// Changes each status by a JSON patch, an expression of CEL.
    ///
    /// # Panics
    /// When the API server does not take it.
    pub async fn changing(
        control_plane: &ControlPlane,
        ns: &Namespace,
        condition: &str,
        patch: &str,
    ) -> Self {
        let rules = json!({
            "reinvocationPolicy": "Never",
            "matchConditions": [{"name": "it-is-there", "expression": condition}],
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}],
        });
        let policy = Self::create(control_plane, ns, true, rules).await;
        policy.is_in_force(ns).await;
        policy
    }

    async fn create(
        control_plane: &ControlPlane,
        ns: &Namespace,
        mutates: bool,
        rules: Value,
    ) -> Self {
        let this = Self {
            client: control_plane.client().await,
            name: random_name("policy"),
            mutates,
        };
        let mut spec = rules;
        spec["failurePolicy"] = json!("Fail");
        spec["matchConstraints"] = json!({"resourceRules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"],
            "resources": ["services/status"],
        }]});
        let only = json!({"kubernetes.io/metadata.name": ns.to_string()});
        let mut binding = json!({
            "policyName": this.name,
            "matchResources": {"namespaceSelector": {"matchLabels": only}},
        });
        let created = if mutates {
            let policies = this.create_one::<MutatingAdmissionPolicy>(spec).await;
            policies.and(
                this.create_one::<MutatingAdmissionPolicyBinding>(binding)
                    .await,
            )
        } else {
            binding["validationActions"] = json!(["Deny"]);
            let policies = this.create_one::<ValidatingAdmissionPolicy>(spec).await;
            policies.and(
                this.create_one::<ValidatingAdmissionPolicyBinding>(binding)
                    .await,
            )
        };
        if let Err(error) = created {
            panic!("cannot create {}: {error:#}", this.name);
        }
        this
    }

    async fn create_one<K>(&self, spec: Value) -> Result<()>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Serialize,
    {
        let object = json!({"metadata": {"name": self.name}, "spec": spec});
        let object: K = serde_json::from_value(object)?;
        let api: Api<K> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &object).await?;
        Ok(())
    }

    /// A policy counts some time after it was created.
    async fn is_in_force(&self, ns: &Namespace) {
        let probe = random_name("probe");
        ns.create(service(&probe).class("test.example/nobody"))
            .await;
        let what = format!("{} is in force", self.name);
        eventually(DEADLINE, what, async || {
            let list = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.99"}]}}});
            let params = PatchParams {
                dry_run: true,
                ..PatchParams::default()
            };
            let patched = ns
                .services()
                .patch_status(&probe, &params, &Patch::Merge(list))
                .await;
            match patched {
                Err(_) if !self.mutates => Ok(()),
                Ok(service) if self.mutates && addresses(&service) != ["203.0.113.99"] => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        ns.delete(&probe).await;
    }

    /// Takes it away.
    ///
    /// # Panics
    /// When it is gone already.
    pub async fn remove(self) {
        if self.mutates {
            self.delete_one::<MutatingAdmissionPolicyBinding>().await;
            self.delete_one::<MutatingAdmissionPolicy>().await;
        } else {
            self.delete_one::<ValidatingAdmissionPolicyBinding>().await;
            self.delete_one::<ValidatingAdmissionPolicy>().await;
        }
    }

    async fn delete_one<K>(&self)
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        if let Err(error) = api.delete(&self.name, &DeleteParams::default()).await {
            panic!("cannot delete {}: {error}", self.name);
        }
    }
}
