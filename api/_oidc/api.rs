//! Calls that carry the token: any method, path, query, headers and body, to one origin.
//!
//! Guarantees: the token goes to the base URL's origin and nowhere else, because redirects are not followed and a path
//! can't leave the base URL; each call has its limits; an answer is read piece by piece, up to its limit.

use std::fmt;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reqwest::Url;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::client::{self, Failed, MAX_BYTES, encoding};
use crate::error::{ApiError, Misconfigured, explain};
use crate::json::{self, if_valid};
use crate::token::Token;
use crate::tokens::Tokens;
use crate::url::{for_log, parse_base};

/// Lets a call through Vercel's Deployment Protection if the calling project is a trusted source there.
const TRUSTED_SOURCE: HeaderName = HeaderName::from_static("x-vercel-trusted-oidc-idp-token");
/// These connect the traces and logs of both ends.
const PASSED_ON: [HeaderName; 2] = [HeaderName::from_static("traceparent"), HeaderName::from_static("x-vercel-id")];
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An API that verifies the caller's token. Build it once; clones share their connections.
///
/// ```
/// use std::time::Duration;
/// use vercel_oidc_client::{Api, Tokens};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tokens = Tokens::from_env(|name| std::env::var(name).ok())?;
/// let api = Api::new("https://orders.example.com/v1", tokens)?
///     .with_audience("https://orders.example.com")
///     .with_timeout(Duration::from_secs(30))
///     .with_max_bytes(16 * 1024 * 1024);
/// # let _ = api;
/// # Ok(())
/// # }
/// ```
///
/// Unless changed, a call may take 2 seconds to connect and 10 seconds in all, and an answer may have 1 MiB.
#[derive(Clone, Debug)]
pub struct Api {
    base: Url,
    is_on_vercel: bool,
    tokens: Tokens,
    audience: Option<String>,
    /// `None` for the default of the clients.
    timeout: Option<Duration>,
    max_bytes: usize,
}

impl Api {
    /// An API at this base URL, which may have a path. It is called with the function's own token unless
    /// [`Api::with_audience`] names an audience.
    ///
    /// # Errors
    ///
    /// The URL is neither `https` nor `http` to a loopback host, or it has a query, a fragment or a user name.
    pub fn new(base_url: &str, tokens: Tokens) -> Result<Self, Misconfigured> {
        let base = parse_base(base_url)?;
        let is_on_vercel = is_on_vercel(&base, tokens.0.own_host.as_deref());
        Ok(Self { base, is_on_vercel, tokens, audience: None, timeout: None, max_bytes: MAX_BYTES })
    }

    /// Exchanges the token for one with this audience before each call. Results are cached.
    #[must_use]
    pub fn with_audience(self, audience: impl Into<String>) -> Self {
        Self { audience: Some(audience.into()), ..self }
    }

    /// The time that a call may take, the answer's body included.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    /// The most bytes that an answer may have, also if it is read chunk by chunk.
    #[must_use]
    pub fn with_max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// Starts a `GET` request. See [`Api::request`].
    pub fn get<'a>(&'a self, incoming: &'a HeaderMap, path: &str) -> ApiRequest<'a> {
        self.request(Method::GET, incoming, path)
    }

    /// Starts a `POST` request. See [`Api::request`].
    pub fn post<'a>(&'a self, incoming: &'a HeaderMap, path: &str) -> ApiRequest<'a> {
        self.request(Method::POST, incoming, path)
    }

    /// Starts a `PUT` request. See [`Api::request`].
    pub fn put<'a>(&'a self, incoming: &'a HeaderMap, path: &str) -> ApiRequest<'a> {
        self.request(Method::PUT, incoming, path)
    }

    /// Starts a `PATCH` request. See [`Api::request`].
    pub fn patch<'a>(&'a self, incoming: &'a HeaderMap, path: &str) -> ApiRequest<'a> {
        self.request(Method::PATCH, incoming, path)
    }

    /// Starts a `DELETE` request. See [`Api::request`].
    pub fn delete<'a>(&'a self, incoming: &'a HeaderMap, path: &str) -> ApiRequest<'a> {
        self.request(Method::DELETE, incoming, path)
    }

    /// Starts a request to a path below the base URL.
    ///
    /// `incoming` are the headers of the request that the function is answering: the token may be in them, and
    /// `traceparent` and `x-vercel-id` are passed on.
    ///
    /// The path begins with exactly one `/`. A backslash, `?`, `#`, a control character, or a segment `.` or `..` (also
    /// with a dot written as `%2e`) is an error from [`ApiRequest::send`], and nothing is sent. Percent-encode text
    /// from outside before you put it into a path.
    pub fn request<'a>(&'a self, method: Method, incoming: &'a HeaderMap, path: &str) -> ApiRequest<'a> {
        ApiRequest::new(self, method, incoming, join(&self.base, path))
    }

    /// Starts a request to the base URL itself, as it was written: with or without a slash at its end.
    pub fn request_base<'a>(&'a self, method: Method, incoming: &'a HeaderMap) -> ApiRequest<'a> {
        ApiRequest::new(self, method, incoming, Ok(self.base.clone()))
    }
}

/// Appends a path to the base URL, unless it could lead elsewhere.
fn join(base: &Url, path: &str) -> Result<Url, ApiError> {
    // Some servers decode `%2f` and `%5c` before they look for segments.
    let decoded = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
    let problem = if path.contains('\\') {
        "path has a backslash. Percent-encode it as `%5C`"
    } else if path.contains(|c: char| c.is_control()) {
        // The URL parser skips tabs and line breaks, which could make dots meet.
        "path has a control character. Remove it"
    } else if !path.starts_with('/') || path.starts_with("//") {
        "path does not begin with exactly one `/`. Write `/orders`, for example"
    } else if path.contains(['?', '#']) {
        "path has a `?` or `#`. Use `query`, or percent-encode the character"
    } else if decoded.split('/').any(|segment| matches!(segment, "." | "..")) {
        "path has a segment `.` or `..`. Remove the segment"
    } else {
        let mut url = base.clone();
        url.set_path(&[base.path().strip_suffix('/').unwrap_or(base.path()), path].concat());
        return Ok(url);
    };
    Err(ApiError::Request(problem))
}

/// Whether Deployment Protection may stand in front of the API, because the host is Vercel's or this deployment's.
fn is_on_vercel(base: &Url, own_host: Option<&str>) -> bool {
    let own = own_host.and_then(|host| Url::parse(&format!("{}://{host}", base.scheme())).ok());
    base.host_str().is_some_and(|host| host.ends_with(".vercel.app"))
        || own.is_some_and(|own| own.host() == base.host() && (own.port().is_none() || own.port() == base.port()))
}

/// A request to an [`Api`] that has not been sent yet.
#[must_use = "a request is sent by `send`"]
pub struct ApiRequest<'a> {
    api: &'a Api,
    incoming: &'a HeaderMap,
    request: Result<reqwest::Request, ApiError>,
    token: Option<Token>,
}

impl<'a> ApiRequest<'a> {
    fn new(api: &'a Api, method: Method, incoming: &'a HeaderMap, url: Result<Url, ApiError>) -> Self {
        Self { api, incoming, request: url.map(|url| reqwest::Request::new(method, url)), token: None }
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
                self.request = Err(ApiError::Request(problem));
            }
        }
        self
    }

    /// Sets the body.
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        self.change(|request| *request.body_mut() = Some(body.into().into()))
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
        let Api { tokens, audience, timeout, max_bytes, .. } = self.api;
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
        for name in PASSED_ON {
            if let Some(value) = self.incoming.get(&name) {
                headers.entry(name).or_insert_with(|| value.clone());
            }
        }
        // The client then adds `identity`, the only encoding that can be read.
        headers.remove(ACCEPT_ENCODING);
        headers.remove(TRUSTED_SOURCE);
        headers.insert(AUTHORIZATION, token.bearer.clone());
        if self.api.is_on_vercel {
            headers.insert(TRUSTED_SOURCE, token.header.clone());
        }
        let url = request.url().clone();
        let failed = |failed| match failed {
            Failed::Other(cause) => ApiError::Unreachable { cause, url: for_log(&url) },
            Failed::Timeout | Failed::TooLarge => ApiError::Timeout { url: for_log(&url) },
        };
        let client = tokens.0.clients.get(&url).map_err(failed)?;
        let response = client.execute(request).await.map_err(|error| failed(error.into()))?;
        if response.status() == StatusCode::UNAUTHORIZED {
            tokens.drop_refused(&token);
        }
        Ok(ApiResponse { response, max_bytes: *max_bytes, left: *max_bytes, token })
    }
}

/// An API's answer. The head has arrived. The methods `json`, `bytes` and `chunk` read the body.
pub struct ApiResponse {
    response: reqwest::Response,
    max_bytes: usize,
    left: usize,
    token: Token,
}

impl ApiResponse {
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
        let retry_after = retry_after(self.headers()).filter(|_| is_temporary);
        let log = if is_refusal { format!("token: {}", self.token.unverified_claims()) } else { String::new() };
        let content_type = self.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let has_code = is_refusal || is_temporary || content_type.starts_with(b"application/problem+json");
        let code = if has_code { self.code().await } else { None };
        let message = explain(status, code.as_deref(), encoding, is_sign_in);
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
            ApiError::Answer { status, problem }
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

    /// Reads the next piece of the body. `None` at its end.
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
        Err(ApiError::Answer { status: self.status(), problem })
    }

    fn failed(&self, error: Failed) -> ApiError {
        let problem = match error {
            Failed::Timeout => return ApiError::Timeout { url: for_log(self.response.url()) },
            Failed::TooLarge => {
                format!("is larger than {} bytes. Check the base URL and the path, or raise the limit", self.max_bytes)
            }
            Failed::Other(cause) => format!("broke off ({cause}). Check the API's log"),
        };
        ApiError::Answer { status: self.status(), problem }
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

impl fmt::Debug for ApiRequest<'_> {
    /// Shows neither headers nor body, because the token is in the incoming headers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = self.request.as_ref().map(reqwest::Request::method).ok();
        f.debug_struct("ApiRequest").field("method", &method).finish_non_exhaustive()
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

/// `Retry-After`, if it is a number of seconds or an HTTP date. The value is parsed and formatted again, so no other
/// text is passed on.
fn retry_after(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        return value.parse::<u64>().ok().map(|seconds| seconds.to_string());
    }
    httpdate::parse_http_date(value).ok().map(httpdate::fmt_http_date)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::header::{ACCEPT, USER_AGENT};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::error::TokenError;

    const TOKEN: &str = "e30.e30.c2ln";
    const OTHER_TOKEN: &str = "e30.e30.b3RoZXI";

    /// An HTTP server that gives the same answer to each request, and the requests so far.
    async fn server(answer: impl Into<Vec<u8>>) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer.into()));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                tokio::spawn(async move {
                    while let Some(request) = read_request(&mut stream).await {
                        seen.lock().unwrap().push(request);
                        let _ = stream.write_all(&answer).await;
                    }
                });
            }
        });
        (url, requests)
    }

    async fn read_request(stream: &mut TcpStream) -> Option<String> {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                if body.len() >= length.unwrap_or(0) {
                    return Some(text.into_owned());
                }
            }
            if stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        }
    }

    fn answer(status: &str, headers: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
    }

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("x-vercel-oidc-token", HeaderValue::from_static(TOKEN));
        headers
    }

    fn tokens(variables: &[(&str, &str)]) -> Tokens {
        let find = |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
        Tokens::from_env(find).unwrap()
    }

    fn api(base_url: &str) -> Api {
        Api::new(base_url, tokens(&[])).unwrap()
    }

    #[test]
    fn a_path_is_appended_to_the_base_url() {
        for (base, path, url) in [
            ("https://a.example", "/", "https://a.example/"),
            ("https://a.example", "/orders", "https://a.example/orders"),
            ("https://a.example/", "/orders/", "https://a.example/orders/"),
            ("https://a.example/v1", "/orders", "https://a.example/v1/orders"),
            ("https://a.example/v1/", "/orders", "https://a.example/v1/orders"),
            ("https://a.example/v1", "/", "https://a.example/v1/"),
            ("https://a.example/v1", "/a/b%20c", "https://a.example/v1/a/b%20c"),
            ("https://a.example/v1", "/a b/é", "https://a.example/v1/a%20b/%C3%A9"),
            ("https://a.example/v1", "/a//b", "https://a.example/v1/a//b"),
            ("https://a.example/v1", "/...", "https://a.example/v1/..."),
            ("https://a.example/v1", "/.well-known/x", "https://a.example/v1/.well-known/x"),
            ("https://a.example/v1", "/a..b/c.", "https://a.example/v1/a..b/c."),
            ("https://a.example/v1", "/@b.example:8/", "https://a.example/v1/@b.example:8/"),
            ("https://a.example/v1", "/https://b.example", "https://a.example/v1/https://b.example"),
        ] {
            assert_eq!(join(&parse_base(base).unwrap(), path).unwrap().as_str(), url, "{base} {path}");
        }
    }

    #[test]
    fn a_path_can_not_leave_the_base_url() {
        for (path, problem) in [
            ("", "does not begin"),
            ("orders", "does not begin"),
            ("//b.example", "does not begin"),
            ("https://b.example", "does not begin"),
            ("/\\b.example", "has a backslash"),
            ("\\\\b.example", "has a backslash"),
            ("/a\\..\\b", "has a backslash"),
            ("/..", "has a segment"),
            ("/.", "has a segment"),
            ("/a/../b", "has a segment"),
            ("/a/..", "has a segment"),
            ("/./a", "has a segment"),
            ("/%2e%2e/a", "has a segment"),
            ("/%2E%2e/a", "has a segment"),
            ("/.%2E/a", "has a segment"),
            ("/%2e./a", "has a segment"),
            ("/%2e", "has a segment"),
            ("/a%2f..%2fb", "has a segment"),
            ("/a%2F%2e%2E%5Cb", "has a segment"),
            ("/.\t./a", "has a control character"),
            ("/\n/b.example", "has a control character"),
            ("/a\r\nx-evil: 1", "has a control character"),
            ("/a?b=c", "has a `?` or `#`"),
            ("/a#b", "has a `?` or `#`"),
        ] {
            let message = join(&parse_base("https://a.example/v1").unwrap(), path).unwrap_err().to_string();
            assert!(
                message.contains(&format!("because its path {problem}")) && message.len() <= 200,
                "{path}: {message}"
            );
        }
    }

    #[test]
    fn a_base_url_that_a_token_must_not_go_to_is_refused() {
        let error = Api::new("http://a.example", tokens(&[])).unwrap_err();
        assert!(error.to_string().starts_with("The base URL must be `https`."), "{error}");
        assert!(error.named("`ORDERS_URL`").to_string().starts_with("`ORDERS_URL` must be `https`."));
    }

    #[test]
    fn the_trusted_source_header_is_for_vercels_hosts() {
        for (base, own_host, expected) in [
            ("https://api.vercel.app", None, true),
            ("https://API.Vercel.App:8443/v1", None, true),
            ("https://evil-vercel.app", None, false),
            ("https://vercel.app", None, false),
            ("https://api.vercel.app.example", None, false),
            ("https://a.example/.vercel.app", None, false),
            ("https://api.example.com", Some("shop.vercel.app"), false),
            ("https://api.example.com", Some("api.example.com"), true),
            ("https://api.example.com", Some("API.example.com"), true),
            ("https://not-api.example.com", Some("api.example.com"), false),
            ("https://api.example.com:443", Some("api.example.com:443"), true),
            ("http://127.0.0.1:3000", Some("127.0.0.1:3000"), true),
            ("http://127.1:3000", Some("127.0.0.1:3000"), true),
            ("http://127.0.0.1:3001", Some("127.0.0.1:3000"), false),
            ("https://api.example.com", Some("not a host"), false),
        ] {
            assert_eq!(is_on_vercel(&parse_base(base).unwrap(), own_host), expected, "{base} {own_host:?}");
        }
    }

    #[tokio::test]
    async fn a_request_is_sent_as_it_was_built() {
        let (url, requests) = server(answer("201 Created", "x-a: b\r\n", r#"{"ordered_by": "me"}"#)).await;
        let (api, mut incoming) = (api(&format!("{url}/v1/")), headers());
        incoming.insert("traceparent", HeaderValue::from_static("00-a-b-01"));
        incoming.insert("x-vercel-id", HeaderValue::from_static("fra1::a"));
        incoming.insert("cookie", HeaderValue::from_static("session=1"));
        let response = api
            .post(&incoming, "/orders")
            .query("a b", "c&d")
            .query("e", "")
            .header(HeaderName::from_static("idempotency-key"), HeaderValue::from_static("7"))
            .json(&serde_json::json!({ "item": "tea" }))
            .send()
            .await
            .unwrap();
        assert_eq!((response.status(), &response.headers()["x-a"]), (StatusCode::CREATED, &"b".parse().unwrap()));

        #[derive(Deserialize)]
        struct Receipt {
            ordered_by: String,
        }
        let receipt: Receipt = response.error_for_status().await.unwrap().json().await.unwrap();
        assert_eq!(receipt.ordered_by, "me");

        let request = requests.lock().unwrap()[0].clone();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, r#"{"item":"tea"}"#);
        assert!(head.starts_with("POST /v1/orders?a+b=c%26d&e= HTTP/1.1\r\n"), "{head}");
        let authorization = format!("authorization: Bearer {TOKEN}");
        let user_agent = concat!("user-agent: vercel-oidc-client/", env!("CARGO_PKG_VERSION"));
        for line in [
            &*authorization,
            user_agent,
            "accept: application/json",
            "accept-encoding: identity",
            "content-type: application/json",
            "idempotency-key: 7",
            "traceparent: 00-a-b-01",
            "x-vercel-id: fra1::a",
        ] {
            assert!(head.lines().any(|one| one == line), "{line} is not in {head}");
        }
        for name in ["cookie", "x-vercel-oidc-token", "x-vercel-trusted-oidc-idp-token"] {
            assert!(!head.contains(name), "{head}");
        }
    }

    #[tokio::test]
    async fn the_users_headers_replace_defaults_but_never_the_token() {
        let (url, requests) = server(answer("200 OK", "", "{}")).await;
        let mut incoming = headers();
        incoming.insert("traceparent", HeaderValue::from_static("incoming"));
        let api = api(&url);
        let mut request = api.delete(&incoming, "/");
        for (name, value) in [
            (AUTHORIZATION, "Bearer mine"),
            (ACCEPT, "text/csv"),
            (ACCEPT_ENCODING, "gzip"),
            (USER_AGENT, "shop/1"),
            (TRUSTED_SOURCE, "mine"),
            (HeaderName::from_static("traceparent"), "mine"),
        ] {
            request = request.header(name, HeaderValue::from_static(value));
        }
        request.send().await.unwrap();
        let head = requests.lock().unwrap()[0].clone();
        assert!(head.starts_with("DELETE / HTTP/1.1\r\n"), "{head}");
        for line in ["accept: text/csv", "accept-encoding: identity", "user-agent: shop/1", "traceparent: mine"] {
            assert!(head.lines().any(|one| one == line), "{line} is not in {head}");
        }
        assert!(
            head.contains(&format!("authorization: Bearer {TOKEN}\r\n")) && !head.contains("Bearer mine"),
            "{head}"
        );
        assert!(!head.contains("x-vercel-trusted"), "{head}");
        assert_eq!(head.matches("authorization").count(), 1);
    }

    #[tokio::test]
    async fn the_base_url_is_called_as_written() {
        for (base, path) in [("", "/"), ("/", "/"), ("/v1", "/v1"), ("/v1/", "/v1/")] {
            let (url, requests) = server(answer("200 OK", "", "{}")).await;
            api(&format!("{url}{base}")).request_base(Method::PUT, &headers()).body("text").send().await.unwrap();
            let request = requests.lock().unwrap()[0].clone();
            assert!(
                request.starts_with(&format!("PUT {path} HTTP/1.1\r\n")) && request.ends_with("\r\ntext"),
                "{request}"
            );
        }
    }

    #[tokio::test]
    async fn nothing_is_sent_if_the_path_the_body_or_the_token_is_wrong() {
        let (url, requests) = server(answer("200 OK", "", "{}")).await;
        let (api, headers) = (api(&url), headers());
        let error = api.get(&headers, "/../admin").query("a", "b").send().await.unwrap_err();
        assert!(matches!(error, ApiError::Request(_)), "{error}");
        let keys_of_two_parts = std::collections::HashMap::from([((1, 2), 3)]);
        let error = api.post(&headers, "/").json(&keys_of_two_parts).send().await.unwrap_err();
        assert!(error.to_string().contains("body can't be written as JSON"), "{error}");
        let error = api.get(&HeaderMap::new(), "/").send().await.unwrap_err();
        assert!(matches!(error, ApiError::Token(TokenError::Missing)));
        assert!(requests.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_exchanged_token_is_sent_and_dropped_after_401() {
        let exchanged = format!(r#"{{"token": "{OTHER_TOKEN}", "expiry": 99999999999}}"#);
        let (exchange, exchanges) = server(answer("200 OK", "", &exchanged)).await;
        for (status, expected) in [("200 OK", 1), ("403 Forbidden", 1), ("401 Unauthorized", 2)] {
            exchanges.lock().unwrap().clear();
            let (url, requests) = server(answer(status, "", "{}")).await;
            let tokens = tokens(&[("OIDC_TOKEN_EXCHANGE_URL", &exchange)]);
            let api = Api::new(&url, tokens).unwrap().with_audience("api");
            for _ in 0..2 {
                api.get(&headers(), "/").send().await.unwrap();
            }
            assert_eq!(exchanges.lock().unwrap().len(), expected, "{status}");
            assert!(requests.lock().unwrap()[0].contains(&format!("authorization: Bearer {OTHER_TOKEN}\r\n")));
        }
    }

    #[tokio::test]
    async fn a_token_that_was_obtained_before_is_sent_instead_of_the_audiences() {
        let (url, requests) = server(answer("200 OK", "", "{}")).await;
        let api = Api::new(&url, tokens(&[])).unwrap().with_audience("api");
        let token = tokens(&[]).get(&headers()).await.unwrap();
        api.get(&HeaderMap::new(), "/").token(token).send().await.unwrap();
        assert!(requests.lock().unwrap()[0].contains(&format!("authorization: Bearer {TOKEN}\r\n")));
    }

    #[tokio::test]
    async fn redirects_are_not_followed() {
        let (elsewhere, requests) = server(answer("200 OK", "", "{}")).await;
        for status in ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"] {
            let (url, _) = server(answer(status, &format!("location: {elsewhere}/\r\n"), "")).await;
            let response = api(&url).get(&headers(), "/").send().await.unwrap();
            let error = response.error_for_status().await.unwrap_err();
            assert!(matches!(error, ApiError::Status { .. }), "{error:?}");
        }
        assert!(requests.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_answer_is_read_up_to_its_limit_whole_or_in_pieces() {
        for (length, is_allowed) in [(100, true), (101, false)] {
            let (url, _) = server(answer("200 OK", "", &"x".repeat(length))).await;
            let api = api(&url).with_max_bytes(100);
            let whole = api.get(&headers(), "/").send().await.unwrap().bytes().await;
            let mut response = api.get(&headers(), "/").send().await.unwrap();
            let mut pieces = Vec::new();
            let in_pieces = loop {
                match response.chunk().await {
                    Ok(Some(piece)) => pieces.extend(piece),
                    Ok(None) => break Ok(pieces),
                    Err(error) => break Err(error),
                }
            };
            for result in [whole, in_pieces] {
                match result {
                    Ok(body) => assert_eq!((body.len(), is_allowed), (100, true)),
                    Err(error) => {
                        assert!(!is_allowed && error.to_string().contains("larger than 100 bytes"), "{error}")
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn an_api_can_have_another_timeout() {
        // Connections wait in the accept queue, and nothing answers.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (api, headers) = (api(&url).with_timeout(Duration::from_millis(100)), headers());
        let call = tokio::time::timeout(Duration::from_secs(5), api.get(&headers, "/").send());
        assert!(matches!(call.await.unwrap(), Err(ApiError::Timeout { .. })));
    }

    #[tokio::test]
    async fn a_compressed_answer_is_refused_and_the_encoding_named() {
        let (url, _) = server(answer("200 OK", "content-encoding: x-gzip\r\n", "{}")).await;
        let api = api(&url);
        let error = api.get(&headers(), "/").send().await.unwrap().json::<serde_json::Value>().await.unwrap_err();
        assert!(error.to_string().contains("`Content-Encoding: gzip`"), "{error}");
        let error = api.get(&headers(), "/").send().await.unwrap().chunk().await.unwrap_err();
        assert!(error.to_string().contains("`Content-Encoding: gzip`"), "{error}");
        let (url, _) = server(answer("200 OK", "content-encoding: identity\r\n", "{}")).await;
        let response = self::api(&url).get(&headers(), "/").send().await.unwrap();
        assert_eq!(response.bytes().await.unwrap(), b"{}");
    }

    #[tokio::test]
    async fn json_of_another_type_is_an_error_that_quotes_nothing() {
        let (url, _) = server(answer("200 OK", "", "{\n\"item\": \"foreign\"}")).await;
        #[derive(Debug, Deserialize)]
        struct Number {
            #[expect(dead_code, reason = "reading fails")]
            item: u32,
        }
        let error = api(&url).get(&headers(), "/").send().await.unwrap().json::<Number>().await.unwrap_err();
        assert!(error.to_string().contains("not the expected JSON (line 2,"), "{error}");
        assert!(!format!("{error} {error:?} {}", error.log_detail()).contains("foreign"));
    }

    #[tokio::test]
    async fn no_debug_shows_a_token() {
        let (url, _) = server(answer("200 OK", &format!("x-echo: {TOKEN}\r\n"), TOKEN)).await;
        let headers = headers();
        let api = api(&url).with_audience("api");
        let request = api.post(&headers, "/").body(TOKEN).token(tokens(&[]).get(&headers).await.unwrap());
        let shown = format!("{request:?} {api:?}");
        let response = request.send().await.unwrap();
        let shown = format!("{shown} {response:?}");
        assert!(!shown.contains("c2ln"), "{shown}");
    }

    #[test]
    fn a_call_can_run_on_another_thread() {
        fn assert_send<T: Send>(_: &T) {}
        let (api, headers) = (api("https://a.example"), headers());
        assert_send(&async { api.get(&headers, "/").send().await?.error_for_status().await?.bytes().await });
    }
}
