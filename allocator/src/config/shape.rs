//! The shape of a pools file: which keys there are, and what each takes. It is looked
//! at before the file is read for what it means, so that what does not fit is told in
//! the words of the file: where, what was expected there, and what is there instead.

use serde_saphyr::Spanned;
use thiserror::Error;

use super::{node::Node, syntax};

/// What is wrong, and where.
#[derive(Debug, Error)]
#[error("line {line}: {place}{problem}")]
pub struct ShapeError {
    line: u64,
    /// Empty, or with a colon behind it.
    place: String,
    problem: String,
}

/// What a key takes.
enum Kind {
    Text,
    Number,
    YesNo,
    Duration,
    /// Texts by texts.
    Labels,
    /// A list of texts.
    Texts,
    Map(&'static Keys),
    /// A list of these.
    Maps(&'static Keys),
    /// A list of texts, or of these.
    TextsOrMaps(&'static Keys),
}

/// The keys that something has.
struct Keys {
    /// One of it.
    what: &'static str,
    keys: &'static [(&'static str, Kind)],
    required: &'static [&'static str],
}

static FILE: Keys = Keys {
    what: "a pools file",
    keys: &[
        ("pools", Kind::Maps(&POOL)),
        ("clusters", Kind::TextsOrMaps(&CLUSTER)),
        ("adoptionWindow", Kind::Duration),
        ("orphanGrace", Kind::Duration),
        ("clusterSilence", Kind::Duration),
        ("history", Kind::Map(&HISTORY)),
    ],
    required: &["pools"],
};

static CLUSTER: Keys = Keys {
    what: "a cluster",
    keys: &[("name", Kind::Text), ("ephemeral", Kind::YesNo)],
    required: &["name"],
};

static HISTORY: Keys = Keys {
    what: "history",
    keys: &[("keepFor", Kind::Duration), ("keepRows", Kind::Number)],
    required: &[],
};

static POOL: Keys = Keys {
    what: "a pool",
    keys: &[
        ("name", Kind::Text),
        ("addresses", Kind::Texts),
        ("exclude", Kind::Texts),
        ("namespaces", Kind::Texts),
        ("namespaceSelector", Kind::Map(&SELECTOR)),
        ("serviceSelector", Kind::Map(&SELECTOR)),
        ("clusters", Kind::Texts),
        ("priority", Kind::Number),
        ("autoAssign", Kind::YesNo),
        ("avoidBuggyIPs", Kind::YesNo),
        ("fenced", Kind::YesNo),
        ("cooldown", Kind::Duration),
        ("stickyFor", Kind::Duration),
        ("maxPerNamespace", Kind::Number),
        ("maxPerCluster", Kind::Number),
        ("disabled", Kind::YesNo),
    ],
    required: &["name", "addresses"],
};

static SELECTOR: Keys = Keys {
    what: "a selector",
    keys: &[
        ("matchLabels", Kind::Labels),
        ("matchExpressions", Kind::Maps(&EXPRESSION)),
    ],
    required: &[],
};

static EXPRESSION: Keys = Keys {
    what: "an expression",
    keys: &[
        ("key", Kind::Text),
        ("operator", Kind::Text),
        ("values", Kind::Texts),
    ],
    required: &["key", "operator"],
};

/// # Errors
/// If it is no YAML, or has another shape than a pools file.
pub fn check(text: &str) -> Result<(), ShapeError> {
    let parsed = serde_saphyr::from_str::<Spanned<Node>>(text);
    let file = parsed.map_err(|error| {
        let fault = syntax::explain(text, &error);
        ShapeError {
            line: fault.line,
            place: fault.place,
            problem: fault.problem,
        }
    })?;
    if matches!(file.value, Node::Null) {
        return Err(ShapeError {
            line: file.referenced.line().max(1),
            place: String::new(),
            problem: "the file is empty; it needs pools, as in \
                      pools: [{name: web, addresses: [192.0.2.0/28]}]"
                .to_owned(),
        });
    }
    let mut place = Vec::new();
    map(&FILE, &file, &mut place)
}

type Place<'a> = Vec<String>;

fn fault(line: u64, place: &Place<'_>, problem: String) -> ShapeError {
    let place = place.iter().map(|part| format!("{part}: ")).collect();
    ShapeError {
        line,
        place,
        problem,
    }
}

fn map(keys: &'static Keys, node: &Spanned<Node>, place: &mut Place<'_>) -> Result<(), ShapeError> {
    let line = node.referenced.line();
    let Node::Map(entries) = &node.value else {
        let names: Vec<_> = keys.keys.iter().map(|(name, _)| *name).collect();
        let found = node.value.found();
        let (what, names) = (keys.what, names.join(", "));
        let problem = format!("expected {what}, with keys of {names}; found {found}");
        return Err(fault(line, place, problem));
    };
    for (key, value) in entries {
        let known = keys.keys.iter().find(|(name, _)| *name == key.value);
        place.push(key.value.clone());
        let Some((_, kind)) = known else {
            return Err(fault(
                key.referenced.line(),
                place,
                unknown(keys, &key.value),
            ));
        };
        // Where its key is: what is left out is nowhere.
        check_value(kind, value, key.referenced.line(), place)?;
        place.pop();
    }
    let has = |name: &str| entries.iter().any(|(key, _)| key.value == name);
    match keys.required.iter().find(|name| !has(name)) {
        Some(missing) => {
            place.push((*missing).to_owned());
            let problem = format!("it is missing; {} needs it", keys.what);
            Err(fault(line, place, problem))
        }
        None => Ok(()),
    }
}

fn unknown(keys: &Keys, key: &str) -> String {
    let names: Vec<_> = keys.keys.iter().map(|(name, _)| *name).collect();
    match near(key, &names) {
        Some(near) => format!("there is no such key in {}; is it {near}?", keys.what),
        None => format!(
            "there is no such key in {}; it has {}",
            keys.what,
            names.join(", ")
        ),
    }
}

fn check_value(
    kind: &'static Kind,
    node: &Spanned<Node>,
    line: u64,
    place: &mut Place<'_>,
) -> Result<(), ShapeError> {
    let wrong = |place: &Place<'_>, expected: &str, node: &Spanned<Node>| {
        let found = node.value.found();
        let line = node.referenced.line().max(line);
        Err(fault(
            line,
            place,
            format!("expected {expected}; found {found}"),
        ))
    };
    match (kind, &node.value) {
        (Kind::Text, value) if value.is_text() => Ok(()),
        (Kind::Text, _) => wrong(place, "a text", node),
        (Kind::Number, Node::Whole(_)) => Ok(()),
        (Kind::Number, Node::Text(text)) if text.parse::<i64>().is_ok() => Ok(()),
        (Kind::Number, _) => {
            let expected = format!("a whole number up to {}", i64::MAX);
            wrong(place, &expected, node)
        }
        (Kind::YesNo, Node::Bool(_)) => Ok(()),
        (Kind::YesNo, _) => wrong(place, "true or false, without quotes", node),
        (Kind::Duration, Node::Text(_)) => Ok(()),
        (Kind::Duration, _) => wrong(place, "a duration such as 30s, 5m or 24h", node),
        (Kind::Texts, Node::List(items)) => match items.iter().find(|item| !item.value.is_text()) {
            Some(item) => wrong(place, "a text in each place of the list", item),
            None => Ok(()),
        },
        (Kind::Labels, Node::Map(entries)) => {
            match entries.iter().find(|(_, value)| !value.value.is_text()) {
                Some((key, value)) => {
                    place.push(key.value.clone());
                    wrong(place, "the text of a label", value)
                }
                None => Ok(()),
            }
        }
        (Kind::Labels, _) => wrong(place, "labels, as in {tier: web}", node),
        (Kind::Map(keys), _) => map(keys, node, place),
        (Kind::Maps(keys) | Kind::TextsOrMaps(keys), Node::List(items)) => {
            let list = place.pop().unwrap_or_default();
            for (number, item) in items.iter().enumerate() {
                if matches!(kind, Kind::TextsOrMaps(_)) && item.value.is_text() {
                    continue;
                }
                place.push(item_place(&list, number, &item.value));
                map(keys, item, place)?;
                place.pop();
            }
            place.push(list);
            Ok(())
        }
        (Kind::Texts | Kind::TextsOrMaps(_), value) => {
            let example = value.text().unwrap_or("a");
            wrong(place, &format!("a list, as in [{example}]"), node)
        }
        (Kind::Maps(keys), _) => {
            let expected = format!("a list, with '- ' before each; each is {}", keys.what);
            wrong(place, &expected, node)
        }
    }
}

/// A pool by its name; other things, and a pool without a name, by their number.
fn item_place(list: &str, number: usize, item: &Node) -> String {
    let number = number + 1;
    if list != "pools" {
        return format!("{list} {number}");
    }
    let name = item.get("name").and_then(Node::text);
    name.map_or_else(|| format!("pool {number}"), |name| format!("pool {name:?}"))
}

/// The name that somebody may have meant.
fn near<'a>(key: &str, names: &[&'a str]) -> Option<&'a str> {
    let distance = |name: &str| distance(&key.to_lowercase(), &name.to_lowercase());
    let nearest = names.iter().min_by_key(|name| distance(name))?;
    (distance(nearest) <= 1 + key.len() / 5).then_some(*nearest)
}

/// How many letters have to be put in, left out or changed (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (number, a) in one.chars().enumerate() {
        let mut diagonal = number;
        let mut left = number + 1;
        for (b, above) in other.chars().zip(row.iter_mut().skip(1)) {
            let changed = diagonal + usize::from(a != b);
            diagonal = *above;
            left = changed.min(left + 1).min(*above + 1);
            *above = left;
        }
        if let Some(first) = row.first_mut() {
            *first = number + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letters_between_two_words_are_counted() {
        for (one, other, letters) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("adresses", "addresses", 1),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
        ] {
            assert_eq!(distance(one, other), letters, "{one} {other}");
            assert_eq!(distance(other, one), letters, "{other} {one}");
        }
    }
}
