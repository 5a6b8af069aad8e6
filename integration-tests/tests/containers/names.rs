//! Names are resolved in the images, which have no resolver but that in the binary.

use integration_tests::{namespace::random_name, rpc::acquire};
use testcontainers::ImageExt;

use crate::container::{Container, PORT, allocator, ended, ending};

#[tokio::test(flavor = "multi_thread")]
async fn an_allocator_is_found_by_its_name_in_the_network() {
    let network = random_name("lb-network");
    let name = random_name("lb-allocator");
    let container = Container::start(
        allocator()
            .with_network(&network)
            .with_container_name(&name),
    )
    .await;
    let mut client = container.client().await;
    client.acquire(acquire("web", "shop")).await.unwrap();

    let url = format!("http://{name}:{PORT}");
    let asking =
        ending("lb-allocator", 0)
            .with_network(&network)
            .with_cmd(["routes", "--allocator", &url]);
    let (table, errors) = ended(asking).await;
    assert!(table.contains(" shop "), "{table}{errors}");

    let asking = ending("lb-allocator", 1).with_network(&network).with_cmd([
        "routes",
        "--allocator",
        "http://not-there:7373",
    ]);
    let (_, errors) = ended(asking).await;
    assert!(errors.contains("http://not-there:7373"), "{errors}");
}
