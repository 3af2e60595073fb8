//! An HTTP/1.1 server that does what a test tells it to, good or bad.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a stub does with a request.
pub(crate) enum Reply {
    /// Answers, and keeps the connection.
    Keep(Vec<u8>),
    /// Writes this, and closes.
    Close(Vec<u8>),
    /// Writes this, and then leaves the connection open and idle.
    Hang(Vec<u8>),
}

/// An HTTP/1.1 server that writes what a test tells it to.
pub(crate) struct Stub {
    pub(crate) port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl Stub {
    /// Answers each request by `reply`, which is told how many came before, and the request.
    pub(crate) async fn start<F>(reply: impl Fn(usize, String) -> F + Send + Sync + 'static) -> Self
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
    pub(crate) async fn always(bytes: Vec<u8>) -> Self {
        Self::start(move |_, _| std::future::ready(Reply::Keep(bytes.clone()))).await
    }

    /// Answers 200 with `{"message": "hello"}`.
    pub(crate) async fn good() -> Self {
        Self::always(ok(&json!({ "message": "hello" }))).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests so far, each as it came.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
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
pub(crate) fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().find_map(|line| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// An answer with this status, these header lines and this body.
pub(crate) fn answer(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn ok(body: &Value) -> Vec<u8> {
    answer("200 OK", "content-type: application/json\r\n", body.to_string())
}
