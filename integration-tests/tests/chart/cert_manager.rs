//! The certificates that cert-manager is asked for, made by another authority, are
//! those that the real allocator and watchers take.

use integration_tests::{
    allocator::{Allocator, Options as AllocatorOptions, run},
    certificates::Authority,
    control_plane::ControlPlane,
    secret::Secret,
    service::service,
    site::random_class,
    watcher::{Options, Watcher},
};
use serde_json::Value;

use crate::commands::{Commands, documents, path, values};

/// The only URI of the certificate in a Secret.
fn uri<'a>(certificates: &'a [Value], secret: &str) -> &'a str {
    let mut all = certificates.iter();
    let certificate = all.find(|one| one["spec"]["secretName"] == secret).unwrap();
    assert_eq!(certificate["spec"]["uris"].as_array().unwrap().len(), 1);
    certificate["spec"]["uris"][0].as_str().unwrap()
}

#[tokio::test]
async fn a_watcher_and_an_administrator_are_who_cert_manager_is_told_they_are() {
    let control_plane = ControlPlane::shared().await;
    let args = ["--values", &values("everything")];
    let rendered = Commands::on(control_plane).helm("template", "lb", &args);
    let mut certificates = documents(&rendered);
    certificates.retain(|object| object["kind"] == "Certificate");

    let authority = Authority::new("cert-manager").unwrap();
    let secret = |name: &str| {
        let identity = authority.caller(uri(&certificates, name)).unwrap();
        Secret::new(&identity, &authority.certificate)
    };
    let ns = control_plane.namespace().await;
    let server = Secret::new(&authority.server().unwrap(), &authority.certificate);
    let list = format!("{ns}:192.0.2.1 {ns}:192.0.2.2");
    let allocator = Allocator::start(AllocatorOptions::ip_list(list).tls(server.files())).await;
    let other = ControlPlane::start("prod-us").await.unwrap();
    let there = other.namespace_called(&ns.to_string()).await;
    for (cluster, name, control_plane, ns) in [
        ("prod-eu", "lb-watcher-tls", control_plane, &ns),
        ("prod-us", "lb-watcher-tls-prod-us", &other, &there),
    ] {
        let (class, files) = (random_class(), secret(name));
        let options = Options::cluster(cluster).class(&class);
        let _watcher =
            Watcher::start(control_plane, &allocator.url(), options.tls(files.files())).await;
        ns.create(service(cluster).class(&class)).await;
        ns.gets_any(cluster).await;
    }
    let mounted = secret("lb-admin-tls");
    let admin = mounted.files();
    let url = allocator.url();
    let args = [
        "routes",
        "--allocator",
        &url,
        "--tls-cert",
        path(&admin.cert),
    ];
    let more = [
        "--tls-key",
        path(&admin.key),
        "--server-ca",
        path(&admin.ca),
    ];
    let (status, out, errors) = run(&[&args[..], &more].concat(), &[]).await;
    assert!(status.success() && out.contains("prod-us"), "{out}{errors}");
}
