//! The HTTP clients of the process: one for each kind of host.
//!
//! Guarantees: no redirect is followed; `https` goes through the proxy that the environment names, loopback never does;
//! a connection that was idle for more than 4 seconds is not used again; nothing that may have arrived is sent twice.
//! (If a pooled connection turns out to be closed before anything was sent, the pool sends the request on another.)

use std::sync::OnceLock;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderValue};
use reqwest::{Client, Response, Url, redirect, retry};

use crate::error::{Cause, NoCertificates};
use crate::url::is_loopback;

/// Less than the servers and load balancers in use keep idle connections: Node.js has 5 s, others more. A request must
/// not meet a connection that is being closed.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);
const USER_AGENT_VALUE: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// The limits of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connect_timeout: Duration,
    pub(crate) timeout: Duration,
    pub(crate) max_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(2), timeout: Duration::from_secs(10), max_bytes: 1024 * 1024 }
    }
}

/// The clients, each built when it is first needed: reading the machine's certificate authorities takes milliseconds.
#[derive(Default)]
pub(crate) struct Clients {
    connect_timeout: Option<Duration>,
    remote: OnceLock<Result<Client, NoCertificates>>,
    loopback: OnceLock<Result<Client, NoCertificates>>,
    loopback_https: OnceLock<Result<Client, NoCertificates>>,
}

impl Clients {
    /// Clients that take at most this long to connect.
    pub(crate) fn connecting_within(connect_timeout: Duration) -> Self {
        Self { connect_timeout: Some(connect_timeout), ..Self::default() }
    }

    /// The client for this URL's kind of host.
    pub(crate) fn get(&self, url: &Url) -> Result<&Client, NoCertificates> {
        let is_https = url.scheme() == "https";
        let client = match (is_loopback(url), is_https) {
            (false, _) => &self.remote,
            (true, true) => &self.loopback_https,
            (true, false) => &self.loopback,
        };
        client.get_or_init(|| self.build(is_loopback(url), is_https)).as_ref().map_err(|error| *error)
    }

    fn build(&self, is_loopback: bool, is_https: bool) -> Result<Client, NoCertificates> {
        let mut builder = Client::builder()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .connect_timeout(self.connect_timeout.unwrap_or(Limits::default().connect_timeout));
        if is_loopback {
            builder = builder.no_proxy();
        }
        if !is_https {
            // A machine without certificate authorities can still call itself.
            builder = builder.tls_certs_only([]);
        }
        builder.build().map_err(|_| NoCertificates)
    }
}

/// The headers that every request carries. Some firewalls refuse a request without `User-Agent`. Compressed answers are
/// not read, so none is asked for.
pub(crate) fn set_common_headers(headers: &mut HeaderMap) {
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT_VALUE));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// How a request failed.
pub(crate) enum Failed {
    /// A connection in time, but no answer.
    Timeout,
    /// No connection, or one that broke.
    Other(Cause),
}

impl From<reqwest::Error> for Failed {
    fn from(error: reqwest::Error) -> Self {
        // A connection that takes too long was never made.
        if error.is_timeout() && !error.is_connect() { Self::Timeout } else { Self::Other(Cause::of(&error)) }
    }
}

/// The next piece of an answer, and `None` at its end or past the limit, of which `left` is left.
pub(crate) async fn chunk(response: &mut Response, left: &mut usize) -> Result<Option<Vec<u8>>, ChunkError> {
    match response.chunk().await.map_err(|error| ChunkError::Failed(error.into()))? {
        Some(chunk) => {
            *left = left.checked_sub(chunk.len()).ok_or(ChunkError::TooLarge)?;
            Ok(Some(chunk.into()))
        }
        None => Ok(None),
    }
}

/// Why a piece of an answer can't be had.
pub(crate) enum ChunkError {
    TooLarge,
    Failed(Failed),
}

/// Reads an answer piece by piece, so that one that is too large is never held.
pub(crate) async fn read(response: &mut Response, left: &mut usize) -> Result<Vec<u8>, ChunkError> {
    let mut body = Vec::new();
    while let Some(chunk) = chunk(response, left).await? {
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
