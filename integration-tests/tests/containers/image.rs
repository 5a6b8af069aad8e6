//! What the images are, from outside.

use serde_json::Value;

use crate::container::{docker, image};

const MOST: u64 = 40_000_000;

#[test]
fn each_image_is_small_belongs_to_nobody_and_says_what_it_is() {
    for name in ["lb-allocator", "lb-watcher"] {
        let (repository, tag) = image(name);
        let told = docker(&["image", "inspect", &format!("{repository}:{tag}")]).unwrap();
        let told: Value = serde_json::from_str(&told).unwrap();
        let size = told[0]["Size"].as_u64().unwrap();
        assert!(size < MOST, "{name}: {size} bytes");
        let config = &told[0]["Config"];
        assert_eq!(config["User"], "65532:65532");
        assert_eq!(config["Entrypoint"][0], format!("/usr/bin/{name}"));
        let label = |key: &str| {
            let text = config["Labels"][format!("org.opencontainers.image.{key}")].as_str();
            text.unwrap_or_default().to_owned()
        };
        assert_eq!(label("title"), name);
        assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(label("licenses"), "Apache-2.0");
        assert!(label("source").starts_with("https://"));
        assert!(!label("description").is_empty());
        assert!(label("revision").len() >= 40, "{}", label("revision"));
        let created = label("created");
        assert!(created.ends_with('Z') && created.contains('T'), "{created}");
    }
}
