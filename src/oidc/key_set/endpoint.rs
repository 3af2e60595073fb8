//! One fetch of the issuer's document over HTTPS.
//!
//! It follows no redirect, so the keys come from the configured URL only. It reads no more than a document may have.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue};
use reqwest::{Client, StatusCode, Url, redirect, retry};
use tokio::sync::OnceCell;

use super::fetches::{Document, MAX_DOCUMENT_BYTES};
use crate::error::KeySetError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Some firewalls refuse requests without a `User-Agent`.
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// The place of the keys.
pub(super) struct Endpoint {
    url: Url,
    /// Built by the first fetch and not at the start, because it reads the machine's certificate authorities.
    client: OnceCell<Client>,
}

/// Why there is no document. The error does not hold the URL, because a query may hold a secret.
#[derive(Debug, thiserror::Error)]
enum EndpointError {
    #[error("no HTTPS client: install the package `ca-certificates`, or set SSL_CERT_FILE")]
    Client(#[source] reqwest::Error),
    #[error("no answer")]
    Request(#[source] reqwest::Error),
    #[error("status {}, expected 200", .0.as_u16())]
    Status(StatusCode),
    #[error("the answer has `Content-Encoding`, which was not asked for")]
    ContentEncoding,
}

impl From<reqwest::Error> for EndpointError {
    fn from(error: reqwest::Error) -> Self {
        Self::Request(error.without_url())
    }
}

impl Endpoint {
    /// An attacker who can change what the URL answers decides who is accepted, so the URL is `https` or loopback.
    pub(super) fn new(url: &str) -> Result<Self, KeySetError> {
        let url = Url::parse(url).map_err(|_| KeySetError::Url)?;
        let is_bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        let is_safe = url.scheme() == "https" || url.scheme() == "http" && is_loopback(&url);
        (is_bare && is_safe).then_some(Self { url, client: OnceCell::new() }).ok_or(KeySetError::Url)
    }

    /// The URL without its query, which may hold a secret.
    pub(super) fn url_for_log(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.into()
    }

    pub(super) async fn fetch(self: Arc<Self>) -> Document {
        Ok(self.document().await?)
    }

    async fn document(&self) -> Result<Vec<u8>, EndpointError> {
        let client = self.client.get_or_try_init(|| async { client(&self.url) });
        let client = client.await.map_err(EndpointError::Client)?;
        let request = client.get(self.url.clone()).header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut response = request.send().await?;
        if response.status() != StatusCode::OK {
            return Err(EndpointError::Status(response.status()));
        }
        if response.headers().get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(EndpointError::ContentEncoding);
        }
        let mut document = Vec::new();
        // A document that is too large is cut one chunk after the limit, and then refused.
        while document.len() <= MAX_DOCUMENT_BYTES
            && let Some(chunk) = response.chunk().await?
        {
            document.extend_from_slice(&chunk);
        }
        Ok(document)
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "localhost"
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn client(url: &Url) -> reqwest::Result<Client> {
    let client = Client::builder()
        .user_agent(USER_AGENT)
        // With HTTP/2, a connection that went silent would fail each fetch. Another crate can turn the feature on.
        .http1_only()
        // Without these, `Content-Encoding` is not seen if another crate turns these features on.
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        // An idle connection would be closed before the next fetch, ten minutes later.
        .pool_max_idle_per_host(0);
    // Plain http is for loopback: no proxy reaches it, and it needs no certificate authorities.
    if url.scheme() == "http" { client.no_proxy().tls_certs_only([]) } else { client }.build()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn keys_come_from_https_or_loopback() {
        for url in [
            "https://x.test",
            "https://x.test/?a",
            "http://127.0.0.1:1/",
            "http://127.9.9.9",
            "http://[::1]:1",
            "http://localhost:1/x",
            "http://LOCALHOST",
        ] {
            assert!(Endpoint::new(url).is_ok(), "{url}");
        }
        for url in [
            "http://x.test",
            "http://127.0.0.1.x.test",
            "http://localhost.x.test",
            "http://[::]",
            "http://10.0.0.1",
            "http://0.0.0.0",
            "http://localhost@x.test",
            "https://a:b@x.test",
            "https://x.test/#a",
            "ws://localhost",
            "x.test",
            "http:",
            "//localhost",
            "",
        ] {
            assert!(Endpoint::new(url).is_err(), "{url}");
        }
    }

    #[test]
    fn the_log_shows_no_query() {
        assert_eq!(Endpoint::new("https://keys.test/a?secret").unwrap().url_for_log(), "https://keys.test/a");
    }
}
