//! The name of the Lease for which replicas compete. Watchers that serve different
//! Services compete for different ones: all that sets them apart is in the name.

use crate::args::{ClassName, ClusterName};

/// So much of the cluster's and the class's name is left readable.
const READABLE: usize = 60;

/// A DNS subdomain that differs where one of these does.
pub fn lease_name(
    cluster: &ClusterName,
    class: Option<&ClassName>,
    handle_unclassed: bool,
) -> String {
    let class = class.map(|class| class.0.as_str());
    let words: Vec<&str> = [Some(cluster.0.as_str()), class]
        .into_iter()
        .flatten()
        .collect();
    let readable: String = words
        .join("-")
        .chars()
        .map(|letter| match letter.to_ascii_lowercase() {
            letter if letter.is_ascii_alphanumeric() => letter,
            _ => '-',
        })
        .take(READABLE)
        .collect();
    // Neither a name nor a class has a blank in it.
    let exact = format!(
        "{} {} {handle_unclassed}",
        cluster.0,
        class.unwrap_or_default()
    );
    format!("lb-watcher-{readable}-{:08x}", fingerprint(&exact))
}

/// FNV-1a: the same in each version and on each machine, so that an old and a new
/// replica compete.
fn fingerprint(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn name(cluster: &str, class: Option<&str>, handle_unclassed: bool) -> String {
        let class = class.map(|class| ClassName(class.into()));
        lease_name(
            &ClusterName(cluster.into()),
            class.as_ref(),
            handle_unclassed,
        )
    }

    #[test]
    fn only_watchers_that_serve_the_same_services_compete() {
        let long = "a".repeat(253);
        let longer = format!("{}b", "a".repeat(252));
        let watchers = [
            ("one", None, false),
            ("two", None, false),
            ("one", Some("x"), false),
            ("one", Some("x"), true),
            ("one", Some("X"), false),
            ("one", Some("example.org/x"), false),
            ("one-x", None, false),
            ("one.x", None, false),
            (&long, None, false),
            (&longer, None, false),
        ];
        let names: BTreeSet<_> = watchers.map(|(a, b, c)| name(a, b, c)).into();
        assert_eq!(names.len(), watchers.len(), "{names:?}");
        for name in names {
            let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            assert!(name.len() <= 253 && name.bytes().all(valid), "{name}");
        }
    }

    #[test]
    fn the_name_never_changes_and_can_be_read() {
        assert_eq!(name("prod-eu", None, false), "lb-watcher-prod-eu-d02a44d8");
        assert_eq!(
            name("one", Some("example.org/In_ternal"), true),
            "lb-watcher-one-example-org-in-ternal-39165610"
        );
    }
}
