//! What a Service's status should say, how that differs from what it says, and the
//! body of the one write that mends it. Pure.

pub mod grant;

use std::{borrow::Cow, net::IpAddr};

use k8s_openapi::{
    api::core::v1::LoadBalancerIngress,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    denial::Denial,
    excerpt::{self, CONDITION_MESSAGE},
    kube::service::{CONDITION, Service},
    request::{join, parse_address},
    status::grant::Grant,
};

/// The field manager of everything we write.
pub const MANAGER: &str = "lb-watcher";
/// `ipMode`: the nodes take the address for their own.
const MODE: &str = "VIP";

/// What our condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `status`: True or False.
    pub satisfied: bool,
    /// `reason`.
    pub reason: Cow<'static, str>,
    /// `message`, for people. Stable: no counts, no times.
    pub message: String,
}

/// What a status should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Exactly these addresses; `None` leaves the list as it is.
    pub addresses: Option<Vec<IpAddr>>,
    /// The addresses that are ours are to go.
    pub withdrawn: bool,
    /// Our condition.
    pub verdict: Verdict,
}

impl Desired {
    /// For a Service that holds addresses. `denial` is what of the Service could
    /// not be read as a request.
    pub fn granted(grant: &Grant, denial: Option<&Denial>) -> Self {
        let verdict = match denial {
            None => Verdict::new(grant.satisfied, grant.reason.clone(), grant.message.clone()),
            Some(denial) => {
                let kept = join(&grant.addresses);
                let message = format!("keeps {kept}: {}", denial.message);
                Verdict::new(false, denial.reason.clone(), message)
            }
        };
        Self {
            addresses: Some(grant.addresses.clone()),
            withdrawn: false,
            verdict,
        }
    }

    /// For a Service that gets nothing.
    pub fn refused(denial: &Denial) -> Self {
        let message = denial.message.clone();
        Self {
            addresses: None,
            withdrawn: denial.takes_off,
            verdict: Verdict::new(false, denial.reason.clone(), message),
        }
    }
}

impl Verdict {
    fn new(satisfied: bool, reason: impl Into<Cow<'static, str>>, message: String) -> Self {
        Self {
            satisfied,
            reason: reason.into(),
            message: excerpt::cut(message, CONDITION_MESSAGE),
        }
    }

    /// Whether a condition says just this.
    pub fn is_said_by(&self, condition: &Condition) -> bool {
        condition.status == self.status()
            && condition.reason == self.reason
            && condition.message == self.message
    }

    fn status(&self) -> &'static str {
        if self.satisfied { "True" } else { "False" }
    }
}

/// Our condition as the object has it.
pub fn condition(service: &Service) -> Option<&Condition> {
    let conditions = service.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == CONDITION)
}

/// Whether our condition says that all is well.
pub fn says_satisfied(service: &Service) -> bool {
    condition(service).is_some_and(|c| c.status == "True")
}

fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|lb| lb.ingress.as_deref())
        .unwrap_or_default()
}

/// The addresses that the status shows, in canonical form.
pub fn shown(service: &Service) -> Vec<IpAddr> {
    ingress(service)
        .iter()
        .filter_map(|entry| parse_address(entry.ip.as_deref()?))
        .collect()
}

/// Whether the address list is (also) ours, as the API server keeps account.
pub fn owns_addresses(service: &Service) -> bool {
    service.list_owners.iter().any(|owner| owner == MANAGER)
}

/// Which other field managers wrote the address list. One that is empty is nobody's: the
/// API server empties it when the type changes, and leaves the owners as they were.
pub fn other_owners(service: &Service) -> Option<String> {
    if ingress(service).is_empty() {
        return None;
    }
    let owners = service.list_owners.iter().map(String::as_str);
    let mut others: Vec<_> = owners.filter(|owner| *owner != MANAGER).collect();
    others.sort_unstable();
    others.dedup();
    (!others.is_empty()).then(|| excerpt::list(&others))
}

/// Whether the list shows exactly these addresses, each as one that a node takes
/// traffic for. An API server older than 1.29 drops the mode, and means the same by
/// that. What has no address, a host name, is somebody else's and may stand beside them.
pub fn shows(service: &Service, addresses: &[IpAddr]) -> bool {
    let shown = ingress(service).iter().filter(|entry| entry.ip.is_some());
    let with_mode = shown.cloned().map(|mut entry| {
        entry.ip_mode.get_or_insert_with(|| MODE.into());
        entry
    });
    with_mode.eq(addresses.iter().map(entry))
}

/// What stands beside our addresses, and stays: host names.
fn beside(service: &Service) -> Vec<LoadBalancerIngress> {
    let list = ingress(service);
    if list.iter().all(|entry| entry.ip.is_none()) {
        return Vec::new();
    }
    let nameless = list.iter().filter(|entry| entry.ip.is_none());
    nameless.cloned().collect()
}

/// The body of the strategic merge patch that makes the status say what it should, or
/// nothing where it says so already.
pub fn patch(service: &Service, desired: &Desired, now: Timestamp) -> Option<Value> {
    let list = match &desired.addresses {
        Some(addresses) => (!shows(service, addresses)).then(|| {
            let wanted = addresses.iter().map(entry).chain(beside(service));
            json!(wanted.collect::<Vec<_>>())
        }),
        None => withdraws(service, desired).then(|| emptied(service)),
    };
    let verdict = &desired.verdict;
    let before = condition(service);
    let same_words = before.is_some_and(|c| verdict.is_said_by(c));
    if list.is_none() && same_words {
        return None;
    }
    let since = before
        .filter(|c| c.status == verdict.status())
        .map_or(Time(now), |c| c.last_transition_time.clone());
    let condition = json!({
        "type": CONDITION,
        "status": verdict.status(),
        "reason": verdict.reason,
        "message": verdict.message,
        "lastTransitionTime": since,
    });
    Some(body(service, condition, list))
}

/// The list without our addresses.
fn emptied(service: &Service) -> Value {
    let rest = beside(service);
    if rest.is_empty() {
        Value::Null
    } else {
        json!(rest)
    }
}

/// Leaves the condition out of a patch: what it says is not true yet.
pub fn without_condition(body: &mut Value) {
    if let Some(status) = body["status"].as_object_mut() {
        status.remove("conditions");
    }
}

/// Whether a patch changes the address list.
pub fn changes_addresses(body: &Value) -> bool {
    !body["status"]["loadBalancer"].is_null()
}

/// Whether addresses of ours go.
fn withdraws(service: &Service, desired: &Desired) -> bool {
    desired.withdrawn && may_empty(service)
}

/// Whether there are addresses, and the list is ours alone.
fn may_empty(service: &Service) -> bool {
    !shown(service).is_empty() && owns_addresses(service) && other_owners(service).is_none()
}

/// The body of the strategic merge patch that takes back all we ever wrote.
pub fn withdrawal(service: &Service) -> Value {
    let condition = json!({"type": CONDITION, "$patch": "delete"});
    let list = may_empty(service).then(|| emptied(service));
    body(service, condition, list)
}

/// The uid makes the API server refuse to write to a Service that was created
/// again under the same name; the version, to one that changed since we looked at
/// it, as when another replica has taken over.
fn body(service: &Service, condition: Value, list: Option<Value>) -> Value {
    let mut metadata = json!({"uid": service.uid()});
    if let Some(version) = service.resource_version() {
        metadata["resourceVersion"] = version.into();
    }
    let mut status = json!({"conditions": [condition]});
    if let Some(list) = list {
        status["loadBalancer"] = json!({"ingress": list});
    }
    json!({"metadata": metadata, "status": status})
}

/// The mode is written out although it is the default: that is how it is stored.
fn entry(address: &IpAddr) -> LoadBalancerIngress {
    LoadBalancerIngress {
        ip: Some(address.to_string()),
        ip_mode: Some(MODE.into()),
        ..LoadBalancerIngress::default()
    }
}

/// Something that people are told, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// It got its first addresses.
    Assigned(Vec<IpAddr>),
    /// It has other addresses than before.
    Changed {
        /// What it had.
        from: Vec<IpAddr>,
        /// What it has.
        to: Vec<IpAddr>,
    },
    /// What it had was taken back.
    Released(Vec<IpAddr>),
    /// Something it asks for is refused, for this reason and in these words.
    Failed {
        /// As in the condition.
        reason: String,
        /// As in the condition.
        message: String,
        /// Whether it holds an address all the same.
        holding: bool,
    },
}

/// What is news in a status, compared with what the object says. `published` are
/// the addresses that this process has seen in place before: putting them back
/// where somebody edited them away is none.
pub fn transitions(before: &Service, desired: &Desired, published: &[IpAddr]) -> Vec<Transition> {
    let mut transitions = Vec::new();
    let from = shown(before);
    let was = condition(before);
    if let Some(to) = &desired.addresses {
        let restored = published == to;
        let first = from.is_empty() || (from == *to && was.is_none());
        if first && !restored {
            transitions.push(Transition::Assigned(to.clone()));
        } else if from != *to && !restored {
            transitions.push(Transition::Changed {
                from: from.clone(),
                to: to.clone(),
            });
        }
    }
    if withdraws(before, desired) {
        transitions.push(Transition::Released(from));
    }
    let verdict = &desired.verdict;
    let known = was.is_some_and(|c| c.status == "False" && c.reason == verdict.reason);
    if !verdict.satisfied && !known {
        transitions.push(Transition::Failed {
            reason: verdict.reason.to_string(),
            message: verdict.message.clone(),
            holding: desired.addresses.is_some(),
        });
    }
    transitions
}

impl Transition {
    /// In words, for an Event.
    pub fn note(&self) -> String {
        match self {
            Self::Assigned(addresses) => format!("assigned {}", join(addresses)),
            Self::Changed { from, to } => format!("changed from {} to {}", join(from), join(to)),
            Self::Released(addresses) => format!("released {}", join(addresses)),
            Self::Failed {
                reason, message, ..
            } => format!("{reason}: {message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denial::{Reason, Retry};

    const NOW: &str = "2026-01-02T03:04:05Z";

    fn service(status: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "svc", "namespace": "ns", "uid": "u-1"},
            "status": status,
        }))
        .unwrap()
    }

    fn owned(mut service: Service) -> Service {
        service.list_owners = vec![MANAGER.into()];
        service
    }

    fn ours(status: &str, reason: &str, message: &str) -> Value {
        json!({
            "type": CONDITION, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    }

    fn vip(ip: &str) -> Value {
        json!({"ip": ip, "ipMode": "VIP"})
    }

    fn grant(addresses: &[&str]) -> Grant {
        Grant {
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            satisfied: true,
            reason: "Satisfied".into(),
            message: format!("{} from pool red", addresses.join(",")),
            retry: Retry::AfterEdit,
        }
    }

    fn granted(addresses: &[&str]) -> Desired {
        Desired::granted(&grant(addresses), None)
    }

    fn exhausted() -> Denial {
        Denial {
            reason: "POOL_EXHAUSTED".into(),
            message: "pool red is full; it is served as soon as an address is free".into(),
            retry: Retry::OnNotice,
            transient: false,
            takes_off: false,
        }
    }

    fn lost() -> Desired {
        Desired::refused(&Denial {
            takes_off: true,
            ..exhausted()
        })
    }

    fn write(service: &Service, desired: &Desired) -> Option<Value> {
        patch(service, desired, NOW.parse().unwrap())
    }

    #[test]
    fn a_fresh_service_gets_addresses_and_condition_in_one_write_guarded_by_its_uid() {
        let body = write(&service(json!({})), &granted(&["192.0.2.1", "2001:db8::1"])).unwrap();
        assert_eq!(
            body,
            json!({
                "metadata": {"uid": "u-1"},
                "status": {
                    "loadBalancer": {"ingress": [vip("192.0.2.1"), vip("2001:db8::1")]},
                    "conditions": [{
                        "type": CONDITION, "status": "True", "reason": "Satisfied",
                        "message": "192.0.2.1,2001:db8::1 from pool red",
                        "lastTransitionTime": NOW,
                    }],
                },
            })
        );
    }

    #[test]
    fn a_status_that_says_what_it_should_is_not_written() {
        let desired = granted(&["192.0.2.1"]);
        let right = json!({
            "loadBalancer": {"ingress": [vip("192.0.2.1")]},
            "conditions": [ours("True", "Satisfied", "192.0.2.1 from pool red")],
        });
        assert_eq!(write(&service(right.clone()), &desired), None);
        assert_eq!(transitions(&service(right), &desired, &[]), []);

        let told = Desired::refused(&exhausted());
        let waiting =
            json!({"conditions": [ours("False", "POOL_EXHAUSTED", &exhausted().message)]});
        assert_eq!(write(&service(waiting.clone()), &told), None);
        assert_eq!(transitions(&service(waiting), &told, &[]), []);
    }

    #[test]
    fn anything_else_is_written_over() {
        let desired = granted(&["192.0.2.1"]);
        let well = ours("True", "Satisfied", "192.0.2.1 from pool red");
        for wrong in [
            json!({"conditions": [well]}),
            json!({"conditions": [well], "loadBalancer": {"ingress": [vip("192.0.2.9")]}}),
            json!({"conditions": [well], "loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "Proxy"}]}}),
            json!({"conditions": [well], "loadBalancer": {"ingress": [vip("192.0.2.1"), vip("192.0.2.2")]}}),
            json!({"conditions": [well], "loadBalancer": {"ingress": [{"hostname": "a.example"}]}}),
        ] {
            let body = write(&service(wrong), &desired).unwrap();
            assert_eq!(
                body["status"]["loadBalancer"]["ingress"],
                json!([vip("192.0.2.1")])
            );
        }
    }

    #[test]
    fn a_status_of_an_api_server_that_keeps_no_mode_is_not_written_again() {
        let right = json!({
            "loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]},
            "conditions": [ours("True", "Satisfied", "192.0.2.1 from pool red")],
        });
        assert_eq!(write(&service(right), &granted(&["192.0.2.1"])), None);
    }

    #[test]
    fn a_host_name_beside_our_address_stays_when_that_is_right_moves_and_goes() {
        let host = json!({"hostname": "a.example"});
        let well = ours("True", "Satisfied", "192.0.2.1 from pool red");
        let both = json!({"ingress": [host, vip("192.0.2.1")]});
        let shows = service(json!({"conditions": [well], "loadBalancer": both}));
        assert_eq!(write(&shows, &granted(&["192.0.2.1"])), None);
        let list = |body: Value| body["status"]["loadBalancer"]["ingress"].clone();
        let moved = write(&shows, &granted(&["192.0.2.2"])).unwrap();
        assert_eq!(list(moved), json!([vip("192.0.2.2"), host]));
        let lost = write(&owned(shows.clone()), &lost()).unwrap();
        assert_eq!(list(lost), json!([host]));
        assert_eq!(list(withdrawal(&owned(shows))), json!([host]));
    }

    #[test]
    fn an_empty_list_belongs_to_nobody_whoever_wrote_it_last() {
        let mut shows = owned(service(
            json!({"loadBalancer": {"ingress": [vip("192.0.2.1")]}}),
        ));
        shows.list_owners = vec!["uninstalled".into()];
        assert_eq!(other_owners(&shows).as_deref(), Some("uninstalled"));
        shows.status = None;
        assert_eq!(other_owners(&shows), None);
    }

    #[test]
    fn a_message_fits_a_condition_however_long_the_allocators_words_are() {
        let denial = Denial::new(Reason::InvalidRequest, "ä".repeat(40_000));
        for desired in [
            Desired::refused(&denial),
            Desired::granted(&grant(&["192.0.2.1"]), Some(&denial)),
        ] {
            let message = desired.verdict.message;
            assert!(message.len() <= CONDITION_MESSAGE && message.ends_with('…'));
        }
    }

    #[test]
    fn a_list_that_is_right_is_not_part_of_the_write() {
        let shows = service(json!({"loadBalancer": {"ingress": [vip("192.0.2.1")]}}));
        let body = write(&shows, &granted(&["192.0.2.1"])).unwrap();
        assert!(!changes_addresses(&body), "{body}");
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let pending = service(json!({"conditions": [ours("False", "NO_POOL", "no pool")]}));
        let still = write(&pending, &Desired::refused(&exhausted())).unwrap();
        let served = write(&pending, &granted(&["192.0.2.1"])).unwrap();
        let time = |body: &Value| body["status"]["conditions"][0]["lastTransitionTime"].clone();
        assert_eq!(time(&still), "2026-01-01T00:00:00Z");
        assert_eq!(time(&served), NOW);
    }

    #[test]
    fn a_refusal_keeps_addresses_that_are_ours_and_never_claims_foreign_ones() {
        let shows = service(json!({"loadBalancer": {"ingress": [vip("198.51.100.7")]}}));
        let refused = Desired::refused(&exhausted());
        let body = write(&shows, &refused).unwrap();
        assert_eq!(body["status"]["loadBalancer"], Value::Null);
        let body = write(&owned(shows), &refused).unwrap();
        assert!(!changes_addresses(&body), "{body}");
    }

    #[test]
    fn a_service_that_lost_its_address_shows_it_no_more_and_says_why() {
        let well = ours("True", "Satisfied", "192.0.2.1 from pool red");
        let shows = json!({"conditions": [well], "loadBalancer": {"ingress": [vip("192.0.2.1")]}});
        let lost = lost();
        let holder = owned(service(shows.clone()));
        let body = write(&holder, &lost).unwrap();
        assert_eq!(body["status"]["loadBalancer"], json!({"ingress": null}));
        assert_eq!(body["status"]["conditions"][0]["status"], "False");
        let found = transitions(&holder, &lost, &["192.0.2.1".parse().unwrap()]);
        assert!(
            matches!(&found[..], [Transition::Released(had), Transition::Failed { holding: false, .. }] if had.len() == 1)
        );

        // The condition was written while the list could not be.
        let told = ours("False", "POOL_EXHAUSTED", &exhausted().message);
        let half = json!({"conditions": [told], "loadBalancer": {"ingress": [vip("192.0.2.1")]}});
        assert!(write(&owned(service(half.clone())), &lost).is_some());
        assert_eq!(write(&service(half), &lost), None, "somebody else's");
        let done = service(json!({"conditions": [told]}));
        assert_eq!(write(&owned(done.clone()), &lost), None);
        assert_eq!(transitions(&done, &lost, &[]), []);
    }

    #[test]
    fn a_list_that_somebody_else_wrote_as_well_is_not_emptied_and_its_writer_is_named() {
        let shows = json!({"loadBalancer": {"ingress": [vip("192.0.2.1")]}});
        let mut shared = owned(service(shows));
        assert_eq!(other_owners(&shared), None);
        shared.list_owners.extend(["speaker".into(), "a".into()]);
        assert_eq!(other_owners(&shared).as_deref(), Some("a, speaker"));
        let body = write(&shared, &lost()).unwrap();
        assert!(!changes_addresses(&body), "{body}");
        let body = withdrawal(&shared);
        assert!(!changes_addresses(&body), "{body}");
        assert_eq!(body["status"]["conditions"][0]["$patch"], "delete");
    }

    #[test]
    fn what_could_not_be_granted_to_a_holder_is_told_beside_what_it_keeps() {
        let part = Grant {
            satisfied: false,
            reason: "OF_TOMORROW".into(),
            message: "keeps 192.0.2.1 from pool red: pool blue is full".into(),
            ..grant(&["192.0.2.1"])
        };
        let demands = Desired::granted(&part, None);
        assert_eq!(demands.addresses.as_ref(), Some(&part.addresses));
        assert_eq!(demands.verdict.message, part.message);
        assert_eq!(
            (demands.verdict.satisfied, &*demands.verdict.reason),
            (false, "OF_TOMORROW")
        );

        let unreadable = Denial::new(Reason::InvalidRequest, "bad");
        let verdict = Desired::granted(&grant(&["192.0.2.1"]), Some(&unreadable)).verdict;
        assert_eq!(
            (verdict.satisfied, &*verdict.reason),
            (false, "INVALID_REQUEST")
        );
        assert!(verdict.message.starts_with("keeps 192.0.2.1: bad; "));
    }

    #[test]
    fn people_are_told_of_news_once() {
        let ip = |text: &str| vec![text.parse::<IpAddr>().unwrap()];
        let well = ours("True", "Satisfied", "192.0.2.1 from pool red");
        let holds = json!({"conditions": [well], "loadBalancer": {"ingress": [vip("192.0.2.1")]}});
        let adopted = json!({"loadBalancer": {"ingress": [vip("192.0.2.1")]}});
        let assigned = vec![Transition::Assigned(ip("192.0.2.1"))];
        let changed = vec![Transition::Changed {
            from: ip("192.0.2.1"),
            to: ip("192.0.2.2"),
        }];
        for (before, want, published, news) in [
            (json!({}), "192.0.2.1", vec![], assigned.clone()),
            (adopted, "192.0.2.1", vec![], assigned),
            (holds.clone(), "192.0.2.1", vec![], vec![]),
            (holds.clone(), "192.0.2.2", ip("192.0.2.1"), changed.clone()),
            (holds.clone(), "192.0.2.2", vec![], changed),
            (holds, "192.0.2.2", ip("192.0.2.2"), vec![]),
            (json!({}), "192.0.2.1", ip("192.0.2.1"), vec![]),
        ] {
            let before = service(before);
            assert_eq!(transitions(&before, &granted(&[want]), &published), news);
        }
        let found = transitions(&service(json!({})), &Desired::refused(&exhausted()), &[]);
        assert!(matches!(
            &found[..],
            [Transition::Failed { holding: false, .. }]
        ));
    }
}
