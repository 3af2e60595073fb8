//! The token once it is trusted: what its issuer says of the caller.
//!
//! The [`Verifier`](super::Verifier) makes [`Claims`] only from a payload whose signature it has verified; claims that
//! were deserialized from elsewhere, as tests do, prove nothing. Whether this API accepts them is decided in
//! [`trust`](super::trust). Claim names are those of RFC 7519, section 4.1, and of
//! <https://vercel.com/docs/oidc/reference>.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::Invalid;
use super::token::{decode, if_present, object};

/// The verified claims of a token.
///
/// A registered claim (RFC 7519) of the wrong JSON type makes the whole token invalid, and so does any of these given
/// twice. One of Vercel's own claims that is not a string counts as absent: a rule that asks for it then refuses.
#[derive(Clone, Debug, Deserialize)]
pub struct Claims {
    /// Who issued the token.
    #[serde(default, deserialize_with = "if_present")]
    pub iss: Option<String>,
    /// Whom the token is for. One string in Vercel's tokens, several are allowed.
    #[serde(default)]
    pub aud: Audience,
    /// Whom the token is about: `owner:TEAM:project:PROJECT:environment:ENVIRONMENT`.
    #[serde(default, deserialize_with = "if_present")]
    pub sub: Option<String>,
    /// When the token ends, in seconds since 1970 (a NumericDate, which may have a fraction).
    #[serde(default, deserialize_with = "if_present")]
    pub exp: Option<f64>,
    /// From when on the token is good, in seconds since 1970.
    #[serde(default, deserialize_with = "if_present")]
    pub nbf: Option<f64>,
    /// When the token was issued, in seconds since 1970.
    #[serde(default, deserialize_with = "if_present")]
    pub iat: Option<f64>,
    /// The token's own name, where it has one.
    #[serde(default, deserialize_with = "if_present")]
    pub jti: Option<String>,
    /// The team's slug.
    #[serde(default, deserialize_with = "if_string")]
    pub owner: Option<String>,
    /// The team's id, which a rename leaves as it is.
    #[serde(default, deserialize_with = "if_string")]
    pub owner_id: Option<String>,
    /// The project's name.
    #[serde(default, deserialize_with = "if_string")]
    pub project: Option<String>,
    /// The project's id, which a rename leaves as it is.
    #[serde(default, deserialize_with = "if_string")]
    pub project_id: Option<String>,
    /// The deployment's environment: `production`, `preview`, `development` or a custom one.
    #[serde(default, deserialize_with = "if_string")]
    pub environment: Option<String>,
    #[serde(skip)]
    payload: Payload,
}

#[derive(Clone, Default)]
struct Payload(Vec<u8>);

/// The payload is a part of the token.
impl fmt::Debug for Payload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("***")
    }
}

impl Claims {
    /// Reads a payload whose signature the caller of this function has verified.
    pub(super) fn from_signed(payload: &[u8]) -> Result<Self, Invalid> {
        let payload = decode(payload).ok_or(Invalid::MalformedClaims)?;
        let claims: Self = object(&payload).ok_or(Invalid::MalformedClaims)?;
        Ok(Self { payload: Payload(payload), ..claims })
    }

    /// Reads claims that are not among these fields, as a type of your own:
    ///
    /// ```
    /// use backend::oidc::Claims;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Plan {
    ///     plan: String,
    /// }
    ///
    /// fn is_paying(claims: &Claims) -> bool {
    ///     claims.custom::<Plan>().is_ok_and(|custom| custom.plan != "hobby")
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Where the claims are not of that type.
    pub fn custom<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.payload.0)
    }
}

/// The `aud` claim: a string, or an array of strings (RFC 7519, section 4.1.3).
#[derive(Clone, Debug, Default)]
pub struct Audience(Vec<String>);

impl Audience {
    /// The audiences, in the token's order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(claim: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum OneOrMany {
            One(String),
            Many(Vec<String>),
        }
        Ok(Self(match OneOrMany::deserialize(claim)? {
            OneOrMany::One(audience) => vec![audience],
            OneOrMany::Many(audiences) => audiences,
        }))
    }
}

fn if_string<'de, D: Deserializer<'de>>(claim: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(claim)? {
        Value::String(value) => Some(value),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

    use super::*;

    fn base64url(bytes: impl AsRef<[u8]>) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    fn claims(json: &str) -> Result<Claims, Invalid> {
        Claims::from_signed(base64url(json).as_bytes())
    }

    #[test]
    fn an_audience_is_a_string_or_strings() {
        let audiences = |json: &str| {
            let claims = claims(json)?;
            Ok::<_, Invalid>(claims.aud.iter().map(String::from).collect::<Vec<_>>())
        };
        assert_eq!(audiences(r#"{"aud":"a"}"#).unwrap(), ["a"]);
        assert_eq!(audiences(r#"{"aud":["a","b"]}"#).unwrap(), ["a", "b"]);
        assert!(audiences(r#"{"aud":[]}"#).unwrap().is_empty() && audiences("{}").unwrap().is_empty());
        for json in [
            r#"{"aud":null}"#,
            r#"{"aud":["a",1]}"#,
            r#"{"aud":["a",null]}"#,
            r#"{"aud":[["a"]]}"#,
            r#"{"aud":{"0":"a"}}"#,
        ] {
            assert_eq!(audiences(json), Err(Invalid::MalformedClaims), "{json}");
        }
    }

    #[test]
    fn a_time_is_a_number() {
        let exp = |number: &str| claims(&format!(r#"{{"exp":{number}}}"#)).map(|claims| claims.exp);
        for (number, value) in [
            ("0", 0.0),
            ("-1", -1.0),
            ("1790000000.5", 1_790_000_000.5),
            ("1e3", 1000.0),
            ("18446744073709551616", 2_f64.powi(64)),
        ] {
            assert_eq!(exp(number), Ok(Some(value)), "{number}");
        }
        for number in ["1e999", "-1e999", "\"1\"", "null", "true", "[1]", "NaN", "Infinity", "0x1", "01"] {
            assert_eq!(exp(number), Err(Invalid::MalformedClaims), "{number}");
        }
    }

    #[test]
    fn a_claim_of_vercels_that_is_not_a_string_counts_as_absent() {
        for odd in ["null", "1", "true", "[\"a\"]", "{}"] {
            let claims = claims(&format!(
                r#"{{"owner":{odd},"owner_id":{odd},"project":{odd},"project_id":{odd},"environment":{odd}}}"#
            ));
            let Claims { owner, owner_id, project, project_id, environment, .. } = claims.unwrap();
            assert_eq!([owner, owner_id, project, project_id, environment], [const { None }; 5], "{odd}");
        }
    }

    #[test]
    fn refuses_what_is_not_canonical_base64url() {
        for payload in ["e30=", "e31", "e3 0", "e30\n", "e3+/", "\u{e9}"] {
            assert_eq!(Claims::from_signed(payload.as_bytes()).err(), Some(Invalid::MalformedClaims), "{payload}");
        }
        assert!(Claims::from_signed(b"e30").is_ok());
    }
}
