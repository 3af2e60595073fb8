//! The stand-in for Vercel's proxy: it gives each request to the function a token, and removes any token of the client.
//!
//! `?token=NAME` chooses one of the tokens in [`TOKENS`], so that the page can show refusals. A refusal of the backend
//! does not say what would be accepted. The stand-in knows which token it made, so it explains the refusal in the
//! header `x-local-explanation`.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use caller::Caller;
use local::{Deployment, Issuer, SigningKey, TestKey};
use serde_json::{Value, json};

use crate::stage::ORDERS_AUDIENCE;

/// A token that a request can choose.
struct NamedToken {
    name: &'static str,
    mint: fn(&Proxy) -> String,
    /// Whether the caller that exchanges its token gets this token.
    exchanges: bool,
    /// Why the backend refuses it. ASCII, because the text is sent in a header.
    explanation: Option<&'static str>,
}

const TOKENS: [NamedToken; 6] = [
    NamedToken { name: "", mint: |proxy| proxy.issuer.token(&proxy.deployment), exchanges: false, explanation: None },
    NamedToken {
        name: "exchanged",
        mint: |proxy| proxy.issuer.token(&proxy.deployment),
        exchanges: true,
        explanation: None,
    },
    NamedToken {
        name: "other-environment",
        mint: |proxy| proxy.issuer.token(&proxy.deployment.in_environment("preview")),
        exchanges: false,
        explanation: Some(
            "The function got a token of a preview deployment. This backend accepts tokens of production only.",
        ),
    },
    NamedToken {
        name: "other-audience",
        mint: |proxy| {
            let mut claims = proxy.issuer.claims(&proxy.deployment);
            claims["aud"] = json!(ORDERS_AUDIENCE);
            proxy.issuer.key().mint(&claims)
        },
        exchanges: false,
        explanation: Some("The function got a token for another API, so `aud` does not name this backend."),
    },
    NamedToken {
        name: "expired",
        mint: |proxy| {
            let yesterday = SystemTime::now() - Duration::from_secs(24 * 3600);
            let issuer = proxy.issuer.team_url(&proxy.deployment.team);
            proxy.issuer.key().mint(&proxy.deployment.claims(&issuer, yesterday, Duration::from_secs(3600)))
        },
        exchanges: false,
        explanation: Some(
            "The function got a token from yesterday, so it has expired, and the client does not send it. A stolen token \
             works for some hours only.",
        ),
    },
    NamedToken {
        name: "forged",
        mint: |proxy| proxy.forger.mint(&proxy.issuer.claims(&proxy.deployment)),
        exchanges: false,
        explanation: Some(
            "An attacker signed this token with a key that has the `kid` of the issuer's key. The signature does not \
             match the issuer's key.",
        ),
    },
];

/// Returns the caller of this deployment, with the proxy in front. It calls the backend at `backend_url`. With an
/// exchanged token, it calls the backend at `orders_url`.
pub(crate) fn app(issuer: &Issuer, deployment: &Deployment, backend_url: &str, orders_url: &str) -> io::Result<Router> {
    let proxy = Proxy {
        caller: new_caller(backend_url, issuer, None),
        exchanging_caller: new_caller(orders_url, issuer, Some(ORDERS_AUDIENCE)),
        // The `kid` of the issuer's key, so that only the signature is wrong.
        forger: SigningKey::for_tests(issuer.key().kid(), TestKey::Attacker),
        issuer: issuer.clone(),
        deployment: deployment.clone(),
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
    forger: SigningKey,
    caller: Caller,
    exchanging_caller: Caller,
}

async fn forward(State(proxy): State<Arc<Proxy>>, mut request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let name = query.split('&').find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default();
    let Some(token) = TOKENS.iter().find(|token| token.name == name) else {
        return (StatusCode::BAD_REQUEST, "no token has this name\n").into_response();
    };
    let Ok(mut value) = HeaderValue::try_from((token.mint)(&proxy)) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    value.set_sensitive(true);
    request.headers_mut().insert("x-vercel-oidc-token", value);
    let caller = if token.exchanges { &proxy.exchanging_caller } else { &proxy.caller };
    // The page and the story show the failure, so the log is dropped.
    let response = caller.handle(&request.map(|_body| ()), |_line| ()).await;
    let explanation = token.explanation.filter(|_| is_refusal(response.body()));
    let mut response = response.into_response();
    // With this header, the page offers the tokens that are refused.
    response.headers_mut().insert("x-local-stand-in", HeaderValue::from_static("1"));
    if let Some(explanation) = explanation {
        response.headers_mut().insert("x-local-explanation", HeaderValue::from_static(explanation));
    }
    response
}

/// Whether the backend refused the token, or the client did not send it. The token does not cause any other failure.
fn is_refusal(body: &str) -> bool {
    serde_json::from_str::<Value>(body)
        .is_ok_and(|problem| problem["code"] == "backend_refused" || problem["code"] == "token_unavailable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_is_one_or_two_short_sentences_in_ascii() {
        for explanation in TOKENS.iter().filter_map(|token| token.explanation) {
            assert!(explanation.is_ascii() && explanation.len() <= 200, "{explanation}");
            assert!((1..=2).contains(&explanation.matches('.').count()), "{explanation}");
        }
    }

    #[test]
    fn only_a_refusal_is_explained() {
        assert!(is_refusal(r#"{"code":"backend_refused"}"#) && is_refusal(r#"{"code":"token_unavailable"}"#));
        for body in [r#"{"code":"backend_unreachable"}"#, r#"{"message":"hello"}"#, "[]", "<html>"] {
            assert!(!is_refusal(body), "{body}");
        }
    }
}
