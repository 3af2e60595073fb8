//! Verifies Vercel OIDC tokens: a token in, its claims or the reason out.
//!
//! A Vercel Function proves who it is with a JSON Web Token that Vercel signs. This crate verifies such a token before
//! an API answers. The two share no secret: the API needs Vercel's public keys, and this crate fetches them.
//!
//! ```no_run
//! use std::time::SystemTime;
//! use vercel_oidc_verifier::{KeySet, Trust, Verifier};
//!
//! # async fn example(token: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let keys = KeySet::of_issuer("https://oidc.vercel.com/acme")?;
//! let trust = Trust::project("acme", "storefront", "production").with_owner_ids(["team_7Gw5ZMzpQA8h90F832KGp7nw"]);
//! let verifier = Verifier::new(trust, keys);
//!
//! let claims = verifier.verify(token, SystemTime::now()).await?;
//! println!("called by {:?}", claims.sub());
//! # Ok(())
//! # }
//! ```
//!
//! With the feature `axum`, `require_token` guards an axum application, `VerifiedCaller` tells a handler who calls, and
//! `Problem` answers errors as `application/problem+json`.
//!
//! # What is checked, in order
//!
//! 1. The form: a compact JWS (RFC 7515) of at most 8 KiB, `alg` RS256, a `kid`, no `crit`. The token chooses neither the
//!    algorithm (`none`, HMAC with a public key as the secret) nor the key (`jwk`, `jku`, `x5u`, `x5c`).
//! 2. The key: the issuer's usable key of that `kid`, from the one URL that was configured.
//! 3. The signature, by that key.
//! 4. Issuer, audience and time (RFC 7519, section 4.1). Vercel signs for all its customers, so without
//!    audience and subject, the API would accept any of them.
//! 5. Who calls: the subject, and the ids of team and project.
//!
//! # What is not covered
//!
//! A token that an attacker has read can be used until it expires: use TLS, and an audience for each API. The crate
//! limits no caller's rate, and can't revoke a single token.
//!
//! # Several issuers
//!
//! One verifier serves one issuer. An API with several issuers chooses a verifier by the token's unverified issuer, and
//! the verifier then checks the issuer. Nothing is fetched for an unknown issuer:
//!
//! ```
//! use std::collections::HashMap;
//! use std::sync::Arc;
//! use std::time::SystemTime;
//! use vercel_oidc_verifier::{Claims, KeySet, Subject, Trust, Verifier, unverified_issuer};
//!
//! const VERCEL: &str = "https://oidc.vercel.com/acme";
//! const GITHUB: &str = "https://token.actions.githubusercontent.com";
//!
//! struct Verifiers(HashMap<&'static str, Verifier>);
//!
//! impl Verifiers {
//!     async fn verify(&self, token: &[u8]) -> Option<Arc<Claims>> {
//!         let verifier = self.0.get(unverified_issuer(token)?.as_str())?;
//!         verifier.verify(token, SystemTime::now()).await.ok()
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let vercel = Trust::project("acme", "storefront", "production").with_owner_ids(["team_7Gw5ZMzpQA8h90F832KGp7nw"]);
//! // A workflow's token has none of Vercel's own claims: issuer, audience and subject decide.
//! let workflow = Subject::new("repo:acme/storefront:ref:refs/heads/main");
//! let github = Trust::issuer(GITHUB, ["https://api.example.com"], [workflow]);
//! let verifiers = Verifiers(HashMap::from([
//!     (VERCEL, Verifier::new(vercel, KeySet::of_issuer(VERCEL)?)),
//!     (GITHUB, Verifier::new(github, KeySet::of_issuer(GITHUB)?)),
//! ]));
//! // {"iss":"https://evil.example"}
//! let unknown = b"e30.eyJpc3MiOiJodHRwczovL2V2aWwuZXhhbXBsZSJ9.e30";
//! assert!(verifiers.verify(unknown).await.is_none());
//! # Ok(())
//! # }
//! ```
//!
//! # Testing your handlers
//!
//! Only a [`Verifier`] makes [`Claims`]. A test makes a verifier with the test's own key, and signs any claims with
//! that key:
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use jsonwebtoken::jwk::{Jwk, KeyAlgorithm};
//! use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
//! use serde_json::json;
//! use vercel_oidc_verifier::{KeySet, Trust, Verifier};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // openssl genrsa -traditional 2048 | openssl rsa -traditional -outform DER -out rsa-2048.der
//! let key = EncodingKey::from_rsa_der(include_bytes!("testdata/rsa-2048.der"));
//! let mut jwk = Jwk::from_encoding_key(&key, Algorithm::RS256)?;
//! jwk.common.key_id = Some("test".into());
//! let keys = KeySet::from_jwks(json!({ "keys": [jwk] }).to_string().as_bytes())?;
//! let verifier = Verifier::new(Trust::project("acme", "storefront", "production"), keys);
//!
//! let now = SystemTime::now();
//! let header = Header { kid: Some("test".into()), ..Header::new(Algorithm::RS256) };
//! let claims = json!({
//!     "iss": "https://oidc.vercel.com/acme",
//!     "aud": "https://vercel.com/acme",
//!     "sub": "owner:acme:project:storefront:environment:production",
//!     "exp": now.duration_since(SystemTime::UNIX_EPOCH)?.as_secs() + 60,
//! });
//! let token = encode(&header, &claims, &key)?;
//! assert!(verifier.verify(token.as_bytes(), now).await.is_ok());
//! assert!(verifier.verify(token.as_bytes(), now + Duration::from_secs(3600)).await.is_err());
//! # Ok(())
//! # }
//! ```

mod claims;
mod error;
mod fetch;
#[cfg(feature = "axum")]
mod guard;
mod jwk;
mod key_set;
#[cfg(feature = "axum")]
mod problem;
mod strict;
mod subject;
mod token;
mod trust;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use quick_cache::sync::Cache;

pub use claims::Claims;
pub use error::{BadDocument, Forbidden, Invalid, KeySetError, SkippedKey, Unusable, VerifyError};
#[cfg(feature = "axum")]
pub use guard::{VerifiedCaller, require_token};
pub use key_set::KeySet;
#[cfg(feature = "axum")]
pub use problem::Problem;
pub use subject::Subject;
pub use token::unverified_issuer;
pub use trust::{Trust, VERCEL_ISSUER, is_slug, vercel_audience, vercel_issuer};

use jwk::Key;
use key_set::NoKey;
use token::UnverifiedToken;

/// A function's token is about 1 KiB and serves for up to 45 minutes. So this many take some 30 MB.
const DEFAULT_CACHED_TOKENS: usize = 10_000;

/// Verifies tokens with one issuer's keys and one set of rules.
pub struct Verifier {
    trust: Trust,
    keys: KeySet,
    /// The key of the map is the whole token, so two callers can't be mixed up.
    ///
    /// A lookup compares a few bits of a randomly keyed hash, and then the bytes if these bits agree. For about one in
    /// a hundred of an attacker's tokens, the bits agree with some cached token. Then the time depends on how many
    /// leading bytes are equal. An attacker can't tell these lookups apart, and has to find all 342 characters of a
    /// signature.
    ///
    /// With the SHA-256 of the token as the key, this map would hold no token, but each request would cost 6 to 8 %
    /// more. The memory of the process holds the tokens of its requests in any case.
    verified: Cache<Box<[u8]>, Verified>,
}

/// The claims of a verified token, and the key that signed it.
#[derive(Clone)]
struct Verified {
    key: Arc<Key>,
    claims: Arc<Claims>,
}

impl Verifier {
    /// A verifier that caches up to 10,000 verified tokens.
    pub fn new(trust: Trust, keys: KeySet) -> Self {
        Self { trust, keys, verified: Cache::new(DEFAULT_CACHED_TOKENS) }
    }

    /// Changes how many verified tokens are cached. 0 turns the cache off.
    #[must_use]
    pub fn with_cached_tokens(self, capacity: usize) -> Self {
        Self { verified: Cache::new(capacity), ..self }
    }

    /// The issuer's keys.
    pub fn keys(&self) -> &KeySet {
        &self.keys
    }

    /// Returns the claims of this token if it is accepted now.
    ///
    /// # Errors
    ///
    /// [`VerifyError`]: the token is invalid, or its holder is not trusted, or the issuer's keys are not available.
    pub async fn verify(&self, token: &[u8], now: SystemTime) -> Result<Arc<Claims>, VerifyError> {
        if let Some(Verified { key, claims }) = self.verified.get(token) {
            // Only the time and the issuer's keys can change. A key that was fetched again counts as another key.
            if Arc::ptr_eq(&self.keys.key(key.kid(), now).await?, &key) {
                self.trust.check_time(&claims, now).inspect_err(|_| drop(self.verified.remove(token)))?;
                return Ok(claims);
            }
            self.verified.remove(token);
        }
        let unverified = UnverifiedToken::parse(token)?;
        let key = self.keys.key(&unverified.unverified_kid, now).await?;
        let claims = Arc::new(unverified.signed_claims(&key)?);
        self.trust.check(&claims, now)?;
        self.verified.insert(token.into(), Verified { key, claims: Arc::clone(&claims) });
        Ok(claims)
    }
}

/// Shows the rules and the keys. The cached tokens are not shown.
impl fmt::Debug for Verifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Verifier").field("trust", &self.trust).field("keys", &self.keys).finish_non_exhaustive()
    }
}

impl From<NoKey> for VerifyError {
    fn from(no_key: NoKey) -> Self {
        match no_key {
            NoKey::Unknown => Self::Invalid(Invalid::UnknownKey),
            NoKey::Unavailable { retry_after } => Self::KeysUnavailable { retry_after },
        }
    }
}

#[cfg(test)]
mod tests;
