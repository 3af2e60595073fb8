//! A stand-in for Azure: Entra ID, which changes a client assertion into an access token, and Blob Storage.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use axum::extract::{Form, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jsonwebtoken::errors::ErrorKind;
use local::Issuer;
use serde_json::{Value, json};

use crate::internet::Internet;
use crate::stage::{Function, SUBJECT, token_with, vercel, verify};

const CLIENT: &str = "2f1a0f9e-4d7e-4b5e-9a57-3d7f9f6d2c11";
const ORDER: &str = r#"{"item":"tea","quantity":2}"#;

#[derive(Clone)]
struct Azure {
    vercel: Arc<Issuer>,
    /// How long an access token is valid, in seconds.
    lifetime: u64,
    /// The assertions that Entra ID accepted. Access token `access-1` is for the first.
    accepted: Arc<Mutex<Vec<String>>>,
}

impl Azure {
    fn new(lifetime: u64) -> Self {
        Self { vercel: Arc::new(vercel()), lifetime, accepted: Arc::default() }
    }

    async fn internet(&self) -> Internet {
        let tenant = "/8f9b2a4e-6c1d-4a3b-8e5f-7d6c5b4a3f2e/oauth2/v2.0/token";
        let login = Router::new().route(tenant, post(sign_in)).with_state(self.clone());
        let blobs = Router::new()
            .route("/orders/latest.json", get(async |azure, headers| blob(azure, headers, ORDER.into())))
            .route("/orders/all.json", get(async |azure, headers| blob(azure, headers, all_orders())))
            .with_state(self.clone());
        Internet::of([("login.microsoftonline.com", login), ("acme.blob.core.windows.net", blobs)]).await
    }

    fn accepted(&self) -> Vec<String> {
        self.accepted.lock().unwrap().clone()
    }
}

async fn sign_in(
    State(azure): State<Azure>,
    Form(form): Form<HashMap<String, String>>,
) -> Result<Json<Value>, (StatusCode, Json<Value>)> {
    let refuse = |error: &str, code: u32, description: &str| {
        let description = format!("AADSTS{code}: {description}");
        let answer = json!({ "error": error, "error_description": description, "error_codes": [code] });
        (StatusCode::UNAUTHORIZED, Json(answer))
    };
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    if field("grant_type") != "client_credentials"
        || field("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    {
        return Err(refuse("invalid_request", 900144, "The request body must contain the parameters of this grant"));
    }
    if field("client_id") != CLIENT {
        return Err(refuse("unauthorized_client", 700016, "Application was not found in the directory"));
    }
    if field("scope") != "https://storage.azure.com/.default" {
        return Err(refuse("invalid_scope", 70011, "The provided value for scope is not valid"));
    }
    // The federated credential has exactly one issuer, subject and audience.
    let assertion = field("client_assertion");
    let claims = verify(&azure.vercel, assertion).map_err(|reason| match reason {
        ErrorKind::InvalidIssuer => refuse("invalid_client", 700211, "No matching federated identity record: issuer"),
        ErrorKind::InvalidAudience => {
            refuse("invalid_client", 700212, "No matching federated identity record: audience")
        }
        ErrorKind::ExpiredSignature => {
            refuse("invalid_client", 700024, "Client assertion is not within its valid time")
        }
        _ => refuse("invalid_client", 50027, "JWT token is invalid or malformed"),
    })?;
    if claims["sub"] != SUBJECT {
        return Err(refuse("invalid_client", 700213, "No matching federated identity record: subject"));
    }
    let mut accepted = azure.accepted.lock().unwrap();
    accepted.push(assertion.to_owned());
    let token = format!("access-{}", accepted.len());
    Ok(Json(json!({ "token_type": "Bearer", "expires_in": azure.lifetime, "access_token": token })))
}

/// More than the SDK reads at once, which is 4 MiB.
fn all_orders() -> String {
    ORDER.repeat(200_000)
}

fn blob(State(azure): State<Azure>, headers: HeaderMap, content: String) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let known = (1..=azure.accepted().len()).any(|n| header("authorization") == format!("Bearer access-{n}"));
    if !known || header("x-ms-version").is_empty() {
        return (StatusCode::FORBIDDEN, [("x-ms-error-code", "AuthenticationFailed")]).into_response();
    }
    let range = header("range").strip_prefix("bytes=").or(header("x-ms-range").strip_prefix("bytes=")).unwrap_or("0-");
    let (first, last) = range.split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let last = last.parse().unwrap_or(usize::MAX).min(content.len() - 1);
    let range = format!("bytes {first}-{last}/{}", content.len());
    let head = [("content-range", range.as_str()), ("etag", "\"1\""), ("content-type", "application/json")];
    (StatusCode::PARTIAL_CONTENT, head, content[first..=last].to_owned()).into_response()
}

#[tokio::test]
async fn the_token_of_the_request_is_the_client_assertion_and_opens_a_container() {
    let azure = Azure::new(3600);
    let internet = azure.internet().await;
    let (function, token) = (Function::start(&internet.variables()).await, token_with(&azure.vercel, |_| ()));
    assert_eq!(function.call("/azure", &token).await, (200, ORDER.to_owned()));
    assert_eq!(azure.accepted(), [token.as_str()]);
    assert_eq!(internet.unknown_hosts(), [""; 0]);
    let printed = function.stop().await;
    assert!(!token.split('.').any(|part| printed.contains(part)), "{printed}");
}

#[tokio::test]
async fn the_access_token_is_cached_for_all_requests() {
    let azure = Azure::new(3600);
    let internet = azure.internet().await;
    let (function, token) = (Function::start(&internet.variables()).await, token_with(&azure.vercel, |_| ()));
    let (one, two) = tokio::join!(function.call("/azure", &token), function.call("/azure", &token));
    assert_eq!((one.0, two.0), (200, 200));
    assert_eq!(function.request("/azure").send().await.unwrap().status(), 200);
    assert_eq!(azure.accepted().len(), 1);
}

#[tokio::test]
async fn a_new_access_token_takes_the_token_of_the_request_that_needs_it() {
    // The SDK replaces an access token 5 minutes before it expires, so these are due at once.
    let azure = Azure::new(60);
    let internet = azure.internet().await;
    let function = Function::start(&internet.variables()).await;
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    let tokens = [1, 2].map(|n| token_with(&azure.vercel, |claims| claims["exp"] = json!(now + 600 + n)));
    for token in &tokens {
        assert_eq!(function.call("/azure", token).await.0, 200);
    }
    assert_eq!(azure.accepted()[0], tokens[0]);
    assert_eq!(azure.accepted().last(), Some(&tokens[1]));
    // Without a token there is no new access token. The SDK uses the old one until it expires.
    assert_eq!(function.request("/azure").send().await.unwrap().status(), 200);
    assert_eq!(azure.accepted().last(), Some(&tokens[1]));
}

#[tokio::test]
async fn tasks_that_the_sdk_spawns_use_the_access_token_that_the_request_got() {
    // Each call is due for a new access token, and the tasks that read the rest of a large blob are outside of the scope.
    let azure = Azure::new(60);
    let internet = azure.internet().await;
    let (function, token) = (Function::start(&internet.variables()).await, token_with(&azure.vercel, |_| ()));
    let (status, text) = function.call("/azure?all.json", &token).await;
    // In the scope, the second read would have got another one.
    assert_eq!(azure.accepted().len(), 1);
    assert!((status, text.len()) == (200, all_orders().len()) && text == all_orders(), "{status}");
}

#[tokio::test]
async fn entra_refuses_each_wrong_token() {
    let azure = Azure::new(3600);
    let internet = azure.internet().await;
    let function = Function::start(&internet.variables()).await;
    // The crate itself does not send a token that expired more than 30 s ago.
    let past = json!(UNIX_EPOCH.elapsed().unwrap().as_secs() - 5);
    for (claim, value, code) in [
        ("exp", past, "AADSTS700024"),
        ("aud", json!("https://vercel.com/other"), "AADSTS700212"),
        ("iss", json!("https://oidc.vercel.com"), "AADSTS700211"),
        ("sub", json!(SUBJECT.replace("production", "preview")), "AADSTS700213"),
    ] {
        let token = token_with(&azure.vercel, |claims| claims[claim] = value);
        let explained = function.refused("/azure", &token).await;
        assert!(explained.contains(code), "{claim}: {explained}");
    }
    let forged = token_with(&vercel(), |_| ());
    assert!(function.refused("/azure", &forged).await.contains("AADSTS50027"));
    let without = function.request("/azure").send().await.unwrap().text().await.unwrap();
    assert!(without.contains("There is no OIDC token."), "{without}");
    assert!(azure.accepted().is_empty());
    assert_eq!(function.call("/azure", &token_with(&azure.vercel, |_| ())).await.0, 200);
}
