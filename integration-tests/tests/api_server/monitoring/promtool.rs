//! Prometheus' own checks.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::LazyLock,
};

use integration_tests::{binaries::control_plane_binaries, scratch::Scratch};

static PROMTOOL: LazyLock<PathBuf> = LazyLock::new(|| {
    let [promtool] = control_plane_binaries(["promtool"]).unwrap();
    promtool
});

fn promtool(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(&*PROMTOOL);
    command.args(args).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn succeeds(args: &[&str]) {
    let output = promtool(args, "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
}

/// What promtool finds wrong with names, types and texts. It reads the older text
/// format, in which a counter is described by the name of its samples.
pub fn check_metrics(openmetrics: &str) -> String {
    let lines: Vec<_> = openmetrics.lines().collect();
    let counters: Vec<_> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::new();
    for line in lines {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("UNIT" | "EOF"), ..) => {}
            (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(&name) => {
                writeln!(text, "# {what} {name}_total {rest}").unwrap();
            }
            _ => writeln!(text, "{line}").unwrap(),
        }
    }
    let output = promtool(&["check", "metrics"], &text);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    said
}

/// Reads it as Prometheus does, which is strict: into a database, for which each
/// sample needs a time.
pub fn parse_openmetrics(text: &str) {
    let folder = Scratch::new("openmetrics").unwrap();
    let mut timed = String::new();
    for line in text.lines() {
        let time = if line.starts_with('#') {
            ""
        } else {
            " 1700000000"
        };
        writeln!(timed, "{line}{time}").unwrap();
    }
    let file = folder.path().join("metrics");
    fs::write(&file, timed).unwrap();
    let path = |path: &Path| path.display().to_string();
    let blocks = path(&folder.path().join("blocks"));
    let create = ["tsdb", "create-blocks-from", "openmetrics", &path(&file)];
    succeeds(&[&create[..], &[&blocks]].concat());
    assert!(fs::read_dir(blocks).unwrap().next().is_some());
}

/// Whether these are expressions of PromQL, Grafana's variables apart.
pub fn check_rules(expressions: &[String]) {
    let rules = expressions.iter().map(|expression| {
        let expression = expression.replace("$__rate_interval", "5m");
        serde_json::json!({"record": "checked", "expr": expression})
    });
    let rules: Vec<_> = rules.collect();
    let group = serde_json::json!({"groups": [{"name": "all", "rules": rules}]});
    let folder = Scratch::new("rules").unwrap();
    let file = folder.path().join("rules.yaml");
    fs::write(&file, group.to_string()).unwrap();
    succeeds(&["check", "rules", "--lint=none", &file.display().to_string()]);
}
