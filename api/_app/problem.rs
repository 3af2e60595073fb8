//! What went wrong, as `application/problem+json` (RFC 9457) and as a line for the log.
//!
//! Guarantees: every failure has its status and code here, in one `match`; the `detail` is the crate's message, and the
//! variable to check if the message is about a setting; what only the operator may see is in the log line alone.

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::json;
use vercel_oidc_client::{ApiError, TokenError};

/// Why a request gets no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Misconfigured(String),
    #[error("{0}{hint}", hint = variable_to_check(.0))]
    Backend(#[from] ApiError),
    #[error("The API answered {}, and the demo expects 200. Check the path in `BACKEND_URL`.", .0.as_u16())]
    NotOk(StatusCode),
    #[error("This path does not exist. `/` has the page, and `/api/call` makes the call.")]
    NotFound,
    #[error("Only `GET` and `HEAD` are allowed here.")]
    MethodNotAllowed,
}

impl Failure {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Misconfigured(_) => (StatusCode::INTERNAL_SERVER_ERROR, "misconfigured"),
            Self::Backend(error) => match error {
                ApiError::Token(_) => (StatusCode::INTERNAL_SERVER_ERROR, "token_unavailable"),
                ApiError::Status { status, .. } => match status.as_u16() {
                    400 | 401 | 403 => (StatusCode::BAD_GATEWAY, "backend_refused"),
                    429 | 503 => (StatusCode::SERVICE_UNAVAILABLE, "backend_unavailable"),
                    _ => (StatusCode::BAD_GATEWAY, "backend_error"),
                },
                ApiError::Answer { .. } => (StatusCode::BAD_GATEWAY, "backend_error"),
                ApiError::Unreachable { .. } => (StatusCode::BAD_GATEWAY, "backend_unreachable"),
                ApiError::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "backend_timeout"),
                // A path or a body that can't be sent, and what a later version of the crate may add.
                _ => (StatusCode::INTERNAL_SERVER_ERROR, "misconfigured"),
            },
            Self::NotOk(_) => (StatusCode::BAD_GATEWAY, "backend_error"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
        }
    }

    /// The line for the log, with what only the operator may see. `None` if the mistake is the requester's.
    pub(crate) fn log_line(&self) -> Option<String> {
        let (status, code) = self.status_and_code();
        let detail = match self {
            // The crate's line begins with its message. What follows is for the operator.
            Self::Backend(error) => error.log_detail().replacen(&error.to_string(), &self.to_string(), 1),
            Self::Misconfigured(_) | Self::NotOk(_) | Self::NotFound | Self::MethodNotAllowed => self.to_string(),
        };
        status.is_server_error().then(|| format!("{code}: {detail}"))
    }

    pub(crate) fn into_response(self) -> Response<String> {
        let (status, code) = self.status_and_code();
        let mut body = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.to_string(),
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
                if let Some(Ok(value)) = retry_after.map(|when| HeaderValue::try_from(when.to_string())) {
                    headers.insert(RETRY_AFTER, value);
                }
            }
            Self::Backend(ApiError::Answer { status, .. }) | Self::NotOk(status) => {
                body["backend_status"] = status.as_u16().into()
            }
            _ => {}
        }
        let mut response = Response::new(body.to_string());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// The variable that holds what the crate's message is about.
fn variable_to_check(error: &ApiError) -> &'static str {
    match error {
        ApiError::Token(TokenError::ExchangeRefused { .. }) => " The audience is `BACKEND_AUDIENCE`.",
        ApiError::Unreachable { .. } | ApiError::Answer { .. } => " The base URL is `BACKEND_URL`.",
        ApiError::Status { status, code, .. } => match (status.as_u16(), code) {
            (300..=399 | 404, _) | (401 | 403, None) => " The base URL is `BACKEND_URL`.",
            _ => "",
        },
        _ => "",
    }
}
