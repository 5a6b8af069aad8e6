//! How much of a Service the contract can carry, and what is told of one that has
//! more: that it is there, and what it has. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use lb_proto::v1;
use prost::Message;

use crate::{
    reason::{Reason, Refusal},
    wish::Family,
};

/// Of one message; the allocator takes 256 KiB.
pub const MESSAGE_BYTES: usize = 200 * 1024;
/// Of what a Service asks for, which leaves room for its name.
const WISH_BYTES: usize = MESSAGE_BYTES - 4 * 1024;
/// As many as the contract takes.
const PORTS: usize = 10_000;
const LABELS: usize = 1000;
const POOL_NAME: usize = 253;
/// Of a port, or of one entry of a map beside its text, in a message.
const ENTRY_BYTES: usize = 10;

/// How much there is of a field that has no limit in Kubernetes.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    field: &'static str,
    entries: usize,
    limit: usize,
    bytes: usize,
}

impl Size {
    /// Of `spec.ports`.
    pub fn ports(count: usize) -> Self {
        Self {
            field: "spec.ports",
            entries: count,
            limit: PORTS,
            bytes: count * ENTRY_BYTES,
        }
    }

    /// Of labels, or of a selector.
    pub fn labels(field: &'static str, labels: &BTreeMap<String, String>) -> Self {
        let bytes = labels
            .iter()
            .map(|(key, value)| key.len() + value.len() + ENTRY_BYTES);
        Self {
            field,
            entries: labels.len(),
            limit: LABELS,
            bytes: bytes.sum(),
        }
    }
}

/// What is too large of a Service, if anything is.
pub fn exceeded(sizes: &[Size]) -> Option<Refusal> {
    if let Some(size) = sizes.iter().find(|size| size.entries > size.limit) {
        let Size {
            field,
            entries,
            limit,
            ..
        } = size;
        return Some(Refusal::new(
            Reason::InvalidRequest,
            format_args!("{field} has {entries} entries, and at most {limit} can be served"),
        ));
    }
    let bytes: usize = sizes.iter().map(|size| size.bytes).sum();
    let largest = sizes.iter().max_by_key(|size| size.bytes)?;
    (bytes > WISH_BYTES).then(|| {
        let fields: Vec<_> = sizes.iter().map(|size| size.field).collect();
        Refusal::new(
            Reason::InvalidRequest,
            format_args!(
                "{} has {} bytes; {} may have at most {WISH_BYTES} together",
                largest.field,
                largest.bytes,
                fields.join(", ")
            ),
        )
    })
}

/// The name of a pool, a DNS subdomain (RFC 1123), from an annotation of this name.
pub fn pool(annotation: &'static str, text: &str) -> Result<String, Refusal> {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
            && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
    };
    if text.len() <= POOL_NAME && text.split('.').all(is_label) {
        return Ok(text.to_owned());
    }
    let start: String = text.chars().take(POOL_NAME).collect();
    Err(Refusal::new(
        Reason::InvalidRequest,
        format_args!(
            "annotation {annotation}: {start:?} is not the name of a pool, which has at most \
             {POOL_NAME} lower-case letters, digits, '-' and '.', with a letter or digit at both ends"
        ),
    ))
}

/// Leaves out labels that are not known.
pub fn without_labels(wish: &mut v1::Wish) {
    wish.service_labels.clear();
    wish.namespace_labels.clear();
}

/// Leaves out what would keep the allocator from reading what a Service has.
pub fn fit(wish: &mut v1::Wish, has: &[IpAddr]) {
    for address in has {
        let family = i32::from(v1::IpFamily::from(Family::of(address)));
        // A Service without families is about to get them.
        if wish.families.len() < 2 && !wish.families.contains(&family) {
            wish.families.push(family);
        }
    }
    // Policy and families contradict each other while the API server fills them in.
    if (wish.families.len() == 2) != (wish.ip_family_policy() == v1::IpFamilyPolicy::RequireDualStack)
    {
        wish.set_ip_family_policy(v1::IpFamilyPolicy::PreferDualStack);
    }
    if [&wish.service_labels, &wish.namespace_labels]
        .iter()
        .any(|labels| labels.len() > LABELS)
        || wish.encoded_len() > WISH_BYTES
    {
        without_labels(wish);
    }
    if wish.ports.len() > PORTS || wish.selector.len() > LABELS || wish.encoded_len() > WISH_BYTES {
        wish.ports.clear();
        wish.selector.clear();
        // Whom it could share with is not known without them.
        wish.sharing = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(count: usize, length: usize) -> BTreeMap<String, String> {
        let entry = |number| (format!("{number:0length$}"), "v".repeat(63));
        (0..count).map(entry).collect()
    }

    #[test]
    fn what_is_too_large_is_told_by_its_field_and_its_limit() {
        for (sizes, words) in [
            (vec![Size::ports(PORTS)], None),
            (
                vec![Size::ports(PORTS + 1)],
                Some(["spec.ports has 10001 entries", "at most 10000"]),
            ),
            (vec![Size::labels("metadata.labels", &labels(1000, 10))], None),
            (
                vec![
                    Size::ports(1),
                    Size::labels("spec.selector", &labels(1001, 10)),
                ],
                Some(["spec.selector has 1001 entries", "at most 1000"]),
            ),
            (
                vec![
                    Size::ports(1000),
                    Size::labels("metadata.labels", &labels(1000, 200)),
                ],
                Some(["metadata.labels has 273000 bytes", "at most 200704"]),
            ),
        ] {
            let refusal = exceeded(&sizes);
            let message = refusal.as_ref().map(|refusal| refusal.message.clone());
            assert_eq!(refusal.is_some(), words.is_some(), "{message:?}");
            for words in words.into_iter().flatten() {
                assert!(message.as_ref().unwrap().contains(words), "{message:?}");
            }
        }
    }

    #[test]
    fn a_pool_is_named_by_a_dns_subdomain() {
        for text in ["red", "red.eu-1", "1", &"a".repeat(253)] {
            assert_eq!(pool("p", text).unwrap(), text);
        }
        for text in ["My_Pool", "Red", "-red", "red-", "a..b", &"a".repeat(254)] {
            let refusal = pool("lb-allocator.io/pool", text).unwrap_err();
            assert_eq!(refusal.reason, "INVALID_REQUEST");
            let message = refusal.message;
            assert!(message.contains("lb-allocator.io/pool"), "{message}");
            assert!(message.len() < 600, "{message}");
        }
    }

    #[test]
    fn whatever_is_too_large_what_a_service_has_is_told() {
        let ports = |count: u32| (1..=count).map(|port| v1::ServicePort { protocol: 1, port });
        let sharing = || v1::Sharing {
            key: "web".into(),
            namespaces: Vec::new(),
        };
        for (many, labels, shares) in [
            (1001, labels(3, 10), true),
            (10_001, labels(3, 10), false),
            (3, labels(1001, 10), true),
            (3, labels(1000, 300), true),
        ] {
            let has: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
            let mut wish = v1::Wish {
                ports: ports(many).collect(),
                service_labels: labels.into_iter().collect(),
                current_addresses: has.iter().map(IpAddr::to_string).collect(),
                sharing: Some(sharing()),
                ..v1::Wish::default()
            };
            fit(&mut wish, &has);
            assert_eq!(wish.current_addresses, ["192.0.2.1", "2001:db8::1"]);
            assert_eq!(wish.families, [1, 2]);
            assert_eq!(wish.ip_family_policy(), v1::IpFamilyPolicy::PreferDualStack);
            assert_eq!(wish.sharing.is_some(), shares);
            assert!(wish.encoded_len() <= WISH_BYTES);
            assert!(wish.service_labels.len() <= LABELS);
        }
    }
}
