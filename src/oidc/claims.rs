//! The verified claims about the caller.
//!
//! [`Claims`] exist only for a token whose signature was verified: no public function makes or changes them. Whether
//! this API accepts them is decided in `trust.rs`. Names are those of RFC 7519, section 4.1, and of
//! <https://vercel.com/docs/oidc/reference>.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::error::Invalid;
use crate::strict::{AsWritten, base64url, if_present, if_string, object};

/// The verified claims of a token.
///
/// A token is invalid if a registered claim (RFC 7519) has the wrong JSON type, or if a claim with a method here occurs
/// twice. One of Vercel's own claims (from [`owner`](Self::owner) on) that is not a string counts as absent, so a rule
/// that needs this claim refuses the token.
pub struct Claims {
    known: KnownClaims,
    /// The payload as the issuer signed it, for [`custom`](Claims::custom).
    json: Vec<u8>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct KnownClaims {
    #[serde(deserialize_with = "if_present")]
    iss: Option<String>,
    #[serde(deserialize_with = "one_or_many")]
    aud: Vec<String>,
    #[serde(deserialize_with = "if_present")]
    sub: Option<String>,
    #[serde(deserialize_with = "if_present")]
    exp: Option<f64>,
    #[serde(deserialize_with = "if_present")]
    nbf: Option<f64>,
    #[serde(deserialize_with = "if_present")]
    iat: Option<f64>,
    #[serde(deserialize_with = "if_present")]
    jti: Option<String>,
    #[serde(deserialize_with = "if_string")]
    owner: Option<String>,
    #[serde(deserialize_with = "if_string")]
    owner_id: Option<String>,
    #[serde(deserialize_with = "if_string")]
    project: Option<String>,
    #[serde(deserialize_with = "if_string")]
    project_id: Option<String>,
    #[serde(deserialize_with = "if_string")]
    environment: Option<String>,
    #[serde(deserialize_with = "if_string")]
    scope: Option<String>,
    #[serde(deserialize_with = "if_string")]
    plan: Option<String>,
    #[serde(deserialize_with = "if_string")]
    user_id: Option<String>,
}

impl Claims {
    /// Reads a payload in base64url. The caller of this function has verified the signature.
    pub(crate) fn from_signed(payload: &str) -> Result<Self, Invalid> {
        let json = base64url(payload).ok_or(Invalid::MalformedClaims)?;
        let known = object(&json).map_err(|_| Invalid::MalformedClaims)?;
        Ok(Self { known, json })
    }

    /// `iss`: who issued the token.
    pub fn iss(&self) -> Option<&str> {
        self.known.iss.as_deref()
    }

    /// `aud`: the APIs that the token is for. Vercel's tokens name one.
    pub fn aud(&self) -> &[String] {
        &self.known.aud
    }

    /// `sub`: the caller, as `owner:TEAM:project:PROJECT:environment:ENVIRONMENT`.
    pub fn sub(&self) -> Option<&str> {
        self.known.sub.as_deref()
    }

    /// `exp`: when the token expires, in seconds since 1970. A NumericDate may have a fraction.
    pub fn exp(&self) -> Option<f64> {
        self.known.exp
    }

    /// `nbf`: when the token becomes valid, in seconds since 1970.
    pub fn nbf(&self) -> Option<f64> {
        self.known.nbf
    }

    /// `iat`: when the token was issued, in seconds since 1970.
    pub fn iat(&self) -> Option<f64> {
        self.known.iat
    }

    /// `jti`: the token's id.
    pub fn jti(&self) -> Option<&str> {
        self.known.jti.as_deref()
    }

    /// `owner`: the team's slug. A slug can change hands; `owner_id` can't.
    pub fn owner(&self) -> Option<&str> {
        self.known.owner.as_deref()
    }

    /// `owner_id`: the team's id.
    pub fn owner_id(&self) -> Option<&str> {
        self.known.owner_id.as_deref()
    }

    /// `project`: the project's name. A name can change hands; `project_id` can't.
    pub fn project(&self) -> Option<&str> {
        self.known.project.as_deref()
    }

    /// `project_id`: the project's id.
    pub fn project_id(&self) -> Option<&str> {
        self.known.project_id.as_deref()
    }

    /// `environment`: `production`, `preview`, `development` or a custom environment of the project.
    pub fn environment(&self) -> Option<&str> {
        self.known.environment.as_deref()
    }

    /// `scope`: the same as `sub`, in Vercel's tokens.
    pub fn scope(&self) -> Option<&str> {
        self.known.scope.as_deref()
    }

    /// `plan`: the team's plan, such as `hobby` or `pro`.
    pub fn plan(&self) -> Option<&str> {
        self.known.plan.as_deref()
    }

    /// `user_id`: the developer, in a token for local development.
    pub fn user_id(&self) -> Option<&str> {
        self.known.user_id.as_deref()
    }

    /// Reads other claims, as a type of your own.
    ///
    /// A payload with a member `$serde_json::private::RawValue` is an error. With serde_json's feature `raw_value`, which
    /// this crate enables, `serde_json::Value` would read such an object as another value, for example as a string.
    ///
    /// ```
    /// use vercel_oidc_verifier::Claims;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct GitHub {
    ///     repository: String,
    /// }
    ///
    /// fn is_from_our_repository(claims: &Claims) -> bool {
    ///     claims.custom::<GitHub>().is_ok_and(|github| github.repository == "acme/storefront")
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The claims don't have the form of `T`.
    pub fn custom<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        object::<AsWritten>(&self.json)?;
        object(&self.json)
    }
}

/// Shows the known claims. The payload is part of the token, so it is not shown.
impl fmt::Debug for Claims {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.known.fmt(out)
    }
}

/// `aud` is a string or an array of strings (RFC 7519, section 4.1.3).
fn one_or_many<'de, D: Deserializer<'de>>(claim: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(claim)? {
        OneOrMany::One(audience) => vec![audience],
        OneOrMany::Many(audiences) => audiences,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

    use super::*;

    fn claims(json: &str) -> Result<Claims, Invalid> {
        Claims::from_signed(&BASE64_URL_SAFE_NO_PAD.encode(json))
    }

    #[test]
    fn an_audience_is_a_string_or_strings() {
        for (json, audiences) in
            [(r#"{"aud":"a"}"#, &["a"][..]), (r#"{"aud":["a","b"]}"#, &["a", "b"]), (r#"{"aud":[]}"#, &[]), ("{}", &[])]
        {
            assert_eq!(claims(json).unwrap().aud(), audiences, "{json}");
        }
        for aud in ["null", "1", r#"["a",1]"#, r#"["a",null]"#, r#"[["a"]]"#, r#"{"0":"a"}"#] {
            assert_eq!(claims(&format!(r#"{{"aud":{aud}}}"#)).err(), Some(Invalid::MalformedClaims), "{aud}");
        }
    }

    #[test]
    fn a_time_is_a_number() {
        let exp = |number: &str| claims(&format!(r#"{{"exp":{number}}}"#)).map(|claims| claims.exp());
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
    fn a_registered_claim_has_its_type() {
        for name in ["iss", "sub", "jti"] {
            for odd in ["null", "1", "true", r#"["a"]"#, "{}", r#"{"$serde_json::private::RawValue":"\"a\""}"#] {
                let json = format!(r#"{{"{name}":{odd}}}"#);
                assert_eq!(claims(&json).err(), Some(Invalid::MalformedClaims), "{json}");
            }
        }
        for name in ["nbf", "iat"] {
            assert_eq!(claims(&format!(r#"{{"{name}":"1"}}"#)).err(), Some(Invalid::MalformedClaims), "{name}");
        }
    }

    type Getter = fn(&Claims) -> Option<&str>;

    const OWN: [(&str, Getter); 8] = [
        ("owner", Claims::owner),
        ("owner_id", Claims::owner_id),
        ("project", Claims::project),
        ("project_id", Claims::project_id),
        ("environment", Claims::environment),
        ("scope", Claims::scope),
        ("plan", Claims::plan),
        ("user_id", Claims::user_id),
    ];

    #[test]
    fn a_claim_of_vercel_that_is_not_a_string_counts_as_absent() {
        for (name, getter) in OWN {
            assert_eq!(getter(&claims(&format!(r#"{{"{name}":"acme"}}"#)).unwrap()), Some("acme"), "{name}");
            for odd in ["null", "1", "true", r#"["a"]"#, "{}", r#"{"$serde_json::private::RawValue":"\"acme\""}"#] {
                assert_eq!(getter(&claims(&format!(r#"{{"{name}":{odd}}}"#)).unwrap()), None, "{name} {odd}");
            }
        }
    }

    #[test]
    fn a_claim_is_given_once() {
        let registered = ["iss", "sub", "jti"].map(|name| (name, "\"a\""));
        let times = ["exp", "nbf", "iat"].map(|name| (name, "1"));
        let own = OWN.map(|(name, _)| (name, "\"a\""));
        for (name, value) in [&registered[..], &times, &own, &[("aud", "\"a\"")]].concat() {
            let json = format!(r#"{{"{name}":{value},"{name}":{value}}}"#);
            assert_eq!(claims(&json).err(), Some(Invalid::MalformedClaims), "{json}");
        }
    }

    #[test]
    fn a_payload_is_an_object() {
        for json in ["", "[]", "null", "\"a\"", r#"["https://oidc.vercel.com/acme"]"#] {
            assert_eq!(claims(json).err(), Some(Invalid::MalformedClaims), "{json}");
        }
    }

    #[test]
    fn custom_claims_are_read_from_the_payload_itself() {
        #[derive(Deserialize)]
        struct Custom {
            role: String,
        }
        assert_eq!(claims(r#"{"role":"admin"}"#).unwrap().custom::<Custom>().unwrap().role, "admin");
    }

    #[test]
    fn no_custom_object_passes_for_a_string() {
        for role in [
            r#"{"$serde_json::private::RawValue":"\"admin\""}"#,
            r#"{"\u0024serde_json::private::RawValue":"\"admin\""}"#,
            r#"[[{"a":{"$serde_json::private::RawValue":"\"admin\""}}]]"#,
        ] {
            let claims = claims(&format!(r#"{{"number":1,"role":{role}}}"#)).unwrap();
            assert!(claims.custom::<serde_json::Value>().is_err(), "{role}");
        }
        let plain = r#"{"a":[1,-1,1.5,true,null,"$serde_json::private::RawValue",{"b":{}}]}"#;
        let value: serde_json::Value = claims(plain).unwrap().custom().unwrap();
        assert_eq!(value, serde_json::from_str::<serde_json::Value>(plain).unwrap());
    }

    #[test]
    fn debug_output_has_no_payload() {
        let shown = format!("{:?}", claims(r#"{"sub":"me","secret":"hidden"}"#).unwrap());
        assert!(shown.contains("me") && !shown.contains("hidden"), "{shown}");
    }
}
