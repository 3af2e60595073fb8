//! The issuer that the API is configured to trust. Its keys change while the check runs. It counts requests for URLs
//! that only a token names.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use serde_json::{Value, json};

/// Where the attacker's keys are. The path is on the issuer's origin, so that the issuer sees a request for it.
pub(crate) const ATTACKER: &str = "/attacker";

/// The issuer and the attacker's URL.
#[derive(Clone)]
pub(crate) struct CheckIssuer {
    state: Arc<Mutex<Documents>>,
}

struct Documents {
    issuer: String,
    origin: String,
    keys: Vec<Value>,
    attacker_keys: Value,
    key_fetches: usize,
    attacker_visits: usize,
}

impl CheckIssuer {
    /// Makes an issuer with this `iss` that is served at `origin` and has no keys yet.
    pub(crate) fn new(issuer: &str, origin: &str, attacker_keys: Value) -> Self {
        let (issuer, origin) = (issuer.to_owned(), origin.to_owned());
        let documents =
            Documents { issuer, origin, keys: Vec::new(), attacker_keys, key_fetches: 0, attacker_visits: 0 };
        Self { state: Arc::new(Mutex::new(documents)) }
    }

    /// Publishes these keys from now on.
    pub(crate) fn publish(&self, keys: Vec<Value>) {
        self.with(|documents| documents.keys = keys);
    }

    /// Returns how often the issuer's keys were fetched.
    pub(crate) fn key_fetches(&self) -> usize {
        self.with(|documents| documents.key_fetches)
    }

    /// Returns how often a URL was fetched that only a token names.
    pub(crate) fn attacker_visits(&self) -> usize {
        self.with(|documents| documents.attacker_visits)
    }

    /// Returns the issuer's routes: every path that ends in one of the two well-known names.
    pub(crate) fn router(&self) -> Router {
        let serve = |State(issuer): State<Self>, uri: Uri| async move { issuer.answer(uri.path()) };
        Router::new().fallback(serve).with_state(self.clone())
    }

    fn answer(&self, path: &str) -> Response {
        self.with(|documents| {
            if path.starts_with(ATTACKER) {
                documents.attacker_visits += 1;
                let attacker = format!("{}{ATTACKER}", documents.origin);
                if path.ends_with("openid-configuration") {
                    Json(discovery(&attacker, &attacker)).into_response()
                } else {
                    Json(json!({ "keys": [documents.attacker_keys] })).into_response()
                }
            } else if path.ends_with("/.well-known/jwks") {
                documents.key_fetches += 1;
                Json(json!({ "keys": documents.keys })).into_response()
            } else if path.ends_with("/.well-known/openid-configuration") {
                Json(discovery(&documents.issuer, &documents.origin)).into_response()
            } else {
                StatusCode::NOT_FOUND.into_response()
            }
        })
    }

    fn with<T>(&self, action: impl FnOnce(&mut Documents) -> T) -> T {
        action(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn discovery(issuer: &str, base: &str) -> Value {
    json!({
        "issuer": issuer,
        "jwks_uri": format!("{base}/.well-known/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
    })
}
