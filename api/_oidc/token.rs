//! A token: its source, its form, and its unverified claims.
//!
//! Guarantees: a [`Token`] has the form of a JWT, shows as `***` in every `Debug`, and can be sent as one header value.
//! Only the API can tell whether a token is genuine, so everything that is read here is called unverified.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use http::HeaderValue;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::json::{self, if_valid};

/// Base64url without padding. The form is checked to catch mistakes before a token is sent, so unused bits may have any
/// value here. An API that verifies the token refuses such a spelling.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// An API with the usual allowance for clock skew still accepts a token that has just expired. The verifier of this
/// crate's repository allows 30 s by default.
const LEEWAY: Duration = Duration::from_secs(30);

/// A JWT that can be sent to an API. Anyone who has the text can use it, so `Debug` prints `***`.
#[derive(Clone)]
pub struct Token {
    text: Arc<str>,
    /// The token as a header value, and with `Bearer ` before it. Both are marked sensitive.
    pub(crate) header: HeaderValue,
    pub(crate) bearer: HeaderValue,
    source: Source,
    is_exchanged: bool,
    unverified_expiry: Option<SystemTime>,
}

impl Token {
    /// Reads a token's text, without the white space around it. The error names the likely mistake.
    pub(crate) fn parse(text: &str, source: Source) -> Result<Self, &'static str> {
        let text = text.trim();
        let values = read_jwt(text).map(|jwt| (jwt, sensitive(text), sensitive(&["Bearer ", text].concat())));
        let Some((Jwt { unverified_expiry }, Some(header), Some(bearer))) = values else {
            return Err(likely_mistake(text));
        };
        Ok(Self { text: text.into(), header, bearer, source, is_exchanged: false, unverified_expiry })
    }

    /// The token itself. Send it to its audience only, and never write it to a log.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Where the function's own token was found. An exchanged token has the source of the function's own token.
    pub fn source(&self) -> Source {
        self.source
    }

    pub(crate) fn into_exchanged(self) -> Self {
        Self { is_exchanged: true, ..self }
    }

    pub(crate) fn is_exchanged(&self) -> bool {
        self.is_exchanged
    }

    /// Tells a test whether the text is still held.
    #[cfg(test)]
    pub(crate) fn downgrade(&self) -> std::sync::Weak<str> {
        Arc::downgrade(&self.text)
    }

    /// The `exp` claim, not verified. It decides whether a new token is due, and which token is not worth sending.
    pub(crate) fn unverified_expiry(&self) -> Option<SystemTime> {
        self.unverified_expiry
    }

    /// How long ago the token expired, not verified. `None` if an API may still accept it.
    pub(crate) fn unverified_expired(&self, now: SystemTime) -> Option<Duration> {
        now.duration_since(self.unverified_expiry()?).ok().filter(|ago| *ago >= LEEWAY)
    }

    /// The claims, not verified: for the operator's log, and to refresh an expired token.
    pub(crate) fn unverified_claims(&self) -> UnverifiedClaims {
        let payload = self.text.split('.').nth(1).and_then(|payload| BASE64URL.decode(payload).ok());
        payload.and_then(|payload| json::object(&payload)).unwrap_or_default()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether a text has a token in it, or the beginning of one.
pub(crate) fn looks_like_a_token(text: &str) -> bool {
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // A header or payload that begins with `{"` begins with `eyJ` in base64.
    text.contains("eyJ") || text.split(|c| !is_of_token(c)).any(|text| read_jwt(text).is_some())
}

/// What each use of a token needs of its payload, which is decoded once.
struct Jwt {
    unverified_expiry: Option<SystemTime>,
}

/// Reads three parts of base64url, none of them empty, of which the second is a JSON object (RFC 7519, section 7.2).
fn read_jwt(text: &str) -> Option<Jwt> {
    #[derive(Deserialize)]
    struct Claims {
        #[serde(default, deserialize_with = "if_valid")]
        exp: Option<f64>,
    }
    let parts: Vec<&str> = text.split('.').collect();
    let [header, payload, signature] = parts[..] else { return None };
    let is_base64url = |part: &str| {
        let is_of_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        // Four characters encode three bytes, and a single remaining character encodes none.
        !part.is_empty() && part.len() % 4 != 1 && part.bytes().all(is_of_alphabet)
    };
    if !is_base64url(header) || !is_base64url(signature) {
        return None;
    }
    let payload = BASE64URL.decode(payload).ok()?;
    let exp = match json::object::<Claims>(&payload) {
        Some(claims) => claims.exp,
        // A payload with two `exp` is an object, too.
        None => json::object::<IgnoredAny>(&payload).map(|_| None)?,
    };
    let lifetime = exp.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
    Some(Jwt { unverified_expiry: lifetime.and_then(|lifetime| UNIX_EPOCH.checked_add(lifetime)) })
}

/// Where the function's own token was found. `Display` prints one word, as in a `Server-Timing` description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// The request's header `x-vercel-oidc-token`.
    Header,
    /// The request's header `x-vercel-internal-oidc-token`.
    InternalHeader,
    /// The file that `VERCEL_OIDC_TOKEN_FILE` names.
    File,
    /// The variable `VERCEL_OIDC_TOKEN`.
    Variable,
    /// The Vercel CLI, because the token of the file or the variable had expired.
    Refreshed,
}

impl Source {
    /// The source in one word, and in a sentence.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Header => ("x-vercel-oidc-token", "the header `x-vercel-oidc-token`"),
            Self::InternalHeader => ("x-vercel-internal-oidc-token", "the header `x-vercel-internal-oidc-token`"),
            Self::File => ("file", "the file of `VERCEL_OIDC_TOKEN_FILE`"),
            Self::Variable => ("variable", "`VERCEL_OIDC_TOKEN`"),
            Self::Refreshed => ("refreshed", "the output of the Vercel CLI"),
        }
    }

    pub(crate) fn described(self) -> &'static str {
        self.names().1
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.names().0)
    }
}

/// Why a text is no JWT: the common mistake that it looks like, if there is one.
fn likely_mistake(text: &str) -> &'static str {
    let is_quote = |c: char| matches!(c, '"' | '\'' | '`' | '\u{201c}' | '\u{201d}' | '\u{2018}' | '\u{2019}');
    let is_name_character = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let before_equals = text.split_once('=').map(|(before, _)| before.trim_start_matches("export ").trim());
    let first_word = text.split(|c: char| c.is_whitespace() || c == ':').next().unwrap_or_default();
    if text.is_empty() {
        "it is empty"
    } else if before_equals.is_some_and(|before| !before.is_empty() && before.chars().all(is_name_character)) {
        "it begins with a name and `=`"
    } else if text.starts_with(is_quote) || text.ends_with(is_quote) {
        // `docker --env-file .env.local` keeps the quotes.
        "it has quotes around it"
    } else if first_word.eq_ignore_ascii_case("bearer") {
        "it begins with `Bearer`"
    } else if !text.chars().all(|c| is_name_character(c) || matches!(c, '-' | '.')) {
        "it has characters that no JWT has"
    } else {
        "it does not have the form of a JWT"
    }
}

/// Claims whose signature is not verified.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct UnverifiedClaims {
    #[serde(deserialize_with = "if_valid")]
    iss: Option<String>,
    #[serde(deserialize_with = "audiences")]
    aud: Vec<String>,
    #[serde(deserialize_with = "if_valid")]
    sub: Option<String>,
    /// Seconds since 1970.
    #[serde(deserialize_with = "if_valid")]
    exp: Option<f64>,
    #[serde(deserialize_with = "if_valid")]
    pub(crate) owner_id: Option<String>,
    #[serde(deserialize_with = "if_valid")]
    pub(crate) project_id: Option<String>,
}

/// A string, or an array of strings.
fn audiences<'de, D: Deserializer<'de>>(member: D) -> Result<Vec<String>, D::Error> {
    let json = <&RawValue>::deserialize(member)?.get();
    Ok(serde_json::from_str(json).or_else(|_| serde_json::from_str(json).map(|aud| vec![aud])).unwrap_or_default())
}

/// What an operator compares with the API's settings after a refusal.
impl fmt::Display for UnverifiedClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |claims: &[String]| match claims {
            [] => "none".to_owned(),
            _ => claims.iter().take(5).map(|claim| in_backticks(claim)).collect::<Vec<_>>().join(" "),
        };
        let [iss, sub] = [&self.iss, &self.sub].map(|claim| shown(claim.as_slice()));
        let exp = self.exp.filter(|exp| exp.abs() < 1e15).map_or("none".to_owned(), |exp| exp.to_string());
        write!(f, "iss={iss} aud={} sub={sub} exp={exp}", shown(&self.aud))
    }
}

/// A text on one line of a log, in backticks: control characters escaped, cut at 200 characters.
pub(crate) fn in_backticks(text: &str) -> String {
    format!("`{}`", text.chars().take(200).flat_map(char::escape_debug).collect::<String>())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    fn token(claims: &str) -> Token {
        Token::parse(&jwt(claims), Source::Variable).unwrap()
    }

    #[test]
    fn a_token_does_not_show() {
        let token = token("{}");
        let shown = format!("{token:?} {token:#?} {:?} {:?}", token.header, token.bearer);
        assert_eq!(shown, "*** *** Sensitive Sensitive");
        assert_eq!(
            (token.header, token.bearer),
            (jwt("{}").parse().unwrap(), format!("Bearer {}", jwt("{}")).parse().unwrap())
        );
    }

    #[test]
    fn white_space_around_a_token_is_removed() {
        assert_eq!(Token::parse(" \te30.e30.c2ln\r\n", Source::File).unwrap().expose(), "e30.e30.c2ln");
    }

    #[test]
    fn a_token_is_three_parts_of_base64url_with_a_json_object_in_the_second() {
        let good = jwt("{}");
        assert!(Token::parse(&good, Source::Header).is_ok());
        // Unused bits may have any value: `c2l` and `c2k` decode to the same bytes.
        assert!(Token::parse("e30.e30.c2l", Source::Header).is_ok());
        for payload in ["[]", "7", "\"x\"", "null", "{", "{} {}", "not json", ""] {
            assert_eq!(
                Token::parse(&jwt(payload), Source::Header).unwrap_err(),
                "it does not have the form of a JWT",
                "{payload}"
            );
        }
        for bad in [
            "not-a-jwt",
            "a",
            "e30.e30",
            "e30.e30.",
            ".e30.c2ln",
            "e30.e30.c2ln.c2ln",
            "e30.e30.a",
            "a.b.c",
            "e30.e3.c2ln",
        ] {
            assert_eq!(Token::parse(bad, Source::Header).unwrap_err(), "it does not have the form of a JWT", "{bad}");
        }
    }

    #[test]
    fn each_mistake_is_named() {
        let good = jwt("{}");
        for (text, mistake) in [
            (" ".to_owned(), "it is empty"),
            (format!("\"{good}\""), "it has quotes around it"),
            (format!("'{good}'"), "it has quotes around it"),
            (format!("{good}\""), "it has quotes around it"),
            (format!("Bearer {good}"), "it begins with `Bearer`"),
            (format!("bearer  {good}"), "it begins with `Bearer`"),
            ("Bearer".to_owned(), "it begins with `Bearer`"),
            (format!("VERCEL_OIDC_TOKEN={good}"), "it begins with a name and `=`"),
            (format!("VERCEL_OIDC_TOKEN=\"{good}\""), "it begins with a name and `=`"),
            (format!("export TOKEN = {good}"), "it begins with a name and `=`"),
            (format!("{good} {good}"), "it has characters that no JWT has"),
            (format!("{good}\nx-evil: 1"), "it has characters that no JWT has"),
            (format!("{good}="), "it has characters that no JWT has"),
            (format!("{good}\0"), "it has characters that no JWT has"),
            (format!("{good}é"), "it has characters that no JWT has"),
        ] {
            assert_eq!(Token::parse(&text, Source::File).unwrap_err(), mistake, "{text:?}");
        }
    }

    #[test]
    fn the_expiry_is_read_if_it_is_a_number() {
        let seconds = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs_f64(seconds));
        for (claims, expiry) in [
            (r#"{"exp": 1000}"#, seconds(1000.0)),
            (r#"{"exp": 1000.5}"#, seconds(1000.5)),
            (r#"{"exp": -1}"#, seconds(0.0)),
            (r#"{"exp": 1e300}"#, None),
            (r#"{"exp": "1000"}"#, None),
            (r#"{"exp": null}"#, None),
            (r#"{"exp": 1, "exp": 2}"#, None),
            ("{}", None),
        ] {
            assert_eq!(token(claims).unverified_expiry(), expiry, "{claims}");
        }
    }

    #[test]
    fn a_text_claim_is_a_json_string_and_nothing_else() {
        assert_eq!(token(r#"{"owner_id": "team_a"}"#).unverified_claims().owner_id.as_deref(), Some("team_a"));
        let magic = r#"{"owner_id": {"$serde_json::private::RawValue": "\"team_a\""}}"#;
        assert_eq!(token(magic).unverified_claims().owner_id, None);
    }

    #[test]
    fn claims_are_shown_on_one_line_and_cut() {
        let claims = token(r#"{"iss": "i", "aud": ["a", "b"], "sub": "two\nlines", "exp": 7}"#).unverified_claims();
        assert_eq!(claims.to_string(), r"iss=`i` aud=`a` `b` sub=`two\nlines` exp=7");
        let claims = token(r#"{"iss": 1, "aud": "a", "exp": 1e300}"#).unverified_claims();
        assert_eq!(claims.to_string(), "iss=none aud=`a` sub=none exp=none");
        let long = token(&format!(r#"{{"sub": "{}"}}"#, "z".repeat(1000))).unverified_claims();
        assert_eq!(long.to_string().matches('z').count(), 200);
    }
}
