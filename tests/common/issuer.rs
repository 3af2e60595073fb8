//! An issuer with faults: it answers with any bytes that a test gives it, when the test allows, and counts requests.

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
    requested: watch::Sender<Vec<String>>,
    /// Whether answers are held back.
    held: watch::Sender<bool>,
}

impl FakeIssuer {
    /// An issuer with this key.
    pub(crate) async fn start(key: &SigningKey) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requested, held) = (watch::Sender::new(Vec::new()), watch::Sender::new(false));
        let issuer = Self { address, reply: Arc::default(), requested, held };
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
        self.requested.send_modify(|requested| requested.push(path));
        self.held.subscribe().wait_for(|held| !held).await.unwrap();
        let reply = self.reply.lock().unwrap().clone();
        // A backend closes the connection if the answer is too large.
        let _ = stream.write_all(&reply).await;
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    /// How many requests it has received.
    pub(crate) fn fetches(&self) -> usize {
        self.requested.borrow().len()
    }

    /// The path of each request.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.requested.borrow().clone()
    }

    /// Waits until it has received this many requests.
    pub(crate) async fn wait_for_fetches(&self, fetches: usize) {
        let mut requested = self.requested.subscribe();
        drop(super::within_5_s(requested.wait_for(|requested| requested.len() >= fetches)).await.unwrap());
    }

    /// From now on, answers wait for [`Self::release`].
    pub(crate) fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Sends the answers that wait. From now on, answers are immediate.
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
