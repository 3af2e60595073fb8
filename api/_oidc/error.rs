//! Every failure, by cause. Each message says what is wrong and then what to do.
//!
//! Guarantees: a message holds no text of another program, except the `code` of an API's problem JSON, if that code has
//! 1 to 64 characters of `A-Za-z0-9_.:-`. File paths, URLs and the token's claims are in [`TokenError::log_detail`] and
//! [`ApiError::log_detail`] only, for the operator. Neither holds a token.

use std::path::Path;

use http::StatusCode;

use crate::token::in_backticks;

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
pub enum TokenError {
    /// No source is set.
    #[error(
        "There is no OIDC token. On Vercel, turn on OIDC federation in Settings, Security, and deploy again. \
         On your machine, run `vercel env pull` and load its `VERCEL_OIDC_TOKEN`."
    )]
    Missing,
    /// The text that was found is not a JWT, so it is not sent. Or the token file can't be read.
    #[error("The token {problem}.")]
    Unusable {
        /// Where the token was found, what is wrong with it, and what to do.
        problem: String,
        /// The file's path, for the log only.
        log: String,
    },
    /// The token of the file or the variable has expired, and there is no new one: this is not a development
    /// environment, no project is known, or the Vercel CLI failed.
    #[error("The token {problem}.")]
    Expired {
        /// What is wrong, and what to do.
        problem: String,
        /// The token's claims, a path or a cause, for the log only.
        log: String,
    },
    /// The exchange can't be reached, refused, or gave no token.
    #[error("The token exchange {problem}.")]
    Exchange {
        /// What is wrong, and what to do.
        problem: String,
        /// The exchange's URL, or the audience and the token's claims, for the log only.
        log: String,
    },
    /// The task that gets the token ended early.
    #[error("Getting the token was interrupted. Try again.")]
    Interrupted,
}

impl TokenError {
    /// The message with what only the operator may see: paths, URLs, and the token's unverified claims.
    pub fn log_detail(&self) -> String {
        match self {
            Self::Unusable { log, .. } | Self::Expired { log, .. } | Self::Exchange { log, .. } => {
                format!("{self} {log}").trim_end().to_owned()
            }
            Self::Missing | Self::Interrupted => self.to_string(),
        }
    }
}

/// Why a call brought no usable answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiError {
    /// There is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The path could leave the base URL, or the body can't be written as JSON. Nothing was sent.
    #[error("The request was not sent, because its {0}.")]
    Request(&'static str),
    /// There was no connection, or the connection ended before an answer came.
    #[error("The API can't be reached ({cause}). Check the base URL, and that the API runs.")]
    Unreachable {
        /// Why not.
        cause: String,
        /// What was called, for the log only.
        url: String,
    },
    /// No answer in time.
    #[error("The API did not answer in time. Check the API's log and its load.")]
    Timeout {
        /// What was called, for the log only.
        url: String,
    },
    /// The API answered with another status than 2xx. 400, 401 and 403 refuse the token or the request; 429 and 503 are
    /// temporary. Redirects are not followed.
    #[error("{message}")]
    Status {
        /// The status.
        status: StatusCode,
        /// The `code` in the answer's JSON. For other statuses than 400, 401, 403, 429 and 503: in problem JSON only.
        code: Option<String>,
        /// `Retry-After`, if it is a number of seconds or an HTTP date.
        retry_after: Option<String>,
        /// What is wrong, and what to do.
        message: String,
        /// The claims of a token that was refused, for the log only.
        log: String,
    },
    /// The answer's body can't be used: compressed, not the expected JSON, too large, or broken off.
    #[error("The API's answer {problem}.")]
    Answer {
        /// The answer's status.
        status: StatusCode,
        /// What is wrong, and what to do.
        problem: String,
    },
}

impl ApiError {
    /// The message with what only the operator may see: URLs, and the token's unverified claims.
    pub fn log_detail(&self) -> String {
        match self {
            Self::Token(error) => error.log_detail(),
            Self::Unreachable { url, .. } | Self::Timeout { url } => format!("{self} url={}", in_backticks(url)),
            Self::Status { status, code, log, .. } => {
                let code = code.as_deref().unwrap_or("none");
                format!("{self} status={} code={code} {log}", status.as_u16()).trim_end().to_owned()
            }
            Self::Request(_) | Self::Answer { .. } => self.to_string(),
        }
    }
}

const CHECK_THE_WAY: &str =
    "Check Deployment Protection (this project must be a trusted source), firewalls and proxies on the way.";

/// What a status other than 2xx means, and what to do.
pub(crate) fn explain(status: StatusCode, code: Option<&str>, encoding: Option<&str>, is_sign_in: bool) -> String {
    let status = status.as_u16();
    let advice = match (status, code) {
        (400 | 401 | 403, None) if encoding.is_some() => {
            return format!(
                "The API refused the request with {status}. The reason has `Content-Encoding: {}`, which the request \
                 did not ask for. Look for a proxy that compresses answers.",
                encoding.unwrap_or_default()
            );
        }
        (400, None) => "It gave no code. Check the request, and look for a proxy in front of the API.",
        (401 | 403, None) => {
            return format!("Refused with {status} and no code, so maybe not by the API. {CHECK_THE_WAY}");
        }
        (400 | 401 | 403, Some(code)) => match code {
            "missing_token" => "No token arrived: something on the way removed the `Authorization` header.",
            "invalid_request" => "Look for a proxy that adds or changes the header `Authorization`.",
            "invalid_token" => "Compare the token's issuer, audience and expiry with the API's settings and log.",
            "forbidden" | "insufficient_scope" => {
                "Compare the token's subject (project and environment) with what the API accepts."
            }
            _ => "Look up this code in the API's documentation.",
        },
        (_, Some("keys_unavailable")) => {
            "It can't fetch the keys that verify tokens. Try again. If it lasts, check its log."
        }
        (429, _) => "It limits the rate of requests. Try again later, or send fewer requests.",
        (503, _) => "It is temporarily unavailable. Try again later, and check its log.",
        (300..=399, _) if is_sign_in => CHECK_THE_WAY,
        (300..=399, _) => "Redirects are not followed. Check the base URL, the path and its trailing slash.",
        (405, _) => "Check the method and the path.",
        (413 | 415 | 422, _) => "Check the request's body.",
        (502 | 504, _) => "A gateway in front of the API could not reach the API: check that the API runs.",
        (500..=599, _) => "Check the API's log.",
        _ => "Check the base URL and the path.",
    };
    let verb = if matches!(status, 400 | 401 | 403) { "refused the request with" } else { "answered" };
    let code = code.map_or_else(String::new, |code| format!(" `{code}`"));
    format!("The API {verb} {status}{code}. {advice}")
}

/// A path, unless it may be a token: the variable that names the file may hold the token itself by mistake.
pub(crate) fn path_for_log(path: &Path) -> String {
    let path = path.to_string_lossy();
    if path.contains("eyJ") { "(hidden, because it looks like a token)".to_owned() } else { in_backticks(&path) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{CAUSES, NO_CERTIFICATES};

    const CLAIMS: &str = "iss=`https://oidc.vercel.com/acme` sub=`owner:acme:project:shop` exp=1790000000";

    fn causes() -> impl Iterator<Item = &'static str> {
        CAUSES.iter().map(|(_, cause)| *cause).chain(["connection refused", NO_CERTIFICATES])
    }

    fn errors() -> Vec<ApiError> {
        let url = "https://api.example/path".to_owned();
        let longest = "x".repeat(64);
        let log = || CLAIMS.to_owned();
        let problem = || "is wrong".to_owned();
        let mut errors = vec![
            ApiError::Timeout { url: url.clone() },
            TokenError::Missing.into(),
            TokenError::Unusable { problem: problem(), log: log() }.into(),
            TokenError::Expired { problem: problem(), log: log() }.into(),
            TokenError::Exchange { problem: problem(), log: log() }.into(),
            TokenError::Interrupted.into(),
        ];
        errors.extend(causes().map(|cause| ApiError::Unreachable { cause: cause.to_owned(), url: url.clone() }));
        let codes = ["missing_token", "invalid_request", "invalid_token", "forbidden", "keys_unavailable", &longest];
        for code in codes.into_iter().map(Some).chain([None]) {
            for status in [201, 302, 400, 401, 403, 404, 405, 407, 413, 415, 418, 422, 429, 500, 502, 503, 504, 599] {
                for (encoding, is_sign_in) in
                    [(None, false), (None, true), (Some("deflate"), false), (Some("(unknown)"), true)]
                {
                    let status = StatusCode::from_u16(status).unwrap_or_default();
                    let message = explain(status, code, encoding, is_sign_in);
                    errors.push(ApiError::Status {
                        status,
                        code: code.map(str::to_owned),
                        retry_after: None,
                        message,
                        log: log(),
                    });
                }
            }
        }
        errors
    }

    #[test]
    fn each_message_is_one_to_three_short_sentences() {
        for error in errors() {
            // A program may have a longer word for the API.
            let message = error.to_string().replace("API", "backend").replace("the base URL", "`BACKEND_URL`");
            assert!(message.ends_with('.') && message.len() <= 200, "{} characters: {message}", message.len());
        }
    }

    #[test]
    fn paths_urls_and_claims_are_in_the_log_only() {
        let mut logged = 0;
        for error in errors() {
            let (message, log) = (error.to_string(), error.log_detail());
            assert!(log.starts_with(&message), "{log}");
            for private in ["example/path", "oidc.vercel.com/", "owner:acme", "1790000000"] {
                assert!(!message.contains(private), "{message}");
                logged += usize::from(log.contains(private));
            }
        }
        assert!(logged > 20, "{logged}");
    }
}
