//! The token before it is trusted: is it a JWT of the one shape that Vercel issues?
//!
//! A pure function of the token's bytes. It guarantees that what it returns is a compact JWS (RFC 7515, section 3.1)
//! whose header names RS256 and a key. It proves nothing about who wrote it: the signature is
//! [`key_set`](super::key_set)'s matter, the claims are [`claims`](super::claims)'.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::IgnoredAny};

use super::Invalid;

/// Vercel's tokens are about 1 KiB. The bound caps what a stranger can make this process decode and hash.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The parts of a token that nobody has vouched for yet.
pub(super) struct UnverifiedToken<'t> {
    /// What the signature covers: header, dot, payload (RFC 7515, section 5.2).
    pub(super) signing_input: &'t str,
    pub(super) payload: &'t str,
    pub(super) signature: &'t str,
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
        let token = std::str::from_utf8(token).map_err(|_| Invalid::NotCompactJws)?;
        let (signing_input, signature) = token.rsplit_once('.').ok_or(Invalid::NotCompactJws)?;
        let (header, payload) = signing_input.split_once('.').ok_or(Invalid::NotCompactJws)?;
        if payload.contains('.') {
            return Err(Invalid::NotCompactJws);
        }
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
        Ok(Self { signing_input, payload, signature, kid: header.kid })
    }
}

/// Decodes a part of a token: canonical base64url without padding (RFC 7515, section 2).
pub(super) fn decode(part: &str) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(part).ok()
}

/// Reads a JSON object. Serde would fill a struct from an array as well, member by member in order.
pub(super) fn object<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    if !json.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    serde_json::from_slice(json).ok()
}

/// For an optional member: `null` is not the same as absent, where serde's own `Option` takes it so.
pub(super) fn if_present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(member: D) -> Result<Option<T>, D::Error> {
    T::deserialize(member).map(Some)
}
