//! A request that carries the token.
//!
//! Guarantees: the token goes to the base URL's origin and nowhere else, because redirects are not followed and a path
//! can't leave the base URL; of the incoming request, only the trace and Vercel's request id are passed on.

use std::fmt;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reqwest::{Body, Url};
use serde::Serialize;

use crate::client::Failed;
use crate::error::ApiError;
use crate::response::ApiResponse;
use crate::token::Token;
use crate::tokens::Tokens;
use crate::url::for_log;

/// Lets a call through Vercel's Deployment Protection if the calling project is a trusted source there.
pub(crate) const TRUSTED_SOURCE: HeaderName = HeaderName::from_static("x-vercel-trusted-oidc-idp-token");
/// These connect the traces and logs of both ends (W3C Trace Context).
pub(crate) const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
const VERCEL_ID: HeaderName = HeaderName::from_static("x-vercel-id");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Where requests go, with which token and limits.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) base: Url,
    pub(crate) is_on_vercel: bool,
    pub(crate) tokens: Tokens,
    pub(crate) audience: Option<String>,
    /// `None` for the default of the clients.
    pub(crate) timeout: Option<Duration>,
    pub(crate) max_bytes: usize,
}

/// A request to an [`Api`](crate::Api) that has not been sent yet.
#[must_use = "a request is sent by `send`"]
pub struct ApiRequest<'a> {
    target: &'a Target,
    incoming: Option<&'a HeaderMap>,
    request: Result<reqwest::Request, ApiError>,
    token: Option<Token>,
}

impl<'a> ApiRequest<'a> {
    pub(crate) fn new(
        target: &'a Target,
        method: Method,
        incoming: Option<&'a HeaderMap>,
        url: Result<Url, ApiError>,
    ) -> Self {
        Self { target, incoming, request: url.map(|url| reqwest::Request::new(method, url)), token: None }
    }

    /// Changes the request, unless it already has an error.
    fn change(mut self, change: impl FnOnce(&mut reqwest::Request)) -> Self {
        if let Ok(request) = &mut self.request {
            change(request);
        }
        self
    }

    /// Adds a parameter to the query. Both parts are encoded.
    pub fn query(self, name: &str, value: &str) -> Self {
        self.change(|request| {
            request.url_mut().query_pairs_mut().append_pair(name, value);
        })
    }

    /// Sets a header. [`ApiRequest::send`] replaces `Authorization`, `Accept-Encoding` and Vercel's header for trusted
    /// sources.
    pub fn header(self, name: HeaderName, value: HeaderValue) -> Self {
        self.change(|request| {
            request.headers_mut().insert(name, value);
        })
    }

    /// Sets the body to a value as JSON, and its `Content-Type`.
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(json) => return self.body(json).header(CONTENT_TYPE, JSON),
            Err(_) => {
                let problem = "body can't be written as JSON. Check that every map has strings as keys";
                self.request = Err(ApiError::Request { problem });
            }
        }
        self
    }

    /// Sets the body: text, bytes, or a stream, such as the body of another request. [`Body::wrap`] takes any
    /// `http_body::Body`.
    pub fn body(self, body: impl Into<Body>) -> Self {
        self.change(|request| *request.body_mut() = Some(body.into()))
    }

    /// Sends this token instead of getting one from the incoming headers: a token that [`Tokens`] gave before.
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Gets the token, sends the request, and waits for the head of the answer, which may have any status.
    ///
    /// # Errors
    ///
    /// The path is not allowed, there is no token, or no answer came. A status other than 2xx is no error here: see
    /// [`ApiResponse::error_for_status`].
    pub async fn send(self) -> Result<ApiResponse, ApiError> {
        let Target { tokens, audience, timeout, max_bytes, is_on_vercel, .. } = self.target;
        let mut request = self.request?;
        let token = match (self.token, audience) {
            (Some(token), _) => token,
            (None, Some(audience)) => tokens.get_for(self.incoming, audience).await?,
            (None, None) => tokens.get(self.incoming).await?,
        };
        if timeout.is_some() {
            *request.timeout_mut() = *timeout;
        }
        let headers = request.headers_mut();
        if let Some(incoming) = self.incoming {
            pass_on(incoming, headers);
        }
        // The client then adds `identity`, the only encoding that can be read.
        headers.remove(ACCEPT_ENCODING);
        headers.remove(TRUSTED_SOURCE);
        headers.insert(AUTHORIZATION, token.bearer.clone());
        if *is_on_vercel {
            headers.insert(TRUSTED_SOURCE, token.header.clone());
        }
        let url = request.url().clone();
        let failed = |failed: Failed| match failed {
            Failed::Other(cause, source) => ApiError::Unreachable { cause, url: for_log(&url), source },
            Failed::Timeout(source) => ApiError::Timeout { url: for_log(&url), source },
        };
        let client = tokens.0.clients.get(&url).map_err(failed)?;
        let response = client.execute(request).await.map_err(|error| failed(error.into()))?;
        if response.status() == StatusCode::UNAUTHORIZED {
            tokens.drop_refused(&token);
        }
        Ok(ApiResponse::new(response, *max_bytes, token, *is_on_vercel))
    }
}

/// Passes the trace and the id on, unless the request has its own. A `tracestate` belongs to a `traceparent`, and two
/// `traceparent` are no trace (W3C Trace Context, section 3.2).
fn pass_on(incoming: &HeaderMap, headers: &mut HeaderMap) {
    let has_trace = incoming.get_all(TRACE_PARENT).iter().count() == 1 && !headers.contains_key(TRACE_PARENT);
    let trace = [TRACE_PARENT, TRACE_STATE].into_iter().filter(|_| has_trace);
    for name in trace.chain([VERCEL_ID]) {
        if !headers.contains_key(&name) {
            for value in incoming.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
    }
}

impl fmt::Debug for ApiRequest<'_> {
    /// Shows neither headers nor body, because the token is in the incoming headers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = self.request.as_ref().map(reqwest::Request::method).ok();
        f.debug_struct("ApiRequest").field("method", &method).finish_non_exhaustive()
    }
}
