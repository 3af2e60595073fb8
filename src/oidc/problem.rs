//! Errors as `application/problem+json` (RFC 9457).
//!
//! A problem has a stable `code` for programs and a `detail` for people. It may have a second detail for the operator's
//! log, which the client never sees.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;

/// An error for the client. The response carries it in its extensions, for a layer that logs.
///
/// ```
/// use http::StatusCode;
/// use vercel_oidc_verifier::Problem;
///
/// let response: http::Response<String> =
///     Problem::new(StatusCode::FORBIDDEN, "forbidden", "Only production may publish.").into_response();
/// assert_eq!(response.headers()["content-type"], "application/problem+json");
/// ```
#[derive(Clone, Debug)]
pub struct Problem(
    // Boxed, so that a handler's `Result` stays small.
    Box<Parts>,
);

#[derive(Clone, Debug)]
struct Parts {
    status: StatusCode,
    code: &'static str,
    detail: String,
    log_detail: Option<String>,
    headers: HeaderMap,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: Option<&'static str>,
    status: u16,
    detail: &'a str,
    code: &'static str,
}

impl Problem {
    /// Makes a problem. Clients compare the code, so it should stay stable; the detail says what is wrong and what to
    /// do.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let headers = HeaderMap::new();
        Self(Box::new(Parts { status, code, detail: detail.into(), log_detail: None, headers }))
    }

    /// Adds a header to the response. A header of the same name stays.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.append(name, value);
        self
    }

    /// Sets what the operator's log says instead of the detail.
    #[must_use]
    pub fn with_log_detail(mut self, log_detail: impl Into<String>) -> Self {
        self.0.log_detail = Some(log_detail.into());
        self
    }

    /// Replaces the status, for a client that does not know it.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        self
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The kind of problem, for programs.
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// What is wrong and what to do, for the client.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// What is wrong, for the operator.
    pub fn log_detail(&self) -> &str {
        self.0.log_detail.as_deref().unwrap_or(&self.0.detail)
    }

    /// The response, which carries the problem in its extensions.
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        let body = Body {
            // RFC 9457, section 4.2.1: the title is then the phrase of the status code.
            kind: "about:blank",
            title: self.0.status.canonical_reason(),
            status: self.0.status.as_u16(),
            detail: &self.0.detail,
            code: self.0.code,
        };
        // Strings and a number are always written.
        let mut response = Response::new(serde_json::to_string(&body).unwrap_or_default().into());
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.clone_from(&self.0.headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        // A cache may store some errors by default (RFC 9111, section 4.2.2).
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use http::header::WWW_AUTHENTICATE;

    use super::*;

    fn not_found() -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not_found", "There is nothing.")
    }

    #[test]
    fn no_problem_is_cached() {
        let problem = not_found().with_header(CACHE_CONTROL, HeaderValue::from_static("public"));
        let response = problem.into_response::<String>();
        assert_eq!(response.headers().get_all(CACHE_CONTROL).iter().collect::<Vec<_>>(), ["no-store"]);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body = r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"There is nothing.","code":"not_found"}"#;
        assert_eq!(response.body(), body);
    }

    /// A server can offer several schemes (RFC 9110, section 11.6.1).
    #[test]
    fn a_second_challenge_does_not_replace_the_first() {
        let challenge =
            |problem: Problem, value| problem.with_header(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        let response = challenge(challenge(not_found(), "Bearer"), "Basic").into_response::<String>();
        assert_eq!(response.headers().get_all(WWW_AUTHENTICATE).iter().collect::<Vec<_>>(), ["Bearer", "Basic"]);
    }
}
