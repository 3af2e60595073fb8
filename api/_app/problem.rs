//! What went wrong, as `application/problem+json` (RFC 9457) and as a line for the log.
//!
//! Guarantees: every failure has its status and code here, in one `match`; the `detail` is the crate's message in the
//! demo's terms; what only the operator may see is in the log line alone.

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::json;
use vercel_oidc_client::ApiError;

/// Why a request gets no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Misconfigured(String),
    #[error(transparent)]
    Backend(#[from] ApiError),
    #[error("This path does not exist. `/` has the page, and `/api/call` makes the call.")]
    NotFound,
    #[error("Only `GET` and `HEAD` are allowed here.")]
    MethodNotAllowed,
}

impl Failure {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Misconfigured(_) => (StatusCode::INTERNAL_SERVER_ERROR, "misconfigured"),
            Self::Backend(ApiError::Request(_)) => (StatusCode::INTERNAL_SERVER_ERROR, "misconfigured"),
            Self::Backend(ApiError::Token(_)) => (StatusCode::INTERNAL_SERVER_ERROR, "token_unavailable"),
            Self::Backend(ApiError::Status { status, .. }) => match status.as_u16() {
                400 | 401 | 403 => (StatusCode::BAD_GATEWAY, "backend_refused"),
                429 | 503 => (StatusCode::SERVICE_UNAVAILABLE, "backend_unavailable"),
                _ => (StatusCode::BAD_GATEWAY, "backend_error"),
            },
            Self::Backend(ApiError::Answer { .. }) => (StatusCode::BAD_GATEWAY, "backend_error"),
            Self::Backend(ApiError::Unreachable { .. }) => (StatusCode::BAD_GATEWAY, "backend_unreachable"),
            Self::Backend(ApiError::Timeout { .. }) => (StatusCode::GATEWAY_TIMEOUT, "backend_timeout"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
        }
    }

    /// The line for the log, with what only the operator may see. `None` if the mistake is the requester's.
    pub(crate) fn log_line(&self) -> Option<String> {
        let (status, code) = self.status_and_code();
        let detail = match self {
            Self::Backend(error) => error.log_detail(),
            Self::Misconfigured(_) | Self::NotFound | Self::MethodNotAllowed => self.to_string(),
        };
        status.is_server_error().then(|| format!("{code}: {}", in_the_demos_words(&detail)))
    }

    pub(crate) fn into_response(self) -> Response<String> {
        let (status, code) = self.status_and_code();
        let mut body = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": in_the_demos_words(&self.to_string()),
            "code": code,
        });
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match &self {
            Self::MethodNotAllowed => {
                headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            Self::Backend(ApiError::Status { status, code: backend_code, retry_after, .. }) => {
                body["backend_status"] = status.as_u16().into();
                // Without problem+json, another status has no code.
                if backend_code.is_some() || code != "backend_error" {
                    body["backend_code"] = json!(backend_code);
                }
                if let Some(Ok(value)) = retry_after.as_ref().map(HeaderValue::try_from) {
                    headers.insert(RETRY_AFTER, value);
                }
            }
            Self::Backend(ApiError::Answer { status, .. }) => body["backend_status"] = status.as_u16().into(),
            _ => {}
        }
        let mut response = Response::new(body.to_string());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// The crate's message in the words of the demo's settings.
fn in_the_demos_words(message: &str) -> String {
    message
        .replace("the base URL", "`BACKEND_URL`")
        .replace("the audience", "`BACKEND_AUDIENCE`")
        .replace("The API", "The backend")
        .replace("the API", "the backend")
}
