//! Why a token was refused, in words that help its holder.
//!
//! No variant holds more of a token than claims whose signature was verified, and what is shown of these is bounded.

use std::fmt;

/// Why a token is invalid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Invalid {
    /// Longer than any token of Vercel's.
    #[error("the token has {bytes} bytes, at most {max_bytes} are accepted")]
    TooLong {
        /// The token's length.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// Not three parts joined by dots.
    #[error("the token is not a compact JWS: three base64url parts joined by dots")]
    NotCompactJws,
    /// The header is not canonical base64url of a JSON object with a string `alg` and a non-empty string `kid`.
    #[error("the token's header is not base64url of a JSON object with `alg` and `kid`, each once")]
    MalformedHeader,
    /// Signed, or claimed to be, in another way.
    #[error("the token's `alg` is not RS256")]
    Algorithm,
    /// Not a JWT.
    #[error("the token's `typ` is not JWT")]
    Type,
    /// An extension that must be understood, and isn't.
    #[error("the token's header has `crit`, and no extension is supported")]
    CriticalExtension,
    /// The issuer has no such key.
    #[error(
        "the token's `kid` names no usable key of the issuer: was it issued by another one, or has its key been retired?"
    )]
    UnknownKey,
    /// Not signed by that key.
    #[error("the token's signature is wrong")]
    Signature,
    /// Signed, but not claims as RFC 7519 has them.
    #[error("the token's payload is not a JSON object of claims, each once and of its type")]
    MalformedClaims,
    /// From another issuer.
    #[error("the token's issuer is {}, expected `{expected}`", Found(.found.as_deref()))]
    Issuer {
        /// The `iss` claim.
        found: Option<String>,
        /// What it must be.
        expected: String,
    },
    /// For another API.
    #[error("the token's audience is {}, expected `{expected}`", Found(Some(.found.as_str())))]
    Audience {
        /// The `aud` claim, joined by commas.
        found: String,
        /// What would be accepted, joined by commas.
        expected: String,
    },
    /// No end.
    #[error("the token has no `exp`")]
    NoExpiry,
    /// Over. Says nothing about whether it was ever good for this API.
    #[error("the token expired {seconds_ago:.0} s ago")]
    Expired {
        /// How long ago, in seconds.
        seconds_ago: f64,
    },
    /// `nbf` lies ahead.
    #[error("the token is not valid for another {seconds_ahead:.0} s")]
    NotYetValid {
        /// How far, in seconds.
        seconds_ahead: f64,
    },
    /// `iat` lies ahead.
    #[error("the token was issued {seconds_ahead:.0} s in the future: is a clock wrong?")]
    IssuedInTheFuture {
        /// How far, in seconds.
        seconds_ahead: f64,
    },
}

/// A valid token of someone who isn't allowed in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token's `{claim}` is {}, which this API does not accept; it accepts `{expected}`", Found(.found.as_deref()))]
pub struct Forbidden {
    /// The claim that decided.
    pub claim: &'static str,
    /// Its value.
    pub found: Option<String>,
    /// What would be accepted, joined by commas.
    pub expected: String,
}

/// A claim in a sentence. Whoever holds the token chose it, so what is shown of it is bounded.
struct Found<'a>(Option<&'a str>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None | Some("") => out.write_str("missing"),
            Some(value) => write!(out, "`{value:.120}`"),
        }
    }
}
