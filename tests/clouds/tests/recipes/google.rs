//! A stand-in for Google Cloud: the Security Token Service, which exchanges tokens for a workload identity pool, and
//! Cloud Storage.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use google_cloud_auth::credentials::external_account::ProgrammaticBuilder;
use google_cloud_auth::credentials::subject_token::{self, SubjectToken, SubjectTokenProvider};
use google_cloud_auth::errors::CredentialsError;
use jsonwebtoken::errors::ErrorKind;
use local::{Deployment, Issuer};
use serde_json::{Value, json};
use vercel_oidc_client::Tokens;

use crate::internet::Internet;
use crate::recent::Recent;
use crate::stage::{Function, SUBJECT, token_with, vercel, verify};

const PROVIDER: &str =
    "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/vercel/providers/vercel";
const ORDER: &str = r#"{"item":"tea","quantity":2}"#;

#[derive(Clone)]
struct Google {
    vercel: Arc<Issuer>,
    /// The subject tokens that the service accepted, and their principals. Access token `access-1` is for the first.
    accepted: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Google {
    fn new() -> Self {
        Self { vercel: Arc::new(vercel()), accepted: Arc::default() }
    }

    async fn internet(&self) -> Internet {
        let sts = Router::new().route("/v1/token", post(exchange)).with_state(self.clone());
        let object = "/storage/v1/b/acme-orders/o/latest.json";
        let storage = Router::new().route(object, get(read_object)).with_state(self.clone());
        Internet::of([("sts.googleapis.com", sts), ("storage.googleapis.com", storage)]).await
    }

    fn accepted(&self) -> Vec<String> {
        self.accepted.lock().unwrap().iter().map(|(token, _)| token.clone()).collect()
    }
}

async fn exchange(
    State(google): State<Google>,
    Form(form): Form<HashMap<String, String>>,
) -> Result<Json<Value>, (StatusCode, Json<Value>)> {
    let refuse = |error: &str, description: &str| {
        (StatusCode::BAD_REQUEST, Json(json!({ "error": error, "error_description": description })))
    };
    for (name, value) in [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("scope", "https://www.googleapis.com/auth/cloud-platform"),
        ("audience", PROVIDER),
    ] {
        if form.get(name).is_none_or(|given| given != value) {
            return Err(refuse("invalid_request", &format!("Invalid value for \"{name}\"")));
        }
    }
    let token = form.get("subject_token").map_or("", String::as_str);
    let claims = verify(&google.vercel, token).map_err(|reason| match reason {
        ErrorKind::InvalidAudience => refuse("invalid_grant", "The audience does not match the expected audience"),
        ErrorKind::InvalidIssuer => refuse("invalid_grant", "The issuer does not match the expected issuer"),
        ErrorKind::ExpiredSignature => refuse("invalid_grant", "The token is stale to sign-in"),
        _ => refuse("invalid_grant", "Invalid JWT signature"),
    })?;
    // The provider's attribute condition.
    let acme = Deployment::default();
    if claims["owner_id"] != acme.team_id || claims["project_id"] != acme.project_id {
        return Err(refuse("unauthorized_client", "The given credential is rejected by the attribute condition"));
    }
    let mut accepted = google.accepted.lock().unwrap();
    accepted.push((token.to_owned(), claims["sub"].clone()));
    Ok(Json(json!({
        "access_token": format!("access-{}", accepted.len()),
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "token_type": "Bearer",
        "expires_in": 3600,
    })))
}

async fn read_object(
    State(google): State<Google>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let authorization = headers.get("authorization").map_or(&b""[..], |value| value.as_bytes());
    let accepted = google.accepted.lock().unwrap().clone();
    let of_token = |n: &usize| authorization == format!("Bearer access-{n}").as_bytes();
    let principal = (1..=accepted.len()).find(of_token).map(|n| &accepted[n - 1].1);
    // The bucket gives its role to one principal, which is the subject.
    if principal.is_none_or(|principal| principal != SUBJECT) || query.get("alt").is_none_or(|alt| alt != "media") {
        return (StatusCode::FORBIDDEN, "The principal has no role").into_response();
    }
    ([("x-goog-generation", "1"), ("content-type", "application/json")], ORDER).into_response()
}

#[tokio::test]
async fn the_token_of_the_request_signs_in_and_opens_a_bucket() {
    let google = Google::new();
    let internet = google.internet().await;
    let (function, token) = (Function::start(&internet.variables()).await, token_with(&google.vercel, |_| ()));
    assert_eq!(function.call("/google", &token).await, (200, ORDER.to_owned()));
    assert_eq!(google.accepted(), [token.as_str()]);
    assert_eq!(internet.unknown_hosts(), [""; 0]);
    let printed = function.stop().await;
    assert!(!token.split('.').any(|part| printed.contains(part)), "{printed}");
}

#[tokio::test]
async fn the_client_is_kept_for_the_next_requests() {
    let google = Google::new();
    let internet = google.internet().await;
    let (function, token) = (Function::start(&internet.variables()).await, token_with(&google.vercel, |_| ()));
    let (one, two) = tokio::join!(function.call("/google", &token), function.call("/google", &token));
    assert_eq!((one.0, two.0), (200, 200));
    assert_eq!(google.accepted().len(), 1);
}

#[tokio::test]
async fn google_refuses_each_wrong_token() {
    let google = Google::new();
    let internet = google.internet().await;
    let function = Function::start(&internet.variables()).await;
    // The crate itself does not send a token that expired more than 30 s ago.
    let past = json!(UNIX_EPOCH.elapsed().unwrap().as_secs() - 5);
    for (claim, value, message) in [
        ("exp", past, "stale to sign-in"),
        ("aud", json!("https://vercel.com/other"), "does not match the expected audience"),
        ("iss", json!("https://oidc.vercel.com"), "does not match the expected issuer"),
        ("owner_id", json!("team_ofSomeoneElse"), "rejected by the attribute condition"),
        ("project_id", json!("prj_ofSomeoneElse"), "rejected by the attribute condition"),
    ] {
        let token = token_with(&google.vercel, |claims| claims[claim] = value);
        let explained = function.refused("/google", &token).await;
        assert!(explained.contains(message), "{claim}: {explained}");
    }
    let forged = token_with(&vercel(), |_| ());
    assert!(function.refused("/google", &forged).await.contains("Invalid JWT signature"));
    let without = function.request("/google").send().await.unwrap().text().await.unwrap();
    assert!(without.contains("There is no OIDC token."), "{without}");
    assert!(google.accepted().is_empty());
    // An error is not kept.
    assert_eq!(function.call("/google", &token_with(&google.vercel, |_| ())).await.0, 200);
}

#[tokio::test]
async fn the_bucket_refuses_another_subject() {
    let google = Google::new();
    let internet = google.internet().await;
    let function = Function::start(&internet.variables()).await;
    let token = token_with(&google.vercel, |claims| claims["sub"] = json!(SUBJECT.replace("production", "preview")));
    let explained = function.refused("/google", &token).await;
    assert!(explained.contains("403") && explained.contains("The principal has no role"), "{explained}");
    assert_eq!(google.accepted(), [token]);
}

/// Takes the token of the request, as the recipes for AWS and Azure do.
#[derive(Debug)]
struct Current(Tokens);

impl SubjectTokenProvider for Current {
    type Error = CredentialsError;
    async fn subject_token(&self) -> Result<SubjectToken, CredentialsError> {
        let token = self.0.current().await.map_err(|error| CredentialsError::from_source(false, error))?;
        Ok(subject_token::Builder::new(token.expose()).build())
    }
}

/// Why the recipe takes the token as an argument.
#[tokio::test]
async fn the_sdk_signs_in_outside_of_the_scope() {
    let tokens = Tokens::from_env(|_| None).unwrap();
    let subject = ProgrammaticBuilder::new(Arc::new(Current(tokens.clone()))).with_audience(PROVIDER);
    let subject = subject.with_subject_token_type("urn:ietf:params:oauth:token-type:jwt");
    let headers = HeaderMap::from_iter([("x-vercel-oidc-token".parse().unwrap(), "e30.e30.c2ln".parse().unwrap())]);
    let sign_in = async {
        assert_eq!(tokens.current().await.unwrap().expose(), "e30.e30.c2ln");
        let credentials = subject.build().unwrap();
        for _ in 0..2 {
            let error = credentials.headers(http::Extensions::new()).await.unwrap_err();
            assert!(format!("{error:?}").contains("Missing"), "{error:?}");
        }
    };
    tokens.scope(&headers, sign_in).await;
}

#[tokio::test]
async fn a_value_is_made_again_after_ten_minutes_and_an_error_is_not_kept() {
    let (recent, start) = (Recent::default(), UNIX_EPOCH + Duration::from_secs(1_000_000));
    let at = |seconds| start + Duration::from_secs(seconds);
    let value = async |now, result: Result<u32, &'static str>| recent.get(now, async { result }).await;
    assert_eq!(value(at(0), Err("refused")).await, Err("refused"));
    assert_eq!(value(at(0), Ok(1)).await, Ok(1));
    assert_eq!(value(at(599), Ok(2)).await, Ok(1));
    assert_eq!(value(at(600), Ok(3)).await, Ok(3));
    assert_eq!(value(at(1300), Err("refused")).await, Err("refused"));
    // A clock that was set back does not make the value last longer.
    assert_eq!(value(at(0), Ok(4)).await, Ok(4));
}
