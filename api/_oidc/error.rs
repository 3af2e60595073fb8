//! Every failure, by cause. Each message says what is wrong and then what to do.
//!
//! Guarantees: nothing that another program said is in a message, except the `code` of an API's problem JSON, if it has
//! 1 to 64 characters of `A-Za-z0-9_.:-`. File paths, URLs and the token's claims are in [`TokenError::log_detail`] and
//! [`ApiError::log_detail`] only, for the operator. No token is in either.

use std::error::Error;
use std::path::PathBuf;
use std::{fmt, io};

use http::StatusCode;

use crate::token::{Slip, Source, UnverifiedClaims, escaped};

/// A URL that a token must not be sent to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} {problem}.")]
pub struct Misconfigured {
    setting: String,
    problem: UrlProblem,
}

impl Misconfigured {
    pub(crate) fn new(setting: &str, problem: UrlProblem) -> Self {
        Self { setting: setting.to_owned(), problem }
    }

    /// The same problem under the name by which the program's user knows the setting, such as `` `ORDERS_URL` ``.
    #[must_use]
    pub fn named(self, setting: impl Into<String>) -> Self {
        Self { setting: setting.into(), ..self }
    }

    /// What is wrong with the URL.
    #[must_use]
    pub fn problem(&self) -> UrlProblem {
        self.problem
    }
}

/// What is wrong with a URL. The URL is not shown, because it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlProblem {
    /// It has no scheme, as in `localhost:3001`.
    #[error("has no scheme. Begin it with `https://` (loopback: `http://`)")]
    NoScheme,
    /// Its scheme is `http`, and its host is not loopback.
    #[error("must be `https`. Only a loopback host may have `http`")]
    NotHttps,
    /// It has another scheme.
    #[error("has a scheme that is not supported. Begin it with `https://`")]
    Scheme,
    /// It has a backslash, as in a `\n` that was copied along.
    #[error("has a backslash in it. Remove the backslash and what follows it")]
    Backslash,
    /// It has quotes, as `docker --env-file` keeps them.
    #[error("has quotes in it. Remove the quotes")]
    Quotes,
    /// It has white space or a control character.
    #[error("has white space in it. Remove the white space")]
    WhiteSpace,
    /// It has a user name or a password.
    #[error("has a user name or password in it. Remove everything up to the `@`")]
    UserInfo,
    /// It has a query.
    #[error("has a query. Remove the `?` and what follows it")]
    Query,
    /// It has a fragment.
    #[error("has a fragment. Remove the `#` and what follows it")]
    Fragment,
    /// It is no URL for another reason.
    #[error("is not a valid URL. It should look like `https://api.example.com`")]
    Invalid,
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
        /// The file's path, for the log only.
        path: PathBuf,
        /// Why not.
        problem: FileProblem,
    },
    /// The text that was found is no JWT, so it is not sent.
    #[error("The token in {} is not usable: {slip}. Put a JWT there, and nothing else.", .found.described())]
    Malformed {
        /// Where the text was found.
        found: Source,
        /// The likely slip.
        slip: Slip,
    },
    /// The token has expired, and this is not a development environment.
    #[error("The token in {} has expired, and only development tokens are refreshed. On Vercel, remove that \
    setting: a token comes with each request.", .found.described())]
    Expired {
        /// Where the token was found.
        found: Source,
        /// When it expired, and the like, for the log only.
        claims: Box<UnverifiedClaims>,
    },
    /// The token has expired, and neither the folder nor the token names a project.
    #[error("The token in {} has expired, and this folder is not linked to a project. Run `vercel link`, then \
    `vercel env pull`.", .found.described())]
    NotLinked {
        /// Where the token was found.
        found: Source,
    },
    /// `.vercel/project.json` can't be read, or has no usable ids.
    #[error(
        "The token has expired, and `.vercel/project.json` does not name a project. Run `vercel link`, then `vercel \
        env pull`."
    )]
    ProjectFile {
        /// The file's path, for the log only.
        path: PathBuf,
    },
    /// The token has expired, and the Vercel CLI can't be started.
    #[error("The token has expired. Install the Vercel CLI with `npm i -g vercel`, then run `{command}`.")]
    NoCli {
        /// The command that was tried.
        command: String,
        /// Why it can't be run.
        cause: io::ErrorKind,
    },
    /// The Vercel CLI gave no token in time.
    #[error("The token has expired, and the Vercel CLI did not answer within 20 s. Run `{command}`.")]
    CliTimeout {
        /// The command that was run.
        command: String,
    },
    /// The Vercel CLI failed.
    #[error("The token has expired, and the Vercel CLI failed. To see why, run `{command}`.")]
    CliFailed {
        /// The command that was run.
        command: String,
    },
    /// The Vercel CLI did not print a JSON object with a `token`.
    #[error("The Vercel CLI printed no token. Update the CLI, then run `{command}`.")]
    CliOutput {
        /// The command that was run.
        command: String,
    },
    /// The Vercel CLI printed a token that is no JWT.
    #[error("The token from the Vercel CLI is not usable: {slip}. Run `{command}`.")]
    CliToken {
        /// The command that was run.
        command: String,
        /// The likely slip.
        slip: Slip,
    },
    /// The Vercel CLI printed a token that has expired.
    #[error("The token from the Vercel CLI has already expired. Check this machine's clock.")]
    CliExpired,
    /// The exchange can't be reached.
    #[error("The token exchange can't be reached ({cause}). Check `OIDC_TOKEN_EXCHANGE_URL` and the network.")]
    ExchangeUnreachable {
        /// Why not.
        cause: Cause,
        /// Where it was expected, for the log only.
        url: String,
    },
    /// The exchange did not answer in time.
    #[error("The token exchange did not answer in time. Try again.")]
    ExchangeTimeout,
    /// The exchange answered another status than 200.
    #[error("The token exchange answered {}. Check that the project may request the audience, and that the token \
    has not expired.", .status.as_u16())]
    ExchangeRefused {
        /// The status.
        status: StatusCode,
        /// The audience that was requested, for the log only.
        audience: String,
        /// The token that was to be exchanged, for the log only.
        claims: Box<UnverifiedClaims>,
    },
    /// The exchange's answer is not an object with a token.
    #[error("The token exchange's answer {problem}. Check `OIDC_TOKEN_EXCHANGE_URL`.")]
    ExchangeAnswer {
        /// What is wrong with the answer.
        problem: AnswerProblem,
        /// Where the answer came from, for the log only.
        url: String,
    },
    /// There is no certificate authority to trust.
    #[error(transparent)]
    NoCertificates(#[from] NoCertificates),
    /// The task that was to get the token ended early.
    #[error("Getting the token was interrupted. Try again.")]
    Interrupted,
}

impl TokenError {
    /// The message with what only the operator may see: paths, URLs, and the token's unverified claims.
    #[must_use]
    pub fn log_detail(&self) -> String {
        match self {
            Self::File { path, .. } | Self::ProjectFile { path } => {
                format!("{self} path={}", path_for_log(path))
            }
            Self::Expired { claims, .. } => format!("{self} {claims}"),
            Self::NoCli { cause, .. } => format!("{self} cause=`{cause}`"),
            Self::ExchangeUnreachable { url, .. } | Self::ExchangeAnswer { url, .. } => {
                format!("{self} url=`{}`", escaped(url))
            }
            Self::ExchangeRefused { audience, claims, .. } => {
                format!("{self} requested=`{}` {claims}", escaped(audience))
            }
            Self::Missing
            | Self::Malformed { .. }
            | Self::NotLinked { .. }
            | Self::CliTimeout { .. }
            | Self::CliFailed { .. }
            | Self::CliOutput { .. }
            | Self::CliToken { .. }
            | Self::CliExpired
            | Self::ExchangeTimeout
            | Self::NoCertificates(_)
            | Self::Interrupted => self.to_string(),
        }
    }
}

/// A path, unless it may be a token: the variable that names the file may hold the token itself by mistake.
fn path_for_log(path: &std::path::Path) -> String {
    let path = path.to_string_lossy();
    if path.contains("eyJ") {
        "(hidden, because it looks like a token)".to_owned()
    } else {
        format!("`{}`", escaped(&path))
    }
}

/// Why a file can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileProblem {
    /// The system does not let this process read it.
    #[error("can't be read ({0})")]
    Io(io::ErrorKind),
    /// It is a folder, a pipe or a device.
    #[error("is not a regular file")]
    NotRegular,
    /// It is larger than a token can be.
    #[error("is larger than 64 KiB")]
    TooLarge,
}

/// Why a call brought no answer, or not the one that was wanted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiError {
    /// There is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// There is no certificate authority to trust.
    #[error(transparent)]
    NoCertificates(#[from] NoCertificates),
    /// The path could leave the base URL. Nothing was sent.
    #[error("The request was not sent, because its path {0}.")]
    Path(PathProblem),
    /// The value for the request's body can't be written as JSON. Nothing was sent.
    #[error(
        "The request was not sent, because its body can't be written as JSON. Check that every map has strings as \
        keys."
    )]
    Body,
    /// No connection, or one that ended before an answer came.
    #[error("The API can't be reached ({cause}). {}", unreachable(*.cause))]
    Unreachable {
        /// Why not.
        cause: Cause,
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
        encoding: Option<Encoding>,
        /// The token that was sent, for the log only.
        claims: Box<UnverifiedClaims>,
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
    /// The API answered with a redirect, which is not followed.
    #[error("{}", redirect(*.status, *.to_sign_in))]
    Redirected {
        /// The status.
        status: StatusCode,
        /// Whether it leads to another host, or to a path that speaks of signing in.
        to_sign_in: bool,
    },
    /// The API answered with another status than 2xx.
    #[error("{}", unexpected(*.status, .code.as_deref()))]
    Status {
        /// The status.
        status: StatusCode,
        /// The `code`, if the answer is problem JSON.
        code: Option<String>,
    },
    /// The answer is compressed, although the request asked for none of that.
    #[error(
        "The API's answer has `Content-Encoding: {encoding}`, which the request did not ask for. Look for a proxy \
        that compresses answers."
    )]
    Encoded {
        /// The answer's status.
        status: StatusCode,
        /// The encoding.
        encoding: Encoding,
    },
    /// The answer is not JSON, or not of the type that was asked for.
    #[error(
        "The API's answer is not the expected JSON (line {line}, column {column}). Check the base URL and the path."
    )]
    NotJson {
        /// The answer's status.
        status: StatusCode,
        /// Where reading stopped.
        line: usize,
        /// Where reading stopped.
        column: usize,
    },
    /// The answer is larger than the limit.
    #[error(
        "The API's answer is larger than {max_bytes} bytes. Check the base URL and the path, or raise the \
    limit."
    )]
    TooLarge {
        /// The answer's status.
        status: StatusCode,
        /// The limit.
        max_bytes: usize,
    },
    /// The connection ended within the answer.
    #[error("The API's answer broke off ({cause}). Check the API's log.")]
    Broken {
        /// The answer's status.
        status: StatusCode,
        /// Why.
        cause: Cause,
    },
}

impl ApiError {
    /// The message with what only the operator may see: URLs, and the token's unverified claims.
    #[must_use]
    pub fn log_detail(&self) -> String {
        match self {
            Self::Token(error) => error.log_detail(),
            Self::Unreachable { url, .. } | Self::Timeout { url } => format!("{self} url=`{}`", escaped(url)),
            Self::Refused { status, code, claims, .. } => {
                let code = code.as_deref().unwrap_or("none");
                format!("{self} status={} code={code} token: {claims}", status.as_u16())
            }
            Self::Unavailable { status, code, .. } | Self::Status { status, code } => {
                format!("{self} status={} code={}", status.as_u16(), code.as_deref().unwrap_or("none"))
            }
            Self::NoCertificates(_)
            | Self::Path(_)
            | Self::Body
            | Self::Redirected { .. }
            | Self::Encoded { .. }
            | Self::NotJson { .. }
            | Self::TooLarge { .. }
            | Self::Broken { .. } => self.to_string(),
        }
    }
}

fn unreachable(cause: Cause) -> &'static str {
    match cause {
        Cause::Dns => "Check the base URL.",
        Cause::Certificate => "Check the base URL, the API's certificate, and this machine's clock and authorities.",
        Cause::Tls | Cause::Http => "Check the base URL's scheme and port.",
        Cause::Proxy => "Check `HTTPS_PROXY` and `NO_PROXY`.",
        Cause::Io(_) | Cause::Closed | Cause::ConnectTimeout | Cause::Other => {
            "Check the base URL, and that the API runs."
        }
    }
}

/// Advice for a refusal, by what the API's `code` says about the cause.
fn refusal(status: StatusCode, code: Option<&str>, encoding: Option<Encoding>) -> String {
    let status = status.as_u16();
    match (code, encoding) {
        (Some("missing_token"), _) => format!(
            "The API refused the request with {status}, because no token arrived. A CDN, proxy or rewrite on the \
            way removed the `Authorization` header: let it pass."
        ),
        (Some("invalid_request"), _) => format!(
            "The API refused the request with {status}, because it can't read the `Authorization` header. Look for \
            a proxy that adds or changes the header."
        ),
        (Some("invalid_token"), _) => format!(
            "The API refused the token with {status}. Compare the token's issuer, audience and expiry with the \
            API's settings. The API's log has the reason."
        ),
        (Some("forbidden" | "insufficient_scope"), _) => format!(
            "The API refused the caller with {status}. Compare the token's subject (project and environment) with \
            what the API accepts. The API's log has the reason."
        ),
        (Some(code), _) => {
            format!("The API refused the request with {status} `{code}`. Look up this code in the API's documentation.")
        }
        (None, Some(encoding)) => format!(
            "The API refused the request with {status}. The reason has `Content-Encoding: {encoding}`, which the \
            request did not ask for: look for a proxy that compresses."
        ),
        (None, None) if status == 400 => {
            "The API refused the request with 400 and no code. Check the request, and look for a proxy in front of \
            the API."
                .to_owned()
        }
        (None, None) => format!(
            "Refused with {status} and no code, so maybe not by the API. Check Deployment Protection (this project \
            must be a trusted source), firewalls and proxies on the way."
        ),
    }
}

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

fn redirect(status: StatusCode, to_sign_in: bool) -> String {
    let status = status.as_u16();
    if to_sign_in {
        format!(
            "Redirected ({status}) to another host or a sign-in. Check Deployment Protection (this project must be \
            a trusted source), firewalls and proxies on the way."
        )
    } else {
        format!(
            "The API answered with a redirect ({status}), which is not followed. Check the base URL, the path and \
            its trailing slash."
        )
    }
}

fn unexpected(status: StatusCode, code: Option<&str>) -> String {
    let code = code.map_or_else(String::new, |code| format!(" `{code}`"));
    let advice = match status.as_u16() {
        404 => "Check the base URL and the path.",
        405 => "Check the method and the path.",
        407 => "The proxy on the way wants credentials: put them into `HTTPS_PROXY`.",
        413 => "Send a smaller body.",
        415 | 422 => "Check the request's body.",
        502 | 504 => "A gateway in front of the API could not reach the API: check that the API runs.",
        500..=599 => "Check the API's log.",
        _ => "Check the base URL, the path and the API's log.",
    };
    format!("The API answered {}{code}. {advice}", status.as_u16())
}

/// Why a path is refused before anything is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// It begins with no slash, or with two.
    #[error("does not begin with exactly one `/`. Write `/orders`, for example")]
    Start,
    /// It has a backslash.
    #[error("has a backslash. Percent-encode it as `%5C`")]
    Backslash,
    /// It has a segment `.` or `..`, a dot of which may be written as `%2e`.
    #[error("has a segment `.` or `..`. Remove the segment")]
    DotSegment,
    /// It has a `?` or a `#`.
    #[error("has a `?` or `#`. Use `query`, or percent-encode the character")]
    Query,
    /// It has a control character, such as a tab or a line break.
    #[error("has a control character. Remove it")]
    Control,
}

/// What is wrong with the exchange's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerProblem {
    /// It is no JSON object with a string `token`.
    #[error("is not a JSON object with a `token`")]
    NoToken,
    /// Its token has not the form of a JWT.
    #[error("has a `token` that is not usable: {0}")]
    NotJwt(Slip),
    /// It is compressed, although the request asked for none of that.
    #[error("has `Content-Encoding: {0}`, which was not asked for")]
    Encoded(Encoding),
    /// It is larger than 1 MiB.
    #[error("is larger than 1 MiB")]
    TooLarge,
}

/// A `Content-Encoding` that no request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `gzip`.
    Gzip,
    /// `br`.
    Brotli,
    /// `deflate`.
    Deflate,
    /// `zstd`.
    Zstd,
    /// Another one.
    Other,
}

impl Encoding {
    /// The encoding of an answer with these headers. `None` if the answer is not encoded.
    pub(crate) fn of(headers: &http::HeaderMap) -> Option<Self> {
        let mut values =
            headers.get_all(http::header::CONTENT_ENCODING).iter().map(|value| value.as_bytes().trim_ascii());
        let value = values.find(|value| !value.is_empty() && !value.eq_ignore_ascii_case(b"identity"))?;
        Some(match value.to_ascii_lowercase().as_slice() {
            b"gzip" | b"x-gzip" => Self::Gzip,
            b"br" => Self::Brotli,
            b"deflate" => Self::Deflate,
            b"zstd" => Self::Zstd,
            _ => Self::Other,
        })
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
            Self::Other => "(unknown)",
        })
    }
}

/// `https` can't be used on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`https` can't be used, because this machine has no certificate authorities. Install `ca-certificates`, or set \
    `SSL_CERT_FILE`."
)]
pub struct NoCertificates;

/// Why a connection failed. The library's own message is not kept, because it may quote the other end's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The system's reason.
    Io(io::ErrorKind),
    /// The host name can't be resolved.
    Dns,
    /// The other end's certificate is not trusted, has expired, or is for another name.
    Certificate,
    /// The other end does not speak TLS.
    Tls,
    /// The other end's answer is not valid HTTP.
    Http,
    /// The proxy did not connect.
    Proxy,
    /// The other end closed the connection without an answer.
    Closed,
    /// It took too long to connect.
    ConnectTimeout,
    /// Another reason.
    Other,
}

impl Cause {
    pub(crate) fn of(error: &reqwest::Error) -> Self {
        if error.is_timeout() && error.is_connect() {
            return Self::ConnectTimeout;
        }
        let mut link: Option<&(dyn Error + 'static)> = Some(error);
        let mut cause = Self::Other;
        while let Some(error) = link {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                if error.raw_os_error().is_some() {
                    return Self::Io(error.kind());
                } else if error.kind() == io::ErrorKind::UnexpectedEof {
                    cause = Self::Closed;
                }
            }
            // The wording of the libraries below. If it changes, the cause becomes `Other`.
            let text = error.to_string();
            if text.contains("invalid peer certificate") || text.contains("certificate verify") {
                return Self::Certificate;
            } else if text.contains("received corrupt message") {
                return Self::Tls;
            } else if text.contains("invalid HTTP") || text.contains("message head is too large") {
                return Self::Http;
            } else if text.contains("tunnel error") || text.contains("unsuccessful tunnel") {
                return Self::Proxy;
            } else if text.contains("dns error") {
                return Self::Dns;
            } else if text.contains("closed before message completed")
                || text.contains(
                    "end of file before \
            message",
                )
            {
                cause = Self::Closed;
            }
            link = error.source();
        }
        cause
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(kind) => write!(f, "{kind}"),
            Self::Dns => f.write_str("its host name can't be resolved"),
            Self::Certificate => f.write_str("its certificate is not trusted"),
            Self::Tls => f.write_str("it does not speak TLS"),
            Self::Http => f.write_str("its answer is not valid HTTP"),
            Self::Proxy => f.write_str("the proxy did not connect"),
            Self::Closed => f.write_str("it closed the connection"),
            Self::ConnectTimeout => f.write_str("connecting took too long"),
            Self::Other => f.write_str("the connection failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    fn claims() -> Box<UnverifiedClaims> {
        Box::new(UnverifiedClaims {
            iss: Some("https://oidc.vercel.com/acme".to_owned()),
            aud: vec!["https://vercel.com/acme".to_owned()],
            sub: Some("owner:acme:project:shop:environment:preview".to_owned()),
            exp: Some(1_790_000_000.0),
        })
    }

    /// Every kind of token error, each with the longest parts that are usual.
    fn token_errors() -> Vec<TokenError> {
        let path = PathBuf::from("/secret/path");
        let url = "https://exchange.example/path".to_owned();
        let command = "vercel project token prj_7Gw5ZMBpQA8h9GF832KGp7nwbuh3 --format=json \
             --scope team_7Gw5ZMzpQA8h90F832KGp7nwbuh3"
            .to_owned();
        let mut errors = vec![
            TokenError::Missing,
            TokenError::ProjectFile { path: path.clone() },
            TokenError::NoCli { command: command.clone(), cause: ErrorKind::NotFound },
            TokenError::CliTimeout { command: command.clone() },
            TokenError::CliFailed { command: command.clone() },
            TokenError::CliOutput { command: command.clone() },
            TokenError::CliToken { command, slip: Slip::Characters },
            TokenError::CliExpired,
            TokenError::ExchangeTimeout,
            TokenError::ExchangeRefused {
                status: StatusCode::FORBIDDEN,
                audience: "https://orders.example".to_owned(),
                claims: claims(),
            },
            TokenError::NoCertificates(NoCertificates),
            TokenError::Interrupted,
        ];
        for problem in [FileProblem::Io(ErrorKind::PermissionDenied), FileProblem::NotRegular, FileProblem::TooLarge] {
            errors.push(TokenError::File { path: path.clone(), problem });
        }
        for problem in [
            AnswerProblem::NoToken,
            AnswerProblem::NotJwt(Slip::Characters),
            AnswerProblem::Encoded(Encoding::Other),
            AnswerProblem::TooLarge,
        ] {
            errors.push(TokenError::ExchangeAnswer { problem, url: url.clone() });
        }
        for cause in causes() {
            errors.push(TokenError::ExchangeUnreachable { cause, url: url.clone() });
        }
        for found in [Source::Header, Source::InternalHeader, Source::File, Source::Variable, Source::Refreshed] {
            for slip in [Slip::Empty, Slip::Quotes, Slip::Bearer, Slip::Name, Slip::Characters, Slip::NotJwt] {
                errors.push(TokenError::Malformed { found, slip });
            }
            errors.push(TokenError::Expired { found, claims: claims() });
            errors.push(TokenError::NotLinked { found });
        }
        errors
    }

    fn causes() -> [Cause; 9] {
        [
            Cause::Io(ErrorKind::ConnectionRefused),
            Cause::Dns,
            Cause::Certificate,
            Cause::Tls,
            Cause::Http,
            Cause::Proxy,
            Cause::Closed,
            Cause::ConnectTimeout,
            Cause::Other,
        ]
    }

    fn api_errors() -> Vec<ApiError> {
        let url = "https://api.example/path".to_owned();
        let status = StatusCode::OK;
        let longest = "x".repeat(64);
        let mut errors = vec![
            ApiError::NoCertificates(NoCertificates),
            ApiError::Body,
            ApiError::Timeout { url: url.clone() },
            ApiError::Redirected { status: StatusCode::FOUND, to_sign_in: true },
            ApiError::Redirected { status: StatusCode::FOUND, to_sign_in: false },
            ApiError::NotJson { status, line: 100_000, column: 100_000 },
            ApiError::TooLarge { status, max_bytes: 1_048_576 },
        ];
        for problem in [
            PathProblem::Start,
            PathProblem::Backslash,
            PathProblem::DotSegment,
            PathProblem::Query,
            PathProblem::Control,
        ] {
            errors.push(ApiError::Path(problem));
        }
        for cause in causes() {
            errors.push(ApiError::Unreachable { cause, url: url.clone() });
            errors.push(ApiError::Broken { status, cause });
        }
        for encoding in [Encoding::Gzip, Encoding::Brotli, Encoding::Deflate, Encoding::Zstd, Encoding::Other] {
            errors.push(ApiError::Encoded { status, encoding });
            let refused = StatusCode::UNAUTHORIZED;
            errors.push(ApiError::Refused { status: refused, code: None, encoding: Some(encoding), claims: claims() });
        }
        let codes = ["missing_token", "invalid_request", "invalid_token", "forbidden", "keys_unavailable", &longest];
        for code in codes.map(|code| Some(code.to_owned())).into_iter().chain([None]) {
            for status in [400, 401, 403] {
                let status = StatusCode::from_u16(status).unwrap_or_default();
                errors.push(ApiError::Refused { status, code: code.clone(), encoding: None, claims: claims() });
            }
            for status in [429, 503] {
                let status = StatusCode::from_u16(status).unwrap_or_default();
                errors.push(ApiError::Unavailable { status, code: code.clone(), retry_after: None });
            }
            for status in [201, 404, 405, 407, 413, 415, 418, 422, 500, 502, 504, 599] {
                let status = StatusCode::from_u16(status).unwrap_or_default();
                errors.push(ApiError::Status { status, code: code.clone() });
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
        for problem in [
            UrlProblem::NoScheme,
            UrlProblem::NotHttps,
            UrlProblem::Scheme,
            UrlProblem::Backslash,
            UrlProblem::Quotes,
            UrlProblem::WhiteSpace,
            UrlProblem::UserInfo,
            UrlProblem::Query,
            UrlProblem::Fragment,
            UrlProblem::Invalid,
        ] {
            // A program may tell of two settings at once.
            let message = Misconfigured::new("`OIDC_TOKEN_EXCHANGE_URL`", problem).to_string();
            assert!(message.ends_with('.') && message.len() < 100, "{} characters: {message}", message.len());
        }
    }

    #[test]
    fn paths_urls_and_claims_are_in_the_log_only() {
        let mut logged = 0;
        for error in api_errors() {
            let (message, log) = (error.to_string(), error.log_detail());
            assert!(log.starts_with(&message), "{log}");
            for private in
                ["/secret/path", "example/path", "oidc.vercel.com/", "owner:acme", "1790000000", "orders.example"]
            {
                assert!(!message.contains(private), "{message}");
                logged += usize::from(log.contains(private));
            }
        }
        assert!(logged > 20, "{logged}");
    }
}
