//! Which proxy leads to the API server, as kubectl decides it. Pure.

use std::net::IpAddr;

use http::Uri;
use ipnet::IpNet;

/// The proxy of `HTTPS_PROXY`, unless `NO_PROXY` excepts the API server. This machine
/// itself never is behind a proxy.
///
/// # Errors
/// When the proxy is no URL.
pub fn from_environment(
    api_server: &Uri,
    https_proxy: Option<&str>,
    no_proxy: Option<&str>,
) -> Result<Option<Uri>, http::uri::InvalidUri> {
    let Some(proxy) = https_proxy.map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let proxy = if proxy.contains("://") {
        proxy.parse()?
    } else {
        format!("http://{proxy}").parse()?
    };
    let target = Target::of(api_server);
    let excepted = target.is_local()
        || no_proxy
            .unwrap_or_default()
            .split(',')
            .any(|exception| target.is_named_by(exception.trim()));
    Ok((!excepted).then_some(proxy))
}

struct Target<'a> {
    host: &'a str,
    address: Option<IpAddr>,
    port: u16,
}

impl<'a> Target<'a> {
    fn of(api_server: &'a Uri) -> Self {
        let host = bare(api_server.host().unwrap_or_default());
        Self {
            host,
            address: host.parse().ok(),
            port: api_server.port_u16().unwrap_or(443),
        }
    }

    fn is_local(&self) -> bool {
        self.host == "localhost" || self.address.is_some_and(|address| address.is_loopback())
    }

    /// By `*`, an address, a prefix, a domain (with all below it) or `.domain` (with
    /// only those), the last three and an address also with a port.
    fn is_named_by(&self, exception: &str) -> bool {
        if exception == "*" {
            return true;
        }
        if let Ok(prefix) = exception.parse::<IpNet>() {
            return self
                .address
                .is_some_and(|address| prefix.contains(&address));
        }
        if let Ok(address) = bare(exception).parse::<IpAddr>() {
            return self.address == Some(address);
        }
        let (name, port) = match exception.rsplit_once(':') {
            Some((name, port)) => (name, port.parse::<u16>().ok()),
            None => (exception, None),
        };
        if port.is_some_and(|port| port != self.port) {
            return false;
        }
        if let Ok(address) = bare(name).parse::<IpAddr>() {
            return self.address == Some(address);
        }
        let name = name.strip_prefix('*').unwrap_or(name).to_ascii_lowercase();
        let host = self.host.to_ascii_lowercase();
        match name.strip_prefix('.') {
            Some("") | None if name.is_empty() => false,
            Some(_) => host.ends_with(&name),
            None => host == name || host.ends_with(&format!(".{name}")),
        }
    }
}

/// Without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "http://proxy.example.org:3128/";

    fn leads_by(api_server: &str, no_proxy: &str) -> bool {
        let api_server = api_server.parse().unwrap();
        let proxy = from_environment(&api_server, Some(PROXY), Some(no_proxy)).unwrap();
        assert!(proxy.is_none() || proxy == Some(PROXY.parse().unwrap()));
        proxy.is_some()
    }

    #[test]
    fn an_api_server_that_no_proxy_names_is_reached_without_one() {
        for (api_server, no_proxy) in [
            ("https://10.0.0.1:6443", "*"),
            ("https://10.0.0.1:6443", "localhost, 10.0.0.1"),
            ("https://10.0.0.1:6443", "10.0.0.1:6443"),
            ("https://10.0.0.1", "a.example.org,10.0.0.0/8,"),
            ("https://[2001:db8::1]:6443", "2001:db8::/32"),
            ("https://[2001:db8::1]:6443", "2001:db8::1"),
            ("https://[2001:db8::1]:6443", "[2001:db8::1]:6443"),
            ("https://api.example.org:6443", "example.org"),
            ("https://api.example.org:6443", "API.example.org:6443"),
            ("https://api.example.org:6443", ".example.org"),
            ("https://api.example.org:6443", "*.example.org"),
            // This machine.
            ("https://127.0.0.1:6443", ""),
            ("https://[::1]:6443", ""),
            ("https://localhost:6443", ""),
        ] {
            assert!(!leads_by(api_server, no_proxy), "{api_server} {no_proxy}");
        }
    }

    #[test]
    fn any_other_is_reached_by_the_proxy() {
        for (api_server, no_proxy) in [
            ("https://10.0.0.1:6443", ""),
            ("https://10.0.0.1:6443", ",,"),
            ("https://10.0.0.1:6443", "10.0.0.2,11.0.0.0/8,example.org"),
            ("https://10.0.0.1:6443", "10.0.0.1:443"),
            ("https://10.0.0.1:6443", "."),
            ("https://[2001:db8::1]:6443", "::/128"),
            ("https://example.org", ".example.org"),
            ("https://notexample.org", "example.org"),
            ("https://api.example.org:6443", "api.example.org:443"),
        ] {
            assert!(leads_by(api_server, no_proxy), "{api_server} {no_proxy}");
        }
    }

    #[test]
    fn a_proxy_needs_no_scheme_and_must_be_a_url() {
        let api_server = "https://10.0.0.1".parse().unwrap();
        let by = |proxy| from_environment(&api_server, proxy, None);
        assert_eq!(by(None).unwrap(), None);
        assert_eq!(by(Some(" ")).unwrap(), None);
        let plain = by(Some("proxy.example.org:3128")).unwrap();
        assert_eq!(plain, Some(PROXY.parse().unwrap()));
        assert!(by(Some("http://a b")).is_err());
    }
}
