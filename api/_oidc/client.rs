//! The HTTP clients of the process: one for each kind of host.
//!
//! Guarantees: HTTP/1.1 only, because it replaces a dead connection at the next request, and HTTP/2 does
//! not; no redirect is followed; no answer is decompressed; `https` goes through the proxy that the environment names,
//! loopback never does; a connection that was idle for more than 4 seconds is not used again; a request that may have
//! arrived is not sent again. (If a pooled connection turns out to be closed before anything was sent, the pool uses
//! another connection.) Each of these holds with any features of reqwest, which other crates can turn on.

use std::cell::Cell;
use std::error::Error;
use std::io;
use std::iter::successors;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING};
use http::{HeaderMap, HeaderValue};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, ClientBuilder, Response, Url, redirect, retry};
use tower::Service;
use tower::layer::layer_fn;

use crate::error::Underlying;
use crate::url::is_loopback;

/// Servers and load balancers keep idle connections for longer: Node.js for 5 s, others for more. So a request does not
/// meet a connection that is being closed.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// For a host with one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For a host with several addresses. The HTTP client divides this time among them, so each has at least a second, and
/// the default timeout leaves 2 s for the answer.
const CONNECT_TIMEOUT_OF_ALL: Duration = Duration::from_secs(8);
const MAX_ADDRESSES: usize = 8;
/// A call's default limits.
const TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const MAX_BYTES: usize = 1024 * 1024;

/// The clients, each built when it is first needed: reading the machine's certificate authorities takes milliseconds. A
/// client that can't be built is tried again at the next call.
#[derive(Default)]
pub(crate) struct Clients {
    remote: OnceLock<Client>,
    loopback: OnceLock<Client>,
    loopback_https: OnceLock<Client>,
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
        if let Some(client) = client.get() {
            return Ok(client);
        }
        let mut builder = builder(Resolver { look_up });
        if is_loopback {
            builder = builder.no_proxy();
        }
        if !is_https {
            // A machine without certificate authorities can still call itself.
            builder = builder.tls_certs_only([]);
        }
        let built = builder.build()?;
        Ok(client.get_or_init(|| built))
    }
}

fn builder(resolver: Resolver) -> ClientBuilder {
    let headers = [
        (ACCEPT, HeaderValue::from_static("application/json")),
        // Compressed answers are not read.
        (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
    ];
    Client::builder()
        .default_headers(HeaderMap::from_iter(headers))
        // Some firewalls refuse a request without `User-Agent`.
        .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        .tls_backend_rustls()
        .http1_only()
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .dns_resolver(Arc::new(resolver))
        .connector_layer(layer_fn(Connector))
        .connect_timeout(CONNECT_TIMEOUT_OF_ALL)
        .timeout(TIMEOUT)
}

tokio::task_local! {
    /// Whether the host of the connection that is being made has several addresses.
    static HAS_SEVERAL: Cell<bool>;
}

/// The system's resolver, which also tells the [`Connector`] about the addresses.
struct Resolver {
    look_up: fn(&str) -> io::Result<Vec<SocketAddr>>,
}

fn look_up(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((name, 0).to_socket_addrs()?.take(MAX_ADDRESSES).collect())
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let look_up = self.look_up;
        Box::pin(async move {
            let addresses = tokio::task::spawn_blocking(move || look_up(name.as_str())).await??;
            // Not in the scope of a connector if another layer resolves names: then the shorter limit holds.
            let _ = HAS_SEVERAL.try_with(|has_several| has_several.set(addresses.len() > 1));
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

/// Gives up after the time for one address, unless the host has several.
#[derive(Clone)]
struct Connector<S>(S);

impl<R, S: Service<R, Error = BoxError>> Service<R> for Connector<S>
where
    S::Future: Send + 'static,
    S::Response: Send,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let mut connecting = Box::pin(self.0.call(request));
        Box::pin(HAS_SEVERAL.scope(Cell::new(false), async move {
            match tokio::time::timeout(CONNECT_TIMEOUT, &mut connecting).await {
                Ok(connected) => connected,
                Err(_) if HAS_SEVERAL.with(Cell::get) => connecting.await,
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        }))
    }
}

/// Why there is no answer, or not all of it.
#[derive(Debug)]
pub(crate) enum Failed {
    /// There was a connection, but no answer in time.
    Timeout(Underlying),
    /// There was no connection, or the connection broke.
    Other(String, Underlying),
}

impl From<reqwest::Error> for Failed {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let cause = match (error.is_timeout(), error.is_connect()) {
            (true, false) => return Self::Timeout(Arc::new(error)),
            // A timeout while connecting means that there was no connection.
            (true, true) => "connecting took too long".to_owned(),
            (false, _) => cause(&error),
        };
        Self::Other(cause, Arc::new(error))
    }
}

/// Why an answer can't be read.
pub(crate) enum ReadFailed {
    /// The answer is larger than allowed.
    TooLarge,
    Failed(Failed),
}

impl From<reqwest::Error> for ReadFailed {
    fn from(error: reqwest::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Texts of the libraries' errors, and what they mean. If a library changes its text, the cause becomes a general one.
pub(crate) const CAUSES: [(&str, &str); 8] = [
    ("No CA certificates", "no certificate authorities: install `ca-certificates`, or set `SSL_CERT_FILE`"),
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
    let otherwise = if error.is_builder() {
        "the HTTP client can't be built: see the error's source"
    } else {
        "the connection failed"
    };
    of_the_system.map_or_else(|| otherwise.to_owned(), |error| error.kind().to_string())
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
pub(crate) async fn chunk(response: &mut Response, left: &mut usize) -> Result<Option<Vec<u8>>, ReadFailed> {
    let Some(chunk) = response.chunk().await? else { return Ok(None) };
    *left = left.checked_sub(chunk.len()).ok_or(ReadFailed::TooLarge)?;
    Ok(Some(chunk.into()))
}

/// Reads an answer piece by piece, so that an answer over the limit is never held in memory.
pub(crate) async fn read(response: &mut Response, left: &mut usize) -> Result<Vec<u8>, ReadFailed> {
    let mut body = Vec::new();
    while let Some(chunk) = chunk(response, left).await? {
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpSocket, TcpStream};
    use tokio::time::Instant;

    use super::*;

    /// This crate's tests turn reqwest's feature `http2` on, as another crate may do.
    #[tokio::test]
    async fn a_server_that_speaks_http_2_is_offered_http_1_1_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let client = builder(Resolver { look_up }).no_proxy().tls_certs_only([]).build().unwrap();
        let call = tokio::spawn(client.get(url).send());
        let (mut stream, _) = listener.accept().await.unwrap();
        // A TLS record: five bytes, the last two of which are the length. The first is the ClientHello.
        let mut head = [0; 5];
        stream.read_exact(&mut head).await.unwrap();
        let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut hello).await.unwrap();
        drop(stream);
        assert!(call.await.unwrap().is_err());
        let offers = |protocol: &[u8]| hello.windows(protocol.len()).any(|window| window == protocol);
        // RFC 7301: a protocol's name comes after its length. Without ALPN, HTTP/1.1 is spoken.
        assert!(!offers(b"\x02h2"));
        assert!(offers(b"\x08http/1.1") || !offers(b"\0\x10"));
    }

    /// An address at which nothing answers: the queue of connections is full.
    struct Silent(
        #[expect(dead_code, reason = "dropping it frees the queue")] (tokio::net::TcpListener, Vec<TcpStream>),
    );

    async fn silent(address: SocketAddr) -> Silent {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut queue = Vec::new();
        for _ in 0..2 {
            queue.push(TcpStream::connect(address).await.unwrap());
        }
        Silent((listener, queue))
    }

    /// Addresses of loopback that only these tests use.
    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 53, 24, last], 46_024))
    }

    #[cfg_attr(not(target_os = "linux"), ignore = "only Linux has all of 127.0.0.0/8 and tells how long a queue is")]
    #[tokio::test(start_paused = true)]
    async fn each_address_of_a_host_has_a_second_to_connect() {
        let mut silent_ones = Vec::new();
        for last in 1..=8 {
            silent_ones.push(silent(address(last)).await);
        }
        let url = format!("http://host.example:{}/", address(1).port());
        for (look_up, seconds) in [
            ((|_| Ok((1..=8).map(address).collect())) as fn(&str) -> io::Result<Vec<SocketAddr>>, 8),
            (|_| Ok((1..=2).map(address).collect()), 8),
            (|_| Ok(vec![address(1)]), 2),
        ] {
            let client = builder(Resolver { look_up }).no_proxy().tls_certs_only([]).build().unwrap();
            let began = Instant::now();
            let error = Failed::from(client.get(&url).send().await.unwrap_err());
            assert!(matches!(&error, Failed::Other(cause, _) if cause == "connecting took too long"), "{error:?}");
            assert_eq!(began.elapsed().as_secs(), seconds);
        }
        // The last of eight is reached after the seven before it had their seconds.
        drop(silent_ones.pop());
        let listener = TcpListener::bind(address(8)).await.unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
        });
        let look_up = |_: &str| Ok((1..=8).map(address).collect());
        let client = builder(Resolver { look_up }).no_proxy().tls_certs_only([]).build().unwrap();
        let began = Instant::now();
        assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
        assert!((7..8).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    }

    #[test]
    fn an_error_while_building_is_named_by_its_own_cause() {
        let error = builder(Resolver { look_up }).user_agent("\n").build().unwrap_err();
        let Failed::Other(cause, _) = Failed::from(error) else { panic!("another failure") };
        assert!(cause.starts_with("the HTTP client can't be built"), "{cause}");
    }
}
