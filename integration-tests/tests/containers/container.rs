//! A container of an image, run as a careful cluster would: a read-only root, no
//! capabilities, no way to get any.

use std::process::Command;

use integration_tests::{
    allocator::{allocations, connect},
    eventually::{DEADLINE, eventually},
};
use lb_proto::v1::{
    Allocation, ListPoolsRequest, allocator_service_client::AllocatorServiceClient,
    pool_service_client::PoolServiceClient,
};
use testcontainers::{
    ContainerAsync, ContainerRequest, GenericImage, ImageExt,
    core::{CmdWaitFor, ExecCommand, IntoContainerPort, WaitFor, wait::ExitWaitStrategy},
    runners::AsyncRunner,
};
use tonic::transport::Channel;

pub const PORT: u16 = 7373;

/// What the docker command prints.
pub fn docker(args: &[&str]) -> Result<String, String> {
    let output = Command::new("docker").args(args).output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The name and the tag of one of our images, which is here. Nothing is pulled in its
/// place: that would be another one.
pub fn image(name: &str) -> (String, String) {
    let repository = format!("ghcr.io/kubernetes-lb-controller/{name}");
    let tag = env!("CARGO_PKG_VERSION").to_owned();
    let found = docker(&["image", "inspect", &format!("{repository}:{tag}")]);
    if let Err(error) = found {
        panic!("{error}; build it with deploy/build-images, see DOCKER_HOST for where");
    }
    (repository, tag)
}

fn generic(name: &str) -> GenericImage {
    let (repository, tag) = image(name);
    GenericImage::new(repository, tag)
}

fn careful(request: ContainerRequest<GenericImage>) -> ContainerRequest<GenericImage> {
    request
        .with_readonly_rootfs(true)
        .with_cap_drop("ALL")
        .with_security_opt("no-new-privileges")
}

/// An allocator that serves everybody.
pub fn allocator() -> ContainerRequest<GenericImage> {
    with_tls().with_env_var("LB_ALLOCATOR_INSECURE_PLAINTEXT", "true")
}

/// An allocator that still has to be given its certificates.
pub fn with_tls() -> ContainerRequest<GenericImage> {
    let image = generic("lb-allocator")
        .with_exposed_port(PORT.tcp())
        .with_wait_for(WaitFor::message_on_stderr("serving"));
    // No cluster has anything that a new database would have to learn first.
    careful(image.into())
        .with_env_var("IP_LIST", addresses())
        .with_env_var("LB_ALLOCATOR_ADOPTION_WINDOW", "0s")
}

/// More than any test asks for.
fn addresses() -> String {
    let list = (0..2048).map(|n| format!("web:10.0.{}.{} ", n / 256, n % 256));
    list.collect()
}

/// One that ends by itself, with this status.
pub fn ending(name: &str, status: i64) -> ContainerRequest<GenericImage> {
    let exit = ExitWaitStrategy::new().with_exit_code(status);
    careful(generic(name).with_wait_for(WaitFor::exit(exit)).into())
}

/// Runs it to its end: standard output and standard error.
pub async fn ended(request: ContainerRequest<GenericImage>) -> (String, String) {
    let container = request.start().await.unwrap();
    let out = container.stdout_to_vec().await.unwrap();
    let errors = container.stderr_to_vec().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(out), text(errors))
}

/// A container that runs, or ran.
pub struct Container(pub ContainerAsync<GenericImage>);

impl Container {
    pub async fn start(request: ContainerRequest<GenericImage>) -> Self {
        match request.start().await {
            Ok(container) => Self(container),
            Err(error) => panic!("the container does not start: {error}"),
        }
    }

    /// As [`Self::start`], after it has ended.
    pub async fn start_again(&self) {
        self.0.start().await.unwrap();
        // Its port is another one now, and open before somebody answers behind it.
        eventually(DEADLINE, "it serves again", async || {
            let channel = connect(&self.url("http").await).await?;
            let mut client = PoolServiceClient::new(channel);
            anyhow::Ok(client.list_pools(ListPoolsRequest {}).await?)
        })
        .await;
    }

    /// Where the port is on this machine, which is the engine's: certificates are
    /// mounted from here. What testcontainers takes for the host is the bridge where
    /// it takes this machine for a container.
    pub async fn url(&self, scheme: &str) -> String {
        let port = self.0.get_host_port_ipv4(PORT).await.unwrap();
        format!("{scheme}://127.0.0.1:{port}")
    }

    pub async fn channel(&self) -> Channel {
        connect(&self.url("http").await).await.unwrap()
    }

    pub async fn client(&self) -> AllocatorServiceClient<Channel> {
        AllocatorServiceClient::new(self.channel().await)
    }

    /// Name and address of all that is held, in order.
    pub async fn held(&self) -> Vec<(String, String)> {
        let pair = |a: Allocation| (a.service.unwrap().name, a.address);
        let all = allocations(self.channel().await).await;
        let mut pairs: Vec<_> = all.into_iter().map(pair).collect();
        pairs.sort();
        pairs
    }

    /// Runs a command in it: its status, standard output and standard error.
    pub async fn try_exec(&self, command: &[&str]) -> (i64, Vec<u8>, String) {
        let command = ExecCommand::new(command.iter().copied())
            .with_cmd_ready_condition(CmdWaitFor::Exit { code: None });
        let mut result = self.0.exec(command).await.unwrap();
        let out = result.stdout_to_vec().await.unwrap();
        let errors = result.stderr_to_vec().await.unwrap();
        let status = result.exit_code().await.unwrap().unwrap();
        (status, out, String::from_utf8(errors).unwrap())
    }

    /// What a command prints that succeeds.
    pub async fn exec(&self, command: &[&str]) -> String {
        let (status, out, errors) = self.try_exec(command).await;
        assert_eq!(status, 0, "{command:?}: {errors}");
        String::from_utf8(out).unwrap()
    }
}
