//! TLS in the image: over its mapped port, and for people in the container.

use std::{fs, os::unix::fs::PermissionsExt};

use integration_tests::{
    allocator::connect_with,
    certificates::Authority,
    eventually::{DEADLINE, eventually},
    rpc::{acquire, held, key},
    secret::Secret,
};
use lb_proto::v1::allocator_service_client::AllocatorServiceClient;
use testcontainers::{ImageExt, core::Mount};

use crate::container::{Container, with_tls};

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_who_has_a_certificate_and_shows_its_routes_to_who_is_inside() {
    let authority = Authority::new("containers").unwrap();
    let server = Secret::new(&authority.server().unwrap(), &authority.certificate);
    let mut request = with_tls();
    let files = server.files();
    for (variable, file) in [
        ("LB_ALLOCATOR_TLS_CERT", &files.cert),
        ("LB_ALLOCATOR_TLS_KEY", &files.key),
        ("LB_ALLOCATOR_CLIENT_CA", &files.ca),
    ] {
        // As a Secret whose group is the container's.
        fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
        let inside = format!("/certs/{}", file.file_name().unwrap().to_str().unwrap());
        let file = fs::canonicalize(file).unwrap();
        request = request
            .with_mount(Mount::bind_mount(file.to_str().unwrap(), &inside))
            .with_env_var(variable, inside);
    }
    let container = Container::start(request).await;

    let cluster = key("web", "").cluster;
    let uri = format!("spiffe://test/cluster/{cluster}/role/watcher");
    let watcher = Secret::new(&authority.caller(&uri).unwrap(), &authority.certificate);
    let channel = connect_with(&container.url("https").await, watcher.files()).await;
    let mut client = AllocatorServiceClient::new(channel.unwrap());
    let answer = client.acquire(acquire("web", "shop")).await.unwrap();
    assert_eq!(held(answer.get_ref()), ["10.0.0.0"]);

    eventually(DEADLINE, "the routes are shown", async || {
        let table = container.exec(&["lb-allocator", "routes"]).await;
        if table.contains(" shop ") {
            Ok(())
        } else {
            Err(table)
        }
    })
    .await;
    assert!(container.exec(&["cat", "/routes"]).await.contains(" shop "));
}
