//! README, read.

use std::{collections::BTreeSet, fs, path::Path};

use integration_tests::namespace::{addresses, condition};
use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

pub fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    fs::read_to_string(path).unwrap()
}

/// A fenced block, and where it begins.
pub struct Block {
    pub line: usize,
    pub info: String,
    pub text: String,
}

pub fn blocks(kind: &str) -> Vec<Block> {
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
pub fn first_cells(heading: &str) -> BTreeSet<String> {
    let text = readme();
    let (_, section) = text.split_once(&format!("\n{heading}\n")).unwrap();
    let rows = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|')).skip(2);
    let quoted = rows.map(|row| row.split('`').nth(1).unwrap().to_owned());
    quoted.collect()
}

/// What a Service's status shows.
#[derive(Debug)]
pub enum Outcome {
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

    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Gets(_) => None,
            Self::Waits(reason) | Self::Keeps(_, reason) => Some(reason),
        }
    }

    pub fn is_shown(&self, service: &Service) -> bool {
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
pub struct Step {
    /// What is done before it, or nothing.
    pub action: String,
    pub yaml: String,
    pub outcome: Option<Outcome>,
}

pub fn steps(text: &str) -> Vec<Step> {
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

pub fn parse(yaml: &str) -> Value {
    match serde_saphyr::from_str(yaml) {
        Ok(value) => value,
        Err(error) => panic!("{yaml}: {error}"),
    }
}
