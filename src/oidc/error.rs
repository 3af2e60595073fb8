//! Why a token is refused, why a key is skipped, why there are no keys.
//!
//! [`VerifyError`] is for the caller: its text describes the caller's token and never what would be accepted. What
//! would be accepted is in [`VerifyError::accepted`], for the operator's log. The other errors are for the operator
//! alone. No error holds a token. Foreign text in an error is escaped and cut.

use std::fmt;
use std::time::Duration;

/// Why a token is not accepted. Each variant has its own HTTP status.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The token is invalid: 401.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The token is valid, but this API does not trust its holder: 403.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The token can't be verified, because the issuer's keys are not available: 503.
    #[error("the issuer's keys are not available, so the token can't be verified")]
    #[non_exhaustive]
    KeysUnavailable {
        /// When the next attempt can succeed.
        retry_after: Duration,
    },
}

impl VerifyError {
    /// What would have been accepted, for the operator's log. A client must not see it.
    pub fn accepted(&self) -> Option<&str> {
        match self {
            Self::Invalid(Invalid::Issuer { accepted, .. } | Invalid::Audience { accepted, .. })
            | Self::Forbidden(Forbidden { accepted, .. }) => Some(accepted),
            Self::Invalid(_) | Self::KeysUnavailable { .. } => None,
        }
    }
}

/// Why a token is invalid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// Longer than any token of Vercel's.
    #[error("the token has {bytes} bytes, at most {max_bytes} are accepted")]
    TooLong {
        /// The token's length.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// Not three parts joined by dots (RFC 7515, section 3.1).
    #[error("the token is not a compact JWS: three base64url parts joined by dots")]
    NotCompactJws,
    /// The header is not canonical base64url of a JSON object with a string `alg` and a non-empty string `kid`.
    #[error("the token's header is not base64url of a JSON object with `alg` and `kid`, each once")]
    MalformedHeader,
    /// `alg` is not RS256.
    #[error("the token's `alg` is not RS256")]
    Algorithm,
    /// `typ` is neither absent nor JWT.
    #[error("the token's `typ` is not JWT")]
    Type,
    /// The header has `crit` (RFC 7515, section 4.1.11), and no extension is supported.
    #[error("the token's header has `crit`, and no extension is supported")]
    CriticalExtension,
    /// The issuer has no usable key of this `kid`.
    #[error("the token's `kid` names no usable key of the issuer: get a new token, and compare the issuer")]
    UnknownKey,
    /// The signature does not match that key.
    #[error("the token's signature is wrong")]
    Signature,
    /// The payload is signed, but its claims don't have the form of RFC 7519.
    #[error("the token's payload is not a JSON object of claims, each once and of its type")]
    MalformedClaims,
    /// Another issuer.
    #[error("the issuer is {}", Shown(.found.as_deref()))]
    Issuer {
        /// The `iss` claim.
        found: Option<String>,
        /// What would be accepted.
        accepted: String,
    },
    /// Another audience.
    #[error("the audience is {}", Shown(Some(.found)))]
    Audience {
        /// The `aud` claim, joined by commas.
        found: String,
        /// What would be accepted, joined by commas.
        accepted: String,
    },
    /// No `exp`.
    #[error("the token has no `exp`")]
    NoExpiry,
    /// `exp` has passed.
    #[error("the token expired {seconds_ago:.0} s ago")]
    Expired {
        /// How long ago, in seconds.
        seconds_ago: f64,
    },
    /// `nbf` lies ahead.
    #[error("the token is not valid for another {seconds_ahead:.0} s")]
    NotYetValid {
        /// How far ahead, in seconds.
        seconds_ahead: f64,
    },
    /// `iat` lies ahead.
    #[error("the token was issued {seconds_ahead:.0} s in the future: compare the clocks")]
    IssuedInTheFuture {
        /// How far ahead, in seconds.
        seconds_ahead: f64,
    },
}

/// A valid token of a caller that this API does not trust.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token's `{claim}` is {}, which this API does not accept", Shown(.found.as_deref()))]
#[non_exhaustive]
pub struct Forbidden {
    /// The claim that decided.
    pub claim: &'static str,
    /// Its value.
    pub found: Option<String>,
    /// What would be accepted, joined by commas.
    pub accepted: String,
}

/// Why whom to trust is not clear, so that no [`Trust`](crate::Trust) can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {name} {problem}")]
pub struct TrustError {
    pub(crate) name: &'static str,
    pub(crate) problem: &'static str,
}

/// Why a key set can't be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeySetError {
    /// The keys can't come from this URL.
    #[error("the keys' URL must be https (http only to 127.0.0.0/8, [::1] or localhost), without user or fragment")]
    Url,
    /// The document is not a JWK Set with a usable key (RFC 7517, section 5). The source says why.
    #[error("the document is not a JWK Set with a usable key")]
    Document(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why a document is not a usable JWK Set (RFC 7517, section 5).
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadDocument {
    #[error("the document is not a JSON object with an array `keys`")]
    NotJwkSet,
    #[error("none of the {} keys can be used{}", .skipped.len(), .skipped.first().map(|first| format!("; {first}")).unwrap_or_default())]
    NoUsableKey { skipped: Vec<SkippedKey> },
}

/// A key of a document that is skipped. `number` is its place in the document, from 1.
#[derive(Debug, thiserror::Error)]
#[error("key {number} (`kid` {}) is skipped: {reason}", Shown(.kid.as_deref()))]
pub(crate) struct SkippedKey {
    pub(crate) number: usize,
    pub(crate) kid: Option<String>,
    pub(crate) reason: Unusable,
}

/// Why a key can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("it is not a JSON object")]
    NotObject,
    #[error("`{0}` is missing, empty, or not of its JSON type")]
    Member(&'static str),
    #[error("`kty` is not RSA")]
    KeyType,
    #[error("`use` is {}, not `sig`", Shown(Some(.0)))]
    Use(String),
    #[error("`alg` is not RS256")]
    Algorithm,
    #[error("`key_ops` lacks `verify`")]
    Operations,
    #[error("`{0}` is not base64url without padding")]
    Encoding(&'static str),
    #[error("the modulus has {bits} bits and is {}; an odd one of 2048 to 8192 bits is needed", parity(*.odd))]
    Modulus { bits: usize, odd: bool },
    #[error("the exponent has {bits} bits and is {}; an odd one from 3 to 2^33 - 1 is needed", parity(*.odd))]
    Exponent { bits: usize, odd: bool },
}

/// Why a fetch of the keys failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("there is no tokio runtime: call `verify`, `ready` and `prefetch` inside of one")]
    NoRuntime,
    #[error("no answer within {} s", .limit.as_secs())]
    Timeout { limit: Duration },
    #[error("the fetch panicked")]
    Panicked,
    #[error(transparent)]
    Source(Box<dyn std::error::Error + Send + Sync>),
    #[error("the document is larger than {max_bytes} bytes")]
    TooLarge { max_bytes: usize },
    #[error(transparent)]
    Document(#[from] BadDocument),
}

fn parity(odd: bool) -> &'static str {
    if odd { "odd" } else { "even" }
}

/// An error and its causes, in one line of the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A claim, escaped and cut, so that it can't forge a line of a log, hide text or fill the log. Longer than any `sub` of
/// Vercel's: owner, project and environment have at most 100 characters each.
#[cfg(feature = "tower")]
pub(crate) fn for_log(claim: &str) -> std::borrow::Cow<'_, str> {
    const MAX_CHARACTERS: usize = 400;
    // Most subjects have nothing to escape.
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"'\\".contains(&byte);
    if claim.len() <= MAX_CHARACTERS && claim.bytes().all(is_plain) {
        return claim.into();
    }
    claim.chars().take(MAX_CHARACTERS).flat_map(char::escape_debug).collect()
}

/// Foreign text in a sentence. An attacker may have written it, so control characters are escaped and long text is cut.
pub(crate) struct Shown<'a>(pub(crate) Option<&'a str>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX_CHARACTERS: usize = 120;
        match self.0 {
            None | Some("") => out.write_str("missing"),
            Some(text) => {
                let cut: String = text.chars().take(MAX_CHARACTERS).flat_map(char::escape_debug).collect();
                write!(out, "`{cut}`")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_escaped_and_cut() {
        for (text, shown) in [(None, "missing"), (Some(""), "missing"), (Some("a\nb\u{1b}"), r"`a\nb\u{1b}`")] {
            assert_eq!(Shown(text).to_string(), shown);
        }
        assert_eq!(Shown(Some(&"é".repeat(500))).to_string(), format!("`{}`", "é".repeat(120)));
    }

    #[test]
    fn only_the_operator_learns_what_would_be_accepted() {
        let (found, accepted) = (Some("mine".to_owned()), "secret".to_owned());
        for error in [
            VerifyError::from(Invalid::Issuer { found: found.clone(), accepted: accepted.clone() }),
            Invalid::Audience { found: "mine".into(), accepted: accepted.clone() }.into(),
            Forbidden { claim: "sub", found, accepted }.into(),
        ] {
            let text = error.to_string();
            assert!(text.contains("`mine`") && !text.contains("secret"), "{text}");
            assert_eq!(error.accepted(), Some("secret"));
        }
    }
}
