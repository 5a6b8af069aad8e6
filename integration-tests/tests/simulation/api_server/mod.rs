//! A simulated Kubernetes API server: as much of it as a watcher uses, served to a
//! real `kube::Client` without a connection in between. Every request is carried
//! out by a task of its own, whether or not the one who asked still waits.

mod answer;
pub mod objects;
mod patch;
mod watching;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body as RequestBody;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};

use self::{
    answer::{Body, Failure, cut_short, respond, streamed},
    objects::{Kind, Objects, WATCHER, shown},
};
use crate::{chaos::Chaos, showing::Showing};

/// After so long without an answer the watcher's client gives a connection up.
const READ_TIMEOUT: Duration = Duration::from_secs(70);

/// The API server of one cluster.
#[derive(Clone)]
pub struct ApiServer(Arc<Inner>);

struct Inner {
    cluster: String,
    /// Its own name, where another cluster has the same.
    label: String,
    /// The cluster of its Services, for those who look at what is shown.
    shown_as: String,
    chaos: Chaos,
    showing: Showing,
    state: Mutex<State>,
    /// Not a `watch` channel, which wakes in an order that no seed replays.
    news: Notify,
}

#[derive(Default)]
struct State {
    objects: Objects,
    away: bool,
    /// The cluster is no more.
    gone: bool,
    /// Rest of lists that are read page by page.
    pages: BTreeMap<u64, (u64, Vec<Value>)>,
    writes: u64,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Namespace => "PartialObjectMetadata",
        }
    }

    /// Of a namespace only the metadata is asked for.
    fn told(self, object: &Value) -> Value {
        match self {
            Self::Service => object.clone(),
            Self::Namespace => json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": object["metadata"],
            }),
        }
    }
}

impl ApiServer {
    pub fn new(
        cluster: &str,
        (label, shown_as): (&str, &str),
        namespaces: &[&str],
        chaos: Chaos,
        showing: Showing,
    ) -> Self {
        let server = Self(Arc::new(Inner {
            cluster: cluster.to_owned(),
            label: label.to_owned(),
            shown_as: shown_as.to_owned(),
            chaos,
            showing,
            state: Mutex::default(),
            news: Notify::new(),
        }));
        let uid = server.uid();
        server.change(|objects| objects.create_namespace("kube-system", &uid));
        for namespace in namespaces {
            let uid = format!("{namespace}-of-{label}");
            server.change(|objects| objects.create_namespace(namespace, &uid));
        }
        server
    }

    pub fn cluster(&self) -> &str {
        &self.0.cluster
    }

    /// What tells it from others of its name.
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// `metadata.uid` of its namespace `kube-system`.
    pub fn uid(&self) -> String {
        format!("uid-of-{}", self.0.label)
    }

    /// The cluster is no more, and shows nothing.
    pub fn end(&self) {
        let mut state = self.0.state.lock();
        state.away = true;
        state.gone = true;
        drop(state);
        self.0.news.notify_waiters();
    }

    fn chaos(&self) -> &Chaos {
        &self.0.chaos
    }

    pub fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request| server.clone().call(request));
        kube::Client::new(service, "default")
    }

    /// Looks at what is stored.
    pub fn objects<T>(&self, look: impl FnOnce(&Objects) -> T) -> T {
        look(&self.0.state.lock().objects)
    }

    /// Changes what is stored.
    pub fn change<T>(&self, change: impl FnOnce(&mut Objects) -> T) -> T {
        let mut state = self.0.state.lock();
        let changed = change(&mut state.objects);
        if !state.gone {
            for problem in self.0.showing.look(&self.0.shown_as, &state.objects) {
                self.chaos().violated(problem);
            }
        }
        drop(state);
        self.0.news.notify_waiters();
        changed
    }

    /// Away: nothing is answered, and watches break.
    pub fn set_away(&self, away: bool) {
        self.0.state.lock().away = away;
        self.0.news.notify_waiters();
    }

    /// Older versions are forgotten: watches from there have to list again.
    pub fn compact(&self) {
        self.change(|objects| objects.compacted = objects.version);
    }

    /// Status writes so far that watchers asked for.
    pub fn writes(&self) -> u64 {
        self.0.state.lock().writes
    }

    fn is_away(&self) -> bool {
        self.0.state.lock().away
    }

    /// Word of every change from now on.
    fn news(&self) -> &Notify {
        &self.0.news
    }

    async fn call(self, request: Request<RequestBody>) -> io::Result<Response<Body>> {
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            if let Some(response) = self.serve(request).await {
                let _ = answer.send(response);
            }
        });
        let refused = |_| io::Error::from(io::ErrorKind::ConnectionReset);
        answered.await.map_err(refused)?
    }

    /// The answer; without one the connection breaks.
    async fn serve(&self, request: Request<RequestBody>) -> Option<io::Result<Response<Body>>> {
        let chaos = self.chaos();
        chaos.travel().await;
        if self.is_away() || chaos.strikes("API request lost", |rates| rates.request_lost) {
            return None;
        }
        if chaos.strikes("API refused", |rates| rates.api_refuses) {
            let code = crate::chaos::pick(&[429, 500, 503, 504]);
            return Some(Ok(
                Failure::new(code, "ServerTimeout", "simulated").response()
            ));
        }
        let (parts, body) = request.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let query: BTreeMap<String, String> = parts.uri.query().map(pairs).unwrap_or_default();
        let response = self.route(&parts.method, parts.uri.path(), &query, &body);
        let streams = query.contains_key("watch");
        chaos.travel().await;
        if chaos.strikes("API answer lost", |rates| rates.answer_lost) {
            if fastrand::bool() && !streams {
                tokio::time::sleep(READ_TIMEOUT).await;
            }
            return None;
        }
        Some(Ok(response))
    }

    fn route(
        &self,
        method: &Method,
        path: &str,
        query: &BTreeMap<String, String>,
        body: &Value,
    ) -> Response<Body> {
        let steps: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (method, steps.as_slice()) {
            (&Method::GET, ["api", "v1", "services"]) => self.read(Kind::Service, query),
            (&Method::GET, ["api", "v1", "namespaces"]) => self.read(Kind::Namespace, query),
            (&Method::GET, ["api", "v1", "namespaces", namespace, "services", name]) => {
                let key = ((*namespace).to_owned(), (*name).to_owned());
                let found = self.objects(|objects| objects.services.get(&key).cloned());
                match found {
                    Some(stored) => respond(200, &stored.object),
                    None => Failure::new(404, "NotFound", "no such Service").response(),
                }
            }
            (
                &Method::PATCH,
                [
                    "api",
                    "v1",
                    "namespaces",
                    namespace,
                    "services",
                    name,
                    "status",
                ],
            ) => self.patch(&((*namespace).to_owned(), (*name).to_owned()), query, body),
            (&Method::POST, ["apis", "events.k8s.io", "v1", "namespaces", _, "events"]) => {
                respond(201, body)
            }
            _ => panic!("the watcher asks what is not simulated: {method} {path}"),
        }
    }

    fn patch(
        &self,
        key: &objects::Key,
        query: &BTreeMap<String, String>,
        body: &Value,
    ) -> Response<Body> {
        let manager = query.get("fieldManager").map_or("", String::as_str);
        let cluster = self.label();
        let (namespace, name) = key;
        let uid = body["metadata"]["uid"].as_str().unwrap_or_default();
        let before = self.objects(|objects| objects.services.get(key).cloned());
        let now = self.chaos().time();
        let written = self.change(|objects| objects.patch_status(key, manager, body, &now));
        match written {
            Ok(object) => {
                self.0.state.lock().writes += 1;
                let after = shown(&object);
                let reason = &object["status"]["conditions"][0]["reason"];
                self.chaos().note(format_args!(
                    "{cluster}: {namespace}/{name} {uid} shows {after:?} {reason}"
                ));
                let promised = before.and_then(|before| before.promised);
                let checked = manager == WATCHER;
                let place = (self.0.shown_as.clone(), namespace.clone(), name.clone());
                let is_lost = |had: BTreeSet<IpAddr>| {
                    let new = after.difference(&had);
                    !had.is_subset(&after) && !self.0.showing.is_handed_to(&place, new)
                };
                if checked && promised.is_some_and(is_lost) {
                    self.chaos().violated(format_args!(
                        "{cluster}/{namespace}/{name} {uid} loses an address that it had, and \
                         nobody asked for another: it shows {after:?} now"
                    ));
                }
                respond(200, &object)
            }
            Err(failure) => {
                self.chaos().note(format_args!(
                    "{cluster}: {namespace}/{name} {uid} is not written: {}",
                    failure.status()["message"]
                ));
                failure.response()
            }
        }
    }

    fn read(&self, kind: Kind, query: &BTreeMap<String, String>) -> Response<Body> {
        let number = |name: &str| query.get(name).and_then(|text| text.parse::<u64>().ok());
        let version = number("resourceVersion").unwrap_or_default();
        if kind == Kind::Service {
            let what = if query.contains_key("watch") {
                "watch"
            } else {
                "list"
            };
            self.chaos()
                .note(format_args!("{}: {what} from {version}", self.label()));
        }
        if query.contains_key("watch") {
            // One from a version that is forgotten is told so by an event, as the
            // real one does it.
            let lifetime = Duration::from_secs(number("timeoutSeconds").unwrap_or(60));
            return streamed(watching::watch(self, kind, version, lifetime));
        }
        let page = match number("continue") {
            None => {
                let first = self.objects(|objects| (objects.version, objects.all(kind)));
                Some(first)
            }
            Some(token) => self.0.state.lock().pages.remove(&token),
        };
        let Some((version, mut items)) = page else {
            return Failure::gone().response();
        };
        let chaos = self.chaos();
        let cut = chaos.strikes("list cut", |rates| rates.list_cut);
        let mut token = String::new();
        if chaos.rates().list_cut > 0.0 && items.len() > 1 {
            let rest = items.split_off(fastrand::usize(1..items.len()));
            let mut state = self.0.state.lock();
            let next = state.pages.last_key_value().map_or(1, |(last, _)| last + 1);
            state.pages.insert(next, (version, rest));
            token = next.to_string();
        }
        let items: Vec<_> = items.iter().map(|item| kind.told(item)).collect();
        let list = json!({
            "apiVersion": "v1", "kind": format!("{}List", kind.name()),
            "metadata": {"resourceVersion": version.to_string(), "continue": token},
            "items": items,
        });
        if cut {
            return cut_short(&list);
        }
        respond(200, &list)
    }
}

impl Objects {
    fn all(&self, kind: Kind) -> Vec<Value> {
        match kind {
            Kind::Service => {
                let services = self.services.values();
                services.map(|stored| stored.object.clone()).collect()
            }
            Kind::Namespace => self.namespaces.values().cloned().collect(),
        }
    }
}

/// The parameters of a query; none that is looked at has anything to decode.
fn pairs(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
