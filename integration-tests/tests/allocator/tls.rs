//! Who is let in, and what each role may do there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use integration_tests::{
    allocator::{Allocator, Options, Secured, connect, connect_with},
    certificates::Authority,
    eventually::{DEADLINE, eventually},
    rpc::{Refusal, acquire, refusal, release, sync_of},
    secret::Secret,
    site::CLUSTER,
};
use lb_proto::v1::{
    DecommissionClusterRequest, Denial, GetAllocationRequest, ListAllocationsRequest,
    ListClustersRequest, ListConflictsRequest, ListDenialsRequest, ListHistoryRequest,
    ListPoolsRequest, ListReservationsRequest, PlanConfigurationRequest,
    RecommissionClusterRequest, ReplaceClusterRequest, ReserveRequest, ServiceKey,
    UnreserveRequest, WatchRequest, admin_service_client::AdminServiceClient,
    allocator_service_client::AllocatorServiceClient, get_allocation_request::Of,
    pool_service_client::PoolServiceClient,
};
use lb_tls::{
    client::Connector,
    rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject},
};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::watch};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

const POOLS: &str = "pools: [{name: big, addresses: [10.0.0.0/8]}]";
const WATCHER: &str = "spiffe://test/cluster/one/role/watcher";
const OTHER: &str = "spiffe://test/cluster/other/role/watcher";
const VIEWER: &str = "spiffe://test/cluster/one/role/viewer";
const ADMIN: &str = "spiffe://test/role/admin";

async fn start() -> Secured {
    Secured::start(Options::config(POOLS)).await
}

async fn denials(port: &Secured) -> Vec<Denial> {
    let mut admin = AdminServiceClient::new(port.caller(ADMIN).await);
    let answer = admin.list_denials(ListDenialsRequest::default()).await;
    answer.unwrap().into_inner().denials
}

async fn list_pools(channel: Channel) -> Result<(), Status> {
    let mut client = PoolServiceClient::new(channel);
    client.list_pools(ListPoolsRequest {}).await.map(drop)
}

/// Every RPC of the contract, about Services of a cluster where it takes one.
async fn call(channel: Channel, method: &str, cluster: &str) -> Result<(), Status> {
    let mut allocator = AllocatorServiceClient::new(channel.clone());
    let mut pools = PoolServiceClient::new(channel.clone());
    let mut admin = AdminServiceClient::new(channel);
    let cluster = cluster.to_owned();
    let key = |mut key: ServiceKey| {
        key.cluster.clone_from(&cluster);
        Some(key)
    };
    match method {
        "Acquire" => {
            let mut request = acquire("web", "a");
            request.service = request.service.and_then(key);
            allocator.acquire(request).await.map(drop)
        }
        "Release" => {
            let mut request = release("web", "a");
            request.service = request.service.and_then(key);
            allocator.release(request).await.map(drop)
        }
        "Sync" => {
            let messages = futures::stream::iter(sync_of(&cluster, vec![]));
            allocator.sync(messages).await.map(drop)
        }
        "Watch" => {
            let request = WatchRequest {
                cluster,
                ..WatchRequest::default()
            };
            allocator.watch(request).await.map(drop)
        }
        "Reserve" => {
            let request = ReserveRequest {
                address: "10.9.9.9".to_owned(),
                ..ReserveRequest::default()
            };
            admin.reserve(request).await.map(drop)
        }
        "Unreserve" => {
            let request = UnreserveRequest {
                address: "10.9.9.9".to_owned(),
            };
            admin.unreserve(request).await.map(drop)
        }
        "ListReservations" => {
            let request = ListReservationsRequest::default();
            admin.list_reservations(request).await.map(drop)
        }
        "PlanConfiguration" => {
            let request = PlanConfigurationRequest {
                pools_file: POOLS.to_owned(),
            };
            admin.plan_configuration(request).await.map(drop)
        }
        "DecommissionCluster" => {
            let request = DecommissionClusterRequest {
                cluster: "unheard-of".to_owned(),
                dry_run: true,
                grace: None,
            };
            admin.decommission_cluster(request).await.map(drop)
        }
        "RecommissionCluster" => {
            let request = RecommissionClusterRequest {
                cluster: "unheard-of".to_owned(),
            };
            admin.recommission_cluster(request).await.map(drop)
        }
        "ReplaceCluster" => {
            let request = ReplaceClusterRequest {
                cluster: "unheard-of".to_owned(),
                cluster_uid: "uid".to_owned(),
            };
            match admin.replace_cluster(request).await {
                Err(status) if status.code() == Code::NotFound => Ok(()),
                answer => answer.map(drop),
            }
        }
        "ListConflicts" => {
            let answer = pools.list_conflicts(ListConflictsRequest {}).await;
            answer.map(drop)
        }
        "ListClusters" => pools.list_clusters(ListClustersRequest {}).await.map(drop),
        "ListDenials" => {
            let request = ListDenialsRequest::default();
            admin.list_denials(request).await.map(drop)
        }
        "ListPools" => pools.list_pools(ListPoolsRequest {}).await.map(drop),
        "ListAllocations" => {
            let request = ListAllocationsRequest {
                cluster,
                ..ListAllocationsRequest::default()
            };
            pools.list_allocations(request).await.map(drop)
        }
        "GetAllocation" => {
            let of = key(release("web", "held").service.unwrap()).map(Of::Service);
            let answer = pools.get_allocation(GetAllocationRequest { of }).await;
            match answer {
                Err(status) if status.code() == Code::NotFound => Ok(()),
                answer => answer.map(drop),
            }
        }
        "GetAllocation by address" => {
            let of = Some(Of::Address("10.0.0.0".to_owned()));
            let answer = pools.get_allocation(GetAllocationRequest { of }).await;
            answer.map(drop)
        }
        "ListHistory" => {
            let request = ListHistoryRequest {
                cluster,
                ..ListHistoryRequest::default()
            };
            pools.list_history(request).await.map(drop)
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn each_role_may_call_what_it_is_for_and_nothing_else() {
    let port = start().await;
    let admin = port.caller(ADMIN).await;
    let mut client = AllocatorServiceClient::new(admin.clone());
    client.acquire(acquire("web", "held")).await.unwrap();
    let callers = [
        ('w', port.caller(WATCHER).await),
        ('o', port.caller(OTHER).await),
        ('v', port.caller(VIEWER).await),
        ('a', admin),
    ];
    // Who may: the watcher of the cluster, that of another one, a viewer, an admin.
    for (method, cluster, may) in [
        ("Acquire", CLUSTER, "wa"),
        ("Acquire", "other", "oa"),
        ("Release", CLUSTER, "wa"),
        ("Release", "other", "oa"),
        ("Sync", CLUSTER, "wa"),
        ("Sync", "other", "oa"),
        ("Watch", CLUSTER, "wa"),
        ("Watch", "other", "oa"),
        ("ListAllocations", CLUSTER, "wva"),
        ("ListAllocations", "other", "ova"),
        ("ListAllocations", "", "va"),
        ("GetAllocation", CLUSTER, "wva"),
        ("GetAllocation", "other", "ova"),
        ("GetAllocation by address", "", "va"),
        ("ListHistory", CLUSTER, "wva"),
        ("ListHistory", "other", "ova"),
        ("ListHistory", "", "va"),
        ("ListPools", "", "va"),
        ("ListReservations", "", "va"),
        ("PlanConfiguration", "", "va"),
        ("ListDenials", "", "va"),
        ("ListConflicts", "", "va"),
        ("ListClusters", "", "va"),
        ("DecommissionCluster", "", "a"),
        ("RecommissionCluster", "", "a"),
        ("ReplaceCluster", "", "a"),
        ("Reserve", "", "a"),
        ("Unreserve", "", "a"),
    ] {
        for (letter, channel) in &callers {
            let answer = call(channel.clone(), method, cluster).await;
            let what = format!("{letter} {method} {cluster:?}: {answer:?}");
            if may.contains(*letter) {
                assert!(answer.is_ok(), "{what}");
            } else {
                let told = refusal(&answer.expect_err(&what));
                assert_eq!(told.code, Code::PermissionDenied, "{what}");
                assert_eq!(told.reason, "PERMISSION_DENIED", "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_key_of_another_cluster_is_refused_recorded_and_counted() {
    let port = start().await;
    let mut watcher = AllocatorServiceClient::new(port.caller(OTHER).await);
    for _ in 0..500 {
        let status = watcher.acquire(acquire("web", "a")).await.unwrap_err();
        let Refusal { code, metadata, .. } = refusal(&status);
        assert_eq!(code, Code::PermissionDenied);
        for (key, value) in [
            ("caller", OTHER),
            ("role", "watcher"),
            ("method", "Acquire"),
            ("cluster", CLUSTER),
            ("why", "OTHER_CLUSTER"),
        ] {
            assert_eq!(metadata.get(key).map(String::as_str), Some(value), "{key}");
        }
    }
    let denial = eventually(DEADLINE, "all are recorded", async || {
        match denials(&port).await.as_slice() {
            [denial] if denial.count == 500 => Ok(denial.clone()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    let (first, last) = (denial.first_at.unwrap(), denial.last_at.unwrap());
    assert!((first.seconds, first.nanos) < (last.seconds, last.nanos));
    let Denial {
        caller,
        role,
        method,
        cluster,
        why,
        ..
    } = denial;
    assert_eq!(
        [&*caller, &*role, &*method, &*cluster, &*why],
        [OTHER, "watcher", "Acquire", CLUSTER, "OTHER_CLUSTER"]
    );
    let labels = [("method", "Acquire"), ("why", "OTHER_CLUSTER")];
    let admin = port.allocator.admin();
    admin
        .sees("lb_allocator_denials_total", &labels, |n| n == 500.0)
        .await;
    let mut viewer = PoolServiceClient::new(port.caller(VIEWER).await);
    let history = viewer.list_history(ListHistoryRequest::default()).await;
    let history = history.unwrap().into_inner();
    assert!(history.entries.is_empty(), "nothing changed");
}

#[tokio::test]
async fn denials_are_there_after_a_restart_and_come_in_pages() {
    let mut port = start().await;
    for uri in [OTHER, WATCHER] {
        let watcher = port.caller(uri).await;
        for method in ["Reserve", "Unreserve"] {
            call(watcher.clone(), method, "").await.unwrap_err();
        }
    }
    let status = port.allocator.terminate(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
    port.allocator.start_again().await;
    let all = denials(&port).await;
    assert_eq!(all.len(), 4, "what was noted last is written at the end");

    let mut admin = AdminServiceClient::new(port.caller(ADMIN).await);
    let mut paged = Vec::new();
    let mut request = ListDenialsRequest {
        page_size: 3,
        ..ListDenialsRequest::default()
    };
    loop {
        let page = admin.list_denials(request.clone()).await.unwrap();
        let page = page.into_inner();
        assert!(page.denials.len() <= 3);
        paged.extend(page.denials);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(paged, all);
    request.page_token = "nonsense".to_owned();
    let status = admin.list_denials(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_certificate_without_a_usable_identity_is_told_what_it_lacks() {
    let port = start().await;
    for (identity, words) in [
        (port.authority.user("admin", "admins"), "no URI"),
        (
            port.authority.caller("https://test/role/admin"),
            "spiffe://",
        ),
        (
            port.authority.caller("spiffe://test/cluster/one"),
            "the role is missing",
        ),
        (
            port.authority.caller("spiffe://test/role/watcher"),
            "the cluster is missing",
        ),
        (
            port.authority.caller("spiffe://test/cluster/one/role/root"),
            "\"root\"",
        ),
    ] {
        let channel = port.connect(&identity.unwrap()).await.unwrap();
        let status = list_pools(channel).await.unwrap_err();
        assert_eq!(refusal(&status).code, Code::PermissionDenied, "{status}");
        assert_eq!(refusal(&status).metadata["why"], "NO_IDENTITY", "{status}");
        assert!(status.message().contains(words), "{words}: {status}");
    }
}

#[tokio::test]
async fn by_setting_the_common_name_gives_cluster_and_role() {
    let options = Options::config(POOLS);
    let port = Secured::start(options.arg("--client-identity").arg("common-name")).await;
    let user = |name: &str| port.authority.user(name, "anybody").unwrap();
    let watcher = port.connect(&user("cluster/one/role/watcher")).await;
    let watcher = watcher.unwrap();
    call(watcher.clone(), "Acquire", CLUSTER).await.unwrap();
    call(watcher, "Acquire", "other").await.unwrap_err();
    let viewer = port.connect(&user("role/viewer")).await.unwrap();
    call(viewer, "ListPools", "").await.unwrap();
    let status = call(port.caller(ADMIN).await, "ListPools", "").await;
    let status = status.unwrap_err();
    assert_eq!(refusal(&status).metadata["why"], "NO_IDENTITY");
    assert!(status.message().contains("role is missing"), "{status}");
}

#[tokio::test]
async fn the_handshake_takes_only_certificates_of_its_authority_that_are_valid() {
    let port = start().await;
    let authority = &port.authority;
    let stranger = Authority::new("test").unwrap();
    let name = "lb_allocator_tls_failed_handshakes_total";
    let admin = port.allocator.admin();
    // One at least: a client may try again.
    let mut counted = 0.0;
    let mut one_more_failed = async || {
        admin.sees(name, &[], |seen| seen > counted).await;
        counted = admin.metric(name, &[]).await.unwrap();
    };
    let bad = [
        ("another authority", stranger.caller(ADMIN)),
        (
            "expired",
            authority.caller_until(ADMIN, -time::Duration::hours(1)),
        ),
        ("for servers only", authority.server()),
    ];
    for (what, identity) in bad {
        // With TLS 1.3 a client learns what the server thinks with its first call.
        let refused = match port.connect(&identity.unwrap()).await {
            Ok(channel) => list_pools(channel).await.is_err(),
            Err(_) => true,
        };
        assert!(refused, "{what}");
        one_more_failed().await;
    }

    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.certificate.as_bytes());
    roots.add(root.unwrap()).unwrap();
    lb_tls::install_provider();
    let nameless = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (_keep, config) = watch::channel(Arc::new(nameless));
    let endpoint = Endpoint::from_shared(port.allocator.url()).unwrap();
    let refused = match endpoint
        .connect_with_connector(Connector::new(config))
        .await
    {
        Ok(channel) => list_pools(channel).await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "no certificate");
    one_more_failed().await;

    let plain = format!("http://{}", port.allocator.address());
    let refused = match connect(&plain).await {
        Ok(channel) => list_pools(channel).await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "no TLS");
    one_more_failed().await;

    let secret = Secret::new(&authority.caller(ADMIN).unwrap(), &stranger.certificate);
    let wrong = connect_with(&port.allocator.url(), secret.files()).await;
    assert!(
        wrong.is_err(),
        "a client takes no server of another authority"
    );
    list_pools(port.caller(ADMIN).await).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_expires_on_its_connection_is_refused_there() {
    let port = start().await;
    let soon = time::Duration::seconds(5);
    let identity = port.authority.caller_until(ADMIN, soon).unwrap();
    let channel = port.connect(&identity).await.unwrap();
    list_pools(channel.clone()).await.unwrap();
    let status = eventually(DEADLINE, "it is refused", async || {
        match list_pools(channel.clone()).await {
            Ok(()) => Err("served"),
            Err(status) => Ok(status),
        }
    })
    .await;
    assert_eq!(refusal(&status).metadata["why"], "EXPIRED", "{status}");
}

#[tokio::test]
async fn silent_and_slow_handshakes_do_not_hold_up_others() {
    let port = start().await;
    let mut connections = Vec::new();
    for number in 0..400 {
        let mut stream = TcpStream::connect(port.allocator.address()).await.unwrap();
        let spoken: &[u8] = match number % 3 {
            0 => b"",
            1 => b"\x16",
            _ => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        };
        stream.write_all(spoken).await.unwrap();
        connections.push(stream);
    }
    let served = async { list_pools(port.caller(ADMIN).await).await };
    let served = tokio::time::timeout(Duration::from_secs(4), served).await;
    served.expect("in less than a handshake may take").unwrap();
    let labels = [("why", "timeout")];
    let admin = port.allocator.admin();
    let name = "lb_allocator_tls_failed_handshakes_total";
    admin.sees(name, &labels, |seen| seen == 400.0).await;
    drop(connections);
}

#[tokio::test]
async fn without_tls_only_this_machine_is_served_unless_somebody_insists() {
    let exposed = || Options::config(POOLS).listen("0.0.0.0:0");
    let (status, errors) = Allocator::start_refused(exposed()).await;
    assert!(!status.success());
    for part in ["0.0.0.0:0", "--tls-cert", "--insecure-plaintext"] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    let mut allocator = Allocator::start(exposed().arg("--insecure-plaintext")).await;
    let errors = allocator.process().errors();
    let warned = errors
        .lines()
        .any(|line| line.contains("WARN") && line.contains("--insecure-plaintext"));
    assert!(warned, "{errors}");

    let authority = Authority::new("test").unwrap();
    let server = Secret::new(&authority.server().unwrap(), &authority.certificate);
    let tls = || Options::config(POOLS).tls(server.files());
    for (options, part) in [
        (tls().arg("--insecure-plaintext"), "contradict"),
        (tls().listen("unix:///tmp/never.sock"), "needs no TLS"),
        (Options::config(POOLS).arg("--tls-cert=x"), "--tls-key"),
        (Options::config(POOLS).arg("--client-ca=x"), "--tls-cert"),
    ] {
        let (status, errors) = Allocator::start_refused(options).await;
        assert!(!status.success(), "{part}");
        assert!(errors.contains(part), "{part}: {errors}");
    }
    let _with_tls = Allocator::start(tls().listen("0.0.0.0:0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_half_handshakes_than_ever_could_wait_do_not_hold_up_others() {
    const HALF: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let port = start().await;
    let address = port.allocator.address();
    let mut strangers = Vec::new();
    for _ in 0..5 {
        for _ in 0..400 {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.write_all(HALF).await.unwrap();
            strangers.push(stream);
        }
        let begun = Instant::now();
        list_pools(port.caller(ADMIN).await).await.unwrap();
        let waited = begun.elapsed();
        assert!(waited < Duration::from_millis(1500), "{waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_vouched_for_no_more_is_cut_off_and_others_stay() {
    let (old, new) = (
        Authority::new("old").unwrap(),
        Authority::new("new").unwrap(),
    );
    let both = format!("{}{}", old.certificate, new.certificate);
    let server = Secret::new(&new.server().unwrap(), &both);
    let allocator = Allocator::start(Options::config(POOLS).tls(server.files())).await;
    let watch = async |authority: &Authority| {
        let identity = Secret::new(&authority.caller(WATCHER).unwrap(), &both);
        let channel = connect_with(&allocator.url(), identity.files()).await;
        let mut client = AllocatorServiceClient::new(channel.unwrap());
        let request = WatchRequest {
            cluster: CLUSTER.to_owned(),
            ..WatchRequest::default()
        };
        let mut stream = client.watch(request).await.unwrap().into_inner();
        assert!(stream.message().await.unwrap().is_some(), "it began");
        (client, stream)
    };
    let (_, mut of_old) = watch(&old).await;
    let (mut stays, mut of_new) = watch(&new).await;
    server.swap(&new.server().unwrap(), &new.certificate);
    let ended = async { while let Ok(Some(_)) = of_old.message().await {} };
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
    ended.expect("its connection is closed in time");
    stays.acquire(acquire("web", "a")).await.unwrap();
    let goes_on = tokio::time::timeout(Duration::ZERO, of_new.message()).await;
    assert!(matches!(goes_on, Err(_) | Ok(Ok(Some(_)))), "{goes_on:?}");
}
