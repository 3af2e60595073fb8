//! The issuer that the API is configured to trust. Its keys change while the check runs, and it can fail in several ways.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::{Json, Router};
use futures_util::stream;
use serde_json::{Value, json};

/// What the issuer answers to a request for its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Its keys.
    Up,
    /// 500.
    Error,
    /// A redirect to this URL.
    Redirect(String),
    /// 200, and a body that never ends.
    Endless,
    /// Nothing.
    Silent,
}

/// The issuer.
#[derive(Clone)]
pub(crate) struct CheckIssuer {
    state: Arc<Mutex<Documents>>,
}

struct Documents {
    issuer: String,
    origin: String,
    keys: Vec<Value>,
    mode: Mode,
    key_fetches: usize,
}

impl CheckIssuer {
    /// Makes an issuer with this `iss` that is served at `origin` and has no keys yet.
    pub(crate) fn new(issuer: &str, origin: &str) -> Self {
        let (issuer, origin) = (issuer.to_owned(), origin.to_owned());
        let documents = Documents { issuer, origin, keys: Vec::new(), mode: Mode::Up, key_fetches: 0 };
        Self { state: Arc::new(Mutex::new(documents)) }
    }

    /// Publishes these keys from now on.
    pub(crate) fn publish(&self, keys: Vec<Value>) {
        self.with(|documents| documents.keys = keys);
    }

    /// Answers like this from now on.
    pub(crate) fn set(&self, mode: Mode) {
        self.with(|documents| documents.mode = mode);
    }

    /// Returns how often the issuer's keys were asked for.
    pub(crate) fn key_fetches(&self) -> usize {
        self.with(|documents| documents.key_fetches)
    }

    /// Returns the issuer's routes: every path that ends in one of the two well-known names.
    pub(crate) fn router(&self) -> Router {
        let serve = |State(issuer): State<Self>, uri: Uri| async move { issuer.answer(uri.path()).await };
        Router::new().fallback(serve).with_state(self.clone())
    }

    async fn answer(&self, path: &str) -> Response {
        let (mode, document) = self.with(|documents| {
            if path.ends_with("/.well-known/jwks") {
                documents.key_fetches += 1;
                (documents.mode.clone(), Some(json!({ "keys": documents.keys })))
            } else if path.ends_with("/.well-known/openid-configuration") {
                (Mode::Up, Some(discovery(&documents.issuer, &documents.origin)))
            } else {
                (Mode::Up, None)
            }
        });
        match (mode, document) {
            (Mode::Up, Some(document)) => Json(document).into_response(),
            (Mode::Up, None) => StatusCode::NOT_FOUND.into_response(),
            (Mode::Error, _) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            (Mode::Redirect(url), _) => Redirect::temporary(&url).into_response(),
            (Mode::Endless, _) => {
                let spaces = stream::unfold((), |()| async {
                    // 100 KiB a second: fast enough for a size limit, slow enough to fill no memory.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Some((Ok::<_, Infallible>([b' '; 1024].to_vec()), ()))
                });
                Body::from_stream(spaces).into_response()
            }
            (Mode::Silent, _) => std::future::pending().await,
        }
    }

    fn with<T>(&self, action: impl FnOnce(&mut Documents) -> T) -> T {
        action(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns the discovery document of this issuer, whose keys are below `base`.
pub(crate) fn discovery(issuer: &str, base: &str) -> Value {
    json!({
        "issuer": issuer,
        "jwks_uri": format!("{base}/.well-known/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    })
}
