//! What is no YAML, told so that it can be mended: the parser knows neither pools nor
//! what people get wrong.

/// Where the parser stopped, and why.
pub struct Fault {
    pub line: u64,
    /// The pool and the key, as far as they can be seen; with a colon behind each.
    pub place: String,
    pub problem: String,
}

/// Words of the parser, and what people have to look for.
const HINTS: [(&str, &str); 7] = [
    (
        "mapping values are not allowed",
        "a key stands where none can be: keys that belong together start in the same column, \
         and a text with ': ' in it needs quotes",
    ),
    (
        "did not find expected",
        "the indentation does not fit: keys that belong together start in the same column",
    ),
    (
        "illegal placement of ':'",
        "a key stands where none can be; is a '[' or '{' before it left open?",
    ),
    ("unclosed", "a '[' or '{' is left open"),
    (
        "multiple YAML documents",
        "a second document begins with '---'; a pools file is one",
    ),
    ("duplicate mapping key", "the key is there twice"),
    (
        "unknown anchor",
        "'*' begins a reference in YAML; put the text in quotes",
    ),
];

/// What `error` says of `text`.
pub fn explain(text: &str, error: &serde_saphyr::Error) -> Fault {
    let words = error.without_snippet().to_string();
    let words = words.split(" at line ").next().unwrap_or_default();
    // What follows is for programmers.
    let words = words
        .split(", set DuplicateKeyPolicy")
        .next()
        .unwrap_or_default();
    let words = words.split("; use ").next().unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let line = error.location().map_or(1, |location| location.line());
    let line = line.clamp(1, lines.len().max(1) as u64);
    if let Some(tab) = lines
        .iter()
        .position(|line| indentation(line).contains('\t'))
    {
        return Fault {
            line: tab as u64 + 1,
            place: place(&lines, tab),
            problem: "a tab in the indentation; YAML takes spaces".to_owned(),
        };
    }
    let hint = HINTS.iter().find(|(part, _)| words.contains(part));
    let problem = match hint {
        Some((_, hint)) => format!("{hint} (not YAML: {words})"),
        None => format!("not YAML: {words}"),
    };
    let place = place(&lines, usize::try_from(line).unwrap_or(1) - 1);
    Fault {
        line,
        place,
        problem,
    }
}

fn indentation(line: &str) -> &str {
    let end = line.find(|c: char| !c.is_whitespace());
    line.get(..end.unwrap_or(line.len())).unwrap_or_default()
}

/// The pool whose name was read last, and the key of the line.
fn place(lines: &[&str], at: usize) -> String {
    let before = lines.iter().take(at + 1);
    let name = before
        .rev()
        .find_map(|line| key_of(line).filter(|(key, _)| *key == "name"));
    let name = name.map(|(_, name)| format!("pool {:?}: ", name.trim_matches(['"', '\''])));
    let key = lines.get(at).and_then(|line| key_of(line));
    let key = key.map(|(key, _)| format!("{key}: "));
    name.unwrap_or_default() + &key.unwrap_or_default()
}

/// `key: value`, also after a dash.
fn key_of(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.trim_start_matches([' ', '\t', '-']).split_once(':')?;
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric());
    let value = value.split(" #").next().unwrap_or_default();
    is_key.then(|| (key, value.trim()))
}
