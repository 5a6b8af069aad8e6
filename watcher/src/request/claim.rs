//! What a Service has, told so that the allocator can read it, however little of what
//! the Service asks for makes sense. Pure.

use std::net::IpAddr;

use lb_proto::v1;
use prost::Message;

use crate::request::Family;

/// Of one message; the allocator takes 256 KiB.
pub const MESSAGE_BYTES: usize = 200 * 1024;
/// Of a wish, which leaves room for the Service's name.
const WISH_BYTES: usize = MESSAGE_BYTES - 4 * 1024;

/// Leaves out labels that are not known.
pub fn without_labels(wish: &mut v1::Wish) {
    wish.service_labels.clear();
    wish.namespace_labels.clear();
}

/// Makes a wish of what a Service `has` one that the allocator reads.
pub fn fit(wish: &mut v1::Wish, has: &[IpAddr]) {
    for address in has {
        let family = i32::from(v1::IpFamily::from(Family::of(address)));
        // A Service without families is about to get them.
        if wish.families.len() < 2 && !wish.families.contains(&family) {
            wish.families.push(family);
        }
    }
    // Policy and families contradict each other while the API server fills them in.
    let both = wish.families.len() == 2;
    let fits = match wish.ip_family_policy() {
        v1::IpFamilyPolicy::Unspecified | v1::IpFamilyPolicy::SingleStack => !both,
        v1::IpFamilyPolicy::RequireDualStack => both,
        v1::IpFamilyPolicy::PreferDualStack => true,
    };
    if !fits {
        wish.set_ip_family_policy(v1::IpFamilyPolicy::PreferDualStack);
    }
    if wish.encoded_len() > WISH_BYTES {
        without_labels(wish);
    }
    if wish.encoded_len() > WISH_BYTES {
        wish.ports.clear();
        wish.selector.clear();
        // Whom it could share with is not known without them.
        wish.sharing = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has() -> Vec<IpAddr> {
        vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]
    }

    #[test]
    fn whatever_is_too_large_what_a_service_has_is_told() {
        let entries = |count: usize, length: usize| {
            let entry = move |number| (format!("{number:0length$}"), "v".repeat(63));
            (0..count).map(entry)
        };
        for (labels, selector, keeps, shares) in [
            (3, 3, true, true),
            (1000, 3, false, true),
            (3, 1000, false, false),
        ] {
            let mut wish = v1::Wish {
                service_labels: entries(labels, 300).collect(),
                selector: entries(selector, 300).collect(),
                current_addresses: has().iter().map(IpAddr::to_string).collect(),
                sharing: Some(v1::Sharing::default()),
                ..v1::Wish::default()
            };
            fit(&mut wish, &has());
            assert_eq!(wish.current_addresses, ["192.0.2.1", "2001:db8::1"]);
            assert!(wish.encoded_len() <= WISH_BYTES);
            let told = (!wish.service_labels.is_empty(), wish.sharing.is_some());
            assert_eq!(told, (keeps, shares));
        }
    }

    #[test]
    fn families_and_policy_never_keep_the_allocator_from_reading_what_a_service_has() {
        use v1::IpFamilyPolicy::{PreferDualStack, RequireDualStack, SingleStack};
        for (families, policy, has, expected) in [
            (vec![], SingleStack, &has()[..1], SingleStack),
            (vec![], SingleStack, &has()[..], PreferDualStack),
            (vec![1], SingleStack, &has()[..1], SingleStack),
            (vec![1], RequireDualStack, &has()[..1], PreferDualStack),
            (vec![2, 1], RequireDualStack, &has()[..1], RequireDualStack),
        ] {
            let mut wish = v1::Wish {
                families: families.clone(),
                ip_family_policy: policy.into(),
                ..v1::Wish::default()
            };
            fit(&mut wish, has);
            assert!(wish.families.len() >= has.len());
            assert!(wish.families.starts_with(&families));
            assert_eq!(wish.ip_family_policy(), expected, "{families:?} {policy:?}");
        }
    }
}
