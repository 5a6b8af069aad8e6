//! `IP_LIST`, as the original controller had it.

use integration_tests::{
    allocator::{Allocator, Options},
    rpc::{acquire, held, refusal},
};

#[tokio::test]
async fn a_malformed_item_stops_the_start_and_is_quoted() {
    for (list, item) in [
        ("web:192.0.2.1 nonsense", "nonsense"),
        ("web:192.0.2.1 web:192.0.2.256", "web:192.0.2.256"),
        ("web:192.0.2.1 :192.0.2.2", ":192.0.2.2"),
        ("web:", "web:"),
        ("web:[2001:db8::1", "web:[2001:db8::1"),
        ("web:192.0.2.0/24", "web:192.0.2.0/24"),
        ("We_b:192.0.2.1", "We_b:192.0.2.1"),
        ("web:192.0.2.1 mail:192.0.2.1", "mail:192.0.2.1"),
    ] {
        let (status, errors) = Allocator::start_refused(Options::ip_list(list)).await;
        assert!(!status.success(), "{list}");
        assert!(errors.contains(item), "{list}: {errors}");
        assert!(errors.contains("IP_LIST"), "{list}: {errors}");
    }
}

#[tokio::test]
async fn an_address_of_two_namespaces_is_refused_with_both_names() {
    let list = "web:192.0.2.1 web:192.0.2.2 mail:192.0.2.1";
    let (status, errors) = Allocator::start_refused(Options::ip_list(list)).await;
    assert!(!status.success());
    for part in ["192.0.2.1", "web", "mail"] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
}

#[tokio::test]
async fn without_any_pool_the_start_is_refused_with_the_ways_out() {
    let (status, errors) = Allocator::start_refused(Options::default()).await;
    assert!(!status.success());
    assert!(
        errors.contains("IP_LIST") && errors.contains("--config"),
        "{errors}"
    );
}

#[tokio::test]
async fn spaces_lines_brackets_and_ipv6_are_understood() {
    let list =
        "  web:192.0.2.1\tweb:192.0.2.2\n\nmail:[2001:db8::1]\nmail:2001:db8::0002  web:192.0.2.1 ";
    let allocator = Allocator::start(Options::ip_list(list)).await;
    let pools = allocator.pools().await;
    let shown: Vec<_> = pools
        .iter()
        .map(|pool| (pool.addresses.join(" "), pool.namespaces.join(" ")))
        .collect();
    assert_eq!(
        shown,
        [
            ("2001:db8::1-2001:db8::2".to_owned(), "mail".to_owned()),
            ("192.0.2.1-192.0.2.2".to_owned(), "web".to_owned())
        ]
    );
}

#[tokio::test]
async fn an_address_listed_for_one_namespace_never_goes_to_another() {
    let allocator = Allocator::start(Options::ip_list("web:192.0.2.1 mail:192.0.2.2")).await;
    let mut client = allocator.client().await;
    assert_eq!(
        held(
            client
                .acquire(acquire("mail", "a"))
                .await
                .unwrap()
                .get_ref()
        ),
        ["192.0.2.2"]
    );
    let status = client.acquire(acquire("mail", "b")).await.unwrap_err();
    assert_eq!(refusal(&status).reason, "POOL_EXHAUSTED");
    assert_eq!(
        held(client.acquire(acquire("web", "a")).await.unwrap().get_ref()),
        ["192.0.2.1"]
    );
}

#[tokio::test]
async fn a_pools_file_and_ip_list_are_one_configuration() {
    let file = "pools: [{name: open, addresses: [203.0.113.0/30], exclude: [203.0.113.0]}]";
    let mut options = Options::config(file);
    options.ip_list = Some("web:192.0.2.1".to_owned());
    let allocator = Allocator::start(options.clone()).await;
    let mut client = allocator.client().await;
    let mut given = Vec::new();
    for (namespace, name) in [("web", "a"), ("web", "b"), ("mail", "a"), ("mail", "b")] {
        let answer = client
            .acquire(acquire(namespace, name))
            .await
            .unwrap()
            .into_inner();
        given.push(held(&answer)[0].to_owned());
    }
    assert_eq!(
        given,
        ["192.0.2.1", "203.0.113.1", "203.0.113.2", "203.0.113.3"]
    );

    options.ip_list = Some("web:203.0.113.2".to_owned());
    let (status, errors) = Allocator::start_refused(options).await;
    assert!(!status.success());
    assert!(
        errors.contains("open") && errors.contains("203.0.113.2"),
        "{errors}"
    );
}
