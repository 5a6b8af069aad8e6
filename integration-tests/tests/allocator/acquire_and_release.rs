//! Acquire and Release may be repeated in any interleaving, with the effect of once.

use integration_tests::{
    allocator::{Allocator, Options},
    rpc::{Asking, acquire, held, key, refusal, release, release_of, sync_of},
};
use lb_proto::v1::{
    Conflict, ConflictKind, GetAllocationRequest, IpFamily, IpFamilyPolicy::RequireDualStack,
    ListConflictsRequest, ReleaseRequest, get_allocation_request::Of,
};
use tonic::Code;

async fn two_addresses() -> Allocator {
    Allocator::start(Options::ip_list("web:192.0.2.1 web:192.0.2.2")).await
}

#[tokio::test]
async fn the_lowest_free_address_is_given() {
    let allocator = Allocator::start(Options::ip_list(
        "web:192.0.2.9 web:192.0.2.10 web:192.0.2.8",
    ))
    .await;
    let mut client = allocator.client().await;
    for (name, expected) in [("a", "192.0.2.8"), ("b", "192.0.2.9"), ("c", "192.0.2.10")] {
        let answer = client
            .acquire(acquire("web", name))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(held(&answer), [expected]);
        assert!(answer.satisfied);
    }
}

#[tokio::test]
async fn repeating_an_acquire_gives_the_same_answer_and_changes_nothing() {
    let allocator = two_addresses().await;
    let mut client = allocator.client().await;
    let first = client
        .acquire(acquire("web", "a"))
        .await
        .unwrap()
        .into_inner();
    for _ in 0..10 {
        let again = client
            .acquire(acquire("web", "a"))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(again, first);
    }
    assert_eq!(allocator.allocations().await.len(), 1);
}

#[tokio::test]
async fn repeating_a_release_is_ok_and_changes_nothing() {
    let allocator = two_addresses().await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    let first = client
        .release(release("web", "a"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first.released.len(), 1);
    assert_eq!(first.released[0].address, "192.0.2.1");
    let again = client
        .release(release("web", "a"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((again.released.len(), again.revision), (0, first.revision));
}

#[tokio::test]
async fn releasing_what_was_never_held_is_ok() {
    let allocator = two_addresses().await;
    let answer = allocator
        .client()
        .await
        .release(release("nobody", "x"))
        .await
        .unwrap()
        .into_inner();
    assert!(answer.released.is_empty());
}

#[tokio::test]
async fn what_a_service_gave_up_goes_to_nobody_until_it_is_shown_no_more() {
    let mut allocator = two_addresses().await;
    let shown = async |allocator: &Allocator| {
        let request = ListConflictsRequest {};
        let mut pools = allocator.pool_client().await;
        let listed = pools.list_conflicts(request).await.unwrap();
        let conflicts = listed.into_inner().conflicts;
        let one = |one: Conflict| (one.kind(), one.address);
        conflicts.into_iter().map(one).collect::<Vec<_>>()
    };
    let first = || acquire("web", "a").addresses(&["192.0.2.2"]);
    let other = || acquire("web", "b").addresses(&["192.0.2.1"]);
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    client.acquire(first().showing("192.0.2.1")).await.unwrap();
    let refused = client.acquire(other()).await.unwrap_err();
    assert_eq!(refusal(&refused).reason, "ADDRESS_IN_USE");

    allocator.kill();
    allocator.start_again().await;
    let kept = [(ConflictKind::Shown, "192.0.2.1".to_owned())];
    assert_eq!(shown(&allocator).await, kept);
    let mut client = allocator.client().await;
    client.acquire(other()).await.unwrap_err();
    client.acquire(first().showing("192.0.2.2")).await.unwrap();
    assert_eq!(shown(&allocator).await, []);
    let answer = client.acquire(other()).await.unwrap().into_inner();
    assert_eq!(held(&answer), ["192.0.2.1"]);
}

#[tokio::test]
async fn a_released_address_goes_back_to_its_service_and_to_others_only_when_nothing_else_is_free()
{
    let allocator = two_addresses().await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    client.release(release("web", "a")).await.unwrap();
    let other = client
        .acquire(acquire("web", "b"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(held(&other), ["192.0.2.2"]);
    let back = client
        .acquire(acquire("web", "a").uid("a-new-uid"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(held(&back), ["192.0.2.1"]);
    client
        .release(release_of("web", "a", "a-new-uid"))
        .await
        .unwrap();
    let third = client
        .acquire(acquire("web", "c"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(held(&third), ["192.0.2.1"]);
}

#[tokio::test]
async fn a_service_created_again_takes_its_predecessors_address_over_in_one_step() {
    let allocator = two_addresses().await;
    let mut client = allocator.client().await;
    client
        .acquire(acquire("web", "a").uid("old"))
        .await
        .unwrap();
    let new = client
        .acquire(acquire("web", "a").uid("new"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(held(&new), ["192.0.2.1"]);
    let allocations = allocator.allocations().await;
    assert_eq!(allocations.len(), 1);
    assert_eq!(allocations[0].uid, "new");
}

#[tokio::test]
async fn a_late_release_or_acquire_of_a_replaced_service_changes_nothing() {
    let allocator = two_addresses().await;
    let mut client = allocator.client().await;
    client
        .acquire(acquire("web", "a").uid("old"))
        .await
        .unwrap();
    let new = client
        .acquire(acquire("web", "a").uid("new"))
        .await
        .unwrap()
        .into_inner();

    let late = client
        .release(release_of("web", "a", "old"))
        .await
        .unwrap()
        .into_inner();
    assert!(late.released.is_empty());
    let late = client
        .acquire(acquire("web", "a").uid("old"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(held(&late), held(&new));
    assert_eq!(late.revision, new.revision);

    let allocations = allocator.allocations().await;
    assert_eq!(
        allocations
            .iter()
            .map(|a| a.uid.as_str())
            .collect::<Vec<_>>(),
        ["new"]
    );
}

#[tokio::test]
async fn a_request_for_an_older_version_of_a_service_moves_it_nowhere() {
    let allocator = two_addresses().await;
    let mut client = allocator.client().await;
    let mut asks = async |address: &str, version: &str| {
        let mut request = acquire("web", "a").addresses(&[address]);
        version.clone_into(&mut request.resource_version);
        let answer = client.acquire(request).await.unwrap().into_inner();
        answer.addresses[0].address.clone()
    };
    let (first, second) = ("192.0.2.1", "192.0.2.2");
    assert_eq!(asks(first, "5").await, first);
    assert_eq!(asks(second, "7").await, second);
    assert_eq!(asks(first, "5").await, second, "it arrives late");
    assert_eq!(asks(second, "7").await, second, "it is repeated");
    assert_eq!(asks(first, "").await, first, "it does not say");
    assert_eq!(asks(second, "12").await, second);
    let services = vec![acquire("web", "a").showing(second)];
    let mut syncing = allocator.client().await;
    syncing
        .sync(futures::stream::iter(sync_of(
            &key("web", "a").cluster,
            services,
        )))
        .await
        .unwrap();
    assert_eq!(asks(first, "8").await, first, "an API server was restored");
}

#[tokio::test]
async fn a_release_without_a_uid_releases_whoever_holds_it() {
    let allocator = two_addresses().await;
    let mut client = allocator.client().await;
    client.acquire(acquire("web", "a")).await.unwrap();
    let request = ReleaseRequest {
        service: Some(key("web", "a")),
        uid: String::new(),
        ..ReleaseRequest::default()
    };
    assert_eq!(
        client
            .release(request)
            .await
            .unwrap()
            .into_inner()
            .released
            .len(),
        1
    );
    let status = allocator
        .pool_client()
        .await
        .get_allocation(GetAllocationRequest {
            of: Some(Of::Service(key("web", "a"))),
        })
        .await
        .unwrap_err();
    let refusal = refusal(&status);
    assert_eq!(
        (refusal.code, refusal.reason.as_str()),
        (Code::NotFound, "ALLOCATION_NOT_FOUND")
    );
}

#[tokio::test]
async fn a_dual_stack_wish_that_requires_both_gets_both_or_nothing() {
    let allocator = Allocator::start(Options::ip_list(
        "web:192.0.2.1 web:192.0.2.2 web:2001:db8::1",
    ))
    .await;
    let mut client = allocator.client().await;
    let both = [IpFamily::Ipv6, IpFamily::Ipv4];
    let first = client
        .acquire(acquire("web", "a").families(RequireDualStack, &both))
        .await
        .unwrap();
    assert_eq!(held(first.get_ref()), ["2001:db8::1", "192.0.2.1"]);

    let status = client
        .acquire(acquire("web", "b").families(RequireDualStack, &both))
        .await
        .unwrap_err();
    assert_eq!(refusal(&status).reason, "POOL_EXHAUSTED");
    assert_eq!(allocator.allocations().await.len(), 2, "nothing leaked");
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_crash() {
    let mut allocator = two_addresses().await;
    let mut client = allocator.client().await;
    let before = client
        .acquire(acquire("web", "b"))
        .await
        .unwrap()
        .into_inner();
    client.acquire(acquire("web", "a")).await.unwrap();
    client.release(release("web", "a")).await.unwrap();
    allocator.kill();
    allocator.start_again().await;

    let mut client = allocator.client().await;
    let after = client
        .acquire(acquire("web", "b"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(held(&after), held(&before));
    assert_eq!(allocator.allocations().await.len(), 1);
    let sticky = client
        .acquire(acquire("web", "a").uid("again"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        held(&sticky),
        ["192.0.2.2"],
        "what was held last is remembered"
    );
}
