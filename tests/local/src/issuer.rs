//! The issuer: serves what `oidc.vercel.com` serves.
//!
//! It serves team mode (`{url}/{team}`) and global mode (`{url}`) with one key for both, as Vercel does. `POST /~token`
//! exchanges a token of this issuer for a token with another audience. HTTP gives no first token: it comes from
//! [`Issuer::token`], as Vercel's tokens come with each request to a function.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{Deployment, SigningKey, unix_seconds};

/// How long a function's token is valid at Vercel.
const LIFETIME: Duration = Duration::from_secs(2 * 60 * 60);

type Refusal = (StatusCode, Json<Value>);

/// An issuer of tokens, and its one key.
#[derive(Clone, Debug)]
pub struct Issuer {
    url: String,
    key: Arc<SigningKey>,
}

impl Issuer {
    /// Makes an issuer with this URL that serves nothing yet.
    #[must_use]
    pub fn new(url: &str, key: SigningKey) -> Self {
        Self { url: url.to_owned(), key: Arc::new(key) }
    }

    /// Makes an issuer with a new key and serves it on `listener` until the runtime stops.
    ///
    /// # Errors
    ///
    /// No key can be made, or the socket has no address.
    ///
    /// # Panics
    ///
    /// There is no tokio runtime.
    pub fn start(listener: TcpListener) -> io::Result<Self> {
        Self::start_with(listener, SigningKey::generate("local-key")?)
    }

    /// Makes an issuer with this key and serves it on `listener` until the runtime stops.
    ///
    /// # Errors
    ///
    /// The socket has no address.
    ///
    /// # Panics
    ///
    /// There is no tokio runtime.
    pub fn start_with(listener: TcpListener, key: SigningKey) -> io::Result<Self> {
        let url = format!("http://{}", listener.local_addr()?);
        let issuer = Self::new(&url, key);
        tokio::spawn(axum::serve(listener, issuer.router()).into_future());
        Ok(issuer)
    }

    /// Returns this issuer's URL in global mode, which is also its `iss`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns this issuer in team mode: the `iss` of the team's tokens.
    #[must_use]
    pub fn team_url(&self, team: &str) -> String {
        format!("{}/{team}", self.url)
    }

    /// Returns the URL where tokens are exchanged.
    #[must_use]
    pub fn exchange_url(&self) -> String {
        format!("{}/~token", self.url)
    }

    /// Returns the key that signs its tokens.
    #[must_use]
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Returns the claims of the token that Vercel would give `deployment` now, in team mode.
    #[must_use]
    pub fn claims(&self, deployment: &Deployment) -> Value {
        let issuer = self.team_url(&deployment.team);
        deployment.claims(&issuer, SystemTime::now(), LIFETIME)
    }

    /// Returns the token that Vercel would give `deployment` now, in team mode.
    #[must_use]
    pub fn token(&self, deployment: &Deployment) -> String {
        self.key.mint(&self.claims(deployment))
    }

    /// Returns the issuer's routes, for a server other than that of [`Issuer::start`].
    pub fn router(&self) -> Router {
        let global = |State(issuer): State<Self>| async move { issuer.discovery(&issuer.url) };
        let team = |State(issuer): State<Self>, Path(team): Path<String>| async move {
            issuer.discovery(&issuer.team_url(&team))
        };
        let keys = |State(issuer): State<Self>| async move { Json(json!({ "keys": [issuer.key.jwk()] })) };
        let exchange = |State(issuer): State<Self>, Json(request): Json<Value>| async move {
            issuer.exchange(&request, SystemTime::now())
        };
        Router::new()
            .route("/.well-known/openid-configuration", get(global))
            .route("/{team}/.well-known/openid-configuration", get(team))
            .route("/.well-known/jwks", get(keys))
            .route("/{team}/.well-known/jwks", get(keys))
            .route("/~token", post(exchange))
            .with_state(self.clone())
    }

    fn discovery(&self, issuer: &str) -> Json<Value> {
        Json(json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}/.well-known/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "claims_supported": [
                "iss", "sub", "aud", "exp", "nbf", "iat", "scope",
                "owner", "owner_id", "project", "project_id", "environment", "plan", "user_id",
            ],
        }))
    }

    /// Changes the audience and keeps the other claims, `exp` included. `act` names the token that was exchanged.
    fn exchange(&self, request: &Value, now: SystemTime) -> Result<Json<Value>, Refusal> {
        let (Some(token), Some(audience)) = (request["token"].as_str(), request["aud"].as_str()) else {
            return Err(refusal(StatusCode::BAD_REQUEST, "`token` and `aud` must be strings"));
        };
        let Some(mut claims) = self.key.signed_claims(token) else {
            return Err(refusal(StatusCode::UNAUTHORIZED, "the token was not signed by this issuer"));
        };
        let expiry = claims["exp"].as_u64().unwrap_or(0);
        if expiry <= unix_seconds(now) {
            return Err(refusal(StatusCode::UNAUTHORIZED, "the token has expired"));
        }
        claims["act"] = json!({ "aud": claims["aud"], "iat": claims["iat"] });
        claims["iss"] = json!(self.team_url(claims["owner"].as_str().unwrap_or_default()));
        claims["aud"] = json!(audience);
        claims["iat"] = json!(unix_seconds(now));
        if let Some(jti) = request["jti"].as_str() {
            claims["jti"] = json!(jti);
        }
        Ok(Json(json!({ "token": self.key.mint(&claims), "expiry": expiry })))
    }
}

fn refusal(status: StatusCode, error: &str) -> Refusal {
    (status, Json(json!({ "error": error })))
}
