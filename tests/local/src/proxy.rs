//! What Vercel's proxy is to a function: it gives each request a token, whatever the client sent as one.
//!
//! With `?token=` it gives a wrong one, by the names in [`Proxy::token`], so that the refusals can be looked at too.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use caller::Caller;
use local::{Deployment, Issuer, SigningKey};
use serde_json::json;

/// Returns the caller as `deployment` of it would run, with the proxy in front; it calls the backend at `backend_url`,
/// whose name is `audience`.
pub(crate) fn app(issuer: &Issuer, deployment: &Deployment, backend_url: &str, audience: &str) -> io::Result<Router> {
    let proxy = Proxy {
        caller: new_caller(backend_url, issuer, Some(audience)),
        caller_without_exchange: new_caller(backend_url, issuer, None),
        // Of the same name, so that only the signature tells.
        forger: SigningKey::generate(issuer.key().kid())?,
        issuer: issuer.clone(),
        deployment: deployment.clone(),
        audience: audience.to_owned(),
    };
    Ok(Router::new().fallback(forward).with_state(Arc::new(proxy)))
}

fn new_caller(backend_url: &str, issuer: &Issuer, audience: Option<&str>) -> Caller {
    Caller::new(caller::Settings::read(|name| match name {
        "BACKEND_URL" => Some(backend_url.to_owned()),
        "BACKEND_AUDIENCE" => audience.map(str::to_owned),
        "OIDC_TOKEN_EXCHANGE_URL" => Some(issuer.exchange_url()),
        _ => None,
    }))
}

struct Proxy {
    issuer: Issuer,
    deployment: Deployment,
    audience: String,
    forger: SigningKey,
    caller: Caller,
    caller_without_exchange: Caller,
}

async fn forward(State(proxy): State<Arc<Proxy>>, mut request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let wish = query.split('&').find_map(|pair| pair.strip_prefix("token="));
    let Some((token, caller)) = proxy.token(wish) else {
        return (StatusCode::BAD_REQUEST, "no token of that name\n").into_response();
    };
    let Ok(mut token) = HeaderValue::try_from(token) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    token.set_sensitive(true);
    request.headers_mut().insert("x-vercel-oidc-token", token);
    // The page and the story show what went wrong; a log would say it once more.
    let mut response = caller.handle(&request.map(|_body| ()), |_line| ()).await.into_response();
    // By this the page knows that it may offer the wrong tokens.
    response.headers_mut().insert("x-local-stand-in", HeaderValue::from_static("1"));
    response
}

impl Proxy {
    /// Returns the token of that name, and the caller to give it to.
    fn token(&self, wish: Option<&str>) -> Option<(String, &Caller)> {
        let issuer_url = self.issuer.team_url(&self.deployment.team);
        let signed_for_backend = |key: &SigningKey, now| {
            let mut claims = self.deployment.claims(&issuer_url, now, Duration::from_secs(3600));
            claims["aud"] = json!(self.audience);
            key.mint(&claims)
        };
        let now = SystemTime::now();
        let yesterday = now - Duration::from_secs(24 * 3600);
        Some(match wish {
            None => (self.issuer.token(&self.deployment), &self.caller),
            Some("other-environment") => (self.issuer.token(&self.deployment.in_environment("preview")), &self.caller),
            // The rest is for the backend to refuse, so no exchange may refuse it before, or mend it.
            Some("other-audience") => (self.issuer.token(&self.deployment), &self.caller_without_exchange),
            Some("expired") => (signed_for_backend(self.issuer.key(), yesterday), &self.caller_without_exchange),
            Some("forged") => (signed_for_backend(&self.forger, now), &self.caller_without_exchange),
            Some(_) => return None,
        })
    }
}
