//! etcd and kube-apiserver on loopback, ready in seconds: everything about
//! Services, RBAC, admission, watches and Events is real. No controller manager
//! runs: a deleted namespace stays Terminating, so tests take new ones.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Namespace as KubeNamespace;
use kube::{Api, Client, api::PostParams};
use rustix::process::Signal;
use tokio::sync::OnceCell;

use crate::{
    binaries::control_plane_binaries,
    certificates,
    eventually::within,
    kubeconfig, logs,
    namespace::{self, Namespace},
    ports::free_port,
    process::Process,
    scratch::Scratch,
};

/// Every service address of these ranges: IPv4 first, as most clusters have it.
const SERVICE_RANGES: &str = "10.0.0.0/16,fd00:1::/112";

/// Generous: a machine that runs several at once is slow.
const START: Duration = Duration::from_secs(120);

/// What the audit log holds: the writes that tests count, and all that service
/// accounts ask for.
const AUDIT_POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [create, update, patch]
  resources:
  - {group: "", resources: [services/status]}
  - {group: events.k8s.io, resources: [events]}
- level: Metadata
  userGroups: ["system:serviceaccounts"]
- level: None
"#;

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    name: String,
    folder: Scratch,
    logs: PathBuf,
    etcd_binary: PathBuf,
    apiserver_binary: PathBuf,
    etcd_port: u16,
    etcd_peer_port: u16,
    port: u16,
    etcd: Process,
    apiserver: Option<Process>,
}

static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
static OLDEST: OnceCell<ControlPlane> = OnceCell::const_new();

impl ControlPlane {
    /// The one that all tests of a binary share.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn shared() -> &'static Self {
        Self::one(&SHARED, "kube-apiserver", "shared").await
    }

    /// One of the oldest Kubernetes that is supported, which all tests of a binary share.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn oldest() -> &'static Self {
        Self::one(&OLDEST, "kube-apiserver-oldest", "oldest").await
    }

    async fn one(
        shared: &'static OnceCell<Self>,
        apiserver: &'static str,
        name: &'static str,
    ) -> &'static Self {
        let start = || async { Self::start_by(apiserver, name).await };
        match shared.get_or_try_init(start).await {
            Ok(shared) => shared,
            Err(error) => panic!("the control plane does not start: {error:#}"),
        }
    }

    /// A new one.
    ///
    /// # Errors
    /// When a binary cannot be built or a server is not ready in time; the end
    /// of its log is part of the error.
    pub async fn start(name: &str) -> Result<Self> {
        Self::start_by("kube-apiserver", name).await
    }

    async fn start_by(apiserver: &str, name: &str) -> Result<Self> {
        let [etcd_binary, apiserver_binary] = control_plane_binaries(["etcd", apiserver])?;
        let folder = Scratch::new(name)?;
        let logs = logs::folder()?.join(name);
        fs::create_dir_all(&logs)?;
        let (etcd_port, etcd_peer_port, port) = (free_port()?, free_port()?, free_port()?);

        let (authority, admin) = certificates::write_all(folder.path())?;
        fs::write(folder.path().join("audit-policy.yaml"), AUDIT_POLICY)?;
        let url = format!("https://127.0.0.1:{port}");
        kubeconfig::write(&folder.path().join("kubeconfig"), &url, &authority, &admin)?;

        let etcd = start_etcd(&etcd_binary, &folder, &logs, etcd_port, etcd_peer_port)?;
        let mut this = Self {
            name: name.to_owned(),
            folder,
            logs,
            etcd_binary,
            apiserver_binary,
            etcd_port,
            etcd_peer_port,
            port,
            etcd,
            apiserver: None,
        };
        this.start_apiserver().await?;
        Ok(this)
    }

    /// Where the API server listens.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// A kubeconfig file of the administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// A kubeconfig file of the administrator who reaches the API server by another
    /// port.
    ///
    /// # Panics
    /// When the file cannot be written.
    #[must_use]
    pub fn kubeconfig_by(&self, port: u16) -> PathBuf {
        let url = format!("https://127.0.0.1:{port}");
        match kubeconfig::write_by(&self.kubeconfig(), &url) {
            Ok(file) => file,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// The port of the API server.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A client of the administrator. Each test takes its own: connections
    /// belong to the runtime that made them.
    ///
    /// # Panics
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> Client {
        match kubeconfig::client(&self.kubeconfig()).await {
            Ok(client) => client,
            Err(error) => panic!("no client of {}: {error:#}", self.name),
        }
    }

    /// A new namespace with a random name.
    ///
    /// # Panics
    /// When it cannot be created.
    pub async fn namespace(&self) -> Namespace {
        let name = namespace::random_name("test");
        self.namespace_called(&name).await
    }

    /// A new namespace.
    ///
    /// # Panics
    /// When it cannot be created.
    pub async fn namespace_called(&self, name: &str) -> Namespace {
        let client = self.client().await;
        let object = KubeNamespace {
            metadata: kube::core::ObjectMeta {
                name: Some(name.to_owned()),
                ..Default::default()
            },
            ..Default::default()
        };
        if let Err(error) = Api::all(client.clone())
            .create(&PostParams::default(), &object)
            .await
        {
            panic!("cannot create namespace {name}: {error}");
        }
        Namespace::new(client, name.to_owned(), self.audit_log())
    }

    /// The writes to Services' status and to Events, and the requests of service
    /// accounts, a JSON object a line.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.folder.path().join("audit.log")
    }

    /// Stops the API server in the middle of what it does, as a hang would.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a paused API server go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// The process ids of etcd and the API server.
    ///
    /// # Errors
    /// When the API server was killed.
    pub fn process_ids(&self) -> Result<[u32; 2]> {
        let apiserver = self.apiserver.as_ref();
        let apiserver = apiserver.context("the API server does not run")?;
        Ok([self.etcd.id(), apiserver.id()])
    }

    fn signal(&self, signal: Signal) {
        if let Some(apiserver) = &self.apiserver {
            apiserver.signal(signal);
        }
    }

    /// Ends the API server as a crash would. etcd goes on.
    pub fn kill_apiserver(&mut self) {
        self.apiserver = None;
    }

    /// Ends both as a power cut would, and starts etcd again.
    ///
    /// # Errors
    /// When etcd cannot be started.
    pub fn kill_all_and_restart_etcd(&mut self) -> Result<()> {
        self.kill_apiserver();
        self.etcd.kill();
        self.etcd = start_etcd(
            &self.etcd_binary,
            &self.folder,
            &self.logs,
            self.etcd_port,
            self.etcd_peer_port,
        )?;
        Ok(())
    }

    /// Copies what etcd has, while neither runs, and starts both again.
    ///
    /// # Errors
    /// When files cannot be copied or a server does not start.
    pub async fn back_up(&mut self) -> Result<()> {
        self.kill_apiserver();
        self.etcd.kill();
        copy_folder(&self.etcd_folder(), &self.backup_folder())?;
        self.kill_all_and_restart_etcd()?;
        self.start_apiserver().await
    }

    /// Puts back what [`Self::back_up`] copied, as after a disaster: the revision goes
    /// back, too.
    ///
    /// # Errors
    /// When there is no backup or a server does not start.
    pub async fn restore(&mut self) -> Result<()> {
        self.kill_apiserver();
        self.etcd.kill();
        fs::remove_dir_all(self.etcd_folder())?;
        copy_folder(&self.backup_folder(), &self.etcd_folder())?;
        self.kill_all_and_restart_etcd()?;
        self.start_apiserver().await
    }

    fn etcd_folder(&self) -> PathBuf {
        self.folder.path().join("etcd")
    }

    fn backup_folder(&self) -> PathBuf {
        self.folder.path().join("etcd-backup")
    }

    /// Starts the API server, after [`Self::kill_apiserver`], on the same port
    /// and the same data, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start_apiserver(&mut self) -> Result<()> {
        let args = self.apiserver_args();
        let mut process = Process::start(
            "kube-apiserver",
            &self.apiserver_binary,
            &args,
            &[],
            &self.logs,
        )?;
        let client = kubeconfig::client(&self.kubeconfig()).await?;
        let ready = within(START, || {
            let ended = process.status();
            let client = client.clone();
            async move {
                if let Ok(Some(status)) = ended {
                    return Ok(Err(format!("it ended with {status}")));
                }
                let request = http_get("/readyz").map_err(|error| error.to_string())?;
                let answer =
                    tokio::time::timeout(Duration::from_secs(5), client.request_text(request));
                match answer.await {
                    Ok(Ok(_)) => Ok(Ok(())),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("no answer".to_owned()),
                }
            }
        });
        match ready.await {
            Ok(Ok(())) => {
                self.apiserver = Some(process);
                Ok(())
            }
            Ok(Err(why)) | Err(why) => {
                bail!(
                    "kube-apiserver of {} is not ready: {why}\n{}{}",
                    self.name,
                    process.tail(),
                    self.etcd.tail()
                )
            }
        }
    }

    fn apiserver_args(&self) -> Vec<String> {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        vec![
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            format!("--cert-dir={}", self.folder.path().display()),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--client-ca-file={}", file("clients.crt")),
            format!("--service-account-issuer=https://127.0.0.1:{}/", self.port),
            format!(
                "--service-account-key-file={}",
                file("service-accounts.pub")
            ),
            format!(
                "--service-account-signing-key-file={}",
                file("service-accounts.key")
            ),
            format!("--service-cluster-ip-range={SERVICE_RANGES}"),
            "--authorization-mode=RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            format!("--audit-policy-file={}", file("audit-policy.yaml")),
            format!("--audit-log-path={}", file("audit.log")),
        ]
    }
}

fn start_etcd(
    binary: &Path,
    folder: &Scratch,
    logs: &Path,
    port: u16,
    peer_port: u16,
) -> Result<Process> {
    let url = format!("http://127.0.0.1:{port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let args = [
        format!("--data-dir={}", folder.path().join("etcd").display()),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync=true".to_owned(),
    ];
    Process::start("etcd", binary, &args, &[], logs)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_folder(&from, &to)?;
        } else {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::get(path).body(Vec::new())?)
}
