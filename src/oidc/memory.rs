//! Tokens verified before, until they expire, are pushed out, or their key goes.
//!
//! A function sends the same token for up to 45 minutes, so its signature need not be verified each time. What is
//! remembered proves the signature alone: whether the claims are accepted is judged anew each time. Tokens are kept as
//! SHA-256 digests, so a dump of this memory holds none.

use std::sync::Arc;

use aws_lc_rs::digest;
use quick_cache::sync::Cache;

use super::claims::Claims;
use super::jwk::Key;

/// A bounded map from a token's digest to the claims in it and the key that signed it.
pub(super) struct Memory(Option<Cache<[u8; 32], Remembered>>);

#[derive(Clone)]
struct Remembered {
    claims: Arc<Claims>,
    key: Arc<Key>,
}

impl Memory {
    /// Room for this many tokens; for none, nothing is remembered.
    pub(super) fn new(capacity: usize) -> Self {
        Self((capacity > 0).then(|| Cache::new(capacity)))
    }

    /// The claims of a token that this very key was seen to have signed.
    pub(super) fn recall(&self, token: &[u8], key: &Key) -> Option<Arc<Claims>> {
        let remembered = self.0.as_ref()?.get(&sha256(token))?;
        // A key that was replaced under the same `kid` is another key.
        (*remembered.key == *key).then_some(remembered.claims)
    }

    pub(super) fn remember(&self, token: &[u8], claims: Arc<Claims>, key: Arc<Key>) {
        if let Some(cache) = &self.0 {
            cache.insert(sha256(token), Remembered { claims, key });
        }
    }

    pub(super) fn forget(&self, token: &[u8]) {
        if let Some(cache) = &self.0 {
            cache.remove(&sha256(token));
        }
    }
}

fn sha256(token: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, token).as_ref());
    digest
}
