//! Tokens verified before, until they expire, are pushed out, or their key goes.
//!
//! A function sends the same token for up to 45 minutes, so all that can't change need not be verified each time: its
//! signature and its claims. What can, the time and the issuer's keys, [`Verifier`](super::Verifier) judges anew.
//!
//! A token is kept as what was signed, the SHA-256 of the signature, and the signature's last bytes, by which it is
//! found: too few to guess the rest by. Without its signature it is no token, so a dump of this memory holds none but
//! the last one. (To hash what was signed too, whose claims are here anyway, would take more than twice as long.) The
//! last one is compared as it is: most often a single function calls.

use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::digest::{SHA256, digest};
use memchr::memrchr;
use quick_cache::sync::Cache;

use super::claims::Claims;
use super::jwk::Key;

/// A bounded map from a token to the claims in it and the key that signed it.
pub(super) struct Memory(Option<Tokens>);

struct Tokens {
    /// The one remembered last, which is in the map as well.
    last: RwLock<Option<Last>>,
    /// By the end of the signature, which is as good as random: a stranger's token is not hashed to be found missing.
    by_end: Cache<End, Arc<Remembered>>,
}

/// The last bytes of a token, and so of its signature: no RS256 signature is shorter.
type End = [u8; 8];

struct Last {
    token: Box<[u8]>,
    remembered: Arc<Remembered>,
}

/// A token that was verified.
pub(super) struct Remembered {
    /// The token's length in bytes, so that no more than a remembered token's is ever hashed.
    length: usize,
    /// Compared beside the signature: whoever has a token can put its signature under other claims.
    signing_input: Box<[u8]>,
    signature: [u8; 32],
    pub(super) claims: Arc<Claims>,
    pub(super) key: Arc<Key>,
}

impl Memory {
    /// Room for this many tokens; for none, nothing is remembered.
    pub(super) fn new(capacity: usize) -> Self {
        Self((capacity > 0).then(|| Tokens { last: RwLock::default(), by_end: Cache::new(capacity) }))
    }

    /// What was remembered of this token.
    pub(super) fn get(&self, token: &[u8]) -> Option<Arc<Remembered>> {
        let (tokens, end) = (self.0.as_ref()?, token.last_chunk()?);
        if let Some(last) = &*tokens.last.read().unwrap_or_else(PoisonError::into_inner)
            && last.is(token, end)
        {
            return Some(last.remembered.clone());
        }
        let remembered = tokens.by_end.get(end)?;
        remembered.is(token).then_some(remembered)
    }

    pub(super) fn remember(&self, token: &[u8], claims: Arc<Claims>, key: Arc<Key>) {
        if let (Some(tokens), Some(end)) = (&self.0, token.last_chunk()) {
            let (signing_input, signature) = parts(token);
            let (signing_input, signature) = (signing_input.into(), sha256(signature));
            let remembered = Arc::new(Remembered { length: token.len(), signing_input, signature, claims, key });
            tokens.by_end.insert(*end, remembered.clone());
            let last = Last { token: token.into(), remembered };
            *tokens.last.write().unwrap_or_else(PoisonError::into_inner) = Some(last);
        }
    }

    pub(super) fn forget(&self, token: &[u8]) {
        if let (Some(tokens), Some(end)) = (&self.0, token.last_chunk()) {
            tokens.by_end.remove(end);
            tokens.last.write().unwrap_or_else(PoisonError::into_inner).take_if(|last| last.is(token, end));
        }
    }
}

impl Last {
    fn is(&self, token: &[u8], end: &End) -> bool {
        // Most often, the end tells them apart.
        self.token.ends_with(end) && equal(&self.token, token)
    }
}

impl Remembered {
    fn is(&self, token: &[u8]) -> bool {
        let (signing_input, signature) = parts(token);
        self.length == token.len() && equal(&self.signing_input, signing_input) && self.signature == sha256(signature)
    }
}

/// Compares all bytes whatever they are, so that the time it takes tells a stranger nothing about a caller's token but
/// its length and, to one who knows its end, that it is here. (The crypto library's own comparison takes as long as the
/// hash that this is to save.)
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// What is signed, and the signature (with the dot).
fn parts(token: &[u8]) -> (&[u8], &[u8]) {
    token.split_at(memrchr(b'.', token).unwrap_or(0))
}

fn sha256(signature: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, signature).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::LazyLock;

    use serde_json::json;

    use super::super::jwk::Keys;
    use super::*;

    static KEY: LazyLock<Arc<Key>> = LazyLock::new(|| {
        let jwk = json!({ "kty": "RSA", "kid": "a", "n": "_".repeat(344), "e": "AQAB" });
        let keys = Keys::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
        keys.get("a").unwrap().clone()
    });

    fn remember(memory: &Memory, token: &str) {
        let claims: Claims = serde_json::from_value(json!({ "sub": token })).unwrap();
        memory.remember(token.as_bytes(), claims.into(), KEY.clone());
    }

    fn knows(memory: &Memory, token: &str) -> bool {
        let remembered = memory.get(token.as_bytes());
        assert!(remembered.as_ref().is_none_or(|it| it.claims.sub.as_deref() == Some(token)), "another's claims");
        remembered.is_some()
    }

    #[test]
    fn knows_a_token_by_its_bytes() {
        let memory = Memory::new(10);
        let tokens = ["h.c.signature-1", "h.d.Signature-2"];
        for token in tokens {
            remember(&memory, token);
        }
        for token in tokens {
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let others = [
                format!("{signed}x.{signature}"),
                format!("H{}.{signature}", &signed[1..]),
                format!("{signed}.{signature}x"),
                format!("{signed}.{signature}{signature}"),
                format!("{signed}.{}", &signature[..signature.len() - 1]),
                format!("{signed}.{}", signature.replace('-', "_")),
                format!("{signed}.{}", signature.replacen(['s', 'S'], "z", 1)),
                format!("{signed}."),
                format!(".{signature}"),
                signed.to_owned(),
                signature.to_owned(),
                String::new(),
            ];
            for other in others {
                assert!(!knows(&memory, &other), "{other}");
            }
        }
        // Each other's signature.
        assert!(!knows(&memory, "h.c.Signature-2") && !knows(&memory, "h.d.signature-1"));
        for token in tokens {
            assert!(knows(&memory, token), "{token}");
            memory.forget(token.as_bytes());
            assert!(!knows(&memory, token), "{token}");
        }
    }

    #[test]
    fn stays_at_its_bound() {
        for capacity in [0, 1, 10, 1000] {
            let memory = Memory::new(capacity);
            let tokens: Vec<_> = (0..5000).map(|number| format!("h.c.{number:08}")).collect();
            for token in &tokens {
                remember(&memory, token);
            }
            let held = tokens.iter().filter(|token| knows(&memory, token)).count();
            assert!(held <= capacity && held >= capacity / 2, "{held} of {capacity}");
        }
    }
}
