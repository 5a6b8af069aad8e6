//! Examples of a README, read.

use integration_tests::namespace::{addresses, condition};
use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

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
