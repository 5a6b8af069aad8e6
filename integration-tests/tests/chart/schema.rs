//! The schema of the chart's values.

use std::{collections::BTreeSet, fs};

use integration_tests::{
    allocator::run, commands::repository, control_plane::ControlPlane, scratch::Scratch,
};
use serde_json::Value;

use crate::commands::{Commands, documents, path};

fn keys(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

/// The keys that `lb-allocator` knows where this file has one that it does not.
async fn known(file: &str) -> BTreeSet<String> {
    let scratch = Scratch::new("schema").unwrap();
    let path = scratch.path().join("pools.yaml");
    fs::write(&path, file).unwrap();
    let (_, out, errors) = run(&["check-config", path.to_str().unwrap()], &[]).await;
    let told = out + &errors;
    let (_, known) = told.split_once("; it has ").unwrap();
    let known = known.lines().next().unwrap();
    known.split(", ").map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn the_schema_knows_the_keys_of_the_pools_file() {
    let schema = fs::read_to_string(repository().join("deploy/chart/values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let config = &schema["properties"]["allocator"]["properties"]["config"]["properties"];
    assert_eq!(keys(config), known("unknown: 1").await);
    let pool = &schema["definitions"]["pool"]["properties"];
    assert_eq!(keys(pool), known("pools: [{unknown: 1}]").await);
}

#[test]
fn the_schema_has_every_value_and_no_other() {
    fn compare(path: &str, schema: &Value, values: &Value) {
        let Some(properties) = schema["properties"].as_object() else {
            return;
        };
        let values = values.as_object().unwrap();
        let known: BTreeSet<_> = properties.keys().filter(|key| *key != "global").collect();
        if path != ".allocator.config" && !values.is_empty() {
            assert_eq!(known, values.keys().collect(), "{path}");
        }
        for (key, value) in values {
            compare(&format!("{path}.{key}"), &properties[key], value);
        }
    }
    let chart = repository().join("deploy/chart");
    let schema = fs::read_to_string(chart.join("values.schema.json")).unwrap();
    let values = fs::read_to_string(chart.join("values.yaml")).unwrap();
    let schema = serde_json::from_str(&schema).unwrap();
    compare("", &schema, &serde_saphyr::from_str(&values).unwrap());
}

/// A path of keys, or the name of a key in any part.
fn is_a_value(values: &Value, path: &str) -> bool {
    let mut found = values;
    for key in path.split('.') {
        found = &found[key];
    }
    !found.is_null()
}

#[tokio::test]
async fn the_readme_of_the_chart_names_values_that_there_are_and_its_examples_render() {
    let chart = repository().join("deploy/chart");
    let readme = fs::read_to_string(chart.join("README.md")).unwrap();
    let values = fs::read_to_string(chart.join("values.yaml")).unwrap();
    let values: Value = serde_saphyr::from_str(&values).unwrap();
    let mut named = 0;
    for word in readme.split('`').skip(1).step_by(2) {
        let path = word.split('=').next().unwrap();
        let first = path.split('.').next().unwrap();
        if values[first].is_object() && first.chars().all(char::is_alphabetic) {
            assert!(is_a_value(&values, path), "{word}");
            named += 1;
        }
    }
    assert!(named > 10, "{named}");

    let commands = Commands::on(ControlPlane::shared().await);
    let scratch = Scratch::new("values").unwrap();
    let examples: Vec<_> = readme.split("```yaml values\n").skip(1).collect();
    assert!(examples.len() > 5);
    for example in examples {
        let file = scratch.path().join("values.yaml");
        fs::write(&file, example.split("```").next().unwrap()).unwrap();
        let args = ["--set", "cluster=one", "--values", path(&file)];
        let objects = documents(&commands.helm("template", "lb", &args));
        assert!(objects.len() > 5, "{example}");
    }
}
