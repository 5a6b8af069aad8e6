//! What people ask with grpcurl: pools, allocations and history.

use integration_tests::{
    allocator::{Allocator, Options},
    rpc::{Asking, acquire, key, refusal, release},
};
use lb_proto::v1::{
    ChangeKind, GetAllocationRequest, IpFamily, ListAllocationsRequest, ListHistoryRequest,
    get_allocation_request::Of,
};
use tonic::Code;

const POOLS: &str = "
pools:
- name: web
  addresses: [192.0.2.0/29, 2001:db8::/64]
  exclude: [192.0.2.0]
  namespaces: [web]
- name: mail
  addresses: [203.0.113.7]
";

#[tokio::test]
async fn pools_show_how_full_they_are() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    allocator
        .client()
        .await
        .acquire(acquire("web", "a"))
        .await
        .unwrap();
    let pools = allocator.pools().await;
    let shown: Vec<_> = pools
        .iter()
        .flat_map(|pool| {
            pool.usage.iter().map(|usage| {
                (
                    pool.name.as_str(),
                    usage.family(),
                    usage.size,
                    usage.used,
                    usage.free,
                )
            })
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("mail", IpFamily::Ipv4, 1, 0, 1),
            ("web", IpFamily::Ipv4, 7, 1, 6),
            // A /64 has 2^64 addresses, one more than the field can say.
            ("web", IpFamily::Ipv6, u64::MAX, 0, u64::MAX),
        ]
    );
    assert_eq!(pools[1].addresses[0], "192.0.2.1-192.0.2.7");
    assert_eq!(pools[1].namespaces, ["web"]);
}

#[tokio::test]
async fn allocations_are_listed_in_the_order_of_addresses_by_filter_and_by_page() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let mut client = allocator.client().await;
    for address in ["192.0.2.7", "2001:db8::5", "192.0.2.3"] {
        let family = if address.contains(':') {
            IpFamily::Ipv6
        } else {
            IpFamily::Ipv4
        };
        let wish = acquire(
            "web",
            &format!("s{}", address.len())
                .replace('9', if address.ends_with('7') { "7" } else { "3" }),
        )
        .wishing(|wish| wish.families = vec![family.into()])
        .addresses(&[address]);
        client.acquire(wish).await.unwrap();
    }
    client.acquire(acquire("mail", "m")).await.unwrap();

    let mut pools = allocator.pool_client().await;
    let mut list = async |request: ListAllocationsRequest| {
        pools.list_allocations(request).await.unwrap().into_inner()
    };
    let all = list(ListAllocationsRequest::default()).await;
    let addresses = |allocations: &[lb_proto::v1::Allocation]| {
        allocations
            .iter()
            .map(|a| a.address.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        addresses(&all.allocations),
        ["192.0.2.3", "192.0.2.7", "203.0.113.7", "2001:db8::5"]
    );
    assert!(all.next_page_token.is_empty());
    assert!(
        all.allocations
            .iter()
            .all(|a| a.allocated_at.is_some() && a.revision > 0)
    );

    for (request, expected) in [
        (
            ListAllocationsRequest {
                pool: "mail".into(),
                ..Default::default()
            },
            vec!["203.0.113.7"],
        ),
        (
            ListAllocationsRequest {
                namespace: "mail".into(),
                ..Default::default()
            },
            vec!["203.0.113.7"],
        ),
        (
            ListAllocationsRequest {
                address: "2001:DB8::0:5".into(),
                ..Default::default()
            },
            vec!["2001:db8::5"],
        ),
        (
            ListAllocationsRequest {
                cluster: "two".into(),
                ..Default::default()
            },
            vec![],
        ),
        (
            ListAllocationsRequest {
                pool: "web".into(),
                namespace: "mail".into(),
                ..Default::default()
            },
            vec![],
        ),
    ] {
        assert_eq!(
            addresses(&list(request.clone()).await.allocations),
            expected,
            "{request:?}"
        );
    }

    let (mut paged, mut token) = (Vec::new(), String::new());
    loop {
        let page = list(ListAllocationsRequest {
            page_size: 1,
            page_token: token,
            ..Default::default()
        })
        .await;
        assert!(page.allocations.len() <= 1);
        paged.extend(page.allocations);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, all.allocations);
}

#[tokio::test]
async fn one_allocation_is_found_by_its_service_and_by_its_address() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    allocator
        .client()
        .await
        .acquire(acquire("web", "a"))
        .await
        .unwrap();
    let mut pools = allocator.pool_client().await;
    for of in [
        Of::Service(key("web", "a")),
        Of::Address("192.0.2.1".into()),
    ] {
        let answer = pools
            .get_allocation(GetAllocationRequest { of: Some(of) })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.allocations.len(), 1);
        let allocation = &answer.allocations[0];
        assert_eq!(allocation.service, Some(key("web", "a")));
        assert_eq!(
            (allocation.address.as_str(), allocation.pool.as_str()),
            ("192.0.2.1", "web")
        );
        assert_eq!(allocation.uid, "uid-of-a");
    }
    for of in [
        Of::Service(key("web", "b")),
        Of::Address("192.0.2.2".into()),
    ] {
        let status = pools
            .get_allocation(GetAllocationRequest { of: Some(of) })
            .await
            .unwrap_err();
        let told = refusal(&status);
        assert_eq!(
            (told.code, told.reason.as_str()),
            (Code::NotFound, "ALLOCATION_NOT_FOUND")
        );
    }
}

#[tokio::test]
async fn history_tells_who_held_what_the_newest_first_across_restarts() {
    let mut allocator = Allocator::start(Options::config(POOLS)).await;
    let mut client = allocator.client().await;
    client
        .acquire(acquire("web", "a").uid("one"))
        .await
        .unwrap();
    client
        .acquire(acquire("web", "a").uid("two"))
        .await
        .unwrap();
    client.acquire(acquire("web", "b")).await.unwrap();
    allocator.kill();
    allocator.start_again().await;
    let mut client = allocator.client().await;
    client
        .release(integration_tests::rpc::release_of("web", "a", "two"))
        .await
        .unwrap();

    let mut pools = allocator.pool_client().await;
    let mut list =
        async |request: ListHistoryRequest| pools.list_history(request).await.unwrap().into_inner();
    let all = list(ListHistoryRequest::default()).await.entries;
    let shown: Vec<_> = all
        .iter()
        .map(|e| (e.kind(), e.address.as_str(), e.uid.as_str()))
        .collect();
    assert_eq!(
        shown,
        [
            (ChangeKind::Released, "192.0.2.1", "two"),
            (ChangeKind::Allocated, "192.0.2.2", "uid-of-b"),
            (ChangeKind::Updated, "192.0.2.1", "two"),
            (ChangeKind::Allocated, "192.0.2.1", "one"),
        ]
    );
    assert!(
        all.windows(2)
            .all(|pair| pair[0].revision > pair[1].revision),
        "every change has its own revision"
    );
    assert!(
        all.iter()
            .all(|entry| entry.at.is_some() && entry.pool == "web")
    );

    for (request, expected) in [
        (
            ListHistoryRequest {
                address: "192.0.2.2".into(),
                ..Default::default()
            },
            1,
        ),
        (
            ListHistoryRequest {
                name: "a".into(),
                namespace: "web".into(),
                ..Default::default()
            },
            3,
        ),
        (
            ListHistoryRequest {
                namespace: "mail".into(),
                ..Default::default()
            },
            0,
        ),
        (
            ListHistoryRequest {
                cluster: "two".into(),
                ..Default::default()
            },
            0,
        ),
    ] {
        assert_eq!(
            list(request.clone()).await.entries.len(),
            expected,
            "{request:?}"
        );
    }

    let first = list(ListHistoryRequest {
        page_size: 3,
        ..Default::default()
    })
    .await;
    let rest = list(ListHistoryRequest {
        page_size: 3,
        page_token: first.next_page_token,
        ..Default::default()
    })
    .await;
    assert_eq!([first.entries, rest.entries].concat(), all);
    assert!(rest.next_page_token.is_empty());
}

#[tokio::test]
async fn every_answer_carries_the_revision_and_it_only_grows() {
    let allocator = Allocator::start(Options::config(POOLS)).await;
    let mut client = allocator.client().await;
    let mut pools = allocator.pool_client().await;
    let mut last = pools
        .list_pools(lb_proto::v1::ListPoolsRequest {})
        .await
        .unwrap()
        .into_inner()
        .revision;
    for round in 0..5 {
        let name = format!("s{round}");
        let revision = client
            .acquire(acquire("web", &name))
            .await
            .unwrap()
            .into_inner()
            .revision;
        assert!(revision > last);
        let read = pools
            .list_allocations(ListAllocationsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .revision;
        assert!(read >= revision, "a read after a change shows it");
        last = client
            .release(release("web", &name))
            .await
            .unwrap()
            .into_inner()
            .revision;
        assert!(last > revision);
    }
}
