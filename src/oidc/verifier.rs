//! All checks of a token, in order.
//!
//! The order is form, key, signature, rules. [`Verifier`] accepts a token only if all checks pass. For a cached token,
//! [`Verifier`] checks the time and the key again.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use quick_cache::sync::Cache;

use crate::claims::Claims;
use crate::error::{Invalid, VerifyError};
use crate::jwk::Key;
use crate::key_set::{KeySet, NoKey};
use crate::token::UnverifiedToken;
use crate::trust::Trust;

/// Vercel gives a function the same token for up to 90 minutes. A cached token and its claims take about 3 KiB, so this
/// many take about 30 MB.
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
    /// A fetch of the issuer's keys needs a tokio runtime with its I/O and time drivers. Outside of a runtime, the fetch
    /// fails: the result is [`VerifyError::KeysUnavailable`], and the log says why.
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
#[path = "tests.rs"]
pub(crate) mod tests;
