//! The challenge of a `WWW-Authenticate` header (RFC 9110, section 11.6.1): whether the API asks for a bearer token, and
//! with what error (RFC 6750, section 3).

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// A challenge of the scheme `Bearer`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Challenge {
    /// As it came: it is not checked for length or characters.
    pub(crate) error: Option<String>,
}

/// The first `Bearer` challenge that names an error, else any `Bearer` challenge.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<Challenge> {
    let mut found: Option<Challenge> = None;
    for value in headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()) {
        let mut is_bearer = false;
        for item in split_outside_of_quotes(value) {
            // An item is a parameter, or a scheme and the first parameter.
            let (first, rest) = item.split_once([' ', '\t']).unwrap_or((item, ""));
            let is_parameter = first.contains('=') || rest.trim_start().starts_with('=');
            if !is_parameter && !first.is_empty() {
                is_bearer = first.eq_ignore_ascii_case("bearer");
                if is_bearer {
                    found.get_or_insert_default();
                }
            }
            let parameter = if is_parameter { item } else { rest };
            if let Some((name, text)) = parameter.split_once('=').filter(|_| is_bearer)
                && name.trim().eq_ignore_ascii_case("error")
            {
                found.get_or_insert_default().error.get_or_insert(unquoted(text.trim()));
            }
        }
    }
    found
}

/// The parts between commas that are not in quotes.
fn split_outside_of_quotes(value: &str) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let parts = value.split(move |c| {
        let was_escaped = is_escaped;
        is_escaped = is_quoted && c == '\\' && !was_escaped;
        is_quoted ^= c == '"' && !was_escaped;
        c == ',' && !is_quoted
    });
    parts.map(str::trim)
}

/// A quoted string's content, or a token as it is. A code has no character that needs an escape.
fn unquoted(text: &str) -> String {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).to_owned()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn challenge(values: &[&str]) -> Option<Option<String>> {
        let values = values.iter().map(|value| (WWW_AUTHENTICATE, value.parse().unwrap()));
        bearer(&values.collect()).map(|challenge| challenge.error)
    }

    #[test]
    fn the_error_of_a_bearer_challenge_is_found() {
        let some = |error: &str| Some(Some(error.to_owned()));
        for (values, expected) in [
            (&["Bearer error=\"invalid_token\""][..], some("invalid_token")),
            (&["Bearer error=invalid_token"], some("invalid_token")),
            (&["bearer ERROR = \"invalid_token\""], some("invalid_token")),
            (&["Bearer realm=\"a, b\", error=\"invalid_token\", error_description=\"x\""], some("invalid_token")),
            (&["Bearer realm=\"a \\\", error=\\\"x\", error=\"insufficient_scope\""], some("insufficient_scope")),
            (&["Basic realm=\"a\", Bearer error=\"invalid_token\""], some("invalid_token")),
            (&["Bearer realm=\"a\", Basic realm=\"b\", error=\"x\""], Some(None)),
            (&["Basic realm=\"a\"", "Bearer", "Bearer error=\"invalid_token\""], some("invalid_token")),
            (&["Negotiate YWJj==, Bearer"], Some(None)),
            (&["Bearer"], Some(None)),
            (&["Bearer error_description=\"error=x\""], Some(None)),
            (&["Basic realm=\"Bearer error=x\""], None),
            (&["Basic realm=\"a\", error=\"x\""], None),
            (&["Bearerish error=\"x\"", "DPoP error=\"x\""], None),
            (&["", ",", "=", "\""], None),
            (&[], None),
        ] {
            assert_eq!(challenge(values), expected, "{values:?}");
        }
    }
}
