//! URLs that a token may be sent to: `https`, or `http` to this machine.

use std::net::Ipv4Addr;

use reqwest::Url;

use crate::error::Misconfigured;

const NO_SCHEME: &str = "has no scheme. Begin it with `https://` (loopback: `http://`)";
const INVALID: &str = "is not a valid URL. It should look like `https://api.example.com`";

/// Reads a URL that a token may be sent to. A query is allowed.
pub(crate) fn parse(setting: &str, text: &str) -> Result<Url, Misconfigured> {
    check(text.trim()).map_err(|problem| Misconfigured { setting: setting.to_owned(), problem })
}

/// Reads a URL that paths are appended to.
pub(crate) fn parse_base(text: &str) -> Result<Url, Misconfigured> {
    let (setting, problem) = ("The base URL", "has a query. Remove the `?` and what follows it");
    let url = parse(setting, text)?;
    if url.query().is_none() { Ok(url) } else { Err(Misconfigured { setting: setting.to_owned(), problem }) }
}

fn check(text: &str) -> Result<Url, &'static str> {
    if text.contains(['"', '\'']) {
        return Err("has quotes in it. Remove the quotes");
    }
    if text.contains('\\') {
        return Err("has a backslash in it. Remove the backslash and what follows it");
    }
    // The parser skips tabs and line breaks, and escapes spaces.
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("has white space in it. Remove the white space");
    }
    // The parser reads `localhost:3001` as scheme `localhost`, and `https:example.com` as `https://example.com`.
    let (scheme, rest) = text.split_once("://").ok_or(NO_SCHEME)?;
    if scheme.is_empty() || scheme.contains(['/', '?', '#', '@', ':']) {
        return Err(NO_SCHEME);
    }
    if !["https", "http"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err("has a scheme that is not supported. Begin it with `https://`");
    }
    if rest.starts_with(['/', '?', '#']) {
        return Err(INVALID);
    }
    let url = Url::parse(text).map_err(|_| INVALID)?;
    if rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@')) {
        return Err("has a user name or password in it. Remove everything up to the `@`");
    }
    if url.fragment().is_some() {
        return Err("has a fragment. Remove the `#` and what follows it");
    }
    if url.scheme() != "https" && !is_loopback(&url) {
        return Err("must be `https`. Only a loopback host may have `http`");
    }
    Ok(url)
}

/// Whether the host is this machine: `127.0.0.0/8`, `[::1]` or `localhost`.
pub(crate) fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        host == "localhost" || host == "[::1]" || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
    })
}

/// The URL without its query, for a log.
pub(crate) fn for_log(url: &Url) -> String {
    url.origin().ascii_serialization() + url.path()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn loopback_may_have_http_in_every_spelling() {
        for host in ["127.0.0.1", "127.1.2.3", "127.1", "[::1]", "localhost", "LOCALHOST"] {
            assert_eq!(parse("It", &format!("http://{host}:3001/")).unwrap().scheme(), "http", "{host}");
        }
        for host in ["128.0.0.1", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "localhost.evil.example", "localhost."] {
            let error = parse("It", &format!("http://{host}")).unwrap_err();
            assert!(error.to_string().starts_with("It must be `https`."), "{host}: {error}");
            assert!(parse("It", &format!("https://{host}")).is_ok(), "{host}");
        }
    }

    #[test]
    fn each_mistake_is_told_apart() {
        for (text, problem) in [
            ("localhost:3001", "has no scheme"),
            ("api.example.com", "has no scheme"),
            ("api.example.com/?next=https://example.com", "has no scheme"),
            ("//api.example.com", "has no scheme"),
            ("://api.example.com", "has no scheme"),
            ("https:api.example.com", "has no scheme"),
            ("https:/api.example.com", "has no scheme"),
            ("127.0.0.1:3001", "has no scheme"),
            ("", "has no scheme"),
            ("http://api.example.com", "must be `https`"),
            ("http://192.168.0.1", "must be `https`"),
            ("HTTP://api.example.com", "must be `https`"),
            ("ftp://127.0.0.1", "has a scheme that is not supported"),
            ("file:///etc/passwd", "has a scheme that is not supported"),
            ("ws://127.0.0.1", "has a scheme that is not supported"),
            (r"http://127.0.0.1:3001\n", "has a backslash"),
            (r"https:\\api.example.com", "has a backslash"),
            (r#""https://api.example.com""#, "has quotes"),
            ("'https://api.example.com'", "has quotes"),
            ("https://api.example.com /v1", "has white space"),
            ("https://api.exa\nmple.com", "has white space"),
            ("https://user@api.example.com", "has a user name"),
            ("https://user:password@api.example.com", "has a user name"),
            ("https://@api.example.com", "has a user name"),
            ("http://127.0.0.1@api.example.com", "has a user name"),
            ("https://api.example.com/?a=b", "has a query"),
            ("https://api.example.com?", "has a query"),
            ("https://api.example.com/#a", "has a fragment"),
            ("https://api.example.com#", "has a fragment"),
            ("https://", "is not a valid URL"),
            ("https:///path", "is not a valid URL"),
            ("https://?", "is not a valid URL"),
            ("https://api.example.com:port", "is not a valid URL"),
            ("https://[::1", "is not a valid URL"),
        ] {
            // A program may tell of two settings at once.
            let message = parse_base(text).unwrap_err().named("`OIDC_TOKEN_EXCHANGE_URL`").to_string();
            assert!(message.starts_with(&format!("`OIDC_TOKEN_EXCHANGE_URL` {problem}")), "{text}: {message}");
            assert!(message.ends_with('.') && message.len() < 100, "{} characters: {message}", message.len());
        }
    }

    #[test]
    fn a_url_is_taken_as_written() {
        for (text, url) in [
            ("https://api.example.com", "https://api.example.com/"),
            ("https://api.example.com/v1", "https://api.example.com/v1"),
            (" https://api.example.com/v1/ ", "https://api.example.com/v1/"),
            ("https://api.example.com/@me", "https://api.example.com/@me"),
        ] {
            assert_eq!(parse_base(text).unwrap().as_str(), url);
        }
        assert_eq!(parse("It", "https://example.com/token?tenant=a").unwrap().query(), Some("tenant=a"));
    }

    #[test]
    fn a_log_shows_no_query() {
        assert_eq!(for_log(&parse("It", "https://example.com/token?key=secret").unwrap()), "https://example.com/token");
    }
}
