//! One token for each audience: Vercel exchanges the function's token for one that only the named API accepts.
//!
//! Guarantees: one exchange at a time for a token and an audience; at most 1000 results are cached, each until shortly
//! before it expires. Vercel decides who may request which audience.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::Url;

use crate::cache::{Cache, Obtained};
use crate::client::{ChunkError, Clients, Failed, Limits, read, set_common_headers};
use crate::error::{AnswerProblem, Encoding, TokenError};
use crate::json;
use crate::token::{Source, Token};
use crate::url::for_log;

/// Vercel's exchange.
pub(crate) const VERCEL: &str = "https://oidc.vercel.com/~token";
/// More audiences and tokens than one process uses at a time. A token has about 1 KiB, so this is about 2 MiB.
const CAPACITY: usize = 1000;
/// A cached token must not expire on its way to the API. One that lives shortly is cached for nine tenths of its life.
const MARGIN: Duration = Duration::from_secs(30);

pub(crate) struct Exchange {
    cache: Cache,
    clients: Arc<Clients>,
    url: Url,
}

impl Exchange {
    pub(crate) fn new(clients: Arc<Clients>, url: Url) -> Self {
        Self { cache: Cache::new(CAPACITY), clients, url }
    }

    /// Exchanges `token` for one with this audience, or returns the cached result of an exchange.
    pub(crate) async fn exchange(&self, token: &Token, audience: &str) -> Result<Token, TokenError> {
        let now = SystemTime::now();
        self.cache
            .get((token.shared(), audience.into()), now, || {
                let (clients, url) = (Arc::clone(&self.clients), self.url.clone());
                let (token, audience) = (token.clone(), audience.to_owned());
                async move { request(&clients, url, &token, &audience, now).await }
            })
            .await
    }

    /// Drops a token that an API refused.
    pub(crate) fn remove(&self, exchanged: &Token) {
        self.cache.remove(exchanged);
    }
}

async fn request(
    clients: &Clients,
    url: Url,
    token: &Token,
    audience: &str,
    now: SystemTime,
) -> Result<Obtained, TokenError> {
    let shown_url = for_log(&url);
    let failed = |failed| match failed {
        Failed::Timeout => TokenError::ExchangeTimeout,
        Failed::Other(cause) => TokenError::ExchangeUnreachable { cause, url: shown_url.clone() },
    };
    let wrong = |problem| TokenError::ExchangeAnswer { problem, url: shown_url.clone() };

    let limits = Limits::default();
    let mut headers = HeaderMap::new();
    set_common_headers(&mut headers);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = serde_json::json!({ "token": token.expose(), "aud": audience }).to_string();
    let request = clients.get(&url)?.post(url).headers(headers).timeout(limits.timeout).body(body);
    let mut response = request.send().await.map_err(|error| failed(error.into()))?;
    if response.status() != StatusCode::OK {
        return Err(TokenError::ExchangeRefused {
            status: response.status(),
            audience: audience.to_owned(),
            claims: Box::new(token.unverified_claims()),
        });
    }
    if let Some(encoding) = Encoding::of(response.headers()) {
        return Err(wrong(AnswerProblem::Encoded(encoding)));
    }
    let mut left = limits.max_bytes;
    let body = read(&mut response, &mut left).await.map_err(|error| match error {
        ChunkError::TooLarge => wrong(AnswerProblem::TooLarge),
        ChunkError::Failed(error) => failed(error),
    })?;
    parse(&body, token.source(), now).map_err(wrong)
}

/// Reads the answer: the token, and until when it is cached.
fn parse(body: &[u8], source: Source, now: SystemTime) -> Result<Obtained, AnswerProblem> {
    let text: String = json::member(body, "token").ok_or(AnswerProblem::NoToken)?;
    let token = Token::parse(&text, source).map_err(AnswerProblem::NotJwt)?;
    let expiry = json::member::<f64>(body, "expiry")
        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?));
    let until = expiry.map(|expiry| expiry - MARGIN.min(expiry.duration_since(now).unwrap_or_default() / 10));
    Ok((token, until))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::token::Slip;

    #[test]
    fn a_result_is_dropped_30_seconds_or_a_tenth_of_its_life_before_it_expires() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        for (expiry, until) in [
            ("4600", Some(at(4570))),
            ("1300", Some(at(1270))),
            ("1100", Some(at(1090))),
            ("1000", Some(at(1000))),
            ("7", Some(at(7))),
            ("null", None),
            ("-1", None),
            ("1e300", None),
            (r#""soon""#, None),
        ] {
            let body = format!(r#"{{"token": "e30.e30.c2ln", "expiry": {expiry}, "more": []}}"#);
            let (token, cached) = parse(body.as_bytes(), Source::File, at(1000)).unwrap();
            assert_eq!((token.expose(), token.source(), cached), ("e30.e30.c2ln", Source::File, until), "{expiry}");
        }
    }

    #[test]
    fn the_answer_is_a_json_object_with_a_jwt() {
        for (body, problem) in [
            ("", AnswerProblem::NoToken),
            (r#"["e30.e30.c2ln", 4600]"#, AnswerProblem::NoToken),
            (r#"{"expiry": 4600}"#, AnswerProblem::NoToken),
            (r#"{"token": {"$serde_json::private::RawValue": "\"e30.e30.c2ln\""}}"#, AnswerProblem::NoToken),
            (r#"{"token": "e30.e30.c2ln", "token": "e30.e30.c2ln"}"#, AnswerProblem::NoToken),
            (r#"{"token": "not-a-jwt"}"#, AnswerProblem::NotJwt(Slip::NotJwt)),
            (r#"{"token": "Bearer e30.e30.c2ln"}"#, AnswerProblem::NotJwt(Slip::Bearer)),
            (r#"{"token": ""}"#, AnswerProblem::NotJwt(Slip::Empty)),
        ] {
            assert_eq!(parse(body.as_bytes(), Source::File, UNIX_EPOCH).unwrap_err(), problem, "{body}");
        }
    }
}
