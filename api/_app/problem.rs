//! What went wrong, as `application/problem+json` (RFC 9457) and as a line for the log.
//!
//! Guarantees: every failure has its status and code here, in one `match`; the `detail` is the crate's message in the
//! demo's terms; what only the operator may see is in the log line alone.

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};
use vercel_oidc_client::{ApiError, TokenError};

/// Why a request gets no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Misconfigured(String),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Backend(#[from] ApiError),
    #[error("Nothing is here. `/` has the page, `/api/call` the call.")]
    NotFound,
    #[error("Only `GET` and `HEAD` are allowed here.")]
    MethodNotAllowed,
}

impl Failure {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Misconfigured(_) => (StatusCode::INTERNAL_SERVER_ERROR, "misconfigured"),
            Self::Token(_) => (StatusCode::INTERNAL_SERVER_ERROR, "token_unavailable"),
            Self::Backend(error) => match error {
                ApiError::Token(_) => (StatusCode::INTERNAL_SERVER_ERROR, "token_unavailable"),
                ApiError::Path(_) | ApiError::Body => (StatusCode::INTERNAL_SERVER_ERROR, "misconfigured"),
                ApiError::Refused { .. } => (StatusCode::BAD_GATEWAY, "backend_refused"),
                ApiError::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "backend_unavailable"),
                ApiError::Redirected { .. }
                | ApiError::Status { .. }
                | ApiError::Encoded { .. }
                | ApiError::NotJson { .. }
                | ApiError::TooLarge { .. }
                | ApiError::Broken { .. } => (StatusCode::BAD_GATEWAY, "backend_error"),
                ApiError::Unreachable { .. } | ApiError::NoCertificates(_) => {
                    (StatusCode::BAD_GATEWAY, "backend_unreachable")
                }
                ApiError::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "backend_timeout"),
            },
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
        }
    }

    /// The message in the words of the demo's settings.
    fn detail(&self) -> String {
        let message = self.to_string();
        [
            ("the base URL", "`BACKEND_URL`"),
            ("the audience", "`BACKEND_AUDIENCE`"),
            ("The API", "The backend"),
            ("the API", "the backend"),
        ]
        .iter()
        .fold(message, |message, (from, to)| message.replace(from, to))
    }

    /// The line for the log, with what only the operator may see. `None` for what is the requester's own mistake.
    pub(crate) fn log_line(&self) -> Option<String> {
        let (status, code) = self.status_and_code();
        let message = match self {
            Self::Token(error) => error.log_detail(),
            Self::Backend(error) => error.log_detail(),
            Self::Misconfigured(_) | Self::NotFound | Self::MethodNotAllowed => String::new(),
        };
        let for_the_operator = message.strip_prefix(&self.to_string()).unwrap_or_default();
        status.is_server_error().then(|| format!("{code}: {}{for_the_operator}", self.detail()))
    }

    pub(crate) fn into_response(self) -> Response<String> {
        let (status, code) = self.status_and_code();
        let mut body = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.detail(),
            "code": code,
        });
        let mut response = Response::new(String::new());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Value::Object(body) = &mut body
            && let Self::Backend(error) = &self
        {
            add_backend_members(body, error);
        }
        match &self {
            Self::MethodNotAllowed => {
                headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            Self::Backend(ApiError::Unavailable { retry_after: Some(value), .. }) => {
                if let Ok(value) = HeaderValue::try_from(value) {
                    headers.insert(RETRY_AFTER, value);
                }
            }
            _ => {}
        }
        *response.body_mut() = body.to_string();
        *response.status_mut() = status;
        response
    }
}

/// What the backend answered, if it did.
fn add_backend_members(body: &mut Map<String, Value>, error: &ApiError) {
    let (status, code) = match error {
        ApiError::Refused { status, code, .. } | ApiError::Unavailable { status, code, .. } => {
            (status, Some(Value::from(code.clone())))
        }
        // Without problem+json there is no code to speak of.
        ApiError::Status { status, code } => (status, code.clone().map(Value::from)),
        ApiError::Redirected { status, .. }
        | ApiError::Encoded { status, .. }
        | ApiError::NotJson { status, .. }
        | ApiError::TooLarge { status, .. }
        | ApiError::Broken { status, .. } => (status, None),
        ApiError::Token(_)
        | ApiError::NoCertificates(_)
        | ApiError::Path(_)
        | ApiError::Body
        | ApiError::Unreachable { .. }
        | ApiError::Timeout { .. } => return,
    };
    body.insert("backend_status".to_owned(), status.as_u16().into());
    if let Some(code) = code {
        body.insert("backend_code".to_owned(), code);
    }
}
