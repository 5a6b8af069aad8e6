//! What the READMEs promise, for the tests that hold them to it: wherever a block, a
//! table or a heading stands, it is found.

use std::{collections::BTreeSet, fs};

use crate::commands::repository;

/// Every README, in the order in which their commands are run.
pub const READMES: [&str; 8] = [
    "README.md",
    "deploy/README.md",
    "deploy/chart/README.md",
    "deploy/monitoring/README.md",
    "allocator/README.md",
    "watcher/README.md",
    "proto/README.md",
    "integration-tests/README.md",
];

/// # Panics
/// When it is not there.
#[must_use]
pub fn text_of(readme: &str) -> String {
    match fs::read_to_string(repository().join(readme)) {
        Ok(text) => text,
        Err(error) => panic!("{readme}: {error}"),
    }
}

/// All of them, one after the other.
#[must_use]
pub fn text() -> String {
    READMES.map(text_of).join("\n")
}

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// The README that it is in, and the line in which it begins.
    pub place: String,
    /// What stands behind the fence.
    pub info: String,
    pub text: String,
}

/// Every fenced block whose info begins so.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn blocks(kind: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    for readme in READMES {
        let mut open: Option<Block> = None;
        for (number, line) in text_of(readme).lines().enumerate() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(info), None) => {
                    open = Some(Block {
                        place: format!("{readme}:{}", number + 1),
                        info: info.to_owned(),
                        text: String::new(),
                    });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (None, Some(block)) => block.text += &format!("{line}\n"),
                (None, None) => {}
            }
        }
    }
    blocks.retain(|block| block.info.starts_with(kind));
    assert!(!blocks.is_empty(), "no README has a block {kind:?}");
    blocks
}

/// The text below a heading, or below a line that introduces a table.
///
/// # Panics
/// When there is none, or several.
#[must_use]
pub fn section(heading: &str) -> String {
    let text = text();
    let lines: Vec<_> = text.lines().collect();
    let is_heading = |line: &&str| line.trim_start_matches('#').trim_start() == heading;
    let found: Vec<_> = (0..lines.len())
        .filter(|at| is_heading(&lines[*at]))
        .collect();
    let [at] = found[..] else {
        panic!("{} headings {heading:?} in the READMEs", found.len())
    };
    lines[at + 1..].join("\n")
}

/// The rows of the table below a heading.
///
/// # Panics
/// When the heading is not there.
#[must_use]
pub fn rows(heading: &str) -> Vec<String> {
    let section = section(heading);
    let rows = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|')).skip(2);
    rows.map(ToOwned::to_owned).collect()
}

/// What stands in backquotes in the first cells of the table below a heading.
///
/// # Panics
/// When the heading is not there, or a first cell has nothing in backquotes.
#[must_use]
pub fn first_cells(heading: &str) -> BTreeSet<String> {
    let name = |row: String| match row.split('`').nth(1) {
        Some(name) => name.to_owned(),
        None => panic!("{heading}: {row}"),
    };
    rows(heading).into_iter().map(name).collect()
}
