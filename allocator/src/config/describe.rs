//! What a configuration means: for people, and as JSON for history.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Map, Value, json};

use crate::engine::{AddressRange, PoolSpec, Pools, Requirement, Retention, Selector, Settings};

/// A few lines for each pool.
pub fn explain(pools: &Pools) -> String {
    let mut text = String::new();
    for index in pools.indexes() {
        let PoolSpec {
            name,
            addresses,
            exclude,
            namespaces,
            namespace_selector,
            service_selector,
            clusters,
            priority,
            auto_assign,
            avoid_buggy_ips,
            fenced,
            cooldown,
            sticky_for,
            max_per_namespace,
            max_per_cluster,
            disabled,
        } = pools.spec(index);
        let mut serves = Vec::new();
        if let Some(set) = namespaces {
            serves.push(format!("namespaces {}", join(set)));
        }
        if let Some(selector) = namespace_selector {
            serves.push(format!("namespaces with {}", selector_text(selector)));
        }
        if let Some(selector) = service_selector {
            serves.push(format!("Services with {}", selector_text(selector)));
        }
        if let Some(set) = clusters {
            serves.push(format!("clusters {}", join(set)));
        }
        if serves.is_empty() {
            serves.push("every namespace".to_owned());
        }
        text += &format!("pool {name}: for {}\n", serves.join(" and "));
        text += &format!("  addresses: {}\n", join(addresses));
        if !exclude.is_empty() {
            text += &format!("  exclude: {}\n", join(exclude));
        }
        for (family, usable) in pools.usable(index).iter() {
            if !usable.is_empty() {
                text += &format!("  usable {family} addresses: {}\n", usable.len());
            }
        }
        let rules = [
            priority.map(|priority| format!("priority {priority}")),
            (!auto_assign).then(|| "given only on request".to_owned()),
            avoid_buggy_ips.then(|| "never .0 and .255".to_owned()),
            fenced.then(|| "fenced: its namespaces use no other pool".to_owned()),
            (!cooldown.is_zero()).then(|| format!("cooldown {cooldown:?}")),
            (*sticky_for != crate::engine::STICKY_FOR)
                .then(|| format!("kept for the last holder for {sticky_for:?}")),
            max_per_namespace.map(|max| format!("at most {max} for a namespace")),
            max_per_cluster.map(|max| format!("at most {max} for a cluster")),
            disabled.then(|| "disabled: gives nothing".to_owned()),
        ];
        let rules: Vec<_> = rules.into_iter().flatten().collect();
        if !rules.is_empty() {
            text += &format!("  rules: {}\n", rules.join("; "));
        }
    }
    let Settings {
        clusters,
        ephemeral,
        adoption_window,
        orphan_grace,
        cluster_silence,
        history,
    } = pools.settings();
    if !clusters.is_empty() {
        text += &format!("a new database waits for clusters {}\n", join(clusters));
    }
    if !ephemeral.is_empty() {
        text += &format!("made anew all the time: clusters {}\n", join(ephemeral));
    }
    let default = Settings::default();
    if *adoption_window != default.adoption_window {
        text += &format!("a new database gives addresses after {adoption_window:?}\n");
    }
    if *orphan_grace != default.orphan_grace {
        text += &format!("kept for a Service that is gone for {orphan_grace:?}\n");
    }
    if *cluster_silence != default.cluster_silence {
        text += &format!("a cluster without a Sync for {cluster_silence:?} is reported\n");
    }
    let Retention {
        keep_for,
        keep_rows,
    } = history;
    if *history != default.history {
        text += &format!("history is kept for {keep_for:?}, {keep_rows} rows at most\n");
    }
    text
}

/// In the shape of the pools file; keys at their default are left out.
pub fn json(pools: &Pools) -> String {
    let described = pools.indexes().map(|index| {
        let PoolSpec {
            name,
            addresses,
            exclude,
            namespaces,
            namespace_selector,
            service_selector,
            clusters,
            priority,
            auto_assign,
            avoid_buggy_ips,
            fenced,
            cooldown,
            sticky_for,
            max_per_namespace,
            max_per_cluster,
            disabled,
        } = pools.spec(index);
        let texts = |ranges: &[AddressRange]| {
            let texts: Vec<_> = ranges.iter().map(ToString::to_string).collect();
            json!(texts)
        };
        let set = |names: Vec<String>| json!(names);
        let pairs = [
            ("name", Some(json!(name.as_str()))),
            ("addresses", Some(texts(addresses))),
            ("exclude", (!exclude.is_empty()).then(|| texts(exclude))),
            (
                "namespaces",
                namespaces
                    .as_ref()
                    .map(|all| set(all.iter().map(ToString::to_string).collect())),
            ),
            (
                "namespaceSelector",
                namespace_selector.as_ref().map(selector_json),
            ),
            (
                "serviceSelector",
                service_selector.as_ref().map(selector_json),
            ),
            (
                "clusters",
                clusters
                    .as_ref()
                    .map(|all| set(all.iter().map(ToString::to_string).collect())),
            ),
            ("priority", priority.map(|priority| json!(priority))),
            ("autoAssign", (!auto_assign).then_some(Value::Bool(false))),
            (
                "avoidBuggyIPs",
                avoid_buggy_ips.then_some(Value::Bool(true)),
            ),
            ("fenced", fenced.then_some(Value::Bool(true))),
            (
                "cooldown",
                (!cooldown.is_zero()).then(|| duration_json(*cooldown)),
            ),
            ("stickyFor", Some(duration_json(*sticky_for))),
            ("maxPerNamespace", max_per_namespace.map(|max| json!(max))),
            ("maxPerCluster", max_per_cluster.map(|max| json!(max))),
            ("disabled", disabled.then_some(Value::Bool(true))),
        ];
        let set_ones = pairs.into_iter();
        let set_ones = set_ones.filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Value::Object(set_ones.collect::<Map<_, _>>())
    });
    let Settings {
        clusters,
        ephemeral,
        adoption_window,
        orphan_grace,
        cluster_silence,
        history,
    } = pools.settings();
    let mut all = json!({
        "pools": described.collect::<Vec<_>>(),
        "adoptionWindow": duration_json(*adoption_window),
        "orphanGrace": duration_json(*orphan_grace),
        "clusterSilence": duration_json(*cluster_silence),
    });
    if !clusters.is_empty() {
        let names = clusters.iter().map(|name| {
            let text = name.as_str();
            if ephemeral.contains(name) {
                json!({"name": text, "ephemeral": true})
            } else {
                json!(text)
            }
        });
        all["clusters"] = names.collect();
    }
    let Retention {
        keep_for,
        keep_rows,
    } = *history;
    if *history != Retention::default() {
        all["history"] = json!({"keepFor": duration_json(keep_for), "keepRows": keep_rows});
    }
    all.to_string()
}

/// Exact, and as the pools file is read.
fn duration_json(duration: Duration) -> Value {
    let signed = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    json!(format!("{signed:#}"))
}

fn join<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<_> = all.into_iter().map(|one| one.to_string()).collect();
    texts.join(", ")
}

fn selector_text(selector: &Selector) -> String {
    let texts = selector.0.iter().map(|requirement| match requirement {
        Requirement::In(key, values) => format!("{key} in ({})", join(values)),
        Requirement::NotIn(key, values) => format!("{key} not in ({})", join(values)),
        Requirement::Exists(key) => key.clone(),
        Requirement::DoesNotExist(key) => format!("no {key}"),
    });
    match texts.collect::<Vec<_>>().as_slice() {
        [] => "any labels".to_owned(),
        texts => texts.join(", "),
    }
}

fn selector_json(selector: &Selector) -> Value {
    let expressions = selector.0.iter().map(|requirement| match requirement {
        Requirement::In(key, values) => json!({"key": key, "operator": "In", "values": values}),
        Requirement::NotIn(key, values) => {
            json!({"key": key, "operator": "NotIn", "values": values})
        }
        Requirement::Exists(key) => json!({"key": key, "operator": "Exists"}),
        Requirement::DoesNotExist(key) => json!({"key": key, "operator": "DoesNotExist"}),
    });
    json!({"matchExpressions": expressions.collect::<Vec<_>>()})
}
