//! Runs a control plane outside of tests: etcd and kube-apiserver on loopback,
//! until it is told to end. They end with it, however it ends.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use integration_tests::control_plane::ControlPlane;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "Runs etcd and kube-apiserver on loopback, with data in memory")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start, write a kubeconfig of the administrator, and run until SIGINT or SIGTERM
    Up {
        /// Where to write the kubeconfig; it is there once the API server is ready
        #[arg(long)]
        kubeconfig: PathBuf,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let Args {
        command: Command::Up { kubeconfig },
    } = Args::parse();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let control_plane = tokio::select! {
        started = ControlPlane::start("control-plane") => started?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    std::fs::copy(control_plane.kubeconfig(), &kubeconfig)
        .with_context(|| format!("cannot write {}", kubeconfig.display()))?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
