//! Every flag and environment variable.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Parser, ValueEnum};
use jiff::tz::TimeZone;
use lb_tls::files::Files;
use tonic::transport::Endpoint;

use crate::{kube::annotations::Peer, request::names::is_subdomain};

/// Gives the Services of one Kubernetes cluster the addresses that lb-allocator
/// grants.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Where lb-allocator listens: https://HOST:PORT, http://HOST:PORT or
    /// unix:///PATH.
    #[arg(
        long,
        env = "LB_WATCHER_ALLOCATOR",
        value_name = "URL",
        default_value = "http://127.0.0.1:7373"
    )]
    pub allocator: AllocatorUrl,

    /// For an https:// URL.
    #[command(flatten)]
    pub tls: Tls,

    /// This cluster's name, by which lb-allocator tells it from others: a DNS
    /// subdomain.
    #[arg(long, env = "LB_WATCHER_CLUSTER", value_name = "NAME")]
    pub cluster: ClusterName,

    /// A kubeconfig file. Default: $KUBECONFIG, ~/.kube/config, or the Pod's
    /// service account.
    #[arg(long, env = "LB_WATCHER_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The context of the kubeconfig. Default: its current one.
    #[arg(long, env = "LB_WATCHER_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,

    /// Serve only Services of this spec.loadBalancerClass. Default: only those
    /// that name none.
    #[arg(long, env = "LB_WATCHER_LOAD_BALANCER_CLASS", value_name = "CLASS")]
    pub load_balancer_class: Option<ClassName>,

    /// With a class, serve Services that name none as well.
    #[arg(long, env = "LB_WATCHER_HANDLE_UNCLASSED")]
    pub handle_unclassed: bool,

    /// Read the annotations of these load balancers as well, where a Service has
    /// none of lb-allocator.io for the same thing. Separated by commas.
    #[arg(
        long,
        env = "LB_WATCHER_ANNOTATION_ALIASES",
        value_name = "NAMES",
        value_delimiter = ','
    )]
    pub annotation_aliases: Vec<Peer>,

    /// Where /metrics, /healthz and /readyz are served.
    #[arg(
        long,
        env = "LB_WATCHER_ADMIN_LISTEN",
        value_name = "ADDR",
        default_value = "127.0.0.1:7375"
    )]
    pub admin_listen: SocketAddr,

    /// How many Services are worked on at a time, 1 to 256.
    #[arg(long, env = "LB_WATCHER_CONCURRENCY", value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,

    /// classic: one line per decision on stdout, all else on stderr. pretty, json:
    /// everything on stdout.
    #[arg(
        long,
        env = "LB_WATCHER_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "classic"
    )]
    pub log_format: LogFormat,

    /// What is logged, as a tracing filter.
    #[arg(
        long,
        env = "RUST_LOG",
        value_name = "FILTER",
        default_value = "info,kube_client::client::builder=off"
    )]
    pub log_filter: String,

    /// The name of this process in Events and in its session.
    #[arg(
        long,
        env = "HOSTNAME",
        value_name = "NAME",
        default_value = "lb-watcher",
        hide = true
    )]
    pub instance: String,

    /// Where traces go.
    #[command(flatten)]
    pub traces: TracesTo,
}

/// Where traces go. The OpenTelemetry SDK reads the other `OTEL_` variables.
#[derive(Clone, Debug, clap::Args)]
pub struct TracesTo {
    /// The collector, which takes OTLP by gRPC: http://HOST:PORT.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        value_name = "URL",
        hide = true
    )]
    otlp_endpoint: Option<String>,

    /// The same, for traces alone.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        value_name = "URL",
        hide = true
    )]
    otlp_traces_endpoint: Option<String>,
}

impl TracesTo {
    /// Nowhere, unless it is said.
    pub fn endpoint(self) -> Option<String> {
        let endpoint = self.otlp_traces_endpoint.or(self.otlp_endpoint);
        endpoint.filter(|endpoint| !endpoint.is_empty())
    }
}

/// The files that an https:// URL needs, all three; read again when they change.
#[derive(Clone, Debug, clap::Args)]
pub struct Tls {
    /// The certificate to show to an https:// allocator, a PEM file.
    #[arg(long, env = "LB_WATCHER_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The key of the certificate, a PEM file.
    #[arg(long, env = "LB_WATCHER_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// The CA that the allocator's certificate comes from, a PEM file. Also
    /// called --client-ca, as on the allocator.
    #[arg(long, env = "LB_WATCHER_SERVER_CA", value_name = "FILE")]
    server_ca: Option<PathBuf>,

    /// The name that it has on the allocator.
    #[arg(
        long,
        env = "LB_WATCHER_CLIENT_CA",
        value_name = "FILE",
        hide = true,
        conflicts_with = "server_ca"
    )]
    client_ca: Option<PathBuf>,
}

impl Tls {
    /// The files for this URL.
    ///
    /// # Errors
    /// Names what is missing, or has no use.
    pub fn files(self, allocator: &AllocatorUrl) -> Result<Option<Files>, &'static str> {
        let Self {
            tls_cert,
            tls_key,
            server_ca,
            client_ca,
        } = self;
        let ca = server_ca.or(client_ca);
        let https = allocator.text.starts_with("https://");
        match (https, tls_cert, tls_key, ca) {
            (true, Some(cert), Some(key), Some(ca)) => Ok(Some(Files { cert, key, ca })),
            (true, ..) => {
                Err("an https:// --allocator needs --tls-cert, --tls-key and --server-ca")
            }
            (false, None, None, None) => Ok(None),
            (false, ..) => {
                Err("--tls-cert, --tls-key and --server-ca need an https:// --allocator")
            }
        }
    }
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// The original controller's lines.
    Classic,
    /// For people.
    Pretty,
    /// For machines.
    Json,
}

/// Where the allocator listens.
#[derive(Clone, Debug)]
pub struct AllocatorUrl {
    /// As it was written; that of a socket cannot be told from the endpoint.
    pub text: String,
    /// To connect to.
    pub endpoint: Endpoint,
}

impl FromStr for AllocatorUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = ["https://", "http://", "unix:///"];
        if !known.iter().any(|scheme| text.starts_with(scheme)) {
            let forms = "https://HOST:PORT, http://HOST:PORT or unix:///PATH";
            return Err(format!("an allocator's URL is {forms}"));
        }
        let text = text.to_owned();
        let endpoint = Endpoint::from_shared(text.clone()).map_err(|error| error.to_string())?;
        Ok(Self { text, endpoint })
    }
}

/// A cluster's name: a DNS subdomain (RFC 1123).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterName(pub String);

impl FromStr for ClusterName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_subdomain(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(
                "a cluster's name is a DNS subdomain: lower case letters, digits, '-' and '.', \
                 at most 253 characters, each part beginning and ending with a letter or digit",
            )
        }
    }
}

/// A load balancer class: a label-style name, as the API server takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassName(pub String);

impl FromStr for ClassName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (prefix, name) = match text.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, text),
        };
        let alphanumeric = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = name.as_bytes();
        let fits = bytes.len() <= 63
            && alphanumeric(bytes.first())
            && alphanumeric(bytes.last())
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b));
        if fits && prefix.is_none_or(is_subdomain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(
                "a class is a name like example.org/internal or internal: letters, digits, \
                 '-', '_' and '.', at most 63 characters after the prefix",
            )
        }
    }
}

/// The zone of the classic log's times: UTC, unless TZ names another.
pub fn time_zone() -> TimeZone {
    match std::env::var_os("TZ") {
        Some(zone) if !zone.is_empty() => TimeZone::system(),
        Some(_) | None => TimeZone::UTC,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        let base = ["lb-watcher", "--cluster", "a"];
        Args::try_parse_from(base.iter().chain(args))
    }

    #[test]
    fn what_makes_no_sense_is_refused_at_the_start() {
        for bad in [
            &["--cluster", "Not A Name"][..],
            &["--cluster", ""],
            &["--cluster", "a..b"],
            &["--load-balancer-class", ""],
            &["--load-balancer-class", "example.org/"],
            &["--load-balancer-class", "Example.org/x"],
            &["--load-balancer-class", "a/b/c"],
            &["--allocator", "127.0.0.1:7373"],
            &["--allocator", "ftp://x"],
            &["--concurrency", "0"],
            &["--concurrency", "257"],
            &["--log-format", "xml"],
            &["--annotation-aliases", "metallb,openelb"],
        ] {
            let args: Vec<_> = ["lb-watcher"].iter().chain(bad).collect();
            let args = Args::try_parse_from(if bad[0] == "--cluster" {
                args
            } else {
                args.into_iter().chain(&["--cluster", "a"]).collect()
            });
            assert!(args.is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_makes_sense_is_taken() {
        for good in [
            &["--load-balancer-class", "internal"][..],
            &["--load-balancer-class", "example.org/In_ternal.1"],
            &["--allocator", "unix:///run/lb.sock"],
            &["--allocator", "http://[::1]:7373"],
            &["--allocator", "https://allocator.example.org:7373"],
            &["--concurrency", "256"],
        ] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn https_needs_all_three_files_and_nothing_else_takes_them() {
        let files = |args: &str| {
            let args: Vec<_> = args.split_whitespace().collect();
            let args = parse(&args).unwrap();
            args.tls.files(&args.allocator)
        };
        let all = Files {
            cert: "c".into(),
            key: "k".into(),
            ca: "a".into(),
        };
        let https = "--allocator https://x:1";
        for ca in ["--server-ca", "--client-ca"] {
            let args = format!("{https} --tls-cert c --tls-key k {ca} a");
            assert_eq!(files(&args), Ok(Some(all.clone())), "{ca}");
        }
        assert_eq!(files("--allocator http://x:1"), Ok(None));
        assert!(files(https).unwrap_err().contains("--tls-cert"));
        assert!(files(&format!("{https} --tls-cert c --tls-key k")).is_err());
        assert!(files("--allocator http://x:1 --server-ca a").is_err());
        assert!(parse(&["--server-ca", "a", "--client-ca", "b"]).is_err());
    }

    #[test]
    fn the_peers_whose_annotations_are_read_are_a_comma_list() {
        use Peer::{Cilium, KubeVip, Metallb, Purelb};
        let peers = |args: &[&str]| parse(args).unwrap().annotation_aliases;
        assert_eq!(peers(&[]), []);
        let all = peers(&["--annotation-aliases", "metallb,cilium,purelb,kube-vip"]);
        assert_eq!(all, [Metallb, Cilium, Purelb, KubeVip]);
    }
}
