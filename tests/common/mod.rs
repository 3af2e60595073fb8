//! What the tests share: a valid token for a test to change, a backend on a free port, and a client that sends any
//! bytes.

#![allow(dead_code, unused_imports, reason = "each test file uses a part of this")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod issuer;
pub(crate) mod program;

use std::future::pending;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::routing::get as get_of;
use backend::settings::Settings;
use local::{Deployment, SigningKey, TestKey};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use vercel_oidc_verifier::Verifier;

pub(crate) use issuer::FakeIssuer;
pub(crate) use program::Program;

pub(crate) const ISSUER: &str = "https://oidc.vercel.com/acme";

/// The issuer's key.
pub(crate) static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::for_tests("key-1", TestKey::Issuer));
/// The key that the issuer changes to.
pub(crate) static NEXT_KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::for_tests("key-2", TestKey::Next));
/// An attacker's key with the `kid` of the issuer's.
pub(crate) static FORGED_KEY: LazyLock<SigningKey> =
    LazyLock::new(|| SigningKey::for_tests("key-1", TestKey::Attacker));

/// The claims of a token that the backend accepts.
pub(crate) fn claims() -> Value {
    Deployment::default().claims(ISSUER, SystemTime::now(), Duration::from_secs(3600))
}

/// These claims with one changed; `null` removes it.
pub(crate) fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

/// A token that the backend accepts.
pub(crate) fn token() -> String {
    KEY.mint(&claims())
}

/// A token with a new `jti`. The backend accepts it if it has the key.
pub(crate) fn fresh_token(key: &SigningKey) -> String {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    key.mint(&claims_with("jti", json!(COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string())))
}

/// A token whose header names a key that no issuer has.
pub(crate) fn token_of_kid(kid: &str) -> String {
    KEY.sign(json!({ "alg": "RS256", "kid": kid }).to_string().as_bytes(), claims().to_string().as_bytes())
}

/// Settings that trust production of `storefront`, a project of `acme`. The keys come from `jwks_url`.
pub(crate) fn settings(jwks_url: &str, more: &[(&str, &str)]) -> Settings {
    let given = [("OIDC_TEAM_SLUG", "acme"), ("OIDC_PROJECT_NAME", "storefront"), ("OIDC_JWKS_URL", jwks_url)];
    Settings::read(|name| {
        let mut all = more.iter().chain(&given);
        all.find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
    })
    .unwrap()
}

/// The verifier of these settings.
pub(crate) fn verifier(settings: Settings) -> Verifier {
    Verifier::new(settings.trust, settings.keys).with_cached_tokens(settings.cached_tokens)
}

/// The backend in this process, for tests that move its clock.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    ended: watch::Receiver<usize>,
    _log: DefaultGuard,
}

impl Backend {
    pub(crate) async fn start(issuer: &FakeIssuer) -> Self {
        Self::start_with(issuer, &[]).await
    }

    /// Starts a backend with a route that answers `GET /`. The repository's routes belong to the user.
    pub(crate) async fn start_with(issuer: &FakeIssuer, more: &[(&str, &str)]) -> Self {
        Self::serve(Router::new().route("/", get_of(async || axum::Json("accepted"))), settings(&issuer.url(), more))
            .await
    }

    /// Starts a backend with these routes, and waits until it has fetched the keys.
    pub(crate) async fn with_routes(issuer: &FakeIssuer, routes: Router) -> Self {
        let backend = Self::serve(routes, settings(&issuer.url(), &[])).await;
        backend.fetches_ended(1).await;
        backend
    }

    async fn serve(routes: Router, settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let verifier = Arc::new(verifier(settings));
        let app = backend::app::app(routes, verifier.clone());
        let backend = Self::spawn(address, backend::server::serve(listener, app, pending()));
        verifier.keys().prefetch(SystemTime::now());
        backend
    }

    /// The server must run on the test's thread, because that thread's log shows when a fetch has ended.
    fn spawn(address: SocketAddr, server: impl Future<Output = io::Result<()>> + Send + 'static) -> Self {
        let (count, ended) = watch::channel(0);
        let _log = tracing::subscriber::set_default(tracing_subscriber::registry().with(EndedFetches(count)));
        tokio::spawn(server);
        Self { address, ended, _log }
    }

    /// Starts a backend, and waits until it has fetched the keys.
    pub(crate) async fn start_ready(issuer: &FakeIssuer) -> Self {
        let backend = Self::start(issuer).await;
        backend.fetches_ended(1).await;
        backend
    }

    /// Waits until this many fetches have succeeded or failed.
    pub(crate) async fn fetches_ended(&self, fetches: usize) {
        let mut ended = self.ended.clone();
        drop(within_5_s(ended.wait_for(|ended| *ended >= fetches)).await.unwrap());
    }

    /// Serves other requests, until a fetch that has begun would have reached the issuer.
    pub(crate) async fn serve_other_requests(&self) {
        for _ in 0..10 {
            request(self.address, "GET", "/healthz", &[]).await;
        }
    }

    pub(crate) async fn get(&self, token: &str) -> Answer {
        get(self.address, token).await
    }
}

struct EndedFetches(watch::Sender<usize>);

impl<S: tracing::Subscriber> Layer<S> for EndedFetches {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        // A fetch logs one event with its duration. Events about single keys have no duration.
        if metadata.target().starts_with("vercel_oidc_verifier") && metadata.fields().field("duration_ms").is_some() {
            self.0.send_modify(|ended| *ended += 1);
        }
    }
}

/// Moves tokio's clock. It runs before and after, because a paused clock jumps ahead while a test waits for a socket.
pub(crate) async fn advance(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

/// Waits for an event that happens at once, and fails after 5 s.
pub(crate) async fn within_5_s<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), event).await.unwrap_or_else(|_| panic!("nothing happened within 5 s"))
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn parse(bytes: Vec<u8>) -> Self {
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an answer: {text:?}"));
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        Self { status, headers: lines.map(|line| header(line).unwrap()).collect(), body: body.to_owned() }
    }

    /// The header's value. A second header of this name fails the test.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "a second `{name}`");
        value
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The `error_description` of `WWW-Authenticate`.
    pub(crate) fn description(&self) -> &str {
        let challenge = self.header("www-authenticate").unwrap_or_default();
        let description = challenge.strip_prefix("Bearer error=\"invalid_token\", error_description=\"");
        description.and_then(|rest| rest.strip_suffix('"')).unwrap_or_else(|| panic!("no description: {self:?}"))
    }
}

/// `GET /` with this token.
pub(crate) async fn get(address: SocketAddr, token: &str) -> Answer {
    let value = format!("Bearer {token}");
    request(address, "GET", "/", &[("authorization", value.as_bytes())]).await
}

/// The guard's verdict on a request with this token: 200, or the status of its refusal. The path is no route, because
/// the program has the user's routes: the guard lets the request through to a 404.
pub(crate) async fn verdict(address: SocketAddr, token: &str) -> u16 {
    let value = format!("Bearer {token}");
    match request(address, "GET", "/not-a-route", &[("authorization", value.as_bytes())]).await {
        Answer { status: 404, .. } => 200,
        answer => answer.status,
    }
}

/// Whether `src/routes.rs` still answers `GET /`. If not, this says which test is skipped.
pub(crate) fn has_the_templates_routes(test: &str) -> bool {
    let has = include_str!("../../src/routes.rs").contains(".route(\"/\", get(hello))");
    if !has {
        // The test harness hides what `eprintln!` prints.
        writeln!(io::stderr().lock(), "skipped: {test} needs `GET /` in src/routes.rs").unwrap();
    }
    has
}

pub(crate) async fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &[u8])]) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: backend.test\r\nconnection: close\r\n").into_bytes();
    for (name, value) in headers {
        head.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    Answer::parse(exchange(address, &head).await)
}

/// Sends these bytes, and returns everything that arrives until the other side closes the connection.
pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}
