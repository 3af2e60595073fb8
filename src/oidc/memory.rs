//! Tokens verified before, until they expire, are pushed out, or their key goes.
//!
//! A function sends the same token for up to 45 minutes, so all that can't change need not be verified each time: its
//! signature and its claims. What can, the time and the issuer's keys, [`Verifier`](super::Verifier) judges anew.
//!
//! A token is kept as what was signed and the SHA-256 of the signature. Without its signature it is no token, so a dump of
//! this memory holds none but the last one. (To hash what was signed too, whose claims are here anyway, would take more
//! than twice as long.) The last one is compared as it is: most often a single function calls.

use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::digest;
use memchr::memrchr;
use quick_cache::sync::Cache;

use super::claims::Claims;
use super::jwk::Key;

/// A bounded map from a token to the claims in it and the key that signed it.
pub(super) struct Memory(Option<Tokens>);

struct Tokens {
    /// The one remembered last, which is in the map as well.
    last: RwLock<Option<(Box<[u8]>, Remembered)>>,
    /// Beside what was signed: whoever has a token can put its signature under other claims.
    by_signature: Cache<Digest, (Arc<[u8]>, Remembered)>,
}

#[derive(Clone)]
pub(super) struct Remembered {
    pub(super) claims: Arc<Claims>,
    pub(super) key: Arc<Key>,
}

impl Memory {
    /// Room for this many tokens; for none, nothing is remembered.
    pub(super) fn new(capacity: usize) -> Self {
        Self((capacity > 0).then(|| Tokens { last: RwLock::default(), by_signature: Cache::new(capacity) }))
    }

    /// What was remembered of this token, if it is the one remembered last.
    pub(super) fn last(&self, token: &[u8]) -> Option<Remembered> {
        let last = self.0.as_ref()?.last.read().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(last, _)| equal(last, token)).map(|(_, remembered)| remembered.clone())
    }

    /// What the token is remembered by; nothing where nothing is remembered.
    pub(super) fn digest(&self, token: &[u8]) -> Option<Digest> {
        self.0.as_ref().map(|_| Digest::of(token))
    }

    /// What was remembered of this token, which has this digest.
    pub(super) fn get(&self, token: &[u8], digest: &Digest) -> Option<Remembered> {
        let (signing_input, remembered) = self.0.as_ref()?.by_signature.get(digest)?;
        (*signing_input == *parts(token).0).then_some(remembered)
    }

    pub(super) fn remember(&self, token: &[u8], digest: Digest, remembered: Remembered) {
        if let Some(tokens) = &self.0 {
            tokens.by_signature.insert(digest, (parts(token).0.into(), remembered.clone()));
            *tokens.last.write().unwrap_or_else(PoisonError::into_inner) = Some((token.into(), remembered));
        }
    }

    pub(super) fn forget(&self, token: &[u8]) {
        if let Some(tokens) = &self.0 {
            tokens.by_signature.remove(&Digest::of(token));
            tokens.last.write().unwrap_or_else(PoisonError::into_inner).take_if(|(last, _)| equal(last, token));
        }
    }
}

/// Compares all bytes whatever they are, so that the time it takes tells a stranger nothing about a caller's token.
/// (The crypto library's own comparison takes as long as the hash that this is to save.)
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// What is signed, and the signature (with the dot).
fn parts(token: &[u8]) -> (&[u8], &[u8]) {
    token.split_at(memrchr(b'.', token).unwrap_or(0))
}

/// The SHA-256 of a token's signature.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    fn of(token: &[u8]) -> Self {
        let mut digest = [0; 32];
        digest.copy_from_slice(digest::digest(&digest::SHA256, parts(token).1).as_ref());
        Self(digest)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::LazyLock;

    use serde_json::json;

    use super::super::jwk::Keys;
    use super::*;

    static REMEMBERED: LazyLock<Remembered> = LazyLock::new(|| {
        let jwk = json!({ "kty": "RSA", "kid": "a", "n": "_".repeat(344), "e": "AQAB" });
        let keys = Keys::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
        Remembered { claims: Arc::new(serde_json::from_str("{}").unwrap()), key: keys.get("a").unwrap().clone() }
    });

    fn remember(memory: &Memory, token: &[u8]) {
        memory.remember(token, Digest::of(token), REMEMBERED.clone());
    }

    fn knows(memory: &Memory, token: &[u8]) -> bool {
        memory.last(token).is_some() || memory.get(token, &Digest::of(token)).is_some()
    }

    #[test]
    fn knows_a_token_by_its_bytes() {
        let memory = Memory::new(10);
        for token in [b"h.c.1", b"h.c.2"] {
            remember(&memory, token);
        }
        assert!(memory.last(b"h.c.1").is_none());
        assert!(memory.last(b"h.c.2").is_some());
        for other in [&b"h.d.1"[..], b"H.c.1", b"h.c.3", b"h.c.11", b"h.c.", b"h.c", b".1", b"1", b""] {
            assert!(!knows(&memory, other), "{}", other.escape_ascii());
        }
        for token in [b"h.c.1", b"h.c.2"] {
            assert!(memory.get(token, &Digest::of(token)).is_some());
            memory.forget(token);
            assert!(!knows(&memory, token));
        }
    }

    #[test]
    fn stays_at_its_bound() {
        for capacity in [0, 1, 10, 1000] {
            let memory = Memory::new(capacity);
            let tokens: Vec<_> = (0..5000).map(|number| format!("h.c.{number}")).collect();
            for token in &tokens {
                remember(&memory, token.as_bytes());
            }
            let held = tokens.iter().filter(|token| knows(&memory, token.as_bytes())).count();
            assert!(held <= capacity && held >= capacity / 2, "{held} of {capacity}");
        }
    }
}
