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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::super::jwk::Keys;
    use super::*;

    /// A key, or rather one that can't be: it is only compared here.
    fn key(exponent: &str) -> Arc<Key> {
        let jwk = json!({ "kty": "RSA", "kid": "a", "n": "_".repeat(344), "e": exponent });
        Keys::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap().get("a").unwrap().clone()
    }

    fn claims() -> Arc<Claims> {
        Arc::new(serde_json::from_str("{}").unwrap())
    }

    #[test]
    fn recalls_a_token_by_its_bytes_and_its_key() {
        let (memory, ours, theirs) = (Memory::new(10), key("AQAB"), key("Aw"));
        memory.remember(b"token", claims(), ours.clone());
        assert!(memory.recall(b"token", &ours).is_some());
        assert!(memory.recall(b"token", &theirs).is_none());
        assert!(memory.recall(b"Token", &ours).is_none());
        memory.forget(b"token");
        assert!(memory.recall(b"token", &ours).is_none());
    }

    #[test]
    fn stays_at_its_bound() {
        let key = key("AQAB");
        for capacity in [0, 1, 10, 1000] {
            let memory = Memory::new(capacity);
            let tokens: Vec<_> = (0..5000_u32).map(u32::to_be_bytes).collect();
            for token in &tokens {
                memory.remember(token, claims(), key.clone());
            }
            let held = tokens.iter().filter(|token| memory.recall(*token, &key).is_some()).count();
            assert!(held <= capacity && held >= capacity / 2, "{held} of {capacity}");
        }
    }
}
