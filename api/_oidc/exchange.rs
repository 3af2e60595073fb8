//! One token for each audience: Vercel exchanges the function's token for a token that only the named API accepts.
//!
//! Guarantees: one exchange at a time for a token and an audience; at most 1000 results are cached, each until shortly
//! before it expires; a failed exchange is not repeated for a second, doubling up to 30. Vercel decides who may request
//! which audience. The new token has the team's issuer, also if the project's issuer mode is *Global*.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use http::header::CONTENT_TYPE;
use reqwest::Url;

use crate::cache::Obtained;
use crate::client::{Clients, Failed, MAX_BYTES, ReadFailed, encoding, read};
use crate::error::TokenError;
use crate::json::{self, TokenAnswer};
use crate::token::{Source, Token, in_backticks};
use crate::url::for_log;

/// Vercel's exchange.
pub(crate) const VERCEL: &str = "https://oidc.vercel.com/~token";
/// More audiences and tokens than one process uses at a time. A token has about 1 KiB. The cache holds the function's
/// token once and the exchanged token three times, so this is about 4 MiB.
pub(crate) const CAPACITY: usize = 1000;
/// The longest wait after failed exchanges, so that a function that anyone can call does not flood the exchange.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(30);
/// A cached token must not expire on its way to the API. A short-lived token is cached for nine tenths of its lifetime.
const MARGIN: Duration = Duration::from_secs(30);

/// Exchanges `token` for one with this audience.
pub(crate) async fn request(
    clients: &Clients,
    url: &Url,
    token: &Token,
    audience: &str,
    now: SystemTime,
) -> Result<Obtained, TokenError> {
    let wrong = |problem| TokenError::ExchangeAnswer { problem, url: for_log(url) };
    let failed = |failed: Failed| match failed {
        Failed::Timeout(source) => TokenError::ExchangeTimeout { url: for_log(url), source },
        Failed::Other(cause, source) => TokenError::ExchangeUnreachable { cause, url: for_log(url), source },
    };
    let body = serde_json::json!({ "token": token.expose(), "aud": audience }).to_string();
    let request = clients.get(url).map_err(failed)?.post(url.clone()).body(body);
    let request = request.header(CONTENT_TYPE, "application/json");
    let mut response = request.send().await.map_err(|error| failed(error.into()))?;
    let status = response.status();
    if status != StatusCode::OK {
        let log = format!("requested={} {}", in_backticks(audience), token.unverified_claims());
        return Err(TokenError::ExchangeRefused { status, log });
    }
    if let Some(encoding) = encoding(response.headers()) {
        return Err(wrong(format!("answer has `Content-Encoding: {encoding}`, which was not asked for")));
    }
    let mut left = MAX_BYTES;
    let body = read(&mut response, &mut left).await.map_err(|error| match error {
        ReadFailed::TooLarge => wrong("answer is larger than 1 MiB".to_owned()),
        ReadFailed::Failed(error) => failed(error),
    })?;
    parse(&body, token.source(), now).map_err(wrong)
}

/// Reads the answer: the token, and until when it is cached.
fn parse(body: &[u8], source: Source, now: SystemTime) -> Result<Obtained, String> {
    let answer: TokenAnswer = json::object(body).ok_or("answer is not a JSON object with a `token`")?;
    let token = Token::parse(&answer.token, source).map_err(|mistake| format!("token is not usable: {mistake}"))?;
    if let Some(ago) = token.unverified_expired(now) {
        return Err(format!("token expired {} s ago: check this machine's clock", ago.as_secs()));
    }
    let expiry = answer.expiry.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?));
    // The API goes by the token's own `exp`.
    let expiry = expiry.map(|expiry| token.unverified_expiry().map_or(expiry, |exp| exp.min(expiry)));
    let until = expiry.map(|expiry| expiry - MARGIN.min(expiry.duration_since(now).unwrap_or_default() / 10));
    Ok((token.into_exchanged(), until))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

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
    fn the_earlier_of_expiry_and_the_tokens_own_exp_counts() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        // `{"exp":1300}`
        let token = "e30.eyJleHAiOjEzMDB9.c2ln";
        for (expiry, until) in [("4600", Some(at(1270))), ("1200", Some(at(1180))), ("null", None)] {
            let body = format!(r#"{{"token": "{token}", "expiry": {expiry}}}"#);
            assert_eq!(parse(body.as_bytes(), Source::File, at(1000)).unwrap().1, until, "{expiry}");
        }
    }

    #[test]
    fn the_answer_is_a_json_object_with_a_jwt() {
        for (body, problem) in [
            ("", "answer is not a JSON object with a `token`"),
            (r#"["e30.e30.c2ln", 4600]"#, "answer is not a JSON object with a `token`"),
            (r#"{"expiry": 4600}"#, "answer is not a JSON object with a `token`"),
            (
                r#"{"token": {"$serde_json::private::RawValue": "\"e30.e30.c2ln\""}}"#,
                "answer is not a JSON object with a `token`",
            ),
            (r#"{"token": "e30.e30.c2ln", "token": "e30.e30.c2ln"}"#, "answer is not a JSON object with a `token`"),
            (r#"{"token": "not-a-jwt"}"#, "token is not usable: it does not have the form of a JWT"),
            (r#"{"token": "Bearer e30.e30.c2ln"}"#, "token is not usable: it begins with `Bearer`"),
            (r#"{"token": ""}"#, "token is not usable: it is empty"),
        ] {
            assert_eq!(parse(body.as_bytes(), Source::File, UNIX_EPOCH).unwrap_err(), problem, "{body}");
        }
    }

    /// As for the function's own token, an API may allow 30 s.
    #[test]
    fn a_token_that_has_expired_is_no_result() {
        // `{"exp":1300}`
        let body = br#"{"token": "e30.eyJleHAiOjEzMDB9.c2ln", "expiry": 4600}"#;
        for (now, problem) in [(1329, None), (1330, Some("token expired 30 s ago: check this machine's clock"))] {
            let parsed = parse(body, Source::File, UNIX_EPOCH + Duration::from_secs(now));
            assert_eq!(parsed.err().as_deref(), problem, "{now}");
        }
    }
}
