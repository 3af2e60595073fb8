//! Paths below the base URL: what is appended, and what is refused because it could lead elsewhere.
//!
//! Guarantees: the URL that is sent begins with the base URL. A path is refused if a server may read one of its segments
//! as `.` or `..`, in any of the spellings that servers, proxies and frameworks are known to decode.

use reqwest::Url;

use crate::error::ApiError;

/// Appends a path to the base URL, unless it could lead elsewhere.
pub(crate) fn join(base: &Url, path: &str) -> Result<Url, ApiError> {
    let problem = if path.contains('\\') {
        "path has a backslash. Percent-encode it as `%5C`"
    } else if path.contains(|c: char| c.is_control()) {
        // The URL parser skips tabs and line breaks, which could make dots meet.
        "path has a control character. Remove it"
    } else if !path.starts_with('/') || path.starts_with("//") {
        "path does not begin with exactly one `/`. Write `/orders`, for example"
    } else if path.contains(['?', '#']) {
        "path has a `?` or `#`. Use `query`, or percent-encode the character"
    } else if has_dots(path) {
        "path has a segment that servers may read as `.` or `..`. Remove the segment"
    } else {
        let mut url = base.clone();
        url.set_path(&[base.path().strip_suffix('/').unwrap_or(base.path()), path].concat());
        return Ok(url);
    };
    Err(ApiError::Request { problem })
}

/// Spellings of dots and slashes other than percent-encoded ASCII.
const SPELLINGS: [(&[u8], &[u8]); 26] = [
    // Overlong UTF-8 (CVE-2008-2938).
    (b"\xc0\xae", b"."),
    (b"\xe0\x80\xae", b"."),
    (b"\xf0\x80\x80\xae", b"."),
    (b"\xc0\xaf", b"/"),
    (b"\xe0\x80\xaf", b"/"),
    (b"\xf0\x80\x80\xaf", b"/"),
    (b"\xc1\x9c", b"/"),
    (b"\xe0\x81\x9c", b"/"),
    // The same with a second byte that is not checked (CVE-2000-0884).
    (b"\xc0.", b"."),
    (b"\xc0/", b"/"),
    (b"\xc0\\", b"/"),
    (b"\xc1\x1c", b"/"),
    // Unicode that a best-fit mapping or NFKC turns into ASCII: U+FF0E, U+2024, U+2025, U+FF0F, U+FF3C, U+2044, U+2215,
    // U+2216.
    (b"\xef\xbc\x8e", b"."),
    (b"\xe2\x80\xa4", b"."),
    (b"\xe2\x80\xa5", b".."),
    (b"\xef\xbc\x8f", b"/"),
    (b"\xef\xbc\xbc", b"/"),
    (b"\xe2\x81\x84", b"/"),
    (b"\xe2\x88\x95", b"/"),
    (b"\xe2\x88\x96", b"/"),
    // The old form of IIS.
    (b"%u002e", b"."),
    (b"%uff0e", b"."),
    (b"%u002f", b"/"),
    (b"%u005c", b"/"),
    (b"%u2215", b"/"),
    (b"%u2216", b"/"),
];

/// Whether a server may read one of the segments as `.` or `..`. Some servers decode twice, so each level counts.
fn has_dots(path: &str) -> bool {
    let mut level = path.to_ascii_lowercase().into_bytes();
    loop {
        let text = SPELLINGS.iter().fold(level.clone(), |text, (from, to)| replaced(&text, from, to));
        if text.split(|byte| matches!(byte, b'/' | b'\\')).any(is_dots) {
            return true;
        }
        let next = decoded(&text);
        if next == level {
            return false;
        }
        level = next;
    }
}

/// Whether a segment is dots to some server. Tomcat and others ignore what follows a `;`, programs in C what follows a
/// NUL, a decoding proxy what follows a `?` or `#`. Windows ignores blanks and dots at the end.
fn is_dots(segment: &[u8]) -> bool {
    let is_blank = |byte: &u8| *byte <= b' ' || *byte == 0x7f;
    let is_dot_or_blank = |text: &[u8]| {
        let dots = text.iter().filter(|byte| **byte == b'.').count();
        let blanks = text.iter().filter(|byte| is_blank(byte)).count();
        // `...` is a name like any other.
        dots > 0 && dots + blanks == text.len() && (dots <= 2 || blanks > 0)
    };
    let until = |ends: &[u8]| segment.split(|byte| ends.contains(byte)).next().is_some_and(is_dot_or_blank);
    until(b";?#\0") || until(b";?#")
}

fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let (mut rest, mut result) = (text, Vec::with_capacity(text.len()));
    while let Some((first, others)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(from) {
            result.extend_from_slice(to);
            rest = after;
        } else {
            result.push(*first);
            rest = others;
        }
    }
    result
}

/// Decodes one level of percent-encoding, to lower case.
fn decoded(text: &[u8]) -> Vec<u8> {
    let (mut rest, mut result) = (text, Vec::with_capacity(text.len()));
    while let Some((first, others)) = rest.split_first() {
        let hex = rest.get(1..3).and_then(|hex| std::str::from_utf8(hex).ok());
        let is_hex = |hex: &&str| hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        let byte = hex.filter(is_hex).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte.filter(|_| *first == b'%') {
            Some(byte) => {
                result.push(byte.to_ascii_lowercase());
                rest = &rest[3..];
            }
            None => {
                result.push(*first);
                rest = others;
            }
        }
    }
    result
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::url::parse_base;

    #[test]
    fn a_path_is_appended_to_the_base_url() {
        for (base, path, url) in [
            ("https://a.example", "/", "https://a.example/"),
            ("https://a.example", "/orders", "https://a.example/orders"),
            ("https://a.example/", "/orders/", "https://a.example/orders/"),
            ("https://a.example/v1", "/orders", "https://a.example/v1/orders"),
            ("https://a.example/v1/", "/orders", "https://a.example/v1/orders"),
            ("https://a.example/v1", "/", "https://a.example/v1/"),
            ("https://a.example/v1", "/a/b%20c", "https://a.example/v1/a/b%20c"),
            ("https://a.example/v1", "/a b/é", "https://a.example/v1/a%20b/%C3%A9"),
            ("https://a.example/v1", "/a//b", "https://a.example/v1/a//b"),
            ("https://a.example/v1", "/...", "https://a.example/v1/..."),
            ("https://a.example/v1", "/.well-known/x", "https://a.example/v1/.well-known/x"),
            ("https://a.example/v1", "/a..b/c.", "https://a.example/v1/a..b/c."),
            ("https://a.example/v1", "/a;v=1..2/..b;c", "https://a.example/v1/a;v=1..2/..b;c"),
            ("https://a.example/v1", "/100%25", "https://a.example/v1/100%25"),
            ("https://a.example/v1", "/%25%25/%2", "https://a.example/v1/%25%25/%2"),
            ("https://a.example/v1", "/a%252fb", "https://a.example/v1/a%252fb"),
            ("https://a.example/v1", "/%F0%9F%8D%B5.", "https://a.example/v1/%F0%9F%8D%B5."),
            ("https://a.example/v1", "/@b.example:8/", "https://a.example/v1/@b.example:8/"),
            ("https://a.example/v1", "/https://b.example", "https://a.example/v1/https://b.example"),
        ] {
            assert_eq!(join(&parse_base(base).unwrap(), path).unwrap().as_str(), url, "{base} {path}");
        }
    }

    #[test]
    fn a_path_can_not_leave_the_base_url() {
        for (path, problem) in [
            ("", "does not begin"),
            ("orders", "does not begin"),
            ("//b.example", "does not begin"),
            ("https://b.example", "does not begin"),
            ("/\\b.example", "has a backslash"),
            ("\\\\b.example", "has a backslash"),
            ("/a\\..\\b", "has a backslash"),
            ("/.\t./a", "has a control character"),
            ("/\n/b.example", "has a control character"),
            ("/a\r\nx-evil: 1", "has a control character"),
            ("/a?b=c", "has a `?` or `#`"),
            ("/a#b", "has a `?` or `#`"),
        ] {
            let message = join(&parse_base("https://a.example/v1").unwrap(), path).unwrap_err().to_string();
            assert!(message.contains(&format!("because its path {problem}")), "{path}: {message}");
            assert!(message.len() <= 165, "{message}");
        }
    }

    #[test]
    fn what_a_server_may_read_as_dots_is_refused() {
        for path in [
            "/..",
            "/.",
            "/a/../b",
            "/a/..",
            "/./a",
            "/%2e%2e/a",
            "/%2E%2e/a",
            "/.%2E/a",
            "/%2e./a",
            "/%2e",
            "/a%2f..%2fb",
            "/a%2F%2e%2E%5Cb",
            // Path parameters: Tomcat, Jetty, Spring.
            "/..;/admin",
            "/..;x=1/admin",
            "/.;/admin",
            "/%2e%2e;/admin",
            "/..%3b/admin",
            "/a/..;",
            // Decoded twice, or three times.
            "/%252e%252e/a",
            "/..%252fa",
            "/%25252e%25252e/a",
            "/%%32%65%%32%65/a",
            // Overlong UTF-8.
            "/%c0%ae%c0%ae/a",
            "/%C0%AE./a",
            "/%e0%80%ae%e0%80%ae/a",
            "/..%c0%afa",
            "/..%c1%9ca",
            "/%25c0%25ae./a",
            // Bytes that are not UTF-8, as decoders that don't check the second byte read them.
            "/%c0%2e%c0%2e/a",
            "/..%c0%2fa",
            "/..%c0%5ca",
            "/..%c1%1ca",
            // Other dots and slashes.
            "/．．/a",
            "/%ef%bc%8e%ef%bc%8e/a",
            "/․․/a",
            "/‥/a",
            "/..／a",
            "/..＼a",
            "/%u002e%u002e/a",
            "/%uFF0E./a",
            "/..%u002fa",
            "/..%u2215a",
            "/..%u2216a",
            "/..%e2%88%95a",
            "/..%e2%88%96a",
            "/..%e2%81%84a",
            // NUL, blanks, and dots at the end.
            "/.%00./a",
            "/..%00/a",
            "/..%00.png",
            "/.. /a",
            "/..%20/a",
            "/. ./a",
            "/..%09/a",
            "/.. ./a",
            "/..%20./a",
            // A proxy that decodes before it routes.
            "/..%3fa",
            "/..%23a",
        ] {
            let message = join(&parse_base("https://a.example/v1").unwrap(), path).unwrap_err().to_string();
            assert!(message.contains("has a segment that servers may read as `.` or `..`"), "{path}: {message}");
        }
    }
}
