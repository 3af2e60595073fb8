//! An API, and the requests to it: any method and path, to one origin.

use std::time::Duration;

use http::{HeaderMap, Method};
use reqwest::Url;

use crate::client::MAX_BYTES;
use crate::error::Misconfigured;
use crate::path::join;
use crate::request::{ApiRequest, Target};
use crate::tokens::Tokens;
use crate::url::parse_base;

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
/// Unless changed, a call may take 10 seconds in all, and an answer may have 1 MiB. Connecting may take 2 seconds, or 8
/// if the host has several addresses.
#[derive(Clone, Debug)]
pub struct Api(Target);

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
        Ok(Self(Target { base, is_on_vercel, tokens, audience: None, timeout: None, max_bytes: MAX_BYTES }))
    }

    /// Exchanges the token for one with this audience before each call. Results are cached.
    #[must_use]
    pub fn with_audience(self, audience: impl Into<String>) -> Self {
        Self(Target { audience: Some(audience.into()), ..self.0 })
    }

    /// The time that a call may take, the answer's body included.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self(Target { timeout: Some(timeout), ..self.0 })
    }

    /// The most bytes that an answer may have, also if it is read chunk by chunk.
    #[must_use]
    pub fn with_max_bytes(self, max_bytes: usize) -> Self {
        Self(Target { max_bytes, ..self.0 })
    }

    /// Starts a `GET` request. See [`Api::request`].
    pub fn get<'a>(&'a self, incoming: impl Into<Option<&'a HeaderMap>>, path: &str) -> ApiRequest<'a> {
        self.request(Method::GET, incoming, path)
    }

    /// Starts a `POST` request. See [`Api::request`].
    pub fn post<'a>(&'a self, incoming: impl Into<Option<&'a HeaderMap>>, path: &str) -> ApiRequest<'a> {
        self.request(Method::POST, incoming, path)
    }

    /// Starts a `PUT` request. See [`Api::request`].
    pub fn put<'a>(&'a self, incoming: impl Into<Option<&'a HeaderMap>>, path: &str) -> ApiRequest<'a> {
        self.request(Method::PUT, incoming, path)
    }

    /// Starts a `PATCH` request. See [`Api::request`].
    pub fn patch<'a>(&'a self, incoming: impl Into<Option<&'a HeaderMap>>, path: &str) -> ApiRequest<'a> {
        self.request(Method::PATCH, incoming, path)
    }

    /// Starts a `DELETE` request. See [`Api::request`].
    pub fn delete<'a>(&'a self, incoming: impl Into<Option<&'a HeaderMap>>, path: &str) -> ApiRequest<'a> {
        self.request(Method::DELETE, incoming, path)
    }

    /// Starts a request to a path below the base URL.
    ///
    /// `incoming` are the headers of the request that the function is answering: the token may be in them, and the trace
    /// (`traceparent`, `tracestate`) and `x-vercel-id` are passed on. Without a request, pass `None`: the token is
    /// [`Tokens::current`].
    ///
    /// The path begins with exactly one `/`. A backslash, `?`, `#` or a control character is an error from
    /// [`ApiRequest::send`], and nothing is sent. So is a segment that servers may read as `.` or `..`: percent-encoded
    /// once or more, with a parameter (`..;a`), with a NUL or blanks, in overlong UTF-8 or in wide characters.
    /// Percent-encode text from outside before you put it into a path.
    pub fn request<'a>(
        &'a self,
        method: Method,
        incoming: impl Into<Option<&'a HeaderMap>>,
        path: &str,
    ) -> ApiRequest<'a> {
        ApiRequest::new(&self.0, method, incoming.into(), join(&self.0.base, path))
    }

    /// Starts a request to the base URL itself, as it was written: with or without a slash at its end.
    pub fn request_base<'a>(&'a self, method: Method, incoming: impl Into<Option<&'a HeaderMap>>) -> ApiRequest<'a> {
        ApiRequest::new(&self.0, method, incoming.into(), Ok(self.0.base.clone()))
    }
}

/// Whether Deployment Protection may stand in front of the API, because the host is Vercel's or this deployment's.
fn is_on_vercel(base: &Url, own_host: Option<&str>) -> bool {
    let own = own_host.and_then(|host| Url::parse(&format!("{}://{host}", base.scheme())).ok());
    base.host_str().is_some_and(|host| host.ends_with(".vercel.app"))
        || own.is_some_and(|own| own.host() == base.host() && (own.port().is_none() || own.port() == base.port()))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, USER_AGENT};
    use http::{HeaderName, HeaderValue, StatusCode};
    use serde::Deserialize;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::error::{ApiError, RetryAfter, TokenError};
    use crate::request::{TRACE_PARENT, TRUSTED_SOURCE};
    use reqwest::Body;

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
        incoming.insert("tracestate", HeaderValue::from_static("incoming"));
        let api = api(&url);
        let mut request = api.delete(&incoming, "/");
        for (name, value) in [
            (AUTHORIZATION, "Bearer mine"),
            (ACCEPT, "text/csv"),
            (ACCEPT_ENCODING, "gzip"),
            (USER_AGENT, "shop/1"),
            (TRUSTED_SOURCE, "mine"),
            (TRACE_PARENT, "mine"),
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
        assert!(!head.contains("x-vercel-trusted") && !head.contains("tracestate"), "{head}");
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
        assert!(matches!(error, ApiError::Request { .. }), "{error}");
        let keys_of_two_parts = std::collections::HashMap::from([((1, 2), 3)]);
        let error = api.post(&headers, "/").json(&keys_of_two_parts).send().await.unwrap_err();
        assert!(error.to_string().contains("body can't be written as JSON"), "{error}");
        for incoming in [None, Some(&HeaderMap::new())] {
            let error = api.get(incoming, "/").send().await.unwrap_err();
            assert!(matches!(error, ApiError::Token(TokenError::Missing)));
        }
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
        api.get(None, "/").token(token).send().await.unwrap();
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
        // This crate's tests turn reqwest's feature `gzip` on, as another crate may do.
        for name in ["gzip", "x-gzip"] {
            let (url, _) = server(answer("200 OK", &format!("content-encoding: {name}\r\n"), "{}")).await;
            let api = api(&url);
            let error = api.get(&headers(), "/").send().await.unwrap().json::<serde_json::Value>().await.unwrap_err();
            assert!(error.to_string().contains("`Content-Encoding: gzip`"), "{error}");
            let error = api.get(&headers(), "/").send().await.unwrap().chunk().await.unwrap_err();
            assert!(error.to_string().contains("`Content-Encoding: gzip`"), "{error}");
        }
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

    #[tokio::test]
    async fn a_trace_goes_on_whole_and_its_state_never_alone() {
        let (url, requests) = server(answer("200 OK", "", "{}")).await;
        let api = api(&url);
        for (lines, expected) in [
            (
                &["traceparent: a", "tracestate: b=1", "tracestate: c=2"][..],
                &["traceparent: a", "tracestate: b=1", "tracestate: c=2"][..],
            ),
            (&["traceparent: a"], &["traceparent: a"]),
            (&["tracestate: b=1"], &[]),
            (&["traceparent: a", "traceparent: d", "tracestate: b=1"], &[]),
        ] {
            let mut incoming = headers();
            for (name, value) in lines.iter().map(|line| line.split_once(": ").unwrap()) {
                incoming.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            api.get(&incoming, "/").send().await.unwrap();
            let request = requests.lock().unwrap().pop().unwrap();
            let sent: Vec<_> = request.lines().filter(|line| line.starts_with("trace")).collect();
            assert_eq!(sent, expected, "{lines:?}");
        }
    }

    #[tokio::test]
    async fn a_call_in_a_scope_needs_no_headers() {
        let (url, requests) = server(answer("200 OK", "", "{}")).await;
        let tokens = tokens(&[("VERCEL_OIDC_TOKEN", OTHER_TOKEN)]);
        let api = Api::new(&url, tokens.clone()).unwrap();
        tokens.scope(&headers(), api.get(None, "/").send()).await.unwrap();
        api.get(None, "/").send().await.unwrap();
        let requests = requests.lock().unwrap();
        for (request, token) in requests.iter().zip([TOKEN, OTHER_TOKEN]) {
            assert!(request.contains(&format!("authorization: Bearer {token}\r\n")), "{request}");
        }
    }

    #[tokio::test]
    async fn bodies_and_answers_are_streamed() {
        // An echo in chunks: the answer to a chunk comes before the next chunk is sent.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = api(&format!("http://{}", listener.local_addr().unwrap()));
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (mut read, mut write) = stream.into_split();
            let mut request = String::new();
            while !request.ends_with("\r\n\r\n") {
                request.push(char::from(read.read_u8().await.unwrap()));
            }
            assert!(request.contains("transfer-encoding: chunked\r\n"), "{request}");
            write.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        });
        let (pieces, body) = tokio::sync::mpsc::channel(1);
        let headers = headers();
        let mut answer = api.post(&headers, "/").body(Body::wrap(Pieces(body))).send().await.unwrap();
        for piece in ["one", "two", "three"] {
            pieces.send(piece).await.unwrap();
            assert_eq!(answer.chunk().await.unwrap().unwrap(), piece.as_bytes());
        }
        drop(pieces);
        assert_eq!(answer.chunk().await.unwrap(), None);
    }

    /// A body that is made while it is sent.
    struct Pieces(tokio::sync::mpsc::Receiver<&'static str>);

    impl http_body::Body for Pieces {
        type Data = &'static [u8];
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
            self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(http_body::Frame::data(piece.as_bytes()))))
        }
    }

    #[tokio::test]
    async fn the_error_of_a_bearer_challenge_is_the_code_if_the_body_has_none() {
        let signature = "c2lnbmF0dXJlLXRoYXQtc3RheXMtc2VjcmV0";
        let token = format!("e30.e30.{signature}");
        for (error, body, expected) in [
            ("invalid_token", "", Some("invalid_token")),
            ("invalid_token", r#"{"code": "mine"}"#, Some("mine")),
            (signature, "", None),
            ("two words", "", None),
        ] {
            let challenge = format!("www-authenticate: Bearer error=\"{error}\"\r\n");
            let (url, _) = server(answer("401 Unauthorized", &challenge, body)).await;
            let api = Api::new(&url, tokens(&[("VERCEL_OIDC_TOKEN", &token)])).unwrap();
            let answered = api.get(None, "/").send().await.unwrap().error_for_status().await.unwrap_err();
            let ApiError::Status { code, .. } = &answered else { panic!("{answered:?}") };
            assert_eq!(code.as_deref(), expected, "{error} {body}");
            assert!(!answered.to_string().contains("Deployment Protection"), "{answered}");
        }
    }

    #[tokio::test]
    async fn failures_can_be_matched() {
        let (url, _) = server(answer("403 Forbidden", "", "")).await;
        let tokens = tokens(&[("OIDC_TOKEN_EXCHANGE_URL", &url)]);
        let error = tokens.get_for(&headers(), "api").await.unwrap_err();
        assert!(matches!(error, TokenError::ExchangeRefused { status: StatusCode::FORBIDDEN, .. }), "{error:?}");

        let (url, _) = server(answer("503 Busy", "retry-after: 7\r\n", "")).await;
        let error = api(&url).get(&headers(), "/").send().await.unwrap().error_for_status().await.unwrap_err();
        let ApiError::Status { retry_after: Some(RetryAfter::After(time)), .. } = error else { panic!("{error:?}") };
        assert_eq!(time, Duration::from_secs(7));

        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let error = api(&format!("http://{unused}")).get(&headers(), "/").send().await.unwrap_err();
        let mut source: &dyn std::error::Error = &error;
        while let Some(next) = source.source() {
            source = next;
        }
        let source = source.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        assert_eq!(source, Some(std::io::ErrorKind::ConnectionRefused));
    }
}
