//! The HTTP clients of the process: one for each kind of host.
//!
//! Guarantees: no redirect is followed; `https` goes through the proxy that the environment names, loopback never does;
//! a connection that was idle for more than 4 seconds is not used again; a request that may have arrived is not sent
//! again. (If a pooled connection turns out to be closed before anything was sent, the pool uses another connection.)

use std::error::Error;
use std::io;
use std::iter::successors;
use std::sync::OnceLock;
use std::time::Duration;

use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING};
use http::{HeaderMap, HeaderValue};
use reqwest::{Client, Response, Url, redirect, retry};

use crate::url::is_loopback;

/// Servers and load balancers keep idle connections for longer: Node.js for 5 s, others for more. So a request does not
/// meet a connection that is being closed.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A call's default limits.
const TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const MAX_BYTES: usize = 1024 * 1024;

pub(crate) const NO_CERTIFICATES: &str =
    "no certificate authorities: install `ca-certificates`, or set `SSL_CERT_FILE`";

/// The clients, each built when it is first needed: reading the machine's certificate authorities takes milliseconds.
/// `None` if the machine has no certificate authorities.
#[derive(Default)]
pub(crate) struct Clients {
    remote: OnceLock<Option<Client>>,
    loopback: OnceLock<Option<Client>>,
    loopback_https: OnceLock<Option<Client>>,
}

impl Clients {
    /// The client for this URL's kind of host.
    pub(crate) fn get(&self, url: &Url) -> Result<&Client, Failed> {
        let (is_loopback, is_https) = (is_loopback(url), url.scheme() == "https");
        let client = match (is_loopback, is_https) {
            (false, _) => &self.remote,
            (true, true) => &self.loopback_https,
            (true, false) => &self.loopback,
        };
        client
            .get_or_init(|| build(is_loopback, is_https))
            .as_ref()
            .ok_or_else(|| Failed::Other(NO_CERTIFICATES.to_owned()))
    }
}

fn build(is_loopback: bool, is_https: bool) -> Option<Client> {
    let headers = [
        (ACCEPT, HeaderValue::from_static("application/json")),
        // Compressed answers are not read.
        (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
    ];
    let mut builder = Client::builder()
        .default_headers(HeaderMap::from_iter(headers))
        // Some firewalls refuse a request without `User-Agent`.
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT);
    if is_loopback {
        builder = builder.no_proxy();
    }
    if !is_https {
        // A machine without certificate authorities can still call itself.
        builder = builder.tls_certs_only([]);
    }
    builder.build().ok()
}

/// Why there is no answer, or not all of it.
#[derive(Debug)]
pub(crate) enum Failed {
    /// There was a connection, but no answer in time.
    Timeout,
    /// The answer is larger than allowed.
    TooLarge,
    /// There was no connection, or the connection broke.
    Other(String),
}

impl From<reqwest::Error> for Failed {
    fn from(error: reqwest::Error) -> Self {
        // A timeout while connecting means that there was no connection.
        match (error.is_timeout(), error.is_connect()) {
            (true, false) => Self::Timeout,
            (true, true) => Self::Other("connecting took too long".to_owned()),
            (false, _) => Self::Other(cause(&error)),
        }
    }
}

/// Texts of the libraries' errors, and what they mean. If a library changes its text, the cause becomes a general one.
pub(crate) const CAUSES: [(&str, &str); 7] = [
    ("invalid peer certificate", "its certificate is not trusted: check the certificate and this machine's clock"),
    ("received corrupt message", "it does not speak TLS: check the scheme and port"),
    ("invalid HTTP", "its answer is not valid HTTP: check the scheme and port"),
    ("tunnel error", "the proxy did not connect: check `HTTPS_PROXY` and `NO_PROXY`"),
    ("dns error", "its host name can't be resolved"),
    ("closed before message completed", "it closed the connection"),
    ("end of file before message", "it closed the connection"),
];

/// Why a connection failed. The library's own message is not shown, because it may quote the other end's certificate.
fn cause(error: &reqwest::Error) -> String {
    let first: &(dyn Error + 'static) = error;
    let chain: Vec<_> = successors(Some(first), |error| (*error).source()).collect();
    let texts: Vec<_> = chain.iter().map(ToString::to_string).collect();
    if let Some((_, cause)) = CAUSES.iter().find(|(words, _)| texts.iter().any(|text| text.contains(words))) {
        return (*cause).to_owned();
    }
    let mut of_the_system = chain.iter().filter_map(|error| error.downcast_ref::<io::Error>());
    let of_the_system = of_the_system.find(|error| error.raw_os_error().is_some());
    of_the_system.map_or_else(|| "the connection failed".to_owned(), |error| error.kind().to_string())
}

/// The encoding of an answer with these headers, although no request asks for one. `None` if the answer is not encoded.
pub(crate) fn encoding(headers: &HeaderMap) -> Option<&'static str> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter().map(|value| value.as_bytes().trim_ascii());
    let value = values.find(|value| !value.is_empty() && !value.eq_ignore_ascii_case(b"identity"))?;
    let known = [("gzip", "gzip"), ("x-gzip", "gzip"), ("br", "br"), ("deflate", "deflate"), ("zstd", "zstd")];
    let known = known.iter().find(|(name, _)| value.eq_ignore_ascii_case(name.as_bytes()));
    Some(known.map_or("(unknown)", |(_, name)| name))
}

/// The next piece of an answer, or `None` at its end. `left` is what remains of the size limit.
pub(crate) async fn chunk(response: &mut Response, left: &mut usize) -> Result<Option<Vec<u8>>, Failed> {
    let Some(chunk) = response.chunk().await? else { return Ok(None) };
    *left = left.checked_sub(chunk.len()).ok_or(Failed::TooLarge)?;
    Ok(Some(chunk.into()))
}

/// Reads an answer piece by piece, so that an answer over the limit is never held in memory.
pub(crate) async fn read(response: &mut Response, left: &mut usize) -> Result<Vec<u8>, Failed> {
    let mut body = Vec::new();
    while let Some(chunk) = chunk(response, left).await? {
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
