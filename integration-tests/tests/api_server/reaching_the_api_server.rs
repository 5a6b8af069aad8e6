//! How the watcher reaches the API server: by a proxy, and with a token of a file.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use integration_tests::{
    account::Account,
    allocator::{Allocator, Options as AllocatorOptions},
    control_plane::ControlPlane,
    namespace::random_name,
    ports::free_port,
    service::service,
    site::random_class,
    watcher::{Options, Watcher},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

/// A name that only the proxy knows.
const NAME: &str = "api-server.test.example";

/// An HTTP proxy that leads each CONNECT to one port, whatever the name.
struct Proxy {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Proxy {
    async fn start(to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(lead(stream, to, count.clone()));
            }
        });
        Self { port, connections }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

async fn lead(mut near: TcpStream, to: u16, count: Arc<AtomicUsize>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(near.read_u8().await?);
    }
    assert!(
        head.starts_with(b"CONNECT "),
        "{}",
        String::from_utf8_lossy(&head)
    );
    count.fetch_add(1, Ordering::Relaxed);
    let mut far = TcpStream::connect(("127.0.0.1", to)).await?;
    near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await?;
    copy_bidirectional(&mut near, &mut far).await.map(drop)
}

/// A copy of a kubeconfig file with changes.
fn changed(original: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    let mut config = serde_json::from_slice(&fs::read(original).unwrap()).unwrap();
    change(&mut config);
    let path = original.with_file_name(random_name("kubeconfig"));
    fs::write(&path, config.to_string()).unwrap();
    path
}

fn by_name(cluster: &mut Value) {
    cluster["server"] = json!(format!("https://{NAME}:6443"));
    cluster["tls-server-name"] = json!("127.0.0.1");
}

/// A watcher that is ready serves a Service.
async fn serves(control_plane: &ControlPlane, options: impl FnOnce(Options) -> Options) {
    let ns = control_plane.namespace().await;
    let class = random_class();
    let allocator = Allocator::start(AllocatorOptions::ip_list(format!("{ns}:192.0.2.1"))).await;
    let options = options(Options::cluster("one").class(&class));
    let _watcher = Watcher::start(control_plane, &allocator.url(), options).await;
    ns.create(service("a").class(&class)).await;
    ns.gets("a", ["192.0.2.1"]).await;
}

#[tokio::test]
async fn an_api_server_behind_a_proxy_is_reached_by_it() {
    let control_plane = ControlPlane::shared().await;
    let proxy = Proxy::start(control_plane.port()).await;
    let kubeconfig = changed(&control_plane.kubeconfig(), |config| {
        by_name(&mut config["clusters"][0]["cluster"]);
    });
    serves(control_plane, |options| {
        let options = options.kubeconfig(kubeconfig);
        let options = options.env("HTTPS_PROXY", &proxy.url());
        options.env("NO_PROXY", "127.0.0.1,.cluster.local,10.0.0.0/8")
    })
    .await;
    assert!(proxy.connections.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_proxy_of_the_kubeconfig_counts_more_than_the_environment() {
    let control_plane = ControlPlane::shared().await;
    let proxy = Proxy::start(control_plane.port()).await;
    let kubeconfig = changed(&control_plane.kubeconfig(), |config| {
        let cluster = &mut config["clusters"][0]["cluster"];
        by_name(cluster);
        cluster["proxy-url"] = json!(proxy.url());
    });
    serves(control_plane, |options| {
        let nobody = format!("http://127.0.0.1:{}", free_port().unwrap());
        options.kubeconfig(kubeconfig).env("HTTPS_PROXY", &nobody)
    })
    .await;
    assert!(proxy.connections.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn an_api_server_that_no_proxy_names_is_reached_without_the_proxy() {
    let control_plane = ControlPlane::shared().await;
    serves(control_plane, |options| {
        let nobody = format!("http://127.0.0.1:{}", free_port().unwrap());
        let options = options.env("HTTPS_PROXY", &nobody);
        options.env("NO_PROXY", "localhost,127.0.0.1")
    })
    .await;
}

#[tokio::test]
async fn a_token_file_may_end_with_a_new_line() {
    let control_plane = ControlPlane::shared().await;
    let ns = control_plane.namespace().await;
    let account = Account::new(control_plane, &ns.to_string()).await.unwrap();
    let rights = json!([
        {"apiGroups": [""], "resources": ["services", "namespaces"],
         "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["services/status"], "verbs": ["patch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ]);
    account.may_everywhere(rights).await.unwrap();
    let file = account.kubeconfig.with_file_name(random_name("token"));
    let kubeconfig = changed(&account.kubeconfig, |config| {
        let user = &mut config["users"][0]["user"];
        let token = user["token"].as_str().unwrap();
        fs::write(&file, format!("{token}\n")).unwrap();
        *user = json!({"tokenFile": file});
    });
    serves(control_plane, |options| options.kubeconfig(kubeconfig)).await;
}
