//! The admin port of lb-allocator and lb-watcher: `/metrics`, `/healthz`, `/readyz`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    eventually::{eventually, within},
    process::Process,
};

/// Building nothing, opening one file: seconds even on a busy machine.
const START: Duration = Duration::from_secs(60);

/// An admin port on loopback.
#[derive(Debug, Clone, Copy)]
pub struct Admin {
    /// The TCP port.
    pub port: u16,
}

impl Admin {
    /// The body of a 200 answer.
    ///
    /// # Errors
    /// When there is no answer or another one.
    pub async fn get(&self, path: &str) -> Result<String> {
        let (code, body) = timeout(Duration::from_secs(5), self.ask(path))
            .await
            .context("no answer")??;
        if code == 200 {
            Ok(body)
        } else {
            bail!("{path}: {code}: {}", body.trim())
        }
    }

    async fn ask(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .context("no end of the headers")?;
        let code = head.split(' ').nth(1).context("no status line")?.parse()?;
        Ok((code, body.to_owned()))
    }

    /// The value of a metric: the sum over all its series that have these labels.
    ///
    /// # Errors
    /// When the metrics cannot be had.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let text = self.get("/metrics").await?;
        let wanted = |series: &str| {
            let (metric, rest) = series.split_once('{').unwrap_or((series, ""));
            metric == name
                && labels
                    .iter()
                    .all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")))
        };
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '));
        let values = samples
            .filter(|(series, _)| wanted(series))
            .filter_map(|(_, value)| value.parse::<f64>().ok());
        // The sum of no floats is -0.
        Ok(values.sum::<f64>() + 0.0)
    }

    /// Waits until a metric is as `expected` says.
    ///
    /// # Panics
    /// When it is not in time.
    pub async fn sees(&self, name: &str, labels: &[(&str, &str)], expected: impl Fn(f64) -> bool) {
        eventually(
            crate::eventually::DEADLINE,
            format!("{name}{labels:?}"),
            || async {
                match self.metric(name, labels).await {
                    Ok(value) if expected(value) => Ok(()),
                    seen => Err(format!("{seen:?}")),
                }
            },
        )
        .await;
    }

    /// Waits until `/readyz` says yes.
    ///
    /// # Errors
    /// When the process ends before, or is not ready in time.
    pub async fn ready(&self, process: &mut Process) -> Result<()> {
        let ready = within(START, || {
            let ended = process.status();
            async move {
                match ended {
                    Ok(Some(status)) => Ok(Err(format!("it ended with {status}"))),
                    _ => self
                        .get("/readyz")
                        .await
                        .map(|_| Ok(()))
                        .map_err(|error| format!("{error:#}")),
                }
            }
        });
        match ready.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) | Err(why) => bail!("not ready: {why}\n{}", process.tail()),
        }
    }
}
