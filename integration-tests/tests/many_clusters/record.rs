//! Every state that the Services of a namespace were ever in, as the API server
//! tells it: nothing that was there for a moment only is missed.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use integration_tests::{
    namespace::{Namespace, addresses},
    service::service,
};
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::task::JoinHandle;

const LAST: &str = "end-of-record";

/// A record that goes on until its end is asked for.
pub struct Record(JoinHandle<Story>);

/// Of each Service, by name and uid, what its status showed, one after the other.
pub type Story = BTreeMap<(String, String), Vec<Vec<String>>>;

impl Record {
    /// From now on.
    pub async fn of(ns: &Namespace) -> Self {
        let services = ns.services();
        let list = services.list(&ListParams::default()).await.unwrap();
        let version = list.metadata.resource_version.unwrap();
        let mut story = Story::new();
        for service in &list.items {
            note(&mut story, service);
        }
        Self(tokio::spawn(follow(services, version, story)))
    }

    /// Up to now.
    pub async fn end(self, ns: &Namespace) -> Story {
        ns.create(service(LAST).kind("ClusterIP")).await;
        let story = self.0.await.unwrap();
        ns.delete(LAST).await;
        story
    }
}

async fn follow(services: Api<Service>, version: String, mut story: Story) -> Story {
    let watched = services.watch(&WatchParams::default(), &version).await;
    let mut events = Box::pin(watched.unwrap());
    while let Some(event) = events.try_next().await.unwrap() {
        match event {
            WatchEvent::Added(service) if service.name_any() == LAST => return story,
            WatchEvent::Added(service) | WatchEvent::Modified(service) => {
                note(&mut story, &service);
            }
            WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(error) => panic!("{error}"),
        }
    }
    panic!("the API server ended the watch");
}

fn note(story: &mut Story, service: &Service) {
    let key = (service.name_any(), service.uid().unwrap());
    let shown = story.entry(key).or_default();
    let now = addresses(service);
    if shown.last() != Some(&now) {
        shown.push(now);
    }
}

/// What a Service of this name showed, without states in which it showed nothing.
pub fn shown(story: &Story, name: &str) -> Vec<Vec<String>> {
    let of_name = story.iter().filter(|((of, _), _)| of == name);
    let states = of_name.flat_map(|(_, states)| states);
    states.filter(|state| !state.is_empty()).cloned().collect()
}

/// Checks that no Service ever lost what it showed, and that no two of all these
/// clusters ever showed the same.
pub fn nobody_was_moved(stories: &[Story]) {
    let mut seen = BTreeSet::new();
    for ((name, _), states) in stories.iter().flatten() {
        let states: Vec<_> = states.iter().skip_while(|state| state.is_empty()).collect();
        assert!(states.len() <= 1, "{name} was moved: {states:?}");
        for address in states.into_iter().flatten() {
            assert!(seen.insert(address.clone()), "{name} shows {address} too");
        }
    }
}
