//! The token before it is trusted: is it a JWT of the one shape that Vercel issues?
//!
//! A pure function of the token's bytes. It guarantees that what it returns is a compact JWS (RFC 7515, section 3.1)
//! whose header names RS256 and a key. It proves nothing about who wrote it: the signature is [`jwk`](super::jwk)'s
//! matter, the claims are [`claims`](super::claims)'.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use memchr::memchr_iter;
use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::IgnoredAny};

use super::Invalid;

/// Vercel's tokens are about 1 KiB. The bound caps what a stranger can make this process decode and hash.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The parts of a token that nobody has vouched for yet.
pub(super) struct UnverifiedToken<'t> {
    /// What the signature covers: header, dot, payload (RFC 7515, section 5.2).
    pub(super) signing_input: &'t [u8],
    pub(super) payload: &'t [u8],
    pub(super) signature: &'t [u8],
    pub(super) kid: String,
}

/// The members of a header that the rules read. Serde refuses one that is given twice; `jwk`, `jku`, `x5u` and `x5c`
/// are not here, so that no key can come from the token itself.
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
    pub(super) fn parse(token: &'t [u8]) -> Result<Self, Invalid> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Invalid::TooLong { bytes: token.len(), max_bytes: MAX_TOKEN_BYTES });
        }
        let mut dots = memchr_iter(b'.', token);
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(Invalid::NotCompactJws);
        };
        let (header, payload, signature) = (&token[..first], &token[first + 1..second], &token[second + 1..]);
        let header: Header = decode(header).and_then(|header| object(&header)).ok_or(Invalid::MalformedHeader)?;
        if header.alg != "RS256" {
            return Err(Invalid::Algorithm);
        }
        if header.kid.is_empty() {
            return Err(Invalid::MalformedHeader);
        }
        if header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
            return Err(Invalid::Type);
        }
        // RFC 7515, section 4.1.11: an extension that isn't understood makes the token invalid, and none is.
        if header.crit.is_some() {
            return Err(Invalid::CriticalExtension);
        }
        Ok(Self { signing_input: &token[..second], payload, signature, kid: header.kid })
    }
}

/// Decodes a part of a token: canonical base64url without padding (RFC 7515, section 2).
pub(super) fn decode(part: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(part).ok()
}

/// Reads a JSON object in UTF-8. Serde would fill a struct from an array as well, member by member in order, and would
/// not look at the bytes of members that are passed over.
pub(super) fn object<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    let json = std::str::from_utf8(json).ok()?;
    if !json.trim_ascii_start().starts_with('{') {
        return None;
    }
    serde_json::from_str(json).ok()
}

/// For an optional member: `null` is not the same as absent, where serde's own `Option` takes it so.
pub(super) fn if_present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(member: D) -> Result<Option<T>, D::Error> {
    T::deserialize(member).map(Some)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn base64url(bytes: impl AsRef<[u8]>) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    fn token(header: &str) -> String {
        format!("{}.cGF5bG9hZA.c2lnbmF0dXJl", base64url(header))
    }

    #[test]
    fn takes_a_token_apart() {
        let token = token(r#"{"alg":"RS256","kid":"a"}"#);
        let UnverifiedToken { signing_input, payload, signature, kid } =
            UnverifiedToken::parse(token.as_bytes()).unwrap();
        assert_eq!((payload, signature, kid.as_str()), (&b"cGF5bG9hZA"[..], &b"c2lnbmF0dXJl"[..], "a"));
        assert_eq!([signing_input, signature].join(&b'.'), token.as_bytes());
    }

    #[test]
    fn takes_8192_bytes_and_no_more() {
        let mut token = token(r#"{"alg":"RS256","kid":"a"}"#);
        token.push_str(&"A".repeat(8192 - token.len()));
        assert!(UnverifiedToken::parse(token.as_bytes()).is_ok());
        token.push('A');
        let error = UnverifiedToken::parse(token.as_bytes()).err();
        assert_eq!(error, Some(Invalid::TooLong { bytes: 8193, max_bytes: 8192 }));
    }

    /// Nobody has signed these: what is wrong with a header is said before anything is looked up.
    #[test]
    fn refuses_each_fault_for_its_own_reason() {
        for (header, reason) in [
            (r#"{"alg":"none","kid":"a"}"#, Invalid::Algorithm),
            (r#"{"alg":"RS256"}"#, Invalid::MalformedHeader),
            (r#"{"alg":"RS256","kid":""}"#, Invalid::MalformedHeader),
            (r#"{"alg":"RS256","kid":"a","kid":"b"}"#, Invalid::MalformedHeader),
            (r#"["RS256","a"]"#, Invalid::MalformedHeader),
            (r#"{"alg":"RS256","kid":"a","typ":"JWE"}"#, Invalid::Type),
            (r#"{"alg":"RS256","kid":"a","crit":null}"#, Invalid::CriticalExtension),
        ] {
            assert_eq!(UnverifiedToken::parse(token(header).as_bytes()).err(), Some(reason), "{header}");
        }
        for token in ["", ".", "a.b", "a.b.c.d", "\u{e9}"] {
            assert_eq!(UnverifiedToken::parse(token.as_bytes()).err(), Some(Invalid::NotCompactJws), "{token}");
        }
        assert_eq!(UnverifiedToken::parse(b"\xff.\xff.\xff").err(), Some(Invalid::MalformedHeader));
    }

    #[test]
    fn json_is_utf8_even_where_nobody_reads_it() {
        assert!(object::<Header>("{\"alg\":\"RS256\",\"kid\":\"a\",\"x\":\"\u{e9}\"}".as_bytes()).is_some());
        assert!(object::<Header>(b"{\"alg\":\"RS256\",\"kid\":\"a\",\"x\":\"\xff\"}").is_none());
    }
}
