//! The harness itself: what it starts is real, and nothing of it is left over. And what the READMEs
//! say of the repository.

use std::{fs, io::ErrorKind, path::Path, process::Command, time::Duration};

use anyhow::Result;
use integration_tests::{
    commands::repository,
    control_plane::ControlPlane,
    eventually::eventually,
    kubeconfig,
    namespace::addresses,
    readme::{READMES, text_of},
    relay::Relay,
    scratch::Scratch,
    service::service,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, api::ListParams};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const MINUTES: Duration = Duration::from_secs(180);

/// Processes whose command line holds the text.
fn processes_with(text: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|line| line.contains(text))
        .map(|line| line.replace('\0', " "))
        .collect()
}

fn data_folder(kubeconfig: &Path) -> Option<String> {
    let config: serde_json::Value = serde_json::from_slice(&fs::read(kubeconfig).ok()?).ok()?;
    let key = config["users"][0]["user"]["client-key"].as_str()?;
    Some(Path::new(key).parent()?.display().to_string())
}

#[tokio::test]
async fn a_control_plane_that_is_killed_leaves_no_process_and_no_data() {
    let scratch = Scratch::new("harness").unwrap();
    let kubeconfig = scratch.path().join("kubeconfig");
    let mut up = Command::new(env!("CARGO_BIN_EXE_control-plane"))
        .args(["up", "--kubeconfig"])
        .arg(&kubeconfig)
        .spawn()
        .unwrap();
    let folder = eventually(MINUTES, "the kubeconfig is written", async || {
        assert!(up.try_wait().unwrap().is_none(), "it ended by itself");
        data_folder(&kubeconfig).ok_or("not there")
    })
    .await;
    let client = kubeconfig::client(&kubeconfig).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(client);
    assert!(
        !namespaces
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert_eq!(
        processes_with(&folder)
            .iter()
            .filter(|line| !line.starts_with("sh "))
            .count(),
        2
    );

    up.kill().unwrap();
    up.wait().unwrap();

    eventually(MINUTES, "everything of it is gone", || async {
        let left = processes_with(&folder);
        if left.is_empty() && !Path::new(&folder).exists() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_control_plane_keeps_its_data_when_it_is_killed_and_started_again() -> Result<()> {
    let mut control_plane = ControlPlane::start("restarted").await?;
    let namespace = control_plane.namespace().await;
    namespace.create(service("kept")).await;
    assert!(addresses(&namespace.get("kept").await).is_empty());

    control_plane.kill_all_and_restart_etcd()?;
    control_plane.start_apiserver().await?;

    assert!(namespace.services().get("kept").await.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_relay_resets_the_connections_that_are_open_on_both_sides() -> Result<()> {
    let server = TcpListener::bind(("127.0.0.1", 0)).await?;
    let relay = Relay::start(server.local_addr()?.port()).await?;
    for _ in 0..2 {
        let mut near = TcpStream::connect(("127.0.0.1", relay.port)).await?;
        let (mut far, _) = server.accept().await?;
        near.write_all(b"passes").await?;
        let mut passed = [0; 6];
        far.read_exact(&mut passed).await?;
        assert_eq!(&passed, b"passes");

        relay.reset();
        for side in [&mut near, &mut far] {
            let ended = side.read_u8().await.map_err(|error| error.kind());
            assert_eq!(ended, Err(ErrorKind::ConnectionReset));
        }
    }
    Ok(())
}

/// What GitHub calls a heading in a link.
fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The targets of the links to files and headings of the repository.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1);
    let targets = targets.filter_map(|rest| Some(rest.split_once(')')?.0));
    targets.filter(|target| !target.contains("://")).collect()
}

#[test]
fn every_link_of_a_readme_leads_to_a_file_and_to_a_heading_of_it() {
    for readme in READMES {
        let text = text_of(readme);
        let folder = Path::new(readme).parent().unwrap();
        for link in links(&text) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let file = match file {
                "" => Path::new(readme).to_owned(),
                file => folder.join(file),
            };
            assert!(repository().join(&file).exists(), "{readme}: {link}");
            if !heading.is_empty() {
                let text = text_of(file.to_str().unwrap());
                let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
                let mut headings = headings.map(|line| anchor(line.trim_start_matches(['#', ' '])));
                assert!(headings.any(|known| known == heading), "{readme}: {link}");
            }
        }
    }
}
