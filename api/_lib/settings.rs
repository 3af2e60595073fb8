//! What the caller reads from the environment, once per process.
//!
//! Guarantees: a blank variable counts as unset; a token can only go to `https`, or to loopback. A problem does not
//! stop the function: Vercel would show a crash and no reason, so each request that needs the setting is answered with
//! all that is wrong.

use std::net::Ipv4Addr;

use reqwest::Url;

const TOKEN_EXCHANGE: &str = "https://oidc.vercel.com/~token";

/// The caller's settings, good or not.
pub struct Settings {
    pub(crate) endpoints: Result<Endpoints, Misconfigured>,
    token_file: Option<String>,
    token_variable: Option<String>,
    /// Whether this may be a developer's machine, where the Vercel CLI can be asked for a token.
    pub(crate) may_refresh: bool,
}

/// Where tokens go.
pub(crate) struct Endpoints {
    pub(crate) backend: Url,
    /// Vercel's Deployment Protection stands before the backend, and takes the same token in a header of its own.
    pub(crate) backend_is_on_vercel: bool,
    pub(crate) exchange: Url,
    /// With it, the token is exchanged before the call.
    pub(crate) audience: Option<String>,
}

/// Settings that can't be used: every problem, each naming its variable.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(crate) struct Misconfigured(Vec<String>);

impl Settings {
    /// Reads the settings; `variable` gives an environment variable's value.
    #[must_use]
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name: &str| {
            let value = variable(name)?.trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        Self {
            endpoints: Endpoints::read(&variable),
            token_file: variable("VERCEL_OIDC_TOKEN_FILE"),
            token_variable: variable("VERCEL_OIDC_TOKEN"),
            may_refresh: variable("VERCEL_ENV").is_none_or(|environment| environment == "development"),
        }
    }

    /// The variables that say where the token is, for [`crate::token::find`].
    pub(crate) fn token_variable(&self, name: &str) -> Option<String> {
        match name {
            "VERCEL_OIDC_TOKEN_FILE" => self.token_file.clone(),
            "VERCEL_OIDC_TOKEN" => self.token_variable.clone(),
            _ => None,
        }
    }
}

impl Endpoints {
    fn read(variable: &impl Fn(&str) -> Option<String>) -> Result<Self, Misconfigured> {
        let vercel_url = variable("VERCEL_URL");
        let backend = match (variable("BACKEND_URL"), &vercel_url) {
            (Some(url), _) => base("BACKEND_URL", &url),
            (None, Some(host)) => same_deployment(host),
            (None, None) => Err("set `BACKEND_URL` to the backend's base URL (or deploy both ends together, where Vercel sets `VERCEL_URL`)".to_owned()),
        };
        let exchange = variable("OIDC_TOKEN_EXCHANGE_URL");
        let exchange = allowed("OIDC_TOKEN_EXCHANGE_URL", exchange.as_deref().unwrap_or(TOKEN_EXCHANGE));
        match (backend, exchange) {
            (Ok(backend), Ok(exchange)) => Ok(Self {
                backend_is_on_vercel: is_on_vercel(&backend, vercel_url.as_deref()),
                backend,
                exchange,
                audience: variable("BACKEND_AUDIENCE"),
            }),
            (backend, exchange) => Err(Misconfigured([backend.err(), exchange.err()].into_iter().flatten().collect())),
        }
    }

    /// Whether a call needs certificate authorities.
    pub(crate) fn need_tls(&self) -> bool {
        self.backend.scheme() == "https" || self.audience.is_some() && self.exchange.scheme() == "https"
    }
}

/// A URL that a token may go to. A refused one is not shown: it may hold a password.
fn allowed(name: &str, value: &str) -> Result<Url, String> {
    let url = Url::parse(value)
        .map_err(|_| format!("`{name}` is not a URL: it should look like `https://api.example.com/path`"))?;
    if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(&url)) {
        return Err(format!(
            "`{name}` must be `https`, for a token sent in the clear can be stolen; only a loopback host may have `http`"
        ));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(format!("`{name}` must be a URL without user, password and fragment"));
    }
    Ok(url)
}

/// The same, for a URL that others may be made of, less any `/` at its end.
fn base(name: &str, value: &str) -> Result<Url, String> {
    let mut url = allowed(name, value)?;
    if url.query().is_some() {
        return Err(format!("`{name}` must be a base URL, without a query"));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

fn same_deployment(host: &str) -> Result<Url, String> {
    let url = |scheme| Url::parse(&format!("{scheme}://{host}/backend")).ok();
    url("http")
        .filter(is_loopback)
        .or_else(|| url("https"))
        .filter(|_| !host.contains(['/', '\\', '?', '#', '@']))
        .ok_or_else(|| "`VERCEL_URL` must be a host name alone, as Vercel sets it; or set `BACKEND_URL`".to_owned())
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        host == "localhost" || host == "[::1]" || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
    })
}

fn is_on_vercel(backend: &Url, vercel_url: Option<&str>) -> bool {
    let own = vercel_url.and_then(|host| same_deployment(host).ok());
    backend.host_str().is_some_and(|host| host.ends_with(".vercel.app"))
        || own.is_some_and(|own| own.host() == backend.host() && (own.port().is_none() || own.port() == backend.port()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn endpoints(variables: &[(&str, &str)]) -> Endpoints {
        let find = |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
        Settings::read(find).endpoints.unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn the_trusted_source_header_is_for_vercels_own_hosts() {
        for (backend, vercel_url, expected) in [
            ("https://api.vercel.app", "", true),
            ("https://API.Vercel.App:8443/v1", "", true),
            ("https://evil-vercel.app", "", false),
            ("https://vercel.app", "", false),
            ("https://api.vercel.app.example", "", false),
            ("https://example.com/.vercel.app", "", false),
            ("https://api.example.com", "shop.vercel.app", false),
            ("https://api.example.com", "api.example.com", true),
            ("https://api.example.com", "API.example.com", true),
            ("https://not-api.example.com", "api.example.com", false),
            ("https://api.example.com:443", "api.example.com:443", true),
            ("http://127.0.0.1:3000", "127.0.0.1:3000", true),
            ("http://127.1:3000", "127.0.0.1:3000", true),
            ("http://127.0.0.1:3001", "127.0.0.1:3000", false),
        ] {
            let settings = endpoints(&[("BACKEND_URL", backend), ("VERCEL_URL", vercel_url)]);
            assert_eq!(settings.backend_is_on_vercel, expected, "{backend} {vercel_url}");
        }
    }

    #[test]
    fn the_same_deployment_is_https_unless_it_is_loopback() {
        for (host, url) in [
            ("shop.vercel.app", "https://shop.vercel.app/backend"),
            ("localhost:3000", "http://localhost:3000/backend"),
            ("127.0.0.1:3000", "http://127.0.0.1:3000/backend"),
            ("[::1]:3000", "http://[::1]:3000/backend"),
            ("192.168.0.1", "https://192.168.0.1/backend"),
            ("api.example.com:443", "https://api.example.com/backend"),
            ("127.1:80", "http://127.0.0.1/backend"),
        ] {
            let settings = endpoints(&[("VERCEL_URL", host)]);
            assert_eq!((settings.backend.as_str(), settings.backend_is_on_vercel), (url, true));
        }
    }

    #[test]
    fn loopback_may_have_http_however_it_is_written() {
        for host in ["127.0.0.1", "127.1.2.3", "127.1", "[::1]", "localhost", "LOCALHOST"] {
            assert_eq!(allowed("A", &format!("http://{host}:3001/")).unwrap().scheme(), "http");
        }
        for host in ["128.0.0.1", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "localhost.evil.example", "localhost."] {
            assert!(allowed("A", &format!("http://{host}")).is_err(), "{host}");
            assert!(allowed("A", &format!("https://{host}")).is_ok(), "{host}");
        }
    }

    #[test]
    fn certificate_authorities_are_needed_where_a_call_is_https() {
        let (plain, secure) = (("BACKEND_URL", "http://[::1]:1"), ("BACKEND_URL", "https://api.example.com"));
        assert!(endpoints(&[secure]).need_tls());
        assert!(!endpoints(&[plain]).need_tls());
        assert!(endpoints(&[plain, ("BACKEND_AUDIENCE", "api")]).need_tls());
        let local = ("OIDC_TOKEN_EXCHANGE_URL", "http://[::1]:2");
        assert!(!endpoints(&[plain, local, ("BACKEND_AUDIENCE", "api")]).need_tls());
    }

    #[test]
    fn the_exchange_is_asked_at_its_url_as_it_is() {
        for url in ["https://oidc.example.com/token/", "https://oidc.example.com/token?tenant=a"] {
            let settings = endpoints(&[("BACKEND_URL", "https://api.example.com"), ("OIDC_TOKEN_EXCHANGE_URL", url)]);
            assert_eq!(settings.exchange.as_str(), url);
        }
        for url in ["https://a@oidc.example.com", "https://:b@oidc.example.com", "https://oidc.example.com/#c"] {
            assert!(allowed("A", url).is_err(), "{url}");
        }
        assert!(base("A", "https://api.example.com/?x").is_err());
    }

    #[test]
    fn by_default_the_exchange_is_vercels() {
        let settings = endpoints(&[("BACKEND_URL", "https://api.example.com"), ("BACKEND_AUDIENCE", " ")]);
        assert_eq!((settings.exchange.as_str(), settings.audience), (TOKEN_EXCHANGE, None));
    }
}
