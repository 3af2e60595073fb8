//! The one HTTP client of the process, and what it may be told at most.
//!
//! Guarantees: no redirect is followed, no proxy is used (each would take a token where it does not belong), nothing
//! that may have arrived is sent twice (the connection pool sends again what it could not send at all), and each call
//! has its limits. Left to others: what is sent, and what an answer means.

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::{Client, Response, redirect, retry};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer that is read: 1 MiB.
pub(crate) const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The client, built when first needed: that reads the machine's certificate authorities, which takes milliseconds.
pub(crate) struct SharedClient {
    client: OnceLock<Result<Client, ClientError>>,
    needs_tls: bool,
}

impl SharedClient {
    pub(crate) fn new(needs_tls: bool) -> Self {
        Self { client: OnceLock::new(), needs_tls }
    }

    pub(crate) fn get(&self) -> Result<&Client, ClientError> {
        self.client.get_or_init(|| build(self.needs_tls)).as_ref().map_err(Clone::clone)
    }
}

/// The client could not be built.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "`https` can't be used, for this machine has no certificate authorities to trust: install the package `ca-certificates`, \
     or set `SSL_CERT_FILE` to a file of them"
)]
pub(crate) struct ClientError(#[source] std::sync::Arc<reqwest::Error>);

fn build(needs_tls: bool) -> Result<Client, ClientError> {
    let builder = Client::builder()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT);
    // Without `https` no authority is needed, and where a machine has none, asking for them would fail.
    let builder = if needs_tls { builder } else { builder.tls_certs_only([]) };
    builder.build().map_err(|error| ClientError(error.into()))
}

/// An answer's body could not be read.
pub(crate) enum BodyError {
    TooLarge,
    Broken(reqwest::Error),
}

/// Reads an answer's body, chunk by chunk, so that one that is too large is never held.
pub(crate) async fn read(mut response: Response) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Broken)? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(BodyError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
