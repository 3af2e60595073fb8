//! What went wrong, as `application/problem+json` (RFC 9457) and as a line for the log.
//!
//! Guarantees: every failure has its status and code here, in one `match`; the `detail` says what to do next; others'
//! words are shown short, on one line, and without any part of a token; nothing that looks like a token is shown at
//! all, for it may stand in a variable meant for a path. Left to others: what counts as a failure.

use std::error::Error;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use crate::backend::BackendError;
use crate::client::ClientError;
use crate::exchange::ExchangeError;
use crate::refresh::RefreshError;
use crate::settings::Misconfigured;
use crate::token::{Token, TokenError};

/// Why a request gets no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Misconfigured(#[from] Misconfigured),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Refresh(#[from] RefreshError),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error("the token exchange can't be reached: {0}")]
    ExchangeClient(#[source] ClientError),
    #[error("the backend can't be reached: {0}")]
    BackendClient(#[source] ClientError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("nothing is here: `/` has the page, `/api/call` the call")]
    NotFound,
    #[error("only `GET` and `HEAD` are answered here")]
    MethodNotAllowed,
}

impl Failure {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Misconfigured(_) => (StatusCode::INTERNAL_SERVER_ERROR, "misconfigured"),
            Self::Token(_) | Self::Refresh(_) | Self::Exchange(_) | Self::ExchangeClient(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "token_unavailable")
            }
            Self::Backend(error) => match error {
                BackendError::Refused { .. } => (StatusCode::BAD_GATEWAY, "backend_refused"),
                BackendError::Status(_) | BackendError::NotJson | BackendError::TooLarge | BackendError::Broken(_) => {
                    (StatusCode::BAD_GATEWAY, "backend_error")
                }
                BackendError::Unreachable(_) => (StatusCode::BAD_GATEWAY, "backend_unreachable"),
                BackendError::Timeout(_) => (StatusCode::GATEWAY_TIMEOUT, "backend_timeout"),
            },
            Self::BackendClient(_) => (StatusCode::BAD_GATEWAY, "backend_unreachable"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
        }
    }

    /// The line for the log, causes included; nothing for what is the requester's own fault.
    pub(crate) fn log_line(&self) -> Option<String> {
        let (status, code) = self.status_and_code();
        let mut line = format!("{code}: {self}");
        let mut cause = self.source();
        while let Some(error) = cause {
            let words = error.to_string();
            // Some errors repeat their cause in their own words.
            if !line.ends_with(&words) {
                line = format!("{line}: {words}");
            }
            cause = error.source();
        }
        status.is_server_error().then(|| masked(&line, looks_like_a_jwt))
    }

    pub(crate) fn into_response(self) -> Response<String> {
        let (status, code) = self.status_and_code();
        let mut body = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": sentence(&masked(&self.to_string(), looks_like_a_jwt)),
            "code": code,
        });
        if let Self::Backend(error) = &self {
            match error {
                BackendError::Refused { status, code, .. } => {
                    body["backend_status"] = status.as_u16().into();
                    body["backend_code"] = code.clone().map_or(Value::Null, Value::from);
                }
                BackendError::Status(status) => body["backend_status"] = status.as_u16().into(),
                BackendError::NotJson | BackendError::TooLarge | BackendError::Broken(_) => {
                    body["backend_status"] = 200.into()
                }
                BackendError::Unreachable(_) | BackendError::Timeout(_) => {}
            }
        }
        let mut response = Response::new(body.to_string());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(self, Self::MethodNotAllowed) {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

/// Makes an error's text a sentence.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).chain(['.']).collect()
}

/// The most of others' words that is shown.
const MAX_WORDS: usize = 500;
/// The shortest run of a token's characters that gives away something of it (of a token that is still shorter, all of
/// it); less would hide common words.
const MIN_PART: usize = 12;

/// Others' words, fit to be shown: on one line, not too long, with `***` for all that looks like a token or is a part
/// of this one.
pub(crate) fn foreign_words(text: &str, token: Option<&Token>) -> String {
    // A token may hold characters that are in no JWT, and so be more than one run.
    let text = token.map_or_else(|| text.to_owned(), |token| text.replace(token.expose(), "***"));
    // Then cut, for the search for parts is not made for a megabyte; a rest of a token that is shorter than a part
    // stays, and says nothing.
    let line: String = text.chars().take(4 * MAX_WORDS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let shown = masked(&line, |run| looks_like_a_token(run) || token.is_some_and(|token| holds_part_of(run, token)));
    let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    shown.chars().take(MAX_WORDS).collect()
}

/// The text with `***` in place of each run of a JWT's characters that is a secret.
fn masked(text: &str, is_secret: impl Fn(&str) -> bool) -> String {
    let mut shown = String::new();
    for piece in text.split_inclusive(|c: char| !is_token_character(c)) {
        let run = piece.trim_end_matches(|c: char| !is_token_character(c));
        shown.push_str(if is_secret(run) { "***" } else { run });
        shown.push_str(&piece[run.len()..]);
    }
    shown
}

/// What comes of others' words: where they said something, that.
pub(crate) fn says(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(" (it says: {words})") }
}

/// Whether the text holds a part of the token that is long enough to matter.
pub(crate) fn holds_part_of(text: &str, token: &Token) -> bool {
    let is_part = |part| std::str::from_utf8(part).is_ok_and(|part| token.expose().contains(part));
    let length = MIN_PART.min(token.expose().len());
    // Wherever a part begins, one of these blocks is wholly in it: a few searches settle most texts. (The first part
    // that there can be ends with the first block.)
    let ends = text.as_bytes().get(length / 2..).unwrap_or_default();
    let mut blocks = ends.chunks(length / 2 + 1).filter_map(|chunk| chunk.get(..length / 2));
    blocks.any(is_part) && text.as_bytes().windows(length).any(is_part)
}

fn is_token_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// The beginning of a JWT: base64url of `{"`.
fn looks_like_a_jwt(run: &str) -> bool {
    run.len() >= 16 && run.starts_with("eyJ")
}

/// A JWT or a piece of one, or another long run of mixed characters. (Not for our own words: a file's name may be one.)
fn looks_like_a_token(run: &str) -> bool {
    let has = |test: fn(&u8) -> bool| run.as_bytes().iter().any(test);
    let mixed = has(u8::is_ascii_digit) && has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase);
    looks_like_a_jwt(run) || run.len() >= 20 && mixed
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::token::Source;

    #[test]
    fn others_words_are_shown_on_one_short_line_without_a_token() {
        let token = Token::new("abcdefghijklmnop.qrstuvwxyzabcdef.ghijklmnopqrstuv").unwrap();
        for (words, shown) in [
            ("plain words, and `code`.", "plain words, and `code`."),
            ("two\r\n\tlines \u{1b}[31m", "two lines [31m"),
            ("the abcdefghijklmnop.qrstuvwxyzabcdef.ghijklmnopqrstuv", "the ***"),
            ("sig=ghijklmnopqr!", "sig=***!"),
            ("sig=ghijklmnopq!", "sig=ghijklmnopq!"),
            ("xghijklmnopqrx", "***"),
            ("a JWT eyJhbGciOiJub25l", "a JWT ***"),
            ("the abcdefghijkl\nmnop.qrstuvwxyza", "the *** ***"),
            ("eyes are fine, and no-credentials-found-anywhere", "eyes are fine, and no-credentials-found-anywhere"),
            ("key Ab1Cd2Ef3Gh4Ij5Kl6Mn", "key ***"),
        ] {
            assert_eq!(foreign_words(words, Some(&token)), shown);
        }
        assert_eq!(foreign_words(&"é".repeat(10_000), None).chars().count(), MAX_WORDS);
    }

    #[test]
    fn all_of_a_short_token_is_hidden() {
        for secret in ["secret", "secret-word", "secret-word1"] {
            let token = Token::new(secret).unwrap();
            for (before, after) in [("", ""), ("no ", "!"), ("x", "x"), ("1234567890", "")] {
                let words = foreign_words(&format!("{before}{secret}{after}"), Some(&token));
                assert!(words.contains("***") && !words.contains("secret"), "{words}");
            }
            assert_eq!(foreign_words("a secret, a word", Some(&token)).contains("***"), secret == "secret");
        }
    }

    #[test]
    fn a_token_is_hidden_whatever_characters_it_has() {
        for secret in ["AbC+dEf/GhI=jKl~mNo:pQr", "user~pass", "s3cr3t/k3y", "a,b;c'd`e"] {
            let token = Token::new(secret).unwrap();
            let words = foreign_words(&format!("the token '{secret}' is bad: {secret}"), Some(&token));
            assert_eq!(words, "the token '***' is bad: ***");
        }
    }

    #[test]
    fn a_file_is_named_whatever_its_name() {
        for path in ["/x/Vercel-Oidc-Token-2026.txt", "/x/eyewitness-service-token", "/x/0123456789abcdefABCDEF"] {
            let failure = Failure::Token(TokenError::Unreadable(Source::File(path.to_owned())));
            assert!(failure.log_line().unwrap().contains(path) && failure.into_response().body().contains(path));
        }
    }

    #[test]
    fn a_token_in_place_of_a_path_is_not_shown() {
        let path = "/x/eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2ln".to_owned();
        let cause = std::io::Error::from(std::io::ErrorKind::NotFound);
        let failure = Failure::Token(TokenError::File { path, cause });
        let line = failure.log_line().unwrap();
        let body = failure.into_response().into_body();
        for text in [line, body] {
            assert!(text.contains("`/x/***`") && !text.contains("eyJ"), "{text}");
        }
    }

    #[test]
    fn a_part_of_a_token_is_found_wherever_it_stands() {
        let token = Token::new("abcdefghijklmnopqrstuvwxyz").unwrap();
        for before in 0..2 * MIN_PART {
            for start in 0..=token.expose().len() - MIN_PART {
                let text = |length| format!("{}{}!", ".".repeat(before), &token.expose()[start..start + length]);
                assert!(holds_part_of(&text(MIN_PART), &token), "{}", text(MIN_PART));
                assert!(!holds_part_of(&text(MIN_PART - 1), &token), "{}", text(MIN_PART - 1));
            }
        }
    }

    #[test]
    fn a_detail_is_a_sentence() {
        assert_eq!(sentence("the backend is away: wait"), "The backend is away: wait.");
        assert_eq!(sentence("`A` is not set"), "`A` is not set.");
    }
}
