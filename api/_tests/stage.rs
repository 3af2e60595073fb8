//! What the tests share: the real function as a process, folders, and a `vercel` program that is a shell script.
//!
//! Everything is on loopback, on ports that the system chose.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The function, running in Vercel's real runtime with these variables and no others.
pub(crate) struct Function {
    child: Child,
    url: String,
    client: reqwest::Client,
    printed: Arc<Mutex<String>>,
}

impl Function {
    pub(crate) async fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_in(&std::env::temp_dir(), variables).await
    }

    pub(crate) async fn start_in(folder: &Path, variables: &[(&str, &str)]) -> Self {
        Self::start_program(Path::new(env!("CARGO_BIN_EXE_index")), folder, variables).await
    }

    pub(crate) async fn start_program(program: &Path, folder: &Path, variables: &[(&str, &str)]) -> Self {
        loop {
            // The port may be taken again before the function has it: then it ends, and another is tried.
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut child = Command::new(program)
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

    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse().unwrap(), format!("{}{path}", self.url))
    }

    /// Makes the call, with these headers.
    pub(crate) async fn call(&self, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.request("GET", "/api/call");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::from(request.send().await.unwrap()).await
    }

    /// Makes the call with a token in the header.
    pub(crate) async fn call_with(&self, token: &str) -> Answer {
        self.call(&[("x-vercel-oidc-token", token)]).await
    }

    /// Stops the function, and gives all that it has printed.
    pub(crate) async fn stop(mut self) -> String {
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
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) async fn from(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }

    /// Checks all that every problem has in common, and gives its detail.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str) -> String {
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
        assert!(detail.ends_with('.') && (20..=200).contains(&detail.len()), "{}: {detail}", detail.len());
        detail
    }
}

/// A token like Vercel's that expires in so many seconds; `name` tells it from others. The caller never verifies the
/// signature.
pub(crate) fn token(name: &str, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(json!({ "alg": "RS256", "typ": "JWT", "kid": "a-key" }));
    let claims = part(json!({ "sub": SUBJECT, "name": name, "exp": now + seconds }));
    format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(format!("the signature of {name}, which stays secret")))
}

/// A token with these claims, a JSON text.
pub(crate) fn jwt(claims: &str) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
}

/// The shortest token: no claims, so it never expires.
pub(crate) const TOKEN: &str = "e30.e30.c2ln";
pub(crate) const BEARER: &str = "Bearer e30.e30.c2ln";

pub(crate) const SUBJECT: &str = "owner:acme:project:shop:environment:development";

/// Whether the text holds the token, or its signature.
pub(crate) fn shows(text: &str, token: &str) -> bool {
    text.contains(token) || text.contains(token.rsplit('.').next().unwrap())
}

/// A new folder, removed when dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("caller-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Links the folder to a project, as `vercel link` does.
    pub(crate) fn link(&self) -> &Self {
        self.write(".vercel/project.json", r#"{"projectId": "prj_shop", "orgId": "team_acme"}"#);
        self
    }

    /// Puts a `vercel` program here that notes its arguments and then runs this script; gives the `PATH` to find it.
    pub(crate) fn vercel(&self, script: &str) -> String {
        let calls = self.path("calls");
        let path = self.write("bin/vercel", &format!("#!/bin/sh\necho \"$*\" >> '{}'\n{script}\n", calls.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.path("bin").to_str().unwrap().to_owned()
    }

    /// The arguments of each call to `vercel`.
    pub(crate) fn calls(&self) -> Vec<String> {
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
pub(crate) fn prints(token: &str) -> String {
    format!("echo '{{\n  \"token\": \"{token}\"\n}}'")
}

/// Fails a test that waits for an event that never comes, long after all limits have passed.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("it takes too long")
}
