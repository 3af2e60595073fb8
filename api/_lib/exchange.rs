//! One token for each audience: Vercel swaps the function's token for one that only a named API accepts.
//!
//! Guarantees: a token that leaks from one API is worth nothing at the next; one exchange at a time for a token and an
//! audience, at most 1000 results kept, none up to its last moment. Left to others: who may ask for which audience
//! (Vercel's issuer decides).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use serde_json::json;

use crate::client::{self, BodyError};
use crate::store::{Interrupted, Key, Obtained, Store};
use crate::token::Token;

/// Far more audiences and tokens than one process meets at a time. A token is about 1 KiB, so this is about 1 MiB.
const CAPACITY: usize = 1000;
/// A token that would expire on its way is let go before, but none for more than a tenth of its life.
const MARGIN: Duration = Duration::from_secs(30);

/// Why a token could not be exchanged.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("the token exchange could not be reached: check `OIDC_TOKEN_EXCHANGE_URL`")]
    Unreachable(#[source] Arc<reqwest::Error>),
    #[error("the token exchange did not answer in time: try again")]
    Timeout(#[source] Arc<reqwest::Error>),
    #[error(
        "the token exchange answered {0}: check that `BACKEND_AUDIENCE` is an audience that the project may ask for, and that the token has not expired"
    )]
    Refused(StatusCode),
    #[error("the token exchange's answer holds no token: check `OIDC_TOKEN_EXCHANGE_URL`")]
    Invalid,
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

pub(crate) struct Exchange {
    store: Store<ExchangeError>,
}

impl Exchange {
    pub(crate) fn new() -> Self {
        Self { store: Store::new(CAPACITY) }
    }

    /// Swaps `token` for one with this audience, or hands out the one it was swapped for before.
    pub(crate) async fn swap(
        &self,
        client: &Client,
        url: &Url,
        token: &Token,
        audience: &str,
    ) -> Result<Token, ExchangeError> {
        let key = Key::of(&[token.expose(), audience]);
        let body = json!({ "token": token.expose(), "aud": audience }).to_string();
        let request =
            client.post(url.clone()).header(CONTENT_TYPE, "application/json").header(ACCEPT, "application/json");
        let now = SystemTime::now();
        self.store.get(key, now, async move { obtain(request.body(body), now).await }).await
    }
}

async fn obtain(request: reqwest::RequestBuilder, now: SystemTime) -> Result<Obtained, ExchangeError> {
    let response = request.send().await.map_err(failure)?;
    if response.status() != StatusCode::OK {
        return Err(ExchangeError::Refused(response.status()));
    }
    let body = client::read(response).await.map_err(|error| match error {
        BodyError::TooLarge => ExchangeError::Invalid,
        BodyError::Broken(error) => failure(error),
    })?;
    answer(&body, now).ok_or(ExchangeError::Invalid)
}

fn failure(error: reqwest::Error) -> ExchangeError {
    let error = Arc::new(error.without_url());
    if error.is_timeout() && !error.is_connect() {
        ExchangeError::Timeout(error)
    } else {
        ExchangeError::Unreachable(error)
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    token: std::borrow::Cow<'a, str>,
    /// Whatever is no time is none.
    #[serde(default)]
    expiry: serde_json::Value,
}

/// Reads the answer: the token, and until when it is kept.
fn answer(body: &[u8], now: SystemTime) -> Option<Obtained> {
    let answer: Answer<'_> = serde_json::from_slice(body).ok()?;
    let expiry =
        answer.expiry.as_f64().and_then(|seconds| UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?));
    let until = expiry.map(|expiry| expiry - MARGIN.min(expiry.duration_since(now).unwrap_or_default() / 10));
    Some((Token::new(&answer.token)?, until))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_let_go_a_little_before_it_expires() {
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
            let body = format!(r#"{{"token": "swapped", "expiry": {expiry}, "more": []}}"#);
            let (token, kept) = answer(body.as_bytes(), at(1000)).unwrap();
            assert_eq!((token.expose(), kept), ("swapped", until), "{expiry}");
        }
    }
}
