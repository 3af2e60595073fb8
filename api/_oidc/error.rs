//! Every failure, by cause. Each message says what is wrong and then what to do.
//!
//! Guarantees: a message holds no text of another program, except an API's error code of 1 to 64 characters from
//! `A-Za-z0-9_.:-`. File paths, URLs and the token's claims are in [`TokenError::log_detail`] and
//! [`ApiError::log_detail`] only, for the operator. Neither holds a token. The `source()` of an error is the error of the
//! library or the system. Its text may quote the other end, such as a certificate's names.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;

use crate::token::{in_backticks, looks_like_a_token};

/// The error of the library or the system. It is shared, because requests that wait together get the same failure.
pub(crate) type Underlying = Arc<dyn Error + Send + Sync>;

/// A URL that a token must not be sent to. The URL is not shown, because it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} {problem}.")]
pub struct Misconfigured {
    pub(crate) setting: String,
    pub(crate) problem: &'static str,
}

impl Misconfigured {
    /// Renames the setting in the message to the name that the program's user knows, such as `` `ORDERS_URL` ``.
    #[must_use]
    pub fn named(self, setting: impl Into<String>) -> Self {
        Self { setting: setting.into(), ..self }
    }
}

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// No source is set.
    #[error(
        "There is no OIDC token. On Vercel, turn on OIDC federation in Settings, Security, and deploy again. \
         On your machine, run `vercel env pull` and load its `VERCEL_OIDC_TOKEN`."
    )]
    Missing,
    /// The token file can't be read, or the text that was found is not a JWT. Nothing is sent.
    #[error("The token {problem}.")]
    #[non_exhaustive]
    Unusable {
        /// Where the token was found, what is wrong with it, and what to do.
        problem: String,
        /// The file's path, for the log only.
        log: String,
        /// Why the file can't be read.
        source: Option<Underlying>,
    },
    /// The token has expired, and nothing can give a new one.
    #[error("The token {problem}.")]
    #[non_exhaustive]
    Expired {
        /// How long ago.
        ago: Duration,
        /// Where the token was found, how long ago it expired, and what to do.
        problem: String,
        /// The token's claims, for the log only.
        log: String,
    },
    /// The token of the file or the variable has expired, and the Vercel CLI gave no new one.
    #[error("The token {problem}.")]
    #[non_exhaustive]
    Refresh {
        /// What is wrong, and the command to run by hand.
        problem: String,
        /// A path or a cause, for the log only.
        log: String,
        /// Why the CLI can't be started.
        source: Option<Underlying>,
    },
    /// The exchange answered another status than 200.
    #[error(
        "The token exchange answered {}. Check that the project may request the audience, and that the token has not \
         expired.", status.as_u16()
    )]
    #[non_exhaustive]
    ExchangeRefused {
        /// The status.
        status: StatusCode,
        /// The audience and the token's claims, for the log only.
        log: String,
    },
    /// The exchange did not answer in time.
    #[error("The token exchange failed: it did not answer in time. Check `OIDC_TOKEN_EXCHANGE_URL` and the network.")]
    #[non_exhaustive]
    ExchangeTimeout {
        /// What was called, for the log only.
        url: String,
        /// The HTTP client's error.
        source: Underlying,
    },
    /// There was no connection to the exchange, or the connection ended before an answer came.
    #[error(
        "The token exchange failed: it can't be reached ({cause}). Check `OIDC_TOKEN_EXCHANGE_URL` and the network."
    )]
    #[non_exhaustive]
    ExchangeUnreachable {
        /// Why not.
        cause: String,
        /// What was called, for the log only.
        url: String,
        /// The HTTP client's error.
        source: Underlying,
    },
    /// The exchange answered 200, and no token.
    #[error("The token exchange failed: its {problem}. Check `OIDC_TOKEN_EXCHANGE_URL` and the network.")]
    #[non_exhaustive]
    ExchangeAnswer {
        /// What is wrong with the answer.
        problem: String,
        /// What was called, for the log only.
        url: String,
    },
    /// The task that gets the token ended early.
    #[error("Getting the token was interrupted. Try again.")]
    Interrupted,
}

impl TokenError {
    /// The message with what only the operator may see: paths, URLs, and the token's unverified claims.
    pub fn log_detail(&self) -> String {
        match self {
            Self::Unusable { log, .. }
            | Self::Expired { log, .. }
            | Self::Refresh { log, .. }
            | Self::ExchangeRefused { log, .. } => format!("{self} {log}").trim_end().to_owned(),
            Self::ExchangeTimeout { url, .. }
            | Self::ExchangeUnreachable { url, .. }
            | Self::ExchangeAnswer { url, .. } => format!("{self} url={}", in_backticks(url)),
            Self::Missing | Self::Interrupted => self.to_string(),
        }
    }
}

/// Why a call brought no usable answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// There is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The path could leave the base URL, or the body can't be written as JSON. Nothing was sent.
    #[error("The request was not sent, because its {problem}.")]
    #[non_exhaustive]
    Request {
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// There was no connection, or the connection ended before an answer came.
    #[error("The API can't be reached ({cause}). Check the base URL, and that the API runs.")]
    #[non_exhaustive]
    Unreachable {
        /// Why not.
        cause: String,
        /// What was called, for the log only.
        url: String,
        /// The HTTP client's error.
        source: Underlying,
    },
    /// No answer in time.
    #[error("The API did not answer in time. Check the API's log and its load.")]
    #[non_exhaustive]
    Timeout {
        /// What was called, for the log only.
        url: String,
        /// The HTTP client's error.
        source: Underlying,
    },
    /// The API answered with another status than 2xx. 400, 401 and 403 refuse the token or the request; 429 and 503 are
    /// temporary. Redirects are not followed.
    #[error("{message}")]
    #[non_exhaustive]
    Status {
        /// The status.
        status: StatusCode,
        /// For 400, 401, 403, 429 and 503: the `code` in the answer's JSON, else the `error` of a `WWW-Authenticate:
        /// Bearer` challenge. For other statuses: the `code` in problem JSON.
        code: Option<String>,
        /// For 429 and 503: when to try again, if the API said so.
        retry_after: Option<RetryAfter>,
        /// What is wrong, and what to do.
        message: String,
        /// The claims of a token that was refused, for the log only.
        log: String,
    },
    /// The answer's body can't be used: it is compressed, too large, incomplete, or not the expected JSON.
    #[error("The API's answer {problem}.")]
    #[non_exhaustive]
    Answer {
        /// The answer's status.
        status: StatusCode,
        /// What is wrong, and what to do.
        problem: String,
        /// The HTTP client's error, if the answer is incomplete.
        source: Option<Underlying>,
    },
}

impl ApiError {
    /// The message with what only the operator may see: URLs, and the token's unverified claims.
    pub fn log_detail(&self) -> String {
        match self {
            Self::Token(error) => error.log_detail(),
            Self::Unreachable { url, .. } | Self::Timeout { url, .. } => format!("{self} url={}", in_backticks(url)),
            Self::Status { status, code, log, .. } => {
                let code = code.as_deref().unwrap_or("none");
                format!("{self} status={} code={code} {log}", status.as_u16()).trim_end().to_owned()
            }
            Self::Request { .. } | Self::Answer { .. } => self.to_string(),
        }
    }
}

/// When an API wants to be asked again. `Display` prints it as the value of a header `Retry-After`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryAfter {
    /// After this time.
    After(Duration),
    /// At this time.
    At(SystemTime),
}

impl RetryAfter {
    /// Reads a header's value: a number of seconds or an HTTP date.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let value = value.trim();
        if value.bytes().all(|byte| byte.is_ascii_digit()) {
            return value.parse().ok().map(|seconds| Self::After(Duration::from_secs(seconds)));
        }
        httpdate::parse_http_date(value).ok().map(Self::At)
    }
}

/// The year 10,000 (RFC 9110, section 5.6.7: a year has four digits).
const END_OF_HTTP_DATES: Duration = Duration::from_secs(253_402_300_800);

impl fmt::Display for RetryAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(time) => write!(f, "{}", time.as_secs()),
            Self::At(time) => match time.duration_since(UNIX_EPOCH) {
                Ok(since) if since < END_OF_HTTP_DATES => httpdate::HttpDate::from(*time).fmt(f),
                // No HTTP date says this. Zero seconds are over too.
                Ok(_) | Err(_) => f.write_str("0"),
            },
        }
    }
}

/// A path, unless it may be a token: the variable that names the file may hold the token itself by mistake.
pub(crate) fn path_for_log(path: &Path) -> String {
    let path = path.to_string_lossy();
    let shown = if looks_like_a_token(&path) {
        "(hidden, because it looks like a token)".to_owned()
    } else {
        in_backticks(&path)
    };
    format!("path={shown}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::CAUSES;

    const CLAIMS: &str = "iss=`https://oidc.vercel.com/acme` sub=`owner:acme:project:shop` exp=1790000000";

    fn errors() -> Vec<ApiError> {
        let url = || "https://api.example/path".to_owned();
        let log = || CLAIMS.to_owned();
        let problem = || "is wrong".to_owned();
        let source = || -> Underlying { Arc::new(std::io::Error::other("foreign")) };
        let status = StatusCode::FORBIDDEN;
        let mut errors: Vec<ApiError> = vec![
            ApiError::Timeout { url: url(), source: source() },
            TokenError::Missing.into(),
            TokenError::Unusable { problem: problem(), log: log(), source: Some(source()) }.into(),
            TokenError::Expired { ago: Duration::ZERO, problem: problem(), log: log() }.into(),
            TokenError::Refresh { problem: problem(), log: log(), source: None }.into(),
            TokenError::ExchangeRefused { status, log: log() }.into(),
            TokenError::ExchangeTimeout { url: url(), source: source() }.into(),
            TokenError::ExchangeAnswer { problem: problem(), url: url() }.into(),
            TokenError::Interrupted.into(),
        ];
        for (_, cause) in CAUSES {
            let cause = cause.to_owned();
            errors.push(TokenError::ExchangeUnreachable { cause: cause.clone(), url: url(), source: source() }.into());
            errors.push(ApiError::Unreachable { cause, url: url(), source: source() });
        }
        errors
    }

    #[test]
    fn each_message_is_one_to_three_short_sentences() {
        for error in errors() {
            let message = error.to_string();
            // The demo adds the name of a variable to advice about the base URL or the audience.
            let limit = if message.contains("the base URL") || message.contains("the audience") { 163 } else { 200 };
            assert!(message.ends_with('.') && message.len() <= limit, "{} characters: {message}", message.len());
        }
    }

    #[test]
    fn paths_urls_claims_and_foreign_words_are_not_in_the_message() {
        let mut logged = 0;
        for error in errors() {
            let (message, log) = (error.to_string(), error.log_detail());
            assert!(log.starts_with(&message) && !log.contains("foreign"), "{log}");
            for private in ["example/path", "oidc.vercel.com/", "owner:acme", "1790000000"] {
                assert!(!message.contains(private), "{message}");
                logged += usize::from(log.contains(private));
            }
        }
        assert!(logged > 20, "{logged}");
    }

    #[test]
    fn an_error_has_the_librarys_error_as_its_source() {
        for error in errors() {
            let has_source = error.source().is_some_and(|source| source.to_string() == "foreign");
            let expected = matches!(
                error,
                ApiError::Timeout { .. }
                    | ApiError::Unreachable { .. }
                    | ApiError::Token(
                        TokenError::Unusable { .. }
                            | TokenError::ExchangeTimeout { .. }
                            | TokenError::ExchangeUnreachable { .. }
                    )
            );
            assert_eq!(has_source, expected, "{error:?}");
        }
    }

    #[test]
    fn retry_after_is_a_number_or_an_http_date() {
        for (value, shown) in [
            ("30", Some("30")),
            (" 0 ", Some("0")),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some("Sun, 06 Nov 1994 08:49:37 GMT")),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some("Sun, 06 Nov 1994 08:49:37 GMT")),
            ("", None),
            ("-1", None),
            ("soon", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(RetryAfter::parse(value).map(|when| when.to_string()).as_deref(), shown, "{value}");
        }
        let last = UNIX_EPOCH + END_OF_HTTP_DATES - Duration::from_secs(1);
        assert_eq!(RetryAfter::At(last).to_string(), "Fri, 31 Dec 9999 23:59:59 GMT");
        for time in [UNIX_EPOCH - Duration::from_secs(1), UNIX_EPOCH + END_OF_HTTP_DATES] {
            assert_eq!(RetryAfter::At(time).to_string(), "0");
        }
        assert_eq!(RetryAfter::parse("30"), Some(RetryAfter::After(Duration::from_secs(30))));
    }
}
