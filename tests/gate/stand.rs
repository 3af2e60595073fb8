//! A real proxy with the configuration of `docs/gate.md`, between a client and the API of `api.py`, with the gate.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinHandle;

use super::common::{Answer, FakeIssuer, KEY, Program, exchange, request};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Nginx,
    Caddy,
    Haproxy,
}

/// The only block of the page in this language, with these ports.
fn configuration(language: &str, proxy: u16, gate: u16, api: u16) -> String {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/gate.md")).unwrap();
    let blocks: Vec<_> = page.split(&format!("\n```{language}\n")).skip(1).collect();
    let [block] = blocks[..] else { panic!("{} blocks of {language}", blocks.len()) };
    let block = block.split("```").next().unwrap();
    // With the colon, no port is replaced within another.
    let with = |block: &str, from: &str, port: u16| block.replace(from, &format!(":{port}"));
    with(&with(&with(block, ":8080", proxy), ":3001", gate), ":8000", api)
}

/// A program that runs until this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program, and waits until it prints this text. If the program ends first, returns its output.
async fn start(mut command: Command, ready: &'static str) -> Result<Process, String> {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}. `tests/gate/run` installs it"));
    let (send, mut lines) = unbounded_channel();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    // The thread reads to the end, because a full pipe would stop the program.
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|line| drop(send.send(line))));
    let (process, mut output) = (Process(child), String::new());
    while let Some(line) = lines.recv().await {
        if line.contains(ready) {
            return Ok(process);
        }
        output.push_str(&line);
        output.push('\n');
    }
    Err(output)
}

/// An address that no other stand got. Caddy and HAProxy would share a port with another proxy (`SO_REUSEPORT`).
async fn unused_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        if GIVEN.lock().unwrap().insert(address.port()) {
            return address;
        }
    }
}

/// Starts the proxy on a free port. Another program may take the port first, so it tries a few times.
async fn start_proxy(kind: Kind, folder: &TempDir, gate: u16, api: u16) -> (Process, SocketAddr) {
    let mut output = String::new();
    for _ in 0..5 {
        let address = unused_address().await;
        let configuration = |language| configuration(language, address.port(), gate, api);
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        let (mut command, ready) = match kind {
            Kind::Nginx => {
                write("api.conf", configuration("nginx"));
                let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                    .map(|name| format!("{name}_temp_path {name};"))
                    .concat();
                write(
                    "nginx.conf",
                    format!(
                        "daemon off; master_process off; pid nginx.pid; error_log stderr notice; \
                     events {{}} http {{ access_log off; {temporary} include api.conf; }}"
                    ),
                );
                let mut command = Command::new("nginx");
                command.args(["-c", "nginx.conf", "-p"]).arg(folder.path());
                (command, "using the \"epoll\" event method")
            }
            Kind::Caddy => {
                write("Caddyfile", format!("{{\nadmin off\n}}\n{}", configuration("caddyfile")));
                let mut command = Command::new("caddy");
                command.args(["run", "--adapter", "caddyfile", "--config", "Caddyfile"]).env("HOME", folder.path());
                (command, "serving initial configuration")
            }
            Kind::Haproxy => {
                write("gate.lua", configuration("lua"));
                write("haproxy.cfg", configuration("haproxy").replace("/etc/haproxy/", ""));
                let mut command = Command::new("haproxy");
                command.args(["-W", "-db", "-f", "haproxy.cfg"]);
                (command, "Loading success")
            }
        };
        command.current_dir(folder.path());
        match start(command, ready).await {
            Ok(process) => return (process, address),
            Err(printed) => output = printed,
        }
    }
    panic!("{kind:?} does not start:\n{output}")
}

/// Passes connections on to the gate, and counts the bytes that the gate gets.
pub(crate) struct Relay {
    port: u16,
    bytes: Arc<AtomicUsize>,
    accepting: Option<JoinHandle<()>>,
}

impl Relay {
    async fn start(gate: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, bytes) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let count = bytes.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((proxy, _)) = listener.accept().await {
                let count = count.clone();
                tokio::spawn(async move {
                    let Ok(gate) = TcpStream::connect(gate).await else { return };
                    let ((mut from, mut back), (mut answers, mut to)) = (proxy.into_split(), gate.into_split());
                    let questions = async {
                        let mut buffer = vec![0; 65536];
                        while let Ok(length @ 1..) = tokio::io::AsyncReadExt::read(&mut from, &mut buffer).await {
                            count.fetch_add(length, Ordering::Relaxed);
                            if tokio::io::AsyncWriteExt::write_all(&mut to, &buffer[..length]).await.is_err() {
                                break;
                            }
                        }
                    };
                    // A connection ends when either side closes it.
                    tokio::select! {
                        () = questions => {}
                        _ = tokio::io::copy(&mut answers, &mut back) => {}
                    }
                });
            }
        });
        Self { port, bytes, accepting: Some(accepting) }
    }

    /// How many bytes the gate got.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// From now on, connections are refused.
    pub(crate) async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
    }
}

struct Api {
    address: SocketAddr,
    _process: Process,
    _stdin: ChildStdin,
}

impl Api {
    fn start() -> Self {
        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gate/api.py"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap().by_ref()).read_line(&mut port).unwrap();
        let (address, stdin) = (SocketAddr::from(([127, 0, 0, 1], port.trim().parse().unwrap())), child.stdin.take());
        Self { address, _process: Process(child), _stdin: stdin.unwrap() }
    }
}

pub(crate) struct Stand {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    _issuer: FakeIssuer,
    pub(crate) gate: Option<Program>,
    pub(crate) relay: Relay,
    api: Api,
    _proxy: Process,
    _folder: TempDir,
}

impl Stand {
    pub(crate) async fn start(kind: Kind) -> Self {
        let issuer = FakeIssuer::start(&KEY).await;
        Self::with_issuer(kind, issuer).await
    }

    /// The gate trusts two environments, `production` and `preview`.
    pub(crate) async fn with_issuer(kind: Kind, issuer: FakeIssuer) -> Self {
        let gate = Program::start(&issuer, &[("OIDC_ENVIRONMENT", "production,preview")]).await;
        let address = gate.address;
        Self { gate: Some(gate), ..Self::with_gate(kind, issuer, address).await }
    }

    /// Something else at the gate's address.
    pub(crate) async fn with_gate(kind: Kind, issuer: FakeIssuer, gate: SocketAddr) -> Self {
        let (relay, api, folder) = (Relay::start(gate).await, Api::start(), TempDir::new().unwrap());
        let (proxy, address) = start_proxy(kind, &folder, relay.port, api.address.port()).await;
        Self { kind, address, _issuer: issuer, gate: None, relay, api, _proxy: proxy, _folder: folder }
    }

    /// How many requests have reached the API.
    pub(crate) async fn seen(&self) -> u64 {
        request(self.api.address, "GET", "/seen", &[]).await.json()["seen"].as_u64().unwrap()
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        request(self.address, method, path, &headers).await
    }

    /// Sends these bytes, which ask for the end of the connection.
    pub(crate) async fn send(&self, bytes: &[u8]) -> Answer {
        Answer::parse(exchange(self.address, bytes).await)
    }

    /// A row of the table that `tests/gate/run` prints.
    pub(crate) fn saw(&self, case: &str, seen: impl std::fmt::Display) {
        println!("| {:?} | {case} | {seen} |", self.kind);
    }
}

/// The status and the challenge.
pub(crate) fn shown(answer: &Answer) -> String {
    let challenge = answer.header("www-authenticate").map(|value| value.split(',').next().unwrap().to_owned());
    [Some(answer.status.to_string()), challenge].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// What the API says it got as `HTTP_X_VERCEL_OIDC_…`.
pub(crate) fn claim(seen: &Value, name: &str) -> String {
    seen["environ"][format!("HTTP_X_VERCEL_OIDC_{name}")].as_str().unwrap_or_default().to_owned()
}
