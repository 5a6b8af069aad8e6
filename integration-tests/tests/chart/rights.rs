//! The watcher's account may do what the watcher does, and nothing else: real
//! replicas run with it and with the certificates that the chart made.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use integration_tests::{
    account::{Account, kubeconfig_of},
    allocator::{Allocator, Options as AllocatorOptions, run},
    control_plane::ControlPlane,
    eventually::{DEADLINE, eventually},
    service::service,
    site::random_class,
    watcher::{Options, Watcher},
};
use lb_tls::files::Files;
use serde_json::{Value, json};

use crate::{
    commands::{Commands, path, values},
    install::Installed,
};

/// Resource and verbs.
type Right = (&'static str, &'static [&'static str]);

const RIGHTS: [Right; 4] = [
    ("services", &["list", "watch"]),
    ("services/status", &["patch"]),
    ("namespaces", &["list", "watch"]),
    ("events.events.k8s.io", &["create"]),
];

/// As `kubectl auth can-i --list` shows them.
fn lines(rights: &[Right]) -> BTreeSet<String> {
    let line = |(resource, verbs): &Right| format!("{resource} [] [] [{}]", verbs.join(" "));
    rights.iter().map(line).collect()
}

/// What an account may do in a namespace, beyond what everybody may.
fn rights(commands: &Commands, account: &str, nobody: &str, namespace: &str) -> BTreeSet<String> {
    let listed = |account: &str| -> BTreeSet<String> {
        let who = format!("--as=system:serviceaccount:{account}");
        let told = commands.kubectl(&["auth", "can-i", "--list", &who, "-n", namespace], "");
        let lines = told.lines().map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.join(" ")
        });
        lines.collect()
    };
    listed(account)
        .difference(&listed(nobody))
        .cloned()
        .collect()
}

/// Requests of an account by resource and verb, and all those that were forbidden.
fn requests(audit_log: &Path, account: &str) -> (BTreeSet<(String, String)>, Vec<Value>) {
    let user = format!("system:serviceaccount:{account}");
    let log = fs::read_to_string(audit_log).unwrap();
    let entries = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let mine: Vec<Value> = entries
        .filter(|entry: &Value| entry["user"]["username"] == user)
        .collect();
    let asked = mine.iter().filter(|entry| entry["objectRef"].is_object());
    let asked = asked.map(|entry| {
        let text = |key: &str| entry["objectRef"][key].as_str();
        let mut resource = text("resource").unwrap().to_owned();
        if let Some(group) = text("apiGroup") {
            resource += &format!(".{group}");
        }
        if let Some(part) = text("subresource") {
            resource += &format!("/{part}");
        }
        (resource, entry["verb"].as_str().unwrap().to_owned())
    });
    let asked = asked.collect();
    let refused = |entry: &Value| entry["responseStatus"]["code"] == json!(403);
    (asked, mine.into_iter().filter(refused).collect())
}

async fn is(watcher: &Watcher, role: &str) {
    let admin = watcher.admin();
    eventually(
        DEADLINE,
        format!("a watcher is {role}"),
        async || match admin.get("/readyz?verbose").await {
            Ok(page) if page.contains(role) => Ok(()),
            page => Err(format!("{page:?}")),
        },
    )
    .await;
}

#[tokio::test]
async fn the_watcher_uses_each_of_its_rights_and_needs_no_other() {
    let control_plane = ControlPlane::shared().await;
    let commands = Commands::on(control_plane);
    let class = random_class();
    let set = format!("watcher.loadBalancerClass={class}");
    let more = ["--values", &values("generated"), "--set", &set];
    let installed = Installed::new(&commands, &more);
    let Installed { namespace, release } = &installed;
    let account = format!("{namespace}:{release}-watcher");

    let nobody = Account::new(control_plane, namespace).await.unwrap();
    let nobody = format!("{namespace}:{}", nobody.name());
    let role = format!("{release}-watcher");
    for place in ["default", namespace] {
        assert_eq!(rights(&commands, &account, &nobody, place), lines(&RIGHTS));
    }

    let pools = "pools: [{name: web, addresses: [192.0.2.1], \
                 namespaceSelector: {matchLabels: {tier: web}}}]";
    let server = installed.files(&commands, "allocator-tls");
    let options = AllocatorOptions::config(pools).tls(server.files());
    let allocator = Allocator::start(options.arg("--client-identity=common-name")).await;
    let client = installed.files(&commands, "watcher-tls");
    let watcher = kubeconfig_of(control_plane, namespace, &role)
        .await
        .unwrap();
    let options = Options::cluster("prod-eu")
        .class(&class)
        .tls(client.files())
        .kubeconfig(watcher);
    let mut first = Watcher::start(control_plane, &allocator.url(), options.clone()).await;
    is(&first, "session acting").await;
    let mut second = Watcher::start(control_plane, &allocator.url(), options).await;
    is(&second, "session standby").await;

    let admin = installed.files(&commands, "admin-tls");
    let Files { cert, key, ca } = admin.files();
    let url = allocator.url().replace("127.0.0.1", "localhost");
    let routes = ["routes", "--allocator", &url, "--tls-cert", path(&cert)];
    let routes = [
        &routes[..],
        &["--tls-key", path(&key), "--server-ca", path(&ca)],
    ]
    .concat();
    let (status, out, errors) = run(&routes, &[]).await;
    assert!(status.success(), "{out}{errors}");

    let ns = control_plane.namespace().await;
    let service = |name: &str| service(name).class(&class);
    ns.create(service("a")).await;
    ns.is_pending("a", "NO_POOL").await;
    ns.label("tier", "web").await;
    ns.gets("a", ["192.0.2.1"]).await;
    ns.delete("a").await;
    let told = ["AllocationFailed", "AddressAssigned", "AddressReleased"];
    ns.was_told("a", told).await;
    first.terminate(Duration::from_secs(20)).await;
    is(&second, "session acting").await;
    ns.create(service("b")).await;
    ns.gets("b", ["192.0.2.1"]).await;
    ns.edit("b", json!({"spec": {"type": "ClusterIP"}})).await;
    ns.was_told("b", ["AddressAssigned", "AddressReleased"])
        .await;
    second.terminate(Duration::from_secs(20)).await;

    let (asked, refused) = requests(&control_plane.audit_log(), &account);
    assert_eq!(refused, Vec::<Value>::new());
    let granted = RIGHTS.iter().flat_map(|(resource, verbs)| {
        let pair = |verb: &&str| ((*resource).to_owned(), (*verb).to_owned());
        verbs.iter().map(pair).collect::<Vec<_>>()
    });
    assert_eq!(asked, granted.collect());
    for watcher in [&mut first, &mut second] {
        let errors = watcher.process().errors();
        assert!(!errors.contains("forbidden"), "{errors}");
    }
}
