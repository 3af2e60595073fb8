//! The call that carries the token.
//!
//! Guarantees: the token goes to the configured origin and nowhere else; an answer is read up to its limits, and passed
//! on only if it is JSON. Left to others: which token ([`crate::token`], [`crate::exchange`]), and how a failure looks
//! ([`crate::problem`]).

use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::header::{ACCEPT, AUTHORIZATION};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::client::{self, BodyError};
use crate::problem::{foreign_words, holds_part_of, says};
use crate::settings::Endpoints;
use crate::timing::Timing;
use crate::token::Token;

/// What lets a call through Vercel's Deployment Protection, where the calling project is a trusted source.
const TRUSTED_SOURCE: HeaderName = HeaderName::from_static("x-vercel-trusted-oidc-idp-token");
/// What ties the two ends' traces and logs together.
const PASSED_ON: [HeaderName; 2] = [HeaderName::from_static("traceparent"), HeaderName::from_static("x-vercel-id")];

/// Why the call brought no answer to pass on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    #[error(
        "the backend could not be reached: check `BACKEND_URL`, that the backend runs, and that its certificate is valid"
    )]
    Unreachable(#[source] reqwest::Error),
    #[error("the backend did not answer in time: check its logs, and that it is not overloaded")]
    Timeout(#[source] reqwest::Error),
    #[error(
        "the backend refused the token with {status}{}: {}{}; the token's subject is {}",
        says(.detail),
        if .code.is_none() { FOREIGN } else { "" },
        remedy(*status),
        .subject.as_ref().map_or("not readable".to_owned(), |subject| format!("`{subject}`")),
    )]
    Refused { status: StatusCode, code: Option<String>, detail: String, subject: Option<String> },
    #[error("the backend answered {0}, not 200: check `BACKEND_URL`, its path included, and the backend's logs")]
    Status(StatusCode),
    #[error("the backend's answer is not JSON: check that `BACKEND_URL` is the API's base URL")]
    NotJson,
    #[error(
        "the backend's answer is larger than {} bytes: check that `BACKEND_URL` is the API's base URL",
        client::MAX_BODY_BYTES
    )]
    TooLarge,
    #[error("the backend's answer broke off: check its logs")]
    Broken(#[source] reqwest::Error),
}

/// What a refusal without the backend's own `code` may mean.
const FOREIGN: &str = "no `code` came with it, so it may not be the backend's own: is Deployment Protection before it \
    (this project must be a trusted source there), or a proxy? Else ";

/// What to compare after a refusal: the API knows the caller and doesn't want it, or can't make anything of the token.
fn remedy(status: StatusCode) -> &'static str {
    if status == StatusCode::FORBIDDEN {
        "compare the token's subject with the ones that the backend expects (its `OIDC_SUBJECT`, or `OIDC_TEAM_SLUG`, \
         `OIDC_PROJECT_NAME` and `OIDC_ENVIRONMENT`)"
    } else {
        "compare the token's issuer and audience with the ones that the backend expects (its `OIDC_TEAM_SLUG`, \
         `OIDC_ISSUER_MODE` and `OIDC_AUDIENCE`, which is this function's `BACKEND_AUDIENCE` where that is set); if it is \
         about time, check the clocks, and get a new token"
    }
}

/// Calls the backend, and gives back the JSON that it answers.
pub(crate) async fn call(
    client: &Client,
    endpoints: &Endpoints,
    token: &Token,
    incoming: &HeaderMap,
    timing: &mut Timing,
) -> Result<String, BackendError> {
    let mut request = client
        .get(endpoints.backend.clone())
        .header(ACCEPT, HeaderValue::from_static("application/json"))
        .header(AUTHORIZATION, token.bearer());
    if endpoints.backend_is_on_vercel {
        request = request.header(TRUSTED_SOURCE, token.header());
    }
    for name in PASSED_ON {
        if let Some(value) = incoming.get(&name) {
            request = request.header(name, value);
        }
    }
    let received = match request.send().await {
        Ok(mut response) => {
            let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
            Ok((status, headers, client::read(response).await))
        }
        Err(error) => Err(error),
    };
    timing.add("backend");
    let (status, headers, body) = received.map_err(failure)?;
    timing.carry(&headers, token);
    match status {
        StatusCode::OK => json(body),
        StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(refused(status, body.ok(), token))
        }
        _ => Err(BackendError::Status(status)),
    }
}

fn failure(error: reqwest::Error) -> BackendError {
    let error = error.without_url();
    // A connection that takes too long was never made.
    if error.is_timeout() && !error.is_connect() {
        BackendError::Timeout(error)
    } else {
        BackendError::Unreachable(error)
    }
}

fn json(body: Result<Vec<u8>, BodyError>) -> Result<String, BackendError> {
    let body = body.map_err(|error| match error {
        BodyError::TooLarge => BackendError::TooLarge,
        BodyError::Broken(error) if error.is_timeout() => BackendError::Timeout(error.without_url()),
        BodyError::Broken(error) => BackendError::Broken(error.without_url()),
    })?;
    let text = String::from_utf8(body).map_err(|_| BackendError::NotJson)?;
    match serde_json::from_str::<IgnoredAny>(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(BackendError::NotJson),
    }
}

/// What the backend says of its refusal, as far as it says it in problem JSON.
#[derive(Default, Deserialize)]
struct Refusal {
    code: Option<String>,
    detail: Option<String>,
}

fn refused(status: StatusCode, body: Option<Vec<u8>>, token: &Token) -> BackendError {
    let refusal: Refusal = body.and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
    let is_code = |code: &String| {
        let plain = code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte));
        (1..=64).contains(&code.len()) && plain && !holds_part_of(code, token)
    };
    BackendError::Refused {
        status,
        code: refusal.code.filter(is_code),
        detail: foreign_words(&refusal.detail.unwrap_or_default(), Some(token)),
        subject: token.unverified_subject().map(|subject| foreign_words(&subject, Some(token))),
    }
}
