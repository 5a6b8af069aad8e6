//! README's examples, run: what it says is what happens.
//!
//! - ` ```yaml pools `: a pools file that `check-config` takes.
//! - ` ```console check-config `: what it prints for the pools file before.
//! - ` ```yaml example [PEERS] `: pools, Namespaces and Services, divided by
//!   `---`, one after the other; the comment below a Service says what its status
//!   shows then. What else is done stands behind `---`. PEERS are for
//!   `--annotation-aliases`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use integration_tests::{
    allocator::run,
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    namespace::{Namespace, addresses, condition},
    scratch::Scratch,
    service::service,
    site::Site,
};
use k8s_openapi::api::core::v1::Service;
use kube::api::PostParams;
use serde_json::Value;

/// Namespaces of the examples. Each run takes new ones in their place.
const NAMESPACES: [&str; 3] = ["default", "shop", "blog"];
const PEERS: &str = "metallb,cilium,purelb,kube-vip";

/// A fenced block, and where it begins.
struct Block {
    line: usize,
    info: String,
    text: String,
}

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    fs::read_to_string(path).unwrap()
}

fn blocks(kind: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in readme().lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                open = Some(Block {
                    line: number + 1,
                    info: info.to_owned(),
                    text: String::new(),
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    blocks.retain(|block| block.info.starts_with(kind));
    assert!(!blocks.is_empty(), "README has no block {kind:?}");
    blocks
}

/// The first cells of the table below a heading.
fn first_cells(heading: &str) -> BTreeSet<String> {
    let text = readme();
    let (_, section) = text.split_once(&format!("\n{heading}\n")).unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|')).skip(2);
    let quoted = rows.map(|row| row.split('`').nth(1).unwrap().to_owned());
    quoted.collect()
}

/// What a Service's status shows.
#[derive(Debug)]
enum Outcome {
    Gets(Vec<String>),
    Waits(String),
    Keeps(Vec<String>, String),
}

impl Outcome {
    fn parse(comment: &str) -> Option<Self> {
        let list = |text: &str| text.split_whitespace().map(ToOwned::to_owned).collect();
        if let Some(text) = comment.strip_prefix("gets ") {
            return Some(Self::Gets(list(text)));
        }
        if let Some(reason) = comment.strip_prefix("waits: ") {
            return Some(Self::Waits(reason.to_owned()));
        }
        let (kept, reason) = comment.strip_prefix("keeps ")?.split_once(": ")?;
        Some(Self::Keeps(list(kept), reason.to_owned()))
    }

    fn reason(&self) -> Option<&str> {
        match self {
            Self::Gets(_) => None,
            Self::Waits(reason) | Self::Keeps(_, reason) => Some(reason),
        }
    }

    fn is_shown(&self, service: &Service) -> bool {
        let shown = addresses(service);
        let verdict = condition(service).map(|c| (c.status, c.reason));
        let (expected, status, reason) = match self {
            Self::Gets(expected) => (&expected[..], "True", "Satisfied"),
            Self::Waits(reason) => (&[][..], "False", reason.as_str()),
            Self::Keeps(expected, reason) => (&expected[..], "False", reason.as_str()),
        };
        shown == expected && verdict == Some((status.to_owned(), reason.to_owned()))
    }
}

/// A part of an example, from one `---` to the next.
struct Step {
    /// What is done before it, or nothing.
    action: String,
    yaml: String,
    outcome: Option<Outcome>,
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps = vec![Step {
        action: String::new(),
        yaml: String::new(),
        outcome: None,
    }];
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("---") {
            steps.push(Step {
                action: rest.trim_start_matches([' ', '#']).to_owned(),
                yaml: String::new(),
                outcome: None,
            });
        } else if let Some(step) = steps.last_mut() {
            step.yaml += &format!("{line}\n");
            let outcome = line.strip_prefix("# ").and_then(Outcome::parse);
            step.outcome = step.outcome.take().or(outcome);
        }
    }
    steps
}

fn parse(yaml: &str) -> Value {
    match serde_saphyr::from_str(yaml) {
        Ok(value) => value,
        Err(error) => panic!("{yaml}: {error}"),
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

async fn check_config(pools: &str) -> (bool, String) {
    let scratch = Scratch::new("readme").unwrap();
    let file = scratch.path().join("pools.yaml");
    fs::write(&file, pools).unwrap();
    let (status, out, errors) = run(&["check-config", file.to_str().unwrap()], &[]).await;
    (status.success(), out + &errors)
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
        let reloads = |text: &str| text.matches("other pools are in force").count();
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

async fn example(control_plane: &ControlPlane, block: Block) {
    let name = format!("README.md:{}", block.line);
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

fn replace_word(text: &str, word: &str, with: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '-' || c == '.';
    let parts = text.split_inclusive(|c| !is_part(c));
    let replaced = parts.map(|part| match part.strip_prefix(word) {
        Some(end) if end.chars().all(|c| !is_part(c)) => format!("{with}{end}"),
        Some(_) | None => part.to_owned(),
    });
    replaced.collect()
}

#[tokio::test]
async fn every_example_comes_out_as_readme_says() {
    let control_plane = ControlPlane::shared().await;
    let examples = blocks("yaml example").into_iter();
    futures::future::join_all(examples.map(|block| example(control_plane, block))).await;
}

#[tokio::test]
async fn check_config_takes_the_pools_files_and_prints_what_readme_says() {
    let pools = blocks("yaml pools");
    for block in &pools {
        let (good, told) = check_config(&block.text).await;
        assert!(good, "README.md:{}: {told}", block.line);
    }
    for block in blocks("console check-config") {
        let mut before = pools.iter().filter(|pools| pools.line < block.line);
        let (_, told) = check_config(&before.next_back().unwrap().text).await;
        let (_command, printed) = block.text.split_once('\n').unwrap();
        assert_eq!(printed, told, "README.md:{}", block.line);
    }
}

#[tokio::test]
async fn every_key_of_the_pools_file_is_in_the_table_and_in_an_example() {
    let (good, told) = check_config("pools: [{unknown: 1}]").await;
    assert!(!good);
    let (_, known) = told.split_once("expected one of ").unwrap();
    let (known, _) = known.split_once(" at line").unwrap();
    let known: BTreeSet<String> = known.split(", ").map(ToOwned::to_owned).collect();
    assert!(known.len() > 10, "{told}");
    assert_eq!(first_cells("### Pools file"), known);

    let mut shown = BTreeSet::new();
    for block in blocks("yaml example") {
        for step in steps(&block.text) {
            let document = parse(&step.yaml);
            let pools = document["pools"].as_array().cloned().unwrap_or_default();
            for pool in pools {
                shown.extend(pool.as_object().unwrap().keys().cloned());
            }
        }
    }
    assert_eq!(shown, known);
}

#[test]
fn every_annotation_is_in_the_table_and_in_an_example() {
    let text = readme();
    let (_, section) = text
        .split_once("\n### What a Service can ask for\n")
        .unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|'));
    let cells = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let listed: BTreeSet<_> = cells
        .filter(|cell| cell.contains(".io/") || cell.contains(".tf/"))
        .map(ToOwned::to_owned)
        .collect();
    let mut shown = BTreeSet::new();
    for block in blocks("yaml example") {
        for step in steps(&block.text) {
            let document = parse(&step.yaml);
            let annotations = document["metadata"]["annotations"].as_object();
            shown.extend(annotations.into_iter().flat_map(|all| all.keys().cloned()));
        }
        let peers = block.info.strip_prefix("yaml example").unwrap().trim();
        assert!(["", PEERS].contains(&peers), "{peers}");
    }
    assert_eq!(shown, listed);
}

#[test]
fn every_reason_is_in_the_table_with_its_code_and_in_an_example() {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../proto/lballocator/v1/allocator_service.proto");
    let proto = fs::read_to_string(proto).unwrap();
    let (_, acquire) = proto.split_once("nothing is refused:").unwrap();
    let (acquire, _) = acquire.split_once("rpc Acquire").unwrap();
    let promised = acquire.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        Some((cells.next()?, cells.next()?))
    });
    let text = readme();
    let mut reasons = BTreeSet::new();
    for (reason, code) in promised.skip(2) {
        reasons.insert(reason.to_owned());
        let row = format!("| `{reason}` | {code} |");
        assert!(text.contains(&row), "README has no row {row}");
    }
    assert!(reasons.len() > 10, "{reasons:?}");
    // The watcher's own.
    for reason in ["INVALID_REQUEST", "ALLOCATOR_UNAVAILABLE"] {
        reasons.insert(reason.to_owned());
    }
    assert_eq!(first_cells("### Reasons"), reasons);

    let examples = blocks("yaml example").into_iter();
    let steps = examples.flat_map(|block| steps(&block.text));
    let shown = steps.filter_map(|step| Some(step.outcome?.reason()?.to_owned()));
    assert_eq!(shown.collect::<BTreeSet<_>>(), reasons);
}
