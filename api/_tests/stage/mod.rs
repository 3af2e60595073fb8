//! What the tests share: the real function as a process of its own, servers that misbehave on request, and a `vercel` program that is a shell script.
//!
//! Everything is on loopback, on ports that the system chose.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// The function, running in Vercel's real runtime with these variables and no others.
pub struct Function {
    child: Child,
    url: String,
    client: reqwest::Client,
    printed: Arc<Mutex<String>>,
}

impl Function {
    pub async fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_in(&std::env::temp_dir(), variables).await
    }

    pub async fn start_in(folder: &Path, variables: &[(&str, &str)]) -> Self {
        loop {
            // The port may be taken again before the function has it: then it ends, and another is tried.
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut child = Command::new(env!("CARGO_BIN_EXE_index"))
                .env_clear()
                .env("VERCEL_DEV_PORT", port.to_string())
                .envs(variables.iter().copied())
                .current_dir(folder)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            match lines.next_line().await.unwrap() {
                Some(line) => assert_eq!(line, format!("Dev server listening: {port}")),
                None => continue,
            }
            let printed = Arc::new(Mutex::new(String::new()));
            let (out, err) = (Arc::clone(&printed), Arc::clone(&printed));
            let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
            tokio::spawn(async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    *out.lock().unwrap() += &(line + "\n");
                }
            });
            tokio::spawn(async move {
                while let Ok(Some(line)) = errors.next_line().await {
                    *err.lock().unwrap() += &(line + "\n");
                }
            });
            let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
            return Self { child, url: format!("http://127.0.0.1:{port}"), client, printed };
        }
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse().unwrap(), format!("{}{path}", self.url))
    }

    /// Makes the call, with these headers.
    pub async fn call(&self, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.request("GET", "/api/call");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::from(request.send().await.unwrap()).await
    }

    /// Makes the call with a token in the header.
    pub async fn call_with(&self, token: &str) -> Answer {
        self.call(&[("x-vercel-oidc-token", token)]).await
    }

    /// Stops the function, and gives all that it has printed.
    pub async fn stop(mut self) -> String {
        self.child.start_kill().unwrap();
        self.child.wait().await.unwrap();
        // The readers end with the process; each holds a clone until then.
        while Arc::strong_count(&self.printed) > 1 {
            tokio::task::yield_now().await;
        }
        self.printed.lock().unwrap().clone()
    }
}

/// What the function answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn from(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }

    /// Checks all that every problem has in common, and gives its detail.
    #[track_caller]
    pub fn is_problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.header("cache-control"), "no-store");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        let reason = http::StatusCode::from_u16(status).unwrap().canonical_reason().unwrap();
        assert_eq!(problem["title"], reason);
        let detail = self.detail();
        assert!(detail.ends_with('.') && detail.len() > 20, "{detail}");
        detail
    }
}

/// What a stub does with a request.
pub enum Reply {
    /// Answers, and keeps the connection.
    Keep(Vec<u8>),
    /// Writes this, and closes.
    Close(Vec<u8>),
    /// Writes this, and leaves the connection open without another word.
    Hang(Vec<u8>),
}

/// An HTTP/1.1 server that writes what a test tells it to.
pub struct Stub {
    pub port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Stub {
    /// Answers each request by `reply`, which is told how many came before, and the request.
    pub async fn start<F>(reply: impl Fn(usize, String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (seen, count, reply) = (Arc::clone(&requests), Arc::clone(&connections), Arc::new(reply));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (seen, reply) = (Arc::clone(&seen), Arc::clone(&reply));
                tokio::spawn(async move {
                    while let Some(request) = read_request(&mut stream).await {
                        let before = {
                            let mut seen = seen.lock().unwrap();
                            seen.push(request.clone());
                            seen.len() - 1
                        };
                        match reply(before, request).await {
                            Reply::Keep(bytes) => stream.write_all(&bytes).await.unwrap_or_default(),
                            Reply::Close(bytes) => {
                                let _ = stream.write_all(&bytes).await;
                                return;
                            }
                            Reply::Hang(bytes) => {
                                let _ = stream.write_all(&bytes).await;
                                std::future::pending::<()>().await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, requests, connections }
    }

    /// Answers each request with the same bytes.
    pub async fn always(bytes: Vec<u8>) -> Self {
        Self::start(move |_, _| std::future::ready(Reply::Keep(bytes.clone()))).await
    }

    /// Answers 200 with `{"message": "hello"}`.
    pub async fn good() -> Self {
        Self::always(ok(&json!({ "message": "hello" }))).await
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests so far, each as it came.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                return Some(String::from_utf8(bytes).unwrap());
            }
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// The value of a header in a request as it came.
pub fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().find_map(|line| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// An answer with this status, these header lines and this body.
pub fn answer(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

pub fn ok(body: &Value) -> Vec<u8> {
    answer("200 OK", "content-type: application/json\r\n", body.to_string())
}

/// A token of Vercel's shape that expires so many seconds from now; `name` tells it from others. The caller never verifies a signature.
pub fn token(name: &str, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(json!({ "alg": "RS256", "typ": "JWT", "kid": "a-key" }));
    let claims = part(json!({ "sub": SUBJECT, "name": name, "exp": now + seconds }));
    format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(format!("the signature of {name}, which nobody may see")))
}

pub const SUBJECT: &str = "owner:acme:project:shop:environment:development";

/// Whether the text holds the token, or its signature.
pub fn shows(text: &str, token: &str) -> bool {
    text.contains(token) || text.contains(token.rsplit('.').next().unwrap())
}

/// A folder of its own, removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("caller-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Links the folder to a project, as `vercel link` does.
    pub fn link(&self) -> &Self {
        self.write(".vercel/project.json", r#"{"projectId": "prj_shop", "orgId": "team_acme"}"#);
        self
    }

    /// Puts a `vercel` program here that notes its arguments and then runs this script; gives the `PATH` to find it.
    pub fn vercel(&self, script: &str) -> String {
        let calls = self.path("calls");
        let path = self.write("bin/vercel", &format!("#!/bin/sh\necho \"$*\" >> '{}'\n{script}\n", calls.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.path("bin").to_str().unwrap().to_owned()
    }

    /// The arguments of each call to `vercel`.
    pub fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The script of a `vercel` that prints this token.
pub fn prints(token: &str) -> String {
    format!("echo '{{\n  \"token\": \"{token}\"\n}}'")
}

/// Fails a test that waits for what never comes, long after all limits have passed.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("it takes too long")
}
