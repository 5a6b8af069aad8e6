//! On which terms a Service shares its addresses, read from its annotations. Pure.

use std::collections::BTreeSet;

use kube::ResourceExt;
use lb_proto::v1;

use crate::{
    denial::{Denial, Reason},
    excerpt,
    kube::{
        annotations::{Peer, SHARING_KEY, SHARING_NAMESPACES, said},
        service::Service,
    },
    request::names::is_label,
};

/// As many as the contract takes.
const NAMESPACE_LIMIT: usize = 1000;
const KEY_LIMIT: usize = 253;

/// On which terms a Service shares its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharing {
    key: String,
    namespaces: BTreeSet<String>,
}

impl Sharing {
    /// In the words of the contract.
    pub fn message(&self) -> v1::Sharing {
        v1::Sharing {
            key: self.key.clone(),
            namespaces: self.namespaces.iter().cloned().collect(),
        }
    }
}

/// Reads the terms; nothing where the Service shares with nobody.
pub fn read(service: &Service, peers: &[Peer]) -> Result<Option<Sharing>, Denial> {
    let annotations = service.annotations();
    let key = said(annotations, peers, &SHARING_KEY, key)?;
    let namespaces = said(annotations, peers, &SHARING_NAMESPACES, namespaces)?;
    match (key, namespaces) {
        (None, None) => Ok(None),
        (None, Some(namespaces)) => Err(refuse(
            namespaces.by,
            &format!("it means nothing without {}", SHARING_KEY.own),
        )),
        (Some(key), namespaces) => Ok(Some(Sharing {
            key: key.value,
            namespaces: namespaces.map(|said| said.value).unwrap_or_default(),
        })),
    }
}

fn key(name: &'static str, text: &str) -> Result<String, Denial> {
    if text.len() <= KEY_LIMIT && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(refuse(
            name,
            "a sharing key has at most 253 printable ASCII characters and no spaces",
        ))
    }
}

fn namespaces(name: &'static str, text: &str) -> Result<BTreeSet<String>, Denial> {
    if text == "*" {
        return Ok(BTreeSet::from(["*".to_owned()]));
    }
    let mut namespaces = BTreeSet::new();
    for item in text.split(',').map(str::trim) {
        if !is_label(item) {
            let what = format!("{} is not the name of a namespace", excerpt::quote(item));
            return Err(refuse(name, &what));
        }
        namespaces.insert(item.to_owned());
    }
    if namespaces.len() > NAMESPACE_LIMIT {
        return Err(refuse(name, "more than 1,000 namespaces"));
    }
    Ok(namespaces)
}

fn refuse(annotation: &str, what: &str) -> Denial {
    Denial::new(
        Reason::InvalidRequest,
        format_args!("annotation {annotation}: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn terms(key: Option<&str>, namespaces: Option<&str>) -> Result<Option<Sharing>, Denial> {
        let mut annotations = json!({});
        for (meaning, value) in [(SHARING_KEY, key), (SHARING_NAMESPACES, namespaces)] {
            if let Some(value) = value {
                annotations[meaning.own] = json!(value);
            }
        }
        let service = json!({"metadata": {"name": "svc", "annotations": annotations}});
        read(&serde_json::from_value(service).unwrap(), &[])
    }

    #[test]
    fn terms_are_read_from_the_annotations() {
        let long = "k".repeat(KEY_LIMIT);
        for (key, namespaces, expected) in [
            (" web ", None, &[][..]),
            ("web", Some(" "), &[]),
            ("web", Some(" * "), &["*"]),
            ("web", Some("b , a,b"), &["a", "b"]),
            ("~!{}/", Some("a-1"), &["a-1"]),
            (&long, None, &[]),
        ] {
            let message = terms(Some(key), namespaces).unwrap().unwrap().message();
            assert_eq!(message.key, key.trim());
            assert_eq!(message.namespaces, expected, "{key:?} {namespaces:?}");
        }
        assert_eq!(terms(None, None), Ok(None));
        assert_eq!(terms(Some(" "), Some("")), Ok(None));
    }

    #[test]
    fn terms_that_cannot_be_read_are_refused() {
        let long_key = "k".repeat(KEY_LIMIT + 1);
        let long_name = "n".repeat(64);
        let many: Vec<_> = (0..=NAMESPACE_LIMIT).map(|i| format!("n{i}")).collect();
        for (key, namespaces, words) in [
            (None, Some("a"), "without lb-allocator.io/sharing-key"),
            (None, Some("*"), "without lb-allocator.io/sharing-key"),
            (Some("two words"), None, "lb-allocator.io/sharing-key"),
            (Some("schlüssel"), None, "printable"),
            (Some(&*long_key), None, "253"),
            (Some("web"), Some("a,,b"), "\"\" is not"),
            (Some("web"), Some("a,"), "\"\" is not"),
            (Some("web"), Some("*,a"), "\"*\" is not"),
            (Some("web"), Some("A"), "\"A\" is not"),
            (Some("web"), Some("-a"), "\"-a\" is not"),
            (Some("web"), Some("a-"), "\"a-\" is not"),
            (Some("web"), Some("a.b"), "\"a.b\" is not"),
            (Some("web"), Some(&*long_name), "is not"),
            (Some("web"), Some(&*many.join(",")), "1,000"),
        ] {
            let denial = terms(key, namespaces).unwrap_err();
            assert_eq!(denial.reason, "INVALID_REQUEST", "{key:?} {namespaces:?}");
            assert!(denial.message.contains(words), "{}", denial.message);
        }
    }
}
