//! A token: where it was found, whether it has the form of a JWT, and what can be read in it without trusting it.
//!
//! Guarantees: a [`Token`] has the form of a JWT, shows as `***` in every `Debug`, and can be sent as one header value.
//! Whether a token is genuine is for the API to decide, which is why all that is read here is called unverified.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use http::HeaderValue;

use crate::json;

/// Base64url without padding. The form is checked to catch mistakes before a token is sent, so unused bits may have any
/// value here. An API that verifies the token refuses such a spelling.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// A JWT that can be sent to an API. Anyone who has the text can use it, so `Debug` prints `***`.
#[derive(Clone)]
pub struct Token {
    text: Arc<str>,
    source: Source,
}

impl Token {
    /// Reads a token's text, without the white space around it.
    pub(crate) fn parse(text: &str, source: Source) -> Result<Self, Slip> {
        let text = text.trim();
        if is_jwt(text) { Ok(Self { text: text.into(), source }) } else { Err(Slip::of(text)) }
    }

    /// The token itself. Send it to its audience only, and never write it to a log.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Where the function's own token was found. An exchanged token has the source of the token it was exchanged for.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    /// The same text, shared.
    pub(crate) fn shared(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    /// A header value made of `prefix` and the token, marked sensitive.
    #[expect(clippy::expect_used, reason = "`parse` lets only the characters of base64url and dots through")]
    pub(crate) fn header_value(&self, prefix: &str) -> HeaderValue {
        let mut value = HeaderValue::try_from([prefix, self.expose()].concat()).expect("a JWT is visible ASCII");
        value.set_sensitive(true);
        value
    }

    /// The `exp` claim, not verified: good for noticing that a new token is due, and for nothing else.
    pub(crate) fn unverified_expiry(&self) -> Option<SystemTime> {
        let seconds = json::member::<f64>(&self.payload()?, "exp")?.max(0.0);
        UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
    }

    /// A claim that is a string, not verified.
    pub(crate) fn unverified_text(&self, claim: &str) -> Option<String> {
        json::member(&self.payload()?, claim)
    }

    /// What an operator compares with the API's settings after a refusal.
    pub(crate) fn unverified_claims(&self) -> UnverifiedClaims {
        let payload = self.payload().unwrap_or_default();
        let text = |name| json::member::<String>(&payload, name);
        UnverifiedClaims {
            iss: text("iss"),
            aud: text("aud").map(|one| vec![one]).or_else(|| json::member(&payload, "aud")).unwrap_or_default(),
            sub: text("sub"),
            exp: json::member(&payload, "exp"),
        }
    }

    fn payload(&self) -> Option<Vec<u8>> {
        BASE64URL.decode(self.text.split('.').nth(1)?).ok()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Three parts of base64url, none of them empty, of which the second is a JSON object (RFC 7519, section 7.2).
fn is_jwt(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let [header, payload, signature] = parts[..] else { return false };
    let decode = |part: &str| BASE64URL.decode(part).ok().filter(|bytes| !bytes.is_empty());
    decode(header).is_some()
        && decode(signature).is_some()
        && decode(payload).is_some_and(|json| json::is_object(&json))
}

/// Where the function's own token was found. `Display` prints the name that [`Source::name`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// The source in one word, as in a `Server-Timing` description.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Header => "x-vercel-oidc-token",
            Self::InternalHeader => "x-vercel-internal-oidc-token",
            Self::File => "file",
            Self::Variable => "variable",
            Self::Refreshed => "refreshed",
        }
    }

    /// The source in a sentence.
    pub(crate) fn described(self) -> &'static str {
        match self {
            Self::Header => "the header `x-vercel-oidc-token`",
            Self::InternalHeader => "the header `x-vercel-internal-oidc-token`",
            Self::File => "the file of `VERCEL_OIDC_TOKEN_FILE`",
            Self::Variable => "`VERCEL_OIDC_TOKEN`",
            Self::Refreshed => "the output of the Vercel CLI",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a text is no JWT, as far as one can tell: a common slip, or none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slip {
    /// There is nothing.
    Empty,
    /// There are quotes around it, as `docker --env-file .env.local` keeps them.
    Quotes,
    /// `Bearer ` stands before it.
    Bearer,
    /// `NAME=` stands before it.
    Name,
    /// White space or another character that no JWT has is in it.
    Characters,
    /// It is not three parts of base64url of which the second is a JSON object.
    NotJwt,
}

impl Slip {
    fn of(text: &str) -> Self {
        let is_quote = |c: char| matches!(c, '"' | '\'' | '`' | '\u{201c}' | '\u{201d}' | '\u{2018}' | '\u{2019}');
        let is_name = |text: &str| {
            let name = text.trim().trim_start_matches("export ").trim();
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        if text.is_empty() {
            Self::Empty
        } else if text.split_once('=').is_some_and(|(before, _)| is_name(before)) {
            Self::Name
        } else if text.starts_with(is_quote) || text.ends_with(is_quote) {
            Self::Quotes
        } else if text
            .split_whitespace()
            .next()
            .is_some_and(|word| word.trim_end_matches(':').eq_ignore_ascii_case("bearer"))
        {
            Self::Bearer
        } else if !text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
            Self::Characters
        } else {
            Self::NotJwt
        }
    }
}

impl fmt::Display for Slip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "it is empty",
            Self::Quotes => "it has quotes around it",
            Self::Bearer => "it begins with `Bearer`",
            Self::Name => "it begins with a name and `=`",
            Self::Characters => "it has characters that no JWT has",
            Self::NotJwt => "it has not the form of a JWT",
        })
    }
}

/// Claims of a token that was refused, for the operator's log. Nobody has verified these claims.
#[derive(Clone, Debug, PartialEq)]
pub struct UnverifiedClaims {
    /// The issuer.
    pub iss: Option<String>,
    /// The audiences.
    pub aud: Vec<String>,
    /// The subject.
    pub sub: Option<String>,
    /// The time of expiry, in seconds since 1970.
    pub exp: Option<f64>,
}

impl fmt::Display for UnverifiedClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown =
            |claim: Option<&str>| claim.map_or_else(|| "none".to_owned(), |text| format!("`{}`", escaped(text)));
        let (iss, sub) = (shown(self.iss.as_deref()), shown(self.sub.as_deref()));
        let aud = self.aud.iter().map(|one| shown(Some(one))).take(5).collect::<Vec<_>>().join(" ");
        let aud = if aud.is_empty() { "none" } else { &aud };
        write!(f, "iss={iss} aud={aud} sub={sub} exp=")?;
        match self.exp.filter(|exp| exp.abs() < 1e15) {
            Some(exp) => write!(f, "{exp}"),
            None => f.write_str("none"),
        }
    }
}

/// A text on one line of a log: control characters escaped, cut at 200 characters.
pub(crate) fn escaped(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
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
        let bearer = token.header_value("Bearer ");
        assert_eq!(format!("{token:?} {token:#?} {bearer:?}"), "*** *** Sensitive");
        assert_eq!(bearer, format!("Bearer {}", jwt("{}")));
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
            assert_eq!(Token::parse(&jwt(payload), Source::Header).unwrap_err(), Slip::NotJwt, "{payload}");
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
            assert_eq!(Token::parse(bad, Source::Header).unwrap_err(), Slip::NotJwt, "{bad}");
        }
    }

    #[test]
    fn each_slip_is_named() {
        let good = jwt("{}");
        for (text, slip) in [
            (" ".to_owned(), Slip::Empty),
            (format!("\"{good}\""), Slip::Quotes),
            (format!("'{good}'"), Slip::Quotes),
            (format!("{good}\""), Slip::Quotes),
            (format!("Bearer {good}"), Slip::Bearer),
            (format!("bearer  {good}"), Slip::Bearer),
            ("Bearer".to_owned(), Slip::Bearer),
            (format!("VERCEL_OIDC_TOKEN={good}"), Slip::Name),
            (format!("VERCEL_OIDC_TOKEN=\"{good}\""), Slip::Name),
            (format!("export TOKEN = {good}"), Slip::Name),
            (format!("{good} {good}"), Slip::Characters),
            (format!("{good}\nx-evil: 1"), Slip::Characters),
            (format!("{good}="), Slip::Characters),
            (format!("{good}\0"), Slip::Characters),
            (format!("{good}é"), Slip::Characters),
        ] {
            assert_eq!(Token::parse(&text, Source::File).unwrap_err(), slip, "{text:?}");
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
        assert_eq!(token(r#"{"owner_id": "team_a"}"#).unverified_text("owner_id").as_deref(), Some("team_a"));
        let magic = r#"{"owner_id": {"$serde_json::private::RawValue": "\"team_a\""}}"#;
        assert_eq!(token(magic).unverified_text("owner_id"), None);
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
