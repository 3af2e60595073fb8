//! URLs that a token may be sent to: `https`, or `http` to this machine.

use std::net::Ipv4Addr;

use reqwest::Url;

use crate::error::UrlProblem;

/// Reads a URL that a token may be sent to. A query is allowed.
pub(crate) fn parse(text: &str) -> Result<Url, UrlProblem> {
    let text = text.trim();
    if text.contains(['"', '\'']) {
        return Err(UrlProblem::Quotes);
    }
    if text.contains('\\') {
        return Err(UrlProblem::Backslash);
    }
    // The parser skips tabs and line breaks, and escapes spaces.
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(UrlProblem::WhiteSpace);
    }
    // The parser reads `localhost:3001` as scheme `localhost`, and `https:example.com` as `https://example.com`.
    let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| !scheme.contains(['/', '?', '#', '@', ':']))
    else {
        return Err(UrlProblem::NoScheme);
    };
    if scheme.is_empty() {
        return Err(UrlProblem::NoScheme);
    }
    if !["https", "http"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(UrlProblem::Scheme);
    }
    if rest.starts_with(['/', '?', '#']) {
        return Err(UrlProblem::Invalid);
    }
    let url = Url::parse(text).map_err(|_| UrlProblem::Invalid)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(UrlProblem::UserInfo);
    }
    if url.fragment().is_some() {
        return Err(UrlProblem::Fragment);
    }
    if url.scheme() != "https" && !is_loopback(&url) {
        return Err(UrlProblem::NotHttps);
    }
    Ok(url)
}

/// Reads a URL that paths are appended to.
pub(crate) fn parse_base(text: &str) -> Result<Url, UrlProblem> {
    let url = parse(text)?;
    if url.query().is_some() { Err(UrlProblem::Query) } else { Ok(url) }
}

/// Whether the host is this machine: `127.0.0.0/8`, `[::1]` or `localhost`.
pub(crate) fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        host == "localhost" || host == "[::1]" || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
    })
}

/// The URL without its query, for a log.
pub(crate) fn for_log(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.into()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn loopback_may_have_http_in_every_spelling() {
        for host in ["127.0.0.1", "127.1.2.3", "127.1", "[::1]", "localhost", "LOCALHOST"] {
            assert_eq!(parse(&format!("http://{host}:3001/")).unwrap().scheme(), "http", "{host}");
        }
        for host in ["128.0.0.1", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "localhost.evil.example", "localhost."] {
            assert_eq!(parse(&format!("http://{host}")), Err(UrlProblem::NotHttps), "{host}");
            assert!(parse(&format!("https://{host}")).is_ok(), "{host}");
        }
    }

    #[test]
    fn each_mistake_is_told_apart() {
        for (text, problem) in [
            ("localhost:3001", UrlProblem::NoScheme),
            ("api.example.com", UrlProblem::NoScheme),
            ("api.example.com/?next=https://example.com", UrlProblem::NoScheme),
            ("//api.example.com", UrlProblem::NoScheme),
            ("://api.example.com", UrlProblem::NoScheme),
            ("https:api.example.com", UrlProblem::NoScheme),
            ("https:/api.example.com", UrlProblem::NoScheme),
            ("127.0.0.1:3001", UrlProblem::NoScheme),
            ("", UrlProblem::NoScheme),
            ("http://api.example.com", UrlProblem::NotHttps),
            ("http://192.168.0.1", UrlProblem::NotHttps),
            ("HTTP://api.example.com", UrlProblem::NotHttps),
            ("ftp://127.0.0.1", UrlProblem::Scheme),
            ("file:///etc/passwd", UrlProblem::Scheme),
            ("ws://127.0.0.1", UrlProblem::Scheme),
            (r"http://127.0.0.1:3001\n", UrlProblem::Backslash),
            (r"https:\\api.example.com", UrlProblem::Backslash),
            (r#""https://api.example.com""#, UrlProblem::Quotes),
            ("'https://api.example.com'", UrlProblem::Quotes),
            ("https://api.example.com /v1", UrlProblem::WhiteSpace),
            ("https://api.exa\nmple.com", UrlProblem::WhiteSpace),
            ("https://user@api.example.com", UrlProblem::UserInfo),
            ("https://user:password@api.example.com", UrlProblem::UserInfo),
            ("https://@api.example.com", UrlProblem::UserInfo),
            ("http://127.0.0.1@api.example.com", UrlProblem::UserInfo),
            ("https://api.example.com/?a=b", UrlProblem::Query),
            ("https://api.example.com?", UrlProblem::Query),
            ("https://api.example.com/#a", UrlProblem::Fragment),
            ("https://api.example.com#", UrlProblem::Fragment),
            ("https://", UrlProblem::Invalid),
            ("https:///path", UrlProblem::Invalid),
            ("https://?", UrlProblem::Invalid),
            ("https://api.example.com:port", UrlProblem::Invalid),
            ("https://[::1", UrlProblem::Invalid),
        ] {
            assert_eq!(parse_base(text), Err(problem), "{text}");
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
        assert_eq!(parse("https://example.com/token?tenant=a").unwrap().query(), Some("tenant=a"));
    }

    #[test]
    fn a_log_shows_no_query() {
        assert_eq!(for_log(&parse("https://example.com/token?key=secret").unwrap()), "https://example.com/token");
    }
}
