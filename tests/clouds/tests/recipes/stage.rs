//! What the tests share: the function as a process, Vercel's issuer, and the checks that each cloud makes of a token.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Router;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use local::{Deployment, Issuer, SigningKey};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::process::{Child, Command};

/// The function, in Vercel's runtime, with these variables and no others.
pub(crate) struct Function {
    child: Child,
    url: String,
    client: reqwest::Client,
    printed: Arc<Mutex<String>>,
}

impl Function {
    fn spawn(variables: &[(&str, &str)]) -> (Child, u16) {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_function"));
        command.env_clear().env("VERCEL_DEV_PORT", port.to_string()).envs(variables.iter().copied());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        (command.spawn().unwrap(), port)
    }

    fn new(child: Child, port: u16, printed: Arc<Mutex<String>>) -> Self {
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        Self { child, url: format!("http://127.0.0.1:{port}"), client, printed }
    }

    pub(crate) async fn start(variables: &[(&str, &str)]) -> Self {
        loop {
            // The port may be taken again before the function has it. Then the function ends, and another port is tried.
            let (mut child, port) = Self::spawn(variables);
            let mut out = BufReader::new(child.stdout.take().unwrap());
            let mut first = String::new();
            out.read_line(&mut first).await.unwrap();
            if first.is_empty() {
                let status = child.wait().await.unwrap();
                let mut errors = String::new();
                let mut err = BufReader::new(child.stderr.take().unwrap());
                while err.read_line(&mut errors).await.unwrap() > 0 {}
                assert!(errors.contains("AddrInUse"), "{status}: {errors}");
                continue;
            }
            let printed = Arc::new(Mutex::new(first));
            collect(out, &printed);
            collect(BufReader::new(child.stderr.take().unwrap()), &printed);
            return Self::new(child, port, printed);
        }
    }

    /// Starts the function with the socket by which the runtime tells Vercel about invocations.
    pub(crate) async fn start_on_vercel(variables: &[(&str, &str)]) -> (Self, Platform) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ipc");
        let listener = UnixListener::bind(&path).unwrap();
        let variables = [variables, &[("VERCEL_IPC_PATH", path.to_str().unwrap())]].concat();
        loop {
            let (child, port) = Self::spawn(&variables);
            let mut platform = Platform(BufReader::new(listener.accept().await.unwrap().0));
            if let Some(message) = platform.next().await {
                assert_eq!(message["type"], "server-started");
                return (Self::new(child, port, Arc::default()), platform);
            }
        }
    }

    /// A request as Vercel sends it to a function.
    pub(crate) fn invocation(&self, number: u64, path: &str) -> reqwest::RequestBuilder {
        let request = self.request(path).header("x-vercel-internal-invocation-id", format!("invocation-{number}"));
        request.header("x-vercel-internal-request-id", number)
    }

    pub(crate) fn request(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    /// Calls a recipe in a request with this token. Gives the status and the text.
    pub(crate) async fn call(&self, path: &str, token: &str) -> (u16, String) {
        let response = self.request(path).header("x-vercel-oidc-token", token).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Calls a recipe in a request that a stand-in must refuse, and gives the function's explanation.
    pub(crate) async fn refused(&self, path: &str, token: &str) -> String {
        let (status, text) = self.call(path, token).await;
        assert_eq!(status, 502, "{text}");
        assert!(!token.split('.').any(|part| text.contains(part)), "a part of the token is in: {text}");
        text
    }

    /// Stops the function, and gives all that it has printed.
    pub(crate) async fn stop(mut self) -> String {
        self.child.start_kill().unwrap();
        self.child.wait().await.unwrap();
        // Each reader holds a clone until the process has ended.
        while Arc::strong_count(&self.printed) > 1 {
            tokio::task::yield_now().await;
        }
        self.printed.lock().unwrap().clone()
    }
}

/// What the runtime tells Vercel.
pub(crate) struct Platform(BufReader<UnixStream>);

impl Platform {
    async fn next(&mut self) -> Option<Value> {
        let mut message = Vec::new();
        self.0.read_until(0, &mut message).await.unwrap();
        message.pop().map(|_| serde_json::from_slice(&message).unwrap())
    }

    /// The number of the next invocation that ends.
    pub(crate) async fn ended(&mut self) -> u64 {
        loop {
            let message = self.next().await.unwrap();
            if message["type"] == "end" {
                return message["payload"]["context"]["requestId"].as_u64().unwrap();
            }
        }
    }
}

fn collect(mut from: BufReader<impl AsyncRead + Unpin + Send + 'static>, to: &Arc<Mutex<String>>) {
    let to = Arc::clone(to);
    tokio::spawn(async move {
        let mut line = String::new();
        while from.read_line(&mut line).await.is_ok_and(|bytes| bytes > 0) {
            to.lock().unwrap().push_str(&line);
            line.clear();
        }
    });
}

/// Vercel's issuer, with a new key and Vercel's real URL.
pub(crate) fn vercel() -> Issuer {
    Issuer::new("https://oidc.vercel.com", SigningKey::generate("local-key").unwrap())
}

/// The token of a production request, with changed claims.
pub(crate) fn token_with(vercel: &Issuer, change: impl FnOnce(&mut Value)) -> String {
    let mut claims = vercel.claims(&Deployment::default());
    change(&mut claims);
    vercel.key().mint(&claims)
}

/// Which tokens a cloud's console says to accept.
pub(crate) const ISSUER: &str = "https://oidc.vercel.com/acme";
pub(crate) const AUDIENCE: &str = "https://vercel.com/acme";
pub(crate) const SUBJECT: &str = "owner:acme:project:storefront:environment:production";

/// Checks what the clouds check of every token: its signature by the issuer's keys, its issuer, audience and times. Each
/// cloud has its own way to compare the subject.
pub(crate) fn verify(vercel: &Issuer, token: &str) -> Result<Value, ErrorKind> {
    let key: Jwk = serde_json::from_value(vercel.key().jwk()).unwrap();
    let mut rules = Validation::new(Algorithm::RS256);
    rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    rules.set_issuer(&[ISSUER]);
    rules.set_audience(&[AUDIENCE]);
    rules.validate_nbf = true;
    rules.leeway = 0;
    let key = DecodingKey::from_jwk(&key).unwrap();
    jsonwebtoken::decode::<Value>(token, &key, &rules).map(|token| token.claims).map_err(|error| error.into_kind())
}

/// Serves these routes on loopback, and gives their URL.
pub(crate) async fn serve(routes: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, routes).into_future());
    url
}
