//! What operators see: the metrics of both processes, and the alerts and the
//! dashboard that are made of them.

mod promtool;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use integration_tests::{
    allocator::{Allocator, Options, connect_with},
    certificates::Authority,
    control_plane::ControlPlane,
    readme::first_cells,
    rpc::{acquire, of_cluster},
    secret::Secret,
    service::service,
    site::{CLUSTER, Site, random_class},
    watcher::{self, Watcher},
};
use lb_proto::v1::{ReserveRequest, allocator_service_client::AllocatorServiceClient};
use serde_json::Value;
use tokio::sync::OnceCell;

use self::promtool::{check_metrics, check_rules, parse_openmetrics};

/// The metrics of an allocator and of a watcher that have seen everything there is a
/// metric for: grants, refusals, denials, TLS, traces.
struct Scrapes {
    allocator: String,
    watcher: String,
}

async fn scrapes() -> &'static Scrapes {
    static SCRAPES: OnceCell<Scrapes> = OnceCell::const_new();
    SCRAPES.get_or_init(scrape).await
}

async fn scrape() -> Scrapes {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let authority = Authority::new("test").unwrap();
    let secret = |identity| Secret::new(&identity, &authority.certificate);
    let caller = |uri: &str| secret(authority.caller(uri).unwrap());
    let server = secret(authority.server().unwrap());
    let ours = caller("spiffe://test/cluster/one/role/watcher");
    let others = caller("spiffe://test/cluster/two/role/watcher");
    // Nobody is there: what cannot be sent is counted too.
    let (endpoint, nowhere) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    let options = Options::ip_list(format!("{ns}:192.0.2.1"))
        .tls(server.files())
        .env(endpoint, nowhere);
    let allocator = Allocator::start(options).await;
    let class = random_class();
    let options = watcher::Options::cluster(CLUSTER)
        .class(&class)
        .tls(ours.files())
        .env(endpoint, nowhere);
    let watcher = Watcher::start(control_plane, &allocator.url(), options).await;

    ns.create(service("keeper").class(&class)).await;
    ns.gets("keeper", ["192.0.2.1"]).await;
    ns.create(service("beggar").class(&class)).await;
    ns.is_pending("beggar", "POOL_EXHAUSTED").await;
    let channel = connect_with(&allocator.url(), others.files()).await;
    let mut stranger = AllocatorServiceClient::new(channel.unwrap());
    stranger.acquire(acquire("web", "a")).await.unwrap_err();

    let allocator = allocator.admin().get("/metrics").await.unwrap();
    let watcher = watcher.admin().get("/metrics").await.unwrap();
    let pool = format!("ip-list-{ns}");
    for text in [&allocator, &watcher] {
        let text = text.replace(&pool, "");
        for secret in [&*ns.to_string(), "keeper", "beggar"] {
            assert!(!text.contains(secret), "{secret} is no label: {text}");
        }
    }
    Scrapes { allocator, watcher }
}

/// The names of all metrics, as they are asked for, and what they are.
fn exposed(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let named = types.map(|line| {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffix = if kind == "counter" { "_total" } else { "" };
        (format!("{name}{suffix}"), kind.to_owned())
    });
    named.collect()
}

async fn all_exposed() -> BTreeMap<String, String> {
    let Scrapes { allocator, watcher } = scrapes().await;
    let mut all = exposed(allocator);
    all.extend(exposed(watcher));
    all
}

#[tokio::test]
async fn every_metric_is_in_the_readme_and_every_metric_of_the_readme_is_exposed() {
    let Scrapes { allocator, watcher } = scrapes().await;
    for (text, heading) in [
        (allocator, "Metrics of lb-allocator:"),
        (watcher, "Metrics of lb-watcher:"),
    ] {
        let exposed: BTreeSet<String> = exposed(text).into_keys().collect();
        assert_eq!(first_cells(heading), exposed, "{heading}");
    }
}

#[tokio::test]
async fn prometheus_can_read_the_metrics_and_finds_nothing_to_correct() {
    let Scrapes { allocator, watcher } = scrapes().await;
    for text in [allocator, watcher] {
        assert_eq!(check_metrics(text), "");
        parse_openmetrics(text);
    }
}

#[tokio::test]
async fn promtool_would_find_a_bad_name() {
    let bad = "# HELP seconds_of_ms x.\n# TYPE lb_time_milliseconds gauge\nlb_time_milliseconds 1\n# EOF\n";
    assert!(check_metrics(bad).contains("lb_time_milliseconds"), "{bad}");
}

fn deploy(file: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring");
    fs::read_to_string(folder.join(file)).unwrap()
}

/// Every name of a metric of ours in a PromQL expression.
fn names(expression: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c| !is_name(c));
    let ours = words.filter(|word| word.starts_with("lb_"));
    ours.map(ToOwned::to_owned).collect()
}

/// Every string of a JSON value below such a key.
fn strings(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == key => found.push(text.to_owned()),
                    _ => strings(value, key, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| strings(value, key, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test]
async fn dashboard_and_alerts_use_only_metrics_that_there_are_and_the_dashboard_all_of_them() {
    let exposed = all_exposed().await;
    let is_there = |name: &str| {
        let parts = ["_bucket", "_sum", "_count"].into_iter();
        let histogram = parts.filter_map(|part| name.strip_suffix(part));
        let histogram = histogram.filter(|whole| {
            let kind = exposed.get(*whole);
            kind.is_some_and(|kind| kind == "histogram")
        });
        let whole = exposed.get_key_value(name).map(|(name, _)| name.as_str());
        let whole = whole.filter(|name| exposed[*name] != "histogram");
        whole
            .or_else(|| histogram.into_iter().next())
            .map(ToOwned::to_owned)
    };
    let dashboard: Value = serde_json::from_str(&deploy("dashboard.json")).unwrap();
    let alerts: Value = serde_saphyr::from_str(&deploy("alerts.yaml")).unwrap();
    let mut shown = BTreeSet::new();
    for (file, value) in [("dashboard.json", &dashboard), ("alerts.yaml", &alerts)] {
        let mut expressions = Vec::new();
        strings(value, "expr", &mut expressions);
        assert!(expressions.len() > 10, "{file}");
        for expression in &expressions {
            let names = names(expression);
            assert!(!names.is_empty(), "{file}: {expression}");
            for name in names {
                let whole = is_there(&name);
                let whole = whole.unwrap_or_else(|| panic!("{file}: {name} is no metric"));
                if file == "dashboard.json" {
                    shown.insert(whole);
                }
            }
        }
        check_rules(&expressions);
    }
    let missing: Vec<_> = exposed
        .keys()
        .filter(|name| !shown.contains(*name))
        .collect();
    assert!(missing.is_empty(), "not on the dashboard: {missing:?}");
}

#[test]
fn every_alert_says_what_to_do_is_in_readme_and_is_tested_to_fire() {
    let alerts: Value = serde_saphyr::from_str(&deploy("alerts.yaml")).unwrap();
    let tests = deploy("alerts_test.yaml");
    let groups = alerts["groups"].as_array().unwrap().iter();
    let mut known = BTreeSet::new();
    for rule in groups.flat_map(|group| group["rules"].as_array().unwrap()) {
        let name = rule["alert"].as_str().unwrap();
        known.insert(name.to_owned());
        for part in ["summary", "description", "runbook"] {
            assert!(rule["annotations"][part].is_string(), "{name}: {part}");
        }
        assert!(rule["labels"]["severity"].is_string(), "{name}");
        let fires = format!("alertname=\"{name}\"");
        assert!(tests.contains(&fires), "{name} is not tested");
    }
    assert_eq!(first_cells("Alerts:"), known);
}

#[tokio::test]
async fn the_allocator_counts_what_cools_down_is_reserved_waits_and_listens() {
    let pools = "pools: [{name: few, addresses: [192.0.2.1-192.0.2.4], cooldown: 1h}]";
    let (ns, site) = Site::of_pools(pools).await;
    let admin = site.allocator.admin();
    let sees = async |name: &str, labels: &[(&str, &str)], expected: f64| {
        let name = format!("lb_allocator_{name}");
        admin.sees(&name, labels, |seen| seen == expected).await;
    };
    let few = [("pool", "few"), ("family", "IPv4")];
    sees("watch_streams", &[("cluster", CLUSTER)], 1.0).await;
    sees("database_writable", &[], 1.0).await;
    for file in ["main", "wal"] {
        let name = "lb_allocator_database_bytes";
        let a_page = |size| size >= 2048.0;
        admin.sees(name, &[("file", file)], a_page).await;
    }
    let mut administrator = site.allocator.admin_client().await;
    let reserve = ReserveRequest {
        address: "192.0.2.4".to_owned(),
        ..ReserveRequest::default()
    };
    administrator.reserve(reserve).await.unwrap();
    for name in ["a", "b"] {
        ns.create(site.service(name)).await;
        ns.gets_any(name).await;
    }
    ns.delete("a").await;
    sees("pool_addresses", &few, 4.0).await;
    sees("pool_addresses_reserved", &few, 1.0).await;
    sees("pool_addresses_cooling", &few, 1.0).await;
    sees("pool_addresses_used", &few, 2.0).await;
    for name in ["c", "d"] {
        ns.create(site.service(name)).await;
    }
    sees("pool_services_waiting", &few, 1.0).await;
    sees("services_waiting", &[], 1.0).await;
    sees("changes_total", &[("kind", "allocated")], 3.0).await;
    site.watcher
        .admin()
        .sees("lb_watcher_last_sync_timestamp_seconds", &[], |at| at > 1e9)
        .await;
    let stranger = of_cluster("elsewhere", acquire("web", "a"));
    let mut client = site.allocator.client().await;
    client.acquire(stranger).await.unwrap_err();
    sees("services_waiting", &[], 2.0).await;
}
