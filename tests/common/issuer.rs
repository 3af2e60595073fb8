//! An issuer that can be anything but well: it answers with whatever bytes a test gives it, when the test lets it, and
//! counts how often it is asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use local::SigningKey;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone)]
pub(crate) struct FakeIssuer {
    pub(crate) address: SocketAddr,
    reply: Arc<Mutex<Vec<u8>>>,
    /// The path of each request.
    asked_for: watch::Sender<Vec<String>>,
    /// Whether answers are held back.
    held: watch::Sender<bool>,
}

impl FakeIssuer {
    /// An issuer with this key.
    pub(crate) async fn start(key: &SigningKey) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked_for, held) = (watch::Sender::new(Vec::new()), watch::Sender::new(false));
        let issuer = Self { address, reply: Arc::default(), asked_for, held };
        issuer.serve_keys(&[key]);
        let server = issuer.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().answer(stream));
            }
        });
        issuer
    }

    async fn answer(self, mut stream: TcpStream) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let path = String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned();
        self.asked_for.send_modify(|asked_for| asked_for.push(path));
        self.held.subscribe().wait_for(|held| !held).await.unwrap();
        let reply = self.reply.lock().unwrap().clone();
        // A backend that has heard enough hangs up.
        let _ = stream.write_all(&reply).await;
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    /// How often it has been asked.
    pub(crate) fn fetches(&self) -> usize {
        self.asked_for.borrow().len()
    }

    /// What it has been asked for.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.asked_for.borrow().clone()
    }

    /// Waits until it has been asked so often.
    pub(crate) async fn asked(&self, fetches: usize) {
        let mut asked_for = self.asked_for.subscribe();
        drop(super::patiently(asked_for.wait_for(|asked_for| asked_for.len() >= fetches)).await.unwrap());
    }

    /// From now on, it lets whoever asks wait.
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Answers those that wait, and all others at once.
    pub(crate) fn release(&self) {
        self.held.send_replace(false);
    }

    pub(crate) fn serve_keys(&self, keys: &[&SigningKey]) {
        self.serve_jwks(keys.iter().map(|key| key.jwk()).collect());
    }

    pub(crate) fn serve_jwks(&self, keys: Vec<Value>) {
        self.serve(200, "", json!({ "keys": keys }).to_string());
    }

    pub(crate) fn serve(&self, status: u16, headers: &str, body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        let head =
            format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
        self.serve_bytes([head.as_bytes(), body].concat());
    }

    /// Answers with these bytes, then closes the connection.
    pub(crate) fn serve_bytes(&self, bytes: Vec<u8>) {
        *self.reply.lock().unwrap() = bytes;
    }
}
