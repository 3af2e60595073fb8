//! Tokens verified before, until they expire, are pushed out, or their key goes.
//!
//! A function sends the same token for up to 45 minutes, so all that can't change need not be verified each time: its
//! signature and its claims. What can, the time and the issuer's keys, [`Verifier`](super::Verifier) judges anew.
//!
//! A token is kept but for its last characters, of which only the SHA-256 is: 254 bits of its signature or more. So a
//! dump of this memory holds no token but the last one, and nobody guesses the rest of the others. Nor does what is kept
//! of a signature give it away: that is known to work for small public exponents only (Coppersmith, 1996), and a token
//! of such a key is not remembered. (To hash all of a token would take longer than all else that is done for one that
//! comes again.) The last one is compared as it is: most often a single function calls.

use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::digest::{SHA256, digest};
use quick_cache::sync::Cache;

use super::claims::Claims;
use super::jwk::Key;

/// How many of a token's last characters are kept as a hash alone: as many as fit into one block of SHA-256, or nearly.
/// Each holds 6 bits of the signature, the last one at least 2.
const HIDDEN: usize = 43;

/// A bounded map from a token to the claims in it and the key that signed it.
pub(super) struct Memory(Option<Tokens>);

struct Tokens {
    /// The one remembered last, which is in the map as well.
    last: RwLock<Option<Last>>,
    by_end: Cache<End, Remembered>,
}

/// The one token that is here whole.
struct Last {
    hidden: [u8; HIDDEN],
    remembered: Remembered,
}

/// The end of what is kept of a token. It is a part of the signature, as good as random: so a stranger's token is found
/// missing before it is hashed.
type End = [u8; 8];

/// A token that was verified.
#[derive(Clone)]
pub(super) struct Remembered {
    start: Arc<[u8]>,
    hidden: [u8; 32],
    pub(super) claims: Arc<Claims>,
    pub(super) key: Arc<Key>,
}

impl Memory {
    /// Room for this many tokens; for none, nothing is remembered.
    pub(super) fn new(capacity: usize) -> Self {
        Self((capacity > 0).then(|| Tokens { last: RwLock::default(), by_end: Cache::new(capacity) }))
    }

    /// What was remembered of this token.
    pub(super) fn get(&self, token: &[u8]) -> Option<Remembered> {
        let (tokens, (start, end, hidden)) = (self.0.as_ref()?, parts(token)?);
        if let Some(last) = &*tokens.last.read().unwrap_or_else(PoisonError::into_inner)
            // Most often, this tells them apart.
            && last.remembered.start.ends_with(end)
            && last.is(start, hidden)
        {
            return Some(last.remembered.clone());
        }
        let remembered = tokens.by_end.get(end)?;
        (equal(&remembered.start, start) && remembered.hidden == sha256(hidden)).then_some(remembered)
    }

    pub(super) fn remember(&self, token: &[u8], claims: Arc<Claims>, key: Arc<Key>) {
        if let (Some(tokens), Some((start, end, hidden))) = (&self.0, parts(token))
            && !key.has_small_exponent()
        {
            let remembered = Remembered { start: start.into(), hidden: sha256(hidden), claims, key };
            tokens.by_end.insert(*end, remembered.clone());
            *tokens.last.write().unwrap_or_else(PoisonError::into_inner) = Some(Last { hidden: *hidden, remembered });
        }
    }

    pub(super) fn forget(&self, token: &[u8]) {
        if let (Some(tokens), Some((start, end, hidden))) = (&self.0, parts(token)) {
            tokens.by_end.remove(end);
            tokens.last.write().unwrap_or_else(PoisonError::into_inner).take_if(|last| last.is(start, hidden));
        }
    }
}

impl Last {
    fn is(&self, start: &[u8], hidden: &[u8]) -> bool {
        equal(&self.remembered.start, start) && equal(&self.hidden, hidden)
    }
}

/// Compares all bytes whatever they are, so that the time it takes tells a stranger nothing about a caller's token but
/// its length and, to one who knows its end, that it is here. (The crypto library's own comparison takes as long as the
/// hash that this is to save.)
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// What is kept of a token, the end of that, and the rest. No RS256 signature is shorter than these two.
fn parts(token: &[u8]) -> Option<(&[u8], &End, &[u8; HIDDEN])> {
    let (start, hidden) = token.split_last_chunk()?;
    Some((start, start.last_chunk()?, hidden))
}

fn sha256(hidden: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, hidden).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::sync::LazyLock;

    use serde_json::json;

    use super::super::jwk::Keys;
    use super::*;

    static KEY: LazyLock<Arc<Key>> = LazyLock::new(|| key("AQAB"));

    fn key(exponent: &str) -> Arc<Key> {
        let jwk = json!({ "kty": "RSA", "kid": "a", "n": "_".repeat(344), "e": exponent });
        let keys = Keys::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
        keys.get("a").unwrap().clone()
    }

    /// A token of these claims, as long as one is at least.
    fn token(claims: char) -> String {
        format!("h.{claims}.{}", claims.to_string().repeat(342))
    }

    fn remember(memory: &Memory, token: &str, key: &Arc<Key>) {
        let claims: Claims = serde_json::from_value(json!({ "sub": token })).unwrap();
        memory.remember(token.as_bytes(), claims.into(), key.clone());
    }

    fn knows(memory: &Memory, token: &str) -> bool {
        let remembered = memory.get(token.as_bytes());
        assert!(remembered.as_ref().is_none_or(|it| it.claims.sub.as_deref() == Some(token)), "another's claims");
        remembered.is_some()
    }

    #[test]
    fn knows_a_token_by_its_bytes() {
        let memory = Memory::new(10);
        let tokens = ['c', 'd'].map(token);
        for token in &tokens {
            remember(&memory, token, &KEY);
        }
        for token in &tokens {
            for changed in 0..token.len() {
                let other = format!("{}x{}", &token[..changed], &token[changed + 1..]);
                assert!(!knows(&memory, &other), "{other}");
            }
            for length in 0..token.len() {
                assert!(!knows(&memory, &token[..length]) && !knows(&memory, &token[length + 1..]), "{length}");
            }
            let last = &token[token.len() - 1..];
            for other in [format!("{token}{last}"), format!("x{token}"), format!("{token}{token}")] {
                assert!(!knows(&memory, &other), "{other}");
            }
        }
        // Each other's signature.
        assert!(!knows(&memory, &tokens[0].replace("h.c", "h.d")) && !knows(&memory, &tokens[1].replace("h.d", "h.c")));
        for token in &tokens {
            assert!(knows(&memory, token), "{token}");
            memory.forget(token.as_bytes());
            assert!(!knows(&memory, token), "{token}");
        }
    }

    #[test]
    fn keeps_the_end_of_a_token_as_a_hash_and_nothing_under_a_small_exponent() {
        let (token, hidden) = (token('c'), "y".repeat(HIDDEN));
        let token = format!("{}{hidden}", &token[..token.len() - HIDDEN]);
        for (exponent, remembered) in [("AQAB", true), ("Aw", false), ("__8", false)] {
            let memory = Memory::new(10);
            remember(&memory, &token, &key(exponent));
            let kept = memory.get(token.as_bytes());
            assert_eq!(kept.is_some(), remembered, "{exponent}");
            if let Some(kept) = kept {
                assert!(!kept.start.contains(&b'y'));
            }
        }
    }

    #[test]
    fn stays_at_its_bound() {
        for capacity in [0, 1, 10, 1000] {
            let memory = Memory::new(capacity);
            let tokens: Vec<_> = (0..5000).map(|n| format!("h.c.{n:08}{}", "x".repeat(HIDDEN))).collect();
            for token in &tokens {
                remember(&memory, token, &KEY);
            }
            let held = tokens.iter().filter(|token| knows(&memory, token)).count();
            assert!(held <= capacity && held >= capacity / 2, "{held} of {capacity}");
        }
    }
}
