//! A JWKS document, read key by key.
//!
//! Pure functions of bytes. A key that can't be used is skipped and affects no other key. A key is checked in full when
//! its document is read, so an unusable key never replaces a usable key. jsonwebtoken's own `Jwk` is not used: it does
//! not check `use`, `key_ops`, sizes or parity, and refuses a key because of a member that is not needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::{BadDocument, SkippedKey, Unusable};
use crate::strict::{base64url, object};

/// A key that verifies RS256 signatures.
#[derive(Debug)]
pub(crate) struct Key {
    kid: String,
    decoding_key: DecodingKey,
}

/// The members of a JWK. If a member occurs twice, the last value counts (RFC 7517, section 4).
struct Members(BTreeMap<String, Box<RawValue>>);

impl Members {
    /// A member of this type. A member that is absent is `None`; `null` is not absent, because that would lift a
    /// restriction.
    fn optional<T: DeserializeOwned>(&self, name: &'static str) -> Result<Option<T>, Unusable> {
        let read = |value: &RawValue| serde_json::from_str(value.get()).map_err(|_| Unusable::Member(name));
        self.0.get(name).map(|value| read(value)).transpose()
    }

    fn required(&self, name: &'static str) -> Result<String, Unusable> {
        self.optional(name)?.filter(|text: &String| !text.is_empty()).ok_or(Unusable::Member(name))
    }

    /// A number in base64url, without its leading zeros, which aws-lc refuses (RFC 7518, section 6.3.1).
    fn number(&self, name: &'static str) -> Result<Vec<u8>, Unusable> {
        let mut number = base64url(self.required(name)?).ok_or(Unusable::Encoding(name))?;
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        number.drain(..zeros);
        Ok(number)
    }
}

impl Key {
    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    pub(crate) fn decoding_key(&self) -> &DecodingKey {
        &self.decoding_key
    }

    fn from_jwk(json: &RawValue) -> Result<Self, Unusable> {
        let members = Members(object(json.get().as_bytes()).map_err(|_| Unusable::NotObject)?);
        let kid = members.required("kid")?;
        if members.required("kty")? != "RSA" {
            return Err(Unusable::KeyType);
        }
        if let Some(other) = members.optional("use")?.filter(|public_key_use: &String| public_key_use != "sig") {
            return Err(Unusable::Use(other));
        }
        if members.optional("alg")?.is_some_and(|algorithm: String| algorithm != "RS256") {
            return Err(Unusable::Algorithm);
        }
        let operations: Option<Vec<String>> = members.optional("key_ops")?;
        if operations.is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
            return Err(Unusable::Operations);
        }
        let (modulus, exponent) = (members.number("n")?, members.number("e")?);
        match size(&modulus) {
            // RFC 7518, section 3.3 asks for 2048 bits or more. aws-lc refuses keys over 8192 bits.
            (2048..=8192, true) => {}
            (bits, odd) => return Err(Unusable::Modulus { bits, odd }),
        }
        match size(&exponent) {
            // RFC 8017, section 3.1 asks for 3 or more. aws-lc's limit bounds what one verification costs.
            (2..=33, true) => {}
            (bits, odd) => return Err(Unusable::Exponent { bits, odd }),
        }
        Ok(Self { kid, decoding_key: DecodingKey::from_rsa_raw_components(&modulus, &exponent) })
    }
}

/// How many bits a number without leading zeros has, and whether it is odd.
fn size(number: &[u8]) -> (usize, bool) {
    match (number.first(), number.last()) {
        (Some(first), Some(last)) => (number.len() * 8 - first.leading_zeros() as usize, last % 2 == 1),
        _ => (0, false),
    }
}

/// The usable keys of a document, by `kid`. If several keys have the same `kid`, the first counts.
#[derive(Debug)]
pub(crate) struct Keys(BTreeMap<String, Arc<Key>>);

impl Keys {
    /// Returns the usable keys, and why the others are skipped.
    pub(crate) fn parse(document: &[u8]) -> Result<(Self, Vec<SkippedKey>), BadDocument> {
        #[derive(Deserialize)]
        struct JwkSet {
            keys: Vec<Box<RawValue>>,
        }
        let JwkSet { keys: jwks } = object(document).map_err(|_| BadDocument::NotJwkSet)?;
        let (mut keys, mut skipped) = (BTreeMap::new(), Vec::new());
        for (number, jwk) in (1..).zip(&jwks) {
            match Key::from_jwk(jwk) {
                Ok(key) => drop(keys.entry(key.kid.clone()).or_insert_with(|| Arc::new(key))),
                Err(reason) => skipped.push(SkippedKey { number, kid: kid(jwk), reason }),
            }
        }
        if keys.is_empty() {
            return Err(BadDocument::NoUsableKey { skipped });
        }
        Ok((Self(keys), skipped))
    }

    pub(crate) fn get(&self, kid: &str) -> Option<&Arc<Key>> {
        self.0.get(kid)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The `kid` of a key that is skipped, for the log.
fn kid(jwk: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        kid: String,
    }
    object::<Named>(jwk.get().as_bytes()).ok().map(|named| named.kid)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use jsonwebtoken::DecodingKeyKind;
    use serde_json::{Value, json};

    use super::*;

    fn base64url(bytes: impl AsRef<[u8]>) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The largest number of this many bits, which is odd.
    fn number(bits: usize) -> String {
        let mut bytes = vec![0xff; bits.div_ceil(8)];
        bytes[0] >>= bytes.len() * 8 - bits;
        base64url(bytes)
    }

    fn jwk() -> Value {
        json!({ "kty": "RSA", "kid": "a", "n": number(2048), "e": "AQAB" })
    }

    fn parse(keys: &[Value]) -> Result<(Keys, Vec<SkippedKey>), BadDocument> {
        Keys::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    /// Reads a document of two keys: a usable key with these changes, and another usable key.
    fn reason(changes: &[(&str, Value)]) -> Option<Unusable> {
        let (mut changed, mut other) = (jwk(), jwk());
        other["kid"] = json!("other");
        for (name, value) in changes {
            changed[name] = value.clone();
        }
        let (keys, mut skipped) = parse(&[changed, other]).unwrap();
        assert!(keys.get("other").is_some(), "a skipped key affects no other");
        assert_eq!(keys.len() + skipped.len(), 2);
        skipped.pop().map(|key| key.reason)
    }

    #[test]
    fn usable_keys() {
        let usable: [&[(&str, Value)]; 14] = [
            &[],
            &[("use", json!("sig"))],
            &[("alg", json!("RS256"))],
            &[("key_ops", json!(["verify"]))],
            &[("key_ops", json!(["sign", "verify", "new"]))],
            &[("e", json!("Aw"))],
            &[("e", json!("AAEAAQ"))],
            &[("e", json!(number(33)))],
            &[("n", json!(number(2049)))],
            &[("n", json!(number(4096)))],
            &[("n", json!(number(8192)))],
            &[("n", json!(base64url([&[0][..], &[0xff; 256]].concat())))],
            &[("x5c", json!("odd")), ("x5t", json!(1)), ("unknown", json!(null))],
            &[("kid", json!("b"))],
        ];
        for changes in usable {
            assert_eq!(reason(changes), None, "{changes:?}");
        }
    }

    #[test]
    fn a_key_is_skipped_with_its_own_reason() {
        for (member, value, expected) in [
            ("kid", json!(""), Unusable::Member("kid")),
            ("kid", json!(null), Unusable::Member("kid")),
            ("kty", json!(null), Unusable::Member("kty")),
            ("use", json!(null), Unusable::Member("use")),
            ("alg", json!(null), Unusable::Member("alg")),
            ("key_ops", json!(null), Unusable::Member("key_ops")),
            ("use", json!("enc"), Unusable::Use("enc".into())),
            ("use", json!(""), Unusable::Use("".into())),
            ("use", json!("SIG"), Unusable::Use("SIG".into())),
            ("alg", json!("RS512"), Unusable::Algorithm),
            ("alg", json!("rs256"), Unusable::Algorithm),
            ("alg", json!("HS256"), Unusable::Algorithm),
            ("alg", json!(""), Unusable::Algorithm),
            ("key_ops", json!([]), Unusable::Operations),
            ("key_ops", json!(["sign"]), Unusable::Operations),
            ("n", json!(number(2048) + "="), Unusable::Encoding("n")),
            ("n", json!(number(2048).replace('_', "/")), Unusable::Encoding("n")),
            ("e", json!("AQAB="), Unusable::Encoding("e")),
            ("n", json!(number(2047)), Unusable::Modulus { bits: 2047, odd: true }),
            ("n", json!(number(1024)), Unusable::Modulus { bits: 1024, odd: true }),
            ("n", json!(number(8193)), Unusable::Modulus { bits: 8193, odd: true }),
            ("n", json!(""), Unusable::Member("n")),
            ("n", json!("AA"), Unusable::Modulus { bits: 0, odd: false }),
            // As many bytes as a usable key has, and too few bits.
            (
                "n",
                json!(base64url([&[0; 128][..], &[0xff; 128]].concat())),
                Unusable::Modulus { bits: 1024, odd: true },
            ),
            ("n", json!(base64url([&[0xff; 255][..], &[0xfe]].concat())), Unusable::Modulus { bits: 2048, odd: false }),
            ("e", json!(""), Unusable::Member("e")),
            ("e", json!("AA"), Unusable::Exponent { bits: 0, odd: false }),
            ("e", json!("AQ"), Unusable::Exponent { bits: 1, odd: true }),
            ("e", json!("AAE"), Unusable::Exponent { bits: 1, odd: true }),
            ("e", json!("Ag"), Unusable::Exponent { bits: 2, odd: false }),
            ("e", json!("BA"), Unusable::Exponent { bits: 3, odd: false }),
            ("e", json!(number(34)), Unusable::Exponent { bits: 34, odd: true }),
        ] {
            assert_eq!(reason(&[(member, value.clone())]), Some(expected), "{member} {value}");
        }
        for kty in ["rsa", "EC", "oct"] {
            assert_eq!(reason(&[("kty", json!(kty))]), Some(Unusable::KeyType), "{kty}");
        }
        for (member, value) in [
            ("kty", json!(1)),
            ("kid", json!(1)),
            ("kid", json!({ "$serde_json::private::RawValue": "\"a\"" })),
            ("n", json!(1)),
            ("e", json!(65537)),
            ("use", json!(["sig"])),
            ("alg", json!(256)),
            ("key_ops", json!("verify")),
            ("key_ops", json!(["verify", 1])),
        ] {
            assert_eq!(reason(&[(member, value.clone())]), Some(Unusable::Member(member)), "{member} {value}");
        }
        let mut elliptic = jwk();
        elliptic["kty"] = json!("EC");
        (elliptic["crv"], elliptic["x"], elliptic["y"]) = (json!("P-256"), json!("AQ"), json!("AQ"));
        for key in [elliptic, json!({}), json!([]), json!("a"), json!(1), json!(null)] {
            assert!(matches!(parse(&[key]), Err(BadDocument::NoUsableKey { skipped }) if skipped.len() == 1));
        }
        for missing in ["kty", "kid", "n", "e"] {
            let mut jwk = jwk();
            jwk.as_object_mut().unwrap().remove(missing);
            assert!(matches!(parse(&[jwk]), Err(BadDocument::NoUsableKey { .. })), "{missing}");
        }
    }

    #[test]
    fn a_skipped_key_is_named() {
        let (mut small, good) = (jwk(), jwk());
        (small["n"], small["kid"]) = (json!(number(1024)), json!("small\n"));
        let (_, skipped) = parse(&[good, small, json!(1)]).unwrap();
        assert_eq!(
            skipped.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                r"key 2 (`kid` `small\n`) is skipped: the modulus has 1024 bits and is odd; an odd one of 2048 to 8192 bits is needed",
                "key 3 (`kid` missing) is skipped: it is not a JSON object",
            ]
        );
    }

    #[test]
    fn the_first_usable_key_of_a_kid_counts() {
        let (mut unusable, mut first, second) = (jwk(), jwk(), jwk());
        unusable["use"] = json!("enc");
        first["n"] = json!(number(3072));
        let (keys, _) = parse(&[unusable, first, second]).unwrap();
        let DecodingKeyKind::RsaModulusExponent { n, .. } = keys.get("a").unwrap().decoding_key().kind() else {
            unreachable!("an RSA key")
        };
        assert_eq!((keys.len(), n.len()), (1, 384));
        assert!(keys.get("A").is_none() && keys.get("").is_none());
    }

    #[test]
    fn a_document_is_an_object_with_keys() {
        let array = format!("[[{}]]", jwk());
        let twice = format!(r#"{{"keys":[{0}],"keys":[{0}]}}"#, jwk());
        for document in
            ["", "{}", "[]", "null", r#"{"keys":{}}"#, r#"{"keys":null}"#, &array, &twice, "<html>", "\u{feff}{}"]
        {
            assert!(matches!(Keys::parse(document.as_bytes()), Err(BadDocument::NotJwkSet)), "{document}");
        }
        assert!(matches!(parse(&[]), Err(BadDocument::NoUsableKey { skipped }) if skipped.is_empty()));
    }
}
