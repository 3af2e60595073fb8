//! An API's answer: its head, its body, and what an answer other than 2xx means.
//!
//! Guarantees: the body is read piece by piece, up to its limit; nothing that the API wrote is shown, except a short code.

use std::fmt;

use http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::advice::Refusal;
use crate::challenge;
use crate::client::{self, Failed, ReadFailed, encoding};
use crate::error::{ApiError, RetryAfter};
use crate::json::{self, if_valid};
use crate::token::Token;
use crate::url::for_log;

/// An API's answer. The head has arrived. The methods `json` and `bytes` read the whole body, and `chunk` reads it as a
/// stream.
pub struct ApiResponse {
    response: reqwest::Response,
    max_bytes: usize,
    left: usize,
    token: Token,
    is_on_vercel: bool,
}

impl ApiResponse {
    pub(crate) fn new(response: reqwest::Response, max_bytes: usize, token: Token, is_on_vercel: bool) -> Self {
        Self { response, max_bytes, left: max_bytes, token, is_on_vercel }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Turns a status other than 2xx into an error with advice. Redirects are errors, because they are not followed.
    ///
    /// # Errors
    ///
    /// [`ApiError::Status`].
    pub async fn error_for_status(self) -> Result<Self, ApiError> {
        let status = self.status();
        if status.is_success() {
            return Ok(self);
        }
        let (is_refusal, is_temporary) =
            (matches!(status.as_u16(), 400 | 401 | 403), matches!(status.as_u16(), 429 | 503));
        let (encoding, is_sign_in) = (encoding(self.headers()), self.leads_to_a_sign_in());
        let (is_on_vercel, is_exchanged) = (self.is_on_vercel, self.token.is_exchanged());
        let challenge = challenge::bearer(self.headers()).filter(|_| is_refusal || is_temporary);
        let has_challenge = challenge.is_some();
        let error = challenge.and_then(|challenge| challenge.error).filter(|code| is_code(code, self.token.expose()));
        let retry_after = self.headers().get(RETRY_AFTER).filter(|_| is_temporary);
        let retry_after = retry_after.and_then(|value| RetryAfter::parse(value.to_str().ok()?));
        let log = if is_refusal { format!("token: {}", self.token.unverified_claims()) } else { String::new() };
        let content_type = self.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let has_code = is_refusal || is_temporary || content_type.starts_with(b"application/problem+json");
        let code = if has_code { self.code().await.or(error) } else { None };
        let code_shown = code.as_deref();
        let refusal =
            Refusal { status, code: code_shown, has_challenge, encoding, is_sign_in, is_on_vercel, is_exchanged };
        let message = refusal.message();
        Err(ApiError::Status { status, code, retry_after, message, log })
    }

    /// Reads the body as JSON of this type.
    ///
    /// # Errors
    ///
    /// The body is not JSON of this type, is compressed or too large, or does not arrive whole and in time.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        let status = self.status();
        serde_json::from_slice(&self.bytes().await?).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let problem =
                format!("is not the expected JSON (line {line}, column {column}). Check the base URL and the path");
            // The parser's own error may quote the answer.
            ApiError::Answer { status, problem, source: None }
        })
    }

    /// Reads the body.
    ///
    /// # Errors
    ///
    /// The body is compressed or too large, or does not arrive whole and in time.
    pub async fn bytes(mut self) -> Result<Vec<u8>, ApiError> {
        self.check_encoding()?;
        client::read(&mut self.response, &mut self.left).await.map_err(|error| self.failed(error))
    }

    /// Reads the next piece of the body as soon as it has arrived. `None` at its end. The time of the whole answer is
    /// limited by [`Api::with_timeout`](crate::Api::with_timeout).
    ///
    /// # Errors
    ///
    /// The body is compressed or too large, or does not arrive whole and in time.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        self.check_encoding()?;
        client::chunk(&mut self.response, &mut self.left).await.map_err(|error| self.failed(error))
    }

    fn check_encoding(&self) -> Result<(), ApiError> {
        let Some(encoding) = encoding(self.headers()) else { return Ok(()) };
        let problem = format!(
            "has `Content-Encoding: {encoding}`, which the request did not ask for. Look for a proxy that compresses \
             answers"
        );
        Err(ApiError::Answer { status: self.status(), problem, source: None })
    }

    fn failed(&self, error: ReadFailed) -> ApiError {
        let (problem, source) = match error {
            ReadFailed::Failed(Failed::Timeout(source)) => {
                return ApiError::Timeout { url: for_log(self.response.url()), source };
            }
            ReadFailed::TooLarge => {
                let limit = self.max_bytes;
                let advice = "Check the base URL and the path, or raise the limit";
                (format!("is larger than {limit} bytes. {advice}"), None)
            }
            ReadFailed::Failed(Failed::Other(cause, source)) => {
                (format!("is incomplete ({cause}). Check the API's log"), Some(source))
            }
        };
        ApiError::Answer { status: self.status(), problem, source }
    }

    /// The `code` in the answer's JSON, if it can be shown.
    async fn code(self) -> Option<String> {
        #[derive(Deserialize)]
        struct Problem {
            #[serde(deserialize_with = "if_valid")]
            code: Option<String>,
        }
        let token = self.token.clone();
        let problem: Problem = json::object(&self.bytes().await.ok()?)?;
        problem.code.filter(|code| is_code(code, token.expose()))
    }

    /// Whether the redirect goes to another host, or to a path that speaks of signing in.
    fn leads_to_a_sign_in(&self) -> bool {
        let location = self.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let Some(target) = location.and_then(|location| self.response.url().join(location).ok()) else { return false };
        let path = target.path().to_ascii_lowercase();
        target.host() != self.response.url().host()
            || ["login", "signin", "sign-in", "sso", "oauth", "/auth"].iter().any(|word| path.contains(word))
    }
}

impl fmt::Debug for ApiResponse {
    /// Shows neither headers nor body, because an API may send the token back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiResponse").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// Whether a code from outside can be shown. It must be short, have only harmless characters, and hold no part of the
/// token.
fn is_code(code: &str, token: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'-');
    // Fewer than 12 characters may occur in the token by chance.
    let mut parts = code.as_bytes().windows(12);
    let is_of_token = |part: &[u8]| token.as_bytes().windows(part.len()).any(|window| window == part);
    (1..=64).contains(&code.len()) && code.bytes().all(is_allowed) && !parts.any(is_of_token)
}
