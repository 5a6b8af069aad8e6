//! One example of a README, run from top to bottom.

use std::{collections::BTreeMap, fs, time::Duration};

use integration_tests::{
    allocator::run,
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    namespace::Namespace,
    readme::Block,
    scratch::Scratch,
    service::service,
    site::Site,
};
use k8s_openapi::api::core::v1::Service;
use kube::api::PostParams;
use serde_json::Value;

use super::document::{Step, parse, steps};

/// Namespaces of the examples. Each run takes new ones in their place.
const NAMESPACES: [&str; 3] = ["default", "shop", "blog"];

/// What `check-config` says to a pools file, and whether it takes it.
pub async fn check_config(pools: &str) -> (bool, String) {
    let scratch = Scratch::new("readme").unwrap();
    let file = scratch.path().join("pools.yaml");
    fs::write(&file, pools).unwrap();
    let (status, out, errors) = run(&["check-config", file.to_str().unwrap()], &[]).await;
    (status.success(), out + &errors)
}

/// # Panics
/// When something else becomes of a Service than the README says.
pub async fn example(control_plane: &ControlPlane, block: Block) {
    let name = block.place;
    let mut namespaces = BTreeMap::new();
    let mut text = block.text;
    for placeholder in NAMESPACES {
        let ns = control_plane.namespace().await;
        text = replace_word(&text, placeholder, &ns.to_string());
        namespaces.insert(placeholder.to_owned(), ns);
    }
    let steps = steps(&text);
    let (first, rest) = steps.split_first().unwrap();
    let (good, told) = check_config(&first.yaml).await;
    assert!(good, "{name}: {told}");
    let peers = block.info.strip_prefix("yaml example").unwrap().trim();
    let site = match peers {
        "" => Site::with_pools(control_plane, &first.yaml).await,
        peers => Site::with_aliases(control_plane, &first.yaml, peers).await,
    };
    let mut run = Run {
        name,
        site,
        namespaces,
    };
    for step in rest {
        run.step(step).await;
    }
}

/// One example under way.
struct Run {
    name: String,
    site: Site,
    namespaces: BTreeMap<String, Namespace>,
}

impl Run {
    async fn act(&mut self, action: &str) {
        let words: Vec<_> = action.split_whitespace().collect();
        match words.as_slice() {
            [] => {}
            ["kubectl", "delete", "service", name] => {
                let ns = self.namespace(None);
                ns.delete(name).await;
                let what = format!("{}: the allocator hears that {name} is gone", self.name);
                eventually(DEADLINE, what, async || {
                    let held = self.site.allocator.allocations().await;
                    let holds = held.iter().any(|held| {
                        let holder = held.service.as_ref();
                        holder.is_some_and(|of| of.name == *name && of.namespace == ns.to_string())
                    });
                    if holds { Err("held") } else { Ok(()) }
                })
                .await;
            }
            ["lb-allocator", "stops"] => {
                let status = self.site.allocator.terminate(Duration::from_secs(20)).await;
                assert!(status.success());
            }
            ["lb-allocator", "starts"] => self.site.allocator.start_again().await,
            _ => panic!("{}: what is {action:?}?", self.name),
        }
    }

    fn namespace(&self, name: Option<&str>) -> &Namespace {
        let default = &self.namespaces[NAMESPACES[0]];
        let Some(name) = name else { return default };
        let mut all = self.namespaces.values();
        let found = all.find(|ns| ns.to_string() == name);
        found.unwrap_or_else(|| panic!("{}: namespace {name}", self.name))
    }

    async fn configure(&mut self, pools: &str) {
        let reloads = |text: &str| text.matches("configuration reloaded").count();
        let before = reloads(&self.site.allocator.process().errors());
        self.site.allocator.write_config(pools);
        eventually(DEADLINE, format!("{}: its pools", self.name), async || {
            let errors = self.site.allocator.process().errors();
            if reloads(&errors) > before {
                Ok(())
            } else {
                Err(errors)
            }
        })
        .await;
    }

    /// As `kubectl apply` would, with what examples leave out.
    async fn apply(&self, manifest: &Value) -> (&Namespace, String) {
        let ns = self.namespace(manifest["metadata"]["namespace"].as_str());
        let name = manifest["metadata"]["name"].as_str().unwrap();
        if ns.services().get_opt(name).await.unwrap().is_some() {
            ns.edit(name, manifest.clone()).await;
        } else {
            let default = service(name).class(&self.site.class).build();
            let mut object = serde_json::to_value(default).unwrap();
            merge(&mut object, manifest);
            let object: Service = serde_json::from_value(object).unwrap();
            let params = PostParams::default();
            ns.services().create(&params, &object).await.unwrap();
        }
        (ns, name.to_owned())
    }

    async fn step(&mut self, step: &Step) {
        self.act(&step.action).await;
        let manifest = parse(&step.yaml);
        if manifest["pools"].is_array() {
            self.configure(&step.yaml).await;
        } else if manifest["kind"] == "Namespace" {
            let ns = self.namespace(manifest["metadata"]["name"].as_str());
            for (name, value) in manifest["metadata"]["labels"].as_object().unwrap() {
                ns.label(name, value.as_str().unwrap()).await;
            }
        } else if manifest.is_object() {
            let (ns, name) = self.apply(&manifest).await;
            let outcome = step.outcome.as_ref();
            let outcome = outcome.unwrap_or_else(|| panic!("{}: {name}: what then?", self.name));
            let what = format!("{}: {name} {outcome:?}", self.name);
            ns.sees(what, &name, |service| outcome.is_shown(service))
                .await;
        }
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => from.clone_into(into),
    }
}

fn replace_word(text: &str, word: &str, with: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '-' || c == '.';
    let parts = text.split_inclusive(|c| !is_part(c));
    let replaced = parts.map(|part| match part.strip_prefix(word) {
        Some(end) if end.chars().all(|c| !is_part(c)) => format!("{with}{end}"),
        Some(_) | None => part.to_owned(),
    });
    replaced.collect()
}
