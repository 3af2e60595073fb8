//! From the bytes of a token to its signed claims.
//!
//! [`UnverifiedToken`] is a compact JWS (RFC 7515, section 3.1) whose header names RS256 and a key. It proves nothing
//! about its author. [`UnverifiedToken::signed_claims`] returns claims only if jsonwebtoken confirms the signature.

use jsonwebtoken::Algorithm;
use jsonwebtoken::crypto::aws_lc;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::claims::Claims;
use crate::error::Invalid;
use crate::jwk::Key;
use crate::strict::{base64url, if_present, object};

/// Vercel's tokens have about 1 KiB. The limit bounds what an attacker can make this process decode and hash.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The parts of a token whose signature is not verified yet.
pub(crate) struct UnverifiedToken<'t> {
    /// What the signature covers: header, dot, payload (RFC 7515, section 5.2).
    pub(crate) signing_input: &'t [u8],
    pub(crate) payload: &'t str,
    pub(crate) signature: &'t str,
    pub(crate) unverified_kid: String,
}

/// The members of a header that are read. jsonwebtoken itself accepts any `typ`, and `crit` with `b64`. `jwk`,
/// `jku`, `x5u` and `x5c` are not read, so that no key comes from the token itself.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    #[serde(default, deserialize_with = "if_present")]
    typ: Option<String>,
    #[serde(default, deserialize_with = "if_present")]
    crit: Option<IgnoredAny>,
}

impl<'t> UnverifiedToken<'t> {
    pub(crate) fn parse(token: &'t [u8]) -> Result<Self, Invalid> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Invalid::TooLong { bytes: token.len(), max_bytes: MAX_TOKEN_BYTES });
        }
        let [header, payload, signature] = parts(token).ok_or(Invalid::NotCompactJws)?;
        let signing_input = &token[..header.len() + 1 + payload.len()];
        let header: Header =
            base64url(header).and_then(|header| object(&header).ok()).ok_or(Invalid::MalformedHeader)?;
        if header.alg != "RS256" {
            return Err(Invalid::Algorithm);
        }
        if header.kid.is_empty() {
            return Err(Invalid::MalformedHeader);
        }
        if header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
            return Err(Invalid::Type);
        }
        if header.crit.is_some() {
            return Err(Invalid::CriticalExtension);
        }
        Ok(Self { signing_input, payload, signature, unverified_kid: header.kid })
    }

    /// Verifies the signature (RSASSA-PKCS1-v1_5 with SHA-256; RFC 7518, section 3.3), then reads the claims.
    pub(crate) fn signed_claims(&self, key: &Key) -> Result<Claims, Invalid> {
        let signature = base64url(self.signature).ok_or(Invalid::Signature)?;
        // The provider is named, because jsonwebtoken's default panics if another crate enables a second provider.
        (aws_lc::DEFAULT_PROVIDER.verifier_factory)(&Algorithm::RS256, key.decoding_key())
            .map_err(|_| Invalid::Signature)?
            .verify(self.signing_input, &signature)
            .map_err(|_| Invalid::Signature)?;
        Claims::from_signed(self.payload)
    }
}

/// Reads `iss` without verifying anything, to choose between the verifiers of several issuers.
///
/// The token may be forged: use the result to choose one of your verifiers, and never fetch a URL from the token.
pub fn unverified_issuer(token: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let [_, payload, _] = parts(token).filter(|_| token.len() <= MAX_TOKEN_BYTES)?;
    object::<Issuer>(&base64url(payload)?).ok().map(|unverified| unverified.iss)
}

fn parts(token: &[u8]) -> Option<[&str; 3]> {
    let mut parts = std::str::from_utf8(token).ok()?.split('.');
    let three = [parts.next()?, parts.next()?, parts.next()?];
    parts.next().is_none().then_some(three)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use serde_json::json;

    use super::*;
    use crate::jwk::Keys;

    fn token(header: &str) -> String {
        format!("{}.cGF5bG9hZA.c2lnbmF0dXJl", BASE64_URL_SAFE_NO_PAD.encode(header))
    }

    fn reason(token: impl AsRef<[u8]>) -> Option<Invalid> {
        UnverifiedToken::parse(token.as_ref()).err()
    }

    #[test]
    fn splits_a_token_into_what_is_signed_and_the_signature() {
        let token = token(r#"{"alg":"RS256","kid":"a"}"#);
        let UnverifiedToken { signing_input, payload, signature, unverified_kid } =
            UnverifiedToken::parse(token.as_bytes()).unwrap();
        assert_eq!((payload, signature, unverified_kid.as_str()), ("cGF5bG9hZA", "c2lnbmF0dXJl", "a"));
        assert_eq!([signing_input, signature.as_bytes()].join(&b'.'), token.as_bytes());
    }

    #[test]
    fn takes_8192_bytes_and_no_more() {
        let mut token = token(r#"{"alg":"RS256","kid":"a"}"#);
        token.push_str(&"A".repeat(8192 - token.len()));
        assert_eq!(reason(&token), None);
        token.push('A');
        assert_eq!(reason(&token), Some(Invalid::TooLong { bytes: 8193, max_bytes: 8192 }));
    }

    #[test]
    fn takes_a_typ_of_jwt_in_any_case_and_members_it_does_not_read() {
        for header in [
            r#"{"alg":"RS256","kid":"a","typ":"JWT"}"#,
            r#"{"alg":"RS256","kid":"a","typ":"jwt"}"#,
            r#"{"alg":"RS256","kid":"a","jku":"https://evil.test","jwk":{"kty":"RSA"},"x5c":null}"#,
        ] {
            assert_eq!(reason(token(header)), None, "{header}");
        }
    }

    #[test]
    fn refuses_each_fault_of_a_header_with_its_own_reason() {
        for (header, expected) in [
            (r#"{"alg":"none","kid":"a"}"#, Invalid::Algorithm),
            (r#"{"alg":"rs256","kid":"a"}"#, Invalid::Algorithm),
            (r#"{"alg":"RS256 ","kid":"a"}"#, Invalid::Algorithm),
            (r#"{"alg":"HS256","kid":"a"}"#, Invalid::Algorithm),
            (r#"{"alg":"PS256","kid":"a"}"#, Invalid::Algorithm),
            (r#"{"alg":["RS256"],"kid":"a"}"#, Invalid::MalformedHeader),
            (r#"{"kid":"a"}"#, Invalid::MalformedHeader),
            (r#"{"alg":"RS256"}"#, Invalid::MalformedHeader),
            (r#"{"alg":"RS256","kid":""}"#, Invalid::MalformedHeader),
            (r#"{"alg":"RS256","kid":null}"#, Invalid::MalformedHeader),
            (r#"{"alg":"RS256","kid":1}"#, Invalid::MalformedHeader),
            (r#"{"alg":"RS256","kid":"a","kid":"b"}"#, Invalid::MalformedHeader),
            (r#"{"alg":"RS256","alg":"RS256","kid":"a"}"#, Invalid::MalformedHeader),
            (r#"["RS256","a"]"#, Invalid::MalformedHeader),
            (r#"{"alg":"RS256","kid":"a","typ":"JWE"}"#, Invalid::Type),
            (r#"{"alg":"RS256","kid":"a","typ":"at+jwt"}"#, Invalid::Type),
            (r#"{"alg":"RS256","kid":"a","typ":null}"#, Invalid::MalformedHeader),
            (r#"{"alg":"RS256","kid":"a","crit":["exp"]}"#, Invalid::CriticalExtension),
            (r#"{"alg":"RS256","kid":"a","crit":[]}"#, Invalid::CriticalExtension),
            (r#"{"alg":"RS256","kid":"a","crit":null}"#, Invalid::CriticalExtension),
        ] {
            assert_eq!(reason(token(header)), Some(expected), "{header}");
        }
        for token in [&b""[..], b".", b"a.b", b"a.b.c.d", b"\xff.\xff.\xff"] {
            assert_eq!(reason(token), Some(Invalid::NotCompactJws), "{token:?}");
        }
        assert_eq!(reason("\u{e9}.\u{e9}.\u{e9}"), Some(Invalid::MalformedHeader));
    }

    /// RFC 7515, appendix A.2. Its header has no `kid`, so only the signature is verified here.
    #[test]
    fn verifies_the_published_vector() {
        let jwk = json!({
            "kty": "RSA",
            "kid": "A.2",
            "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
            "e": "AQAB",
        });
        let header = "eyJhbGciOiJSUzI1NiJ9";
        let payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        let (keys, _) = Keys::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
        let claims = |header: &str, signature: &str| {
            let signing_input = format!("{header}.{payload}");
            let token = UnverifiedToken {
                signing_input: signing_input.as_bytes(),
                payload,
                signature,
                unverified_kid: "A.2".into(),
            };
            token.signed_claims(keys.get("A.2").unwrap()).map(|claims| claims.iss().map(String::from))
        };
        assert_eq!(claims(header, signature), Ok(Some("joe".into())));
        assert_eq!(claims("eyJhbGciOiJSUzI1NiJ8", signature), Err(Invalid::Signature));
        for wrong in [&signature.replace("cC4", "cC5"), "", &format!("{signature}="), &signature[4..]] {
            assert_eq!(claims(header, wrong), Err(Invalid::Signature), "{wrong}");
        }
    }

    #[test]
    fn the_unverified_issuer_is_a_string_of_a_token() {
        let token = |payload: &str| format!("e30.{}.e30", BASE64_URL_SAFE_NO_PAD.encode(payload));
        assert_eq!(unverified_issuer(token(r#"{"iss":"a"}"#).as_bytes()).as_deref(), Some("a"));
        for payload in [r#"{"iss":["a"]}"#, r#"{"iss":"a","iss":"b"}"#, "{}", r#"["a"]"#, ""] {
            assert_eq!(unverified_issuer(token(payload).as_bytes()), None, "{payload}");
        }
        assert_eq!(unverified_issuer(b"e30.e30"), None);
        assert_eq!(unverified_issuer(token(&format!(r#"{{"iss":"{}"}}"#, "a".repeat(8192))).as_bytes()), None);
    }
}
