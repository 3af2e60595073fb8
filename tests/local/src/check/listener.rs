//! The attacker's host: a server on a port that only tokens name. It notes each request, and answers with the attacker's
//! keys.

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::issuer::discovery;

/// The attacker's host.
#[derive(Clone)]
pub(crate) struct Listener {
    origin: String,
    documents: Arc<Documents>,
}

/// What the host answers, and who asked.
#[derive(Default)]
struct Documents {
    contents: Mutex<(Value, String)>,
    visits: Mutex<Vec<String>>,
}

impl Listener {
    /// Starts the host on any port. It has no keys yet.
    ///
    /// # Errors
    ///
    /// The system gives no port.
    pub(crate) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let origin = format!("http://{}", listener.local_addr()?);
        let host = Self { origin, documents: Arc::default() };
        let serve = |State(host): State<Self>, uri: Uri| async move { host.answer(uri.path()) };
        let app = Router::new().fallback(serve).with_state(host.clone());
        tokio::spawn(axum::serve(listener, app).into_future());
        Ok(host)
    }

    /// Returns the host's origin.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// Publishes these keys and this certificate (PEM).
    pub(crate) fn publish(&self, keys: Value, certificate: String) {
        *self.documents.contents.lock().unwrap_or_else(PoisonError::into_inner) = (keys, certificate);
    }

    /// Returns the first segment of each path that was asked for, which is the name of the case whose token named it.
    pub(crate) fn visits(&self) -> Vec<String> {
        self.documents.visits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn answer(&self, path: &str) -> Response {
        let case = path.split('/').nth(1).unwrap_or_default();
        self.documents.visits.lock().unwrap_or_else(PoisonError::into_inner).push(case.to_owned());
        let (keys, certificate) = self.documents.contents.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if path.ends_with("openid-configuration") {
            let base = format!("{}/{case}", self.origin);
            Json(discovery(&base, &base)).into_response()
        } else if path.ends_with(".pem") {
            ([(CONTENT_TYPE, "application/x-pem-file")], certificate).into_response()
        } else {
            Json(json!({ "keys": keys })).into_response()
        }
    }
}
