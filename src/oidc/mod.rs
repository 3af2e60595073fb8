//! Verifies Vercel OIDC tokens: a token in, its claims or the reason out. The folder to copy.
//!
//! It needs the crates aws-lc-rs, base64, memchr, quick_cache, reqwest, serde, serde_json (feature `raw_value`),
//! thiserror, tokio and tracing, and nothing of the rest of this repository: no web framework, no environment variable.
//!
//! # What a token says
//!
//! A function on Vercel has a JSON Web Token (RFC 7519): three parts in base64url, joined by dots. The *header* names
//! the algorithm and, as `kid`, the key. The *payload* holds the claims. The *signature* covers both (RFC 7515). All
//! three can be read by anybody, so a token proves something only to those who check it:
//!
//! - the *issuer* (`iss`) has signed it: `https://oidc.vercel.com/TEAM`. It publishes its public keys as a *key set*
//!   (JWK Set, RFC 7517) below that URL, and replaces them from time to time.
//! - the *audience* (`aud`) is whom the token is for: `https://vercel.com/TEAM`, or one API where the token was exchanged.
//! - the *subject* (`sub`) is whom it speaks of: `owner:TEAM:project:PROJECT:environment:ENVIRONMENT`. More claims say
//!   the same one by one, and as ids that a rename leaves alone: see [`Claims`].
//! - it is good from `nbf` to `exp`, give or take a *leeway* for clocks that differ.
//!
//! [`Trust`] holds what these must be, [`KeySet`] the keys, and [`Verifier`] puts the questions in order.
//!
//! # What it guards against
//!
//! The holder of a token is a stranger until the last check has passed. In this order, so that each check relies on
//! those before it:
//!
//! 1. `token`: a compact JWS of bounded size whose header names RS256 and a key. The token chooses neither the
//!    algorithm (`none`, HMAC with a public key as the secret) nor the key (`jwk`, `jku`, `x5u`, `x5c`).
//! 2. `key_set`: the issuer's key of that `kid`, from the one URL that was configured. What a stranger's `kid` can make
//!    this process fetch is bounded.
//! 3. `jwk`: the signature, by that key.
//! 4. `trust`: issuer, audience and time. An issuer signs for all its customers: without the audience and subject, any
//!    of them would be let in.
//! 5. `trust`: whose token it is.
//!
//! It doesn't guard against the replay of a token by someone who has read it: use TLS, and an audience of your own.
//!
//! ```no_run
//! use backend::oidc::{KeySet, Trust, Verifier};
//! use std::time::SystemTime;
//!
//! # async fn example(token: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let keys = KeySet::new("https://oidc.vercel.com/acme/.well-known/jwks".parse()?);
//! let trust = Trust::project("acme", "shop", "production");
//! let verifier = Verifier::new(trust, keys, 10_000);
//! let claims = verifier.verify(token, SystemTime::now()).await?;
//! println!("called by {:?}", claims.sub);
//! # Ok(())
//! # }
//! ```

mod claims;
mod error;
mod fetch;
mod jwk;
mod key_set;
mod memory;
mod subject;
mod token;
mod trust;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use claims::{Audience, Claims};
pub use error::{Forbidden, Invalid};
pub use key_set::KeySet;
pub use subject::Subject;
pub use trust::{Trust, Trusted, VERCEL_ISSUER, is_slug, vercel_audience, vercel_issuer};

use key_set::NoKey;
use memory::Memory;
use token::UnverifiedToken;

/// Decides about tokens by one issuer's keys and one set of rules.
pub struct Verifier {
    trust: Trust,
    keys: KeySet,
    memory: Memory,
}

impl Verifier {
    /// A verifier that remembers up to `remembered_tokens` tokens, so that the signature of one that comes again need
    /// not be computed again.
    pub fn new(trust: Trust, keys: KeySet, remembered_tokens: usize) -> Self {
        Self { trust, keys, memory: Memory::new(remembered_tokens) }
    }

    /// The issuer's keys.
    pub fn keys(&self) -> &KeySet {
        &self.keys
    }

    /// The claims of this token, if it is accepted now.
    ///
    /// # Errors
    ///
    /// [`VerifyError`]: the token is invalid, or its holder isn't allowed in, or the issuer's keys can't be had.
    pub async fn verify(&self, token: &[u8], now: SystemTime) -> Result<Arc<Claims>, VerifyError> {
        // A key that was replaced under the same `kid` is another key.
        if let Some(remembered) = self.memory.get(token)
            && self.keys.key(remembered.key.kid()).await? == remembered.key
        {
            self.trust.judge_time(&remembered.claims, now).inspect_err(|_| self.memory.forget(token))?;
            return Ok(remembered.claims);
        }
        let unverified = UnverifiedToken::parse(token)?;
        let key = self.keys.key(&unverified.kid).await?;
        key.verify(&unverified)?;
        let claims = Arc::new(Claims::from_signed(unverified.payload)?);
        self.trust.judge(&claims, now)?;
        self.memory.remember(token, claims.clone(), key);
        Ok(claims)
    }
}

/// Why a token was not accepted, by whose concern it is.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The token is no good, for anybody.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The token is good, but not for this API.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// Nobody can tell: the issuer's keys can't be had.
    #[error("the keys of the token's issuer can't be fetched right now, so the token can't be judged")]
    KeysUnavailable {
        /// When asking again may help.
        retry_after: Duration,
    },
}

impl From<NoKey> for VerifyError {
    fn from(no_key: NoKey) -> Self {
        match no_key {
            NoKey::Unknown => Self::Invalid(Invalid::UnknownKey),
            NoKey::Unavailable { retry_after } => Self::KeysUnavailable { retry_after },
        }
    }
}
