//! Every failure, by cause. Each message says what is wrong and then what to do.
//!
//! Guarantees: nothing that another program said is in a message, except the `code` of an API's problem JSON, if it has
//! 1 to 64 characters of `A-Za-z0-9_.:-`. File paths, URLs and the token's claims are in [`TokenError::log_detail`] and
//! [`ApiError::log_detail`] only, for the operator. No token is in either.

use std::path::{Path, PathBuf};

use http::StatusCode;

use crate::token::{Source, in_backticks};

/// A URL that a token must not be sent to. The URL is not shown, because it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} {problem}.")]
pub struct Misconfigured {
    pub(crate) setting: String,
    pub(crate) problem: &'static str,
}

impl Misconfigured {
    /// The same problem under the name by which the program's user knows the setting, such as `` `ORDERS_URL` ``.
    #[must_use]
    pub fn named(self, setting: impl Into<String>) -> Self {
        Self { setting: setting.into(), ..self }
    }
}

/// Why there is no token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    /// No source is set.
    #[error(
        "There is no OIDC token. On Vercel, turn on OIDC federation in Settings, Security, and deploy again. \
         On your machine, run `vercel env pull` and load its `VERCEL_OIDC_TOKEN`."
    )]
    Missing,
    /// The token file can't be read.
    #[error("The token file {problem}. Check `VERCEL_OIDC_TOKEN_FILE`.")]
    File {
        /// What is wrong with the file.
        problem: String,
        /// The file's path, for the log only.
        path: PathBuf,
    },
    /// The text that was found is no JWT, so it is not sent.
    #[error("The token in {} is not usable: {problem}. Put a JWT there, and nothing else.", .found.described())]
    Malformed {
        /// Where the text was found.
        found: Source,
        /// The likely slip.
        problem: &'static str,
    },
    /// The token of the file or the variable has expired, and there is no new one: this is not a development
    /// environment, no project is known, or the Vercel CLI failed.
    #[error("{message}")]
    Expired {
        /// What is wrong and what to do.
        message: String,
        /// The token's claims, a path or a cause, for the log only.
        log: String,
    },
    /// The exchange can't be reached, or its answer can't be used.
    #[error("The token exchange failed: {problem}. Check `OIDC_TOKEN_EXCHANGE_URL` and the network.")]
    Exchange {
        /// What is wrong.
        problem: String,
        /// The exchange's URL, for the log only.
        url: String,
    },
    /// The exchange answered another status than 200.
    #[error("The token exchange answered {}. Check that the project may request the audience, and that the token \
    has not expired.", .status.as_u16())]
    ExchangeRefused {
        /// The status.
        status: StatusCode,
        /// The audience and the token's claims, for the log only.
        log: String,
    },
    /// The task that was to get the token ended early.
    #[error("Getting the token was interrupted. Try again.")]
    Interrupted,
}

impl TokenError {
    /// The message with what only the operator may see: paths, URLs, and the token's unverified claims.
    #[must_use]
    pub fn log_detail(&self) -> String {
        match self {
            Self::File { path, .. } => format!("{self} path={}", path_for_log(path)),
            Self::Expired { log, .. } | Self::ExchangeRefused { log, .. } => {
                format!("{self} {log}").trim_end().to_owned()
            }
            Self::Exchange { url, .. } => format!("{self} url={}", in_backticks(url)),
            Self::Missing | Self::Malformed { .. } | Self::Interrupted => self.to_string(),
        }
    }
}

/// A path, unless it may be a token: the variable that names the file may hold the token itself by mistake.
pub(crate) fn path_for_log(path: &Path) -> String {
    let path = path.to_string_lossy();
    if path.contains("eyJ") { "(hidden, because it looks like a token)".to_owned() } else { in_backticks(&path) }
}

/// Why a call brought no answer, or not the one that was wanted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiError {
    /// There is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The path could leave the base URL, or the body can't be written as JSON. Nothing was sent.
    #[error("The request was not sent, because its {0}.")]
    Request(&'static str),
    /// No connection, or one that ended before an answer came.
    #[error("The API can't be reached ({cause}). Check the base URL, and that the API runs.")]
    Unreachable {
        /// Why not.
        cause: String,
        /// Where it was expected, for the log only.
        url: String,
    },
    /// No answer in time.
    #[error("The API did not answer in time. Check the API's log and its load.")]
    Timeout {
        /// What was called, for the log only.
        url: String,
    },
    /// The API refused the request with 400, 401 or 403.
    #[error("{}", refusal(*.status, .code.as_deref(), *.encoding))]
    Refused {
        /// 400, 401 or 403.
        status: StatusCode,
        /// The `code` in the answer's JSON.
        code: Option<String>,
        /// The answer's `Content-Encoding`, although none was accepted: its `code` can't be read.
        encoding: Option<&'static str>,
        /// The claims of the token that was sent, for the log only.
        claims: String,
    },
    /// The API is temporarily unavailable: 429 or 503.
    #[error("{}", unavailable(*.status, .code.as_deref()))]
    Unavailable {
        /// 429 or 503.
        status: StatusCode,
        /// The `code` in the answer's JSON.
        code: Option<String>,
        /// `Retry-After`, if it is a number of seconds or an HTTP date.
        retry_after: Option<String>,
    },
    /// The API answered with another status than 2xx. Redirects are not followed.
    #[error("The API answered {}{}. {advice}", .status.as_u16(), shown(.code.as_deref()))]
    Status {
        /// The status.
        status: StatusCode,
        /// The `code`, if the answer is problem JSON.
        code: Option<String>,
        /// What to do.
        advice: &'static str,
    },
    /// The answer's body can't be used: compressed, not the expected JSON, too large, or broken off.
    #[error("The API's answer {problem}.")]
    Answer {
        /// The answer's status.
        status: StatusCode,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl ApiError {
    /// The message with what only the operator may see: URLs, and the token's unverified claims.
    #[must_use]
    pub fn log_detail(&self) -> String {
        let answered = |status: &StatusCode, code: &Option<String>| {
            format!("{self} status={} code={}", status.as_u16(), code.as_deref().unwrap_or("none"))
        };
        match self {
            Self::Token(error) => error.log_detail(),
            Self::Unreachable { url, .. } | Self::Timeout { url } => format!("{self} url={}", in_backticks(url)),
            Self::Refused { status, code, claims, .. } => format!("{} token: {claims}", answered(status, code)),
            Self::Unavailable { status, code, .. } | Self::Status { status, code, .. } => answered(status, code),
            Self::Request(_) | Self::Answer { .. } => self.to_string(),
        }
    }
}

fn shown(code: Option<&str>) -> String {
    code.map_or_else(String::new, |code| format!(" `{code}`"))
}

/// Advice for a refusal, by what the API's `code` says about the cause.
fn refusal(status: StatusCode, code: Option<&str>, encoding: Option<&str>) -> String {
    let status = status.as_u16();
    let (what, advice) = match (code, encoding) {
        (Some("missing_token"), _) => (
            "request",
            "No token arrived: something on the way removed the `Authorization` header. Check CDNs, proxies and \
             rewrites.",
        ),
        (Some("invalid_request"), _) => {
            ("request", "It can't read the `Authorization` header. Look for a proxy that adds or changes the header.")
        }
        (Some("invalid_token"), _) => (
            "token",
            "Compare the token's issuer, audience and expiry with the API's settings. The API's log has the reason.",
        ),
        (Some("forbidden" | "insufficient_scope"), _) => (
            "caller",
            "Compare the token's subject (project and environment) with what the API accepts. The API's log has the \
             reason.",
        ),
        (Some(code), _) => {
            return format!(
                "The API refused the request with {status} `{code}`. Look up this code in the API's documentation."
            );
        }
        (None, Some(encoding)) => {
            return format!(
                "The API refused the request with {status}. The reason has `Content-Encoding: {encoding}`, which the \
                 request did not ask for. Look for a proxy that compresses answers."
            );
        }
        (None, None) if status == 400 => {
            ("request", "It gave no code. Check the request, and look for a proxy in front of the API.")
        }
        (None, None) => {
            return format!("Refused with {status} and no code, so maybe not by the API. {CHECK_THE_WAY}");
        }
    };
    format!("The API refused the {what} with {status}. {advice}")
}

const CHECK_THE_WAY: &str =
    "Check Deployment Protection (this project must be a trusted source), firewalls and proxies on the way.";

fn unavailable(status: StatusCode, code: Option<&str>) -> String {
    match (status.as_u16(), code) {
        (status, Some("keys_unavailable")) => format!(
            "The API can't fetch the keys that verify tokens ({status}). Try again. If it lasts, check the API's \
             log and its network."
        ),
        (429, _) => "The API limits the rate of requests (429). Try again later, or send fewer requests.".to_owned(),
        (status, _) => {
            format!("The API is temporarily unavailable ({status}). Try again later, and check the API's log.")
        }
    }
}

/// Advice for a status that is neither a refusal nor temporary.
pub(crate) fn advice(status: StatusCode, is_sign_in: bool) -> &'static str {
    match status.as_u16() {
        300..=399 if is_sign_in => CHECK_THE_WAY,
        300..=399 => "Redirects are not followed. Check the base URL, the path and its trailing slash.",
        404 => "Check the base URL and the path.",
        405 => "Check the method and the path.",
        407 => "The proxy on the way wants credentials: put them into `HTTPS_PROXY`.",
        413 => "Send a smaller body.",
        415 | 422 => "Check the request's body.",
        502 | 504 => "A gateway in front of the API could not reach the API: check that the API runs.",
        500..=599 => "Check the API's log.",
        _ => "Check the base URL, the path and the API's log.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{CAUSES, NO_CERTIFICATES};
    use crate::token::SLIPS;

    const CLAIMS: &str = "iss=`https://oidc.vercel.com/acme` sub=`owner:acme:project:shop` exp=1790000000";

    /// Every kind of token error, each with the longest parts that are usual.
    fn token_errors() -> Vec<TokenError> {
        let (path, url) = (PathBuf::from("/secret/path"), "https://exchange.example/path".to_owned());
        let message = "The token has expired.".to_owned();
        let mut errors = vec![
            TokenError::Missing,
            TokenError::File { problem: "can't be read (permission denied)".to_owned(), path },
            TokenError::Expired { message, log: CLAIMS.to_owned() },
            TokenError::ExchangeRefused { status: StatusCode::FORBIDDEN, log: CLAIMS.to_owned() },
            TokenError::Interrupted,
        ];
        for cause in causes() {
            errors.push(TokenError::Exchange { problem: format!("it can't be reached ({cause})"), url: url.clone() });
        }
        for found in [Source::Header, Source::InternalHeader, Source::File, Source::Variable, Source::Refreshed] {
            errors.extend(SLIPS.map(|problem| TokenError::Malformed { found, problem }));
        }
        errors
    }

    fn causes() -> impl Iterator<Item = &'static str> {
        CAUSES.iter().map(|(_, cause)| *cause).chain(["connection refused", NO_CERTIFICATES])
    }

    fn api_errors() -> Vec<ApiError> {
        let url = "https://api.example/path".to_owned();
        let longest = "x".repeat(64);
        let mut errors = vec![ApiError::Timeout { url: url.clone() }];
        for cause in causes() {
            errors.push(ApiError::Unreachable { cause: cause.to_owned(), url: url.clone() });
        }
        for encoding in ["deflate", "(unknown)"] {
            let status = StatusCode::UNAUTHORIZED;
            errors.push(ApiError::Refused { status, code: None, encoding: Some(encoding), claims: CLAIMS.to_owned() });
        }
        let codes = ["missing_token", "invalid_request", "invalid_token", "forbidden", "keys_unavailable", &longest];
        for code in codes.map(|code| Some(code.to_owned())).into_iter().chain([None]) {
            for status in [400, 401, 403] {
                let status = StatusCode::from_u16(status).unwrap_or_default();
                errors.push(ApiError::Refused {
                    status,
                    code: code.clone(),
                    encoding: None,
                    claims: CLAIMS.to_owned(),
                });
            }
            for status in [429, 503] {
                let status = StatusCode::from_u16(status).unwrap_or_default();
                errors.push(ApiError::Unavailable { status, code: code.clone(), retry_after: None });
            }
            for (status, is_sign_in) in [201, 302, 404, 405, 407, 413, 415, 418, 422, 500, 502, 504, 599]
                .map(|status| (status, false))
                .into_iter()
                .chain([(302, true)])
            {
                let status = StatusCode::from_u16(status).unwrap_or_default();
                errors.push(ApiError::Status { status, code: code.clone(), advice: advice(status, is_sign_in) });
            }
        }
        errors.extend(token_errors().into_iter().map(ApiError::Token));
        errors
    }

    #[test]
    fn each_message_is_one_to_three_short_sentences() {
        for error in api_errors() {
            // A program may have a longer word for the API.
            let message = error.to_string().replace("API", "backend").replace("the base URL", "`BACKEND_URL`");
            assert!(message.ends_with('.') && message.len() <= 200, "{} characters: {message}", message.len());
        }
    }

    #[test]
    fn paths_urls_and_claims_are_in_the_log_only() {
        let mut logged = 0;
        for error in api_errors() {
            let (message, log) = (error.to_string(), error.log_detail());
            assert!(log.starts_with(&message), "{log}");
            for private in ["/secret/path", "example/path", "oidc.vercel.com/", "owner:acme", "1790000000"] {
                assert!(!message.contains(private), "{message}");
                logged += usize::from(log.contains(private));
            }
        }
        assert!(logged > 20, "{logged}");
    }
}
