//! One fetch of the issuer's document, and the limits on it.
//!
//! It guarantees that a fetch ends in time, whatever the other side does, that no more than a bounded document is held,
//! and that the keys come from the one URL that was configured: no redirect is followed.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url, redirect, retry};
use tokio::sync::OnceCell;

use super::jwk::{BadDocument, Keys};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Vercel's document is about 1 KiB.
const MAX_DOCUMENT_BYTES: usize = 256 * 1024;

/// Where the keys are.
#[derive(Debug)]
pub(super) struct Source {
    url: Url,
    /// Built by the first fetch, for it reads the machine's certificate authorities, and a start need not wait for
    /// that.
    client: OnceCell<Client>,
}

/// What can go wrong with a fetch, for the operator's log. The URL is not in it, for it may hold a query.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no HTTPS client: are certificate authorities installed (package `ca-certificates`, or SSL_CERT_FILE)?")]
    Client(#[source] reqwest::Error),
    #[error("no answer")]
    Request(#[from] reqwest::Error),
    #[error("status {0}, expected 200")]
    Status(StatusCode),
    #[error("more than {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge,
    #[error(transparent)]
    Document(#[from] BadDocument),
}

impl Source {
    pub(super) fn new(url: Url) -> Self {
        Self { url, client: OnceCell::new() }
    }

    /// The URL without what may be a secret: user, password and query.
    pub(super) fn url_to_show(&self) -> Url {
        let mut url = self.url.clone();
        url.set_query(None);
        // These fail for a URL that can have neither.
        let _ = (url.set_username(""), url.set_password(None));
        url
    }

    pub(super) async fn fetch(&self) -> Result<Keys, FetchError> {
        let client = self.client.get_or_try_init(|| async { client(&self.url) }).await.map_err(FetchError::Client)?;
        let mut response = client.get(self.url.clone()).send().await.map_err(reqwest::Error::without_url)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let mut document = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            if document.len() + chunk.len() > MAX_DOCUMENT_BYTES {
                return Err(FetchError::TooLarge);
            }
            document.extend_from_slice(&chunk);
        }
        Ok(Keys::parse(&document)?)
    }
}

fn client(url: &Url) -> reqwest::Result<Client> {
    let client = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(FETCH_TIMEOUT)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        // A connection kept for ten minutes would only be found closed.
        .pool_max_idle_per_host(0);
    // Plain http is for loopback: no proxy reaches it, and it must work where no certificate authority is installed.
    if url.scheme() == "http" { client.no_proxy().tls_certs_only([]) } else { client }.build()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        for (url, shown) in [
            ("https://user:password@keys.test/a?secret", "https://keys.test/a"),
            ("https://user@keys.test/a", "https://keys.test/a"),
            ("https://keys.test/a", "https://keys.test/a"),
        ] {
            assert_eq!(Source::new(url.parse().unwrap()).url_to_show().as_str(), shown);
        }
    }
}
