//! The issuer's document, read key by key, and what its keys are for: the signature of a token.
//!
//! Pure functions of bytes. A key that can't be used is skipped, and spoils no other. Which keys are usable: RSA of 2048
//! bits or more for RS256 signatures (RFC 7517, section 4; RFC 7518, sections 3.3 and 6.3.1). A key is parsed once, when
//! its document is read: that takes a good part of the time that a verification does.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Invalid;
use super::token::{UnverifiedToken, decode, if_present, object};

/// RFC 7518, section 3.3: a key of 2048 bits or larger MUST be used. The crypto library verifies with no larger one than
/// 8192, which it would say at each token only.
const MODULUS_BITS: RangeInclusive<usize> = 2048..=8192;
/// From 3 on (RFC 8017, section 3.1). The crypto library's limit keeps a key from making each verification slow.
const EXPONENT_BITS: RangeInclusive<usize> = 2..=33;

/// A key that verifies RS256 signatures. Two are equal when they are the same key under the same `kid`.
#[derive(Debug)]
pub(super) struct Key {
    kid: String,
    parsed: ParsedPublicKey,
    has_small_exponent: bool,
}

/// Which makes an [`Arc`] of it equal to itself without a look at the key.
impl Eq for Key {}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        (&self.kid, self.parsed.as_ref()) == (&other.kid, other.parsed.as_ref())
    }
}

impl Key {
    /// What the key calls itself.
    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    /// Whether its public exponent is less than the usual 65537.
    pub(super) fn has_small_exponent(&self) -> bool {
        self.has_small_exponent
    }

    /// Whether this key has signed the token, as RS256 has it (RFC 7518, section 3.3): RSASSA-PKCS1-v1_5 with SHA-256.
    pub(super) fn verify(&self, token: &UnverifiedToken<'_>) -> Result<(), Invalid> {
        let signature = decode(token.signature).ok_or(Invalid::Signature)?;
        self.parsed.verify_sig(token.signing_input, &signature).map_err(|_| Invalid::Signature)
    }
}

/// The usable keys of a document, by `kid`. The first of several with the same `kid` counts.
#[derive(Debug)]
pub(super) struct Keys(BTreeMap<String, Arc<Key>>);

/// Why a document is not a key set.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadDocument {
    #[error("not a JSON object with an array `keys`")]
    NotKeySet,
    #[error("none of its {0} keys is usable: an RSA key with a `kid`, 2048 bits or more, for RS256 signatures")]
    NoUsableKey(usize),
}

impl Keys {
    pub(super) fn parse(document: &[u8]) -> Result<Self, BadDocument> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Box<RawValue>>,
        }
        let document: Document = object(document).ok_or(BadDocument::NotKeySet)?;
        let mut keys = BTreeMap::new();
        for key in document.keys.iter().filter_map(|jwk| usable(jwk)) {
            keys.entry(key.kid.clone()).or_insert_with(|| Arc::new(key));
        }
        if keys.is_empty() {
            return Err(BadDocument::NoUsableKey(document.keys.len()));
        }
        Ok(Self(keys))
    }

    pub(super) fn get(&self, kid: &str) -> Option<&Arc<Key>> {
        self.0.get(kid)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

fn usable(jwk: &RawValue) -> Option<Key> {
    #[derive(Deserialize)]
    struct Jwk {
        kty: String,
        kid: String,
        n: String,
        e: String,
        #[serde(default, rename = "use", deserialize_with = "if_present")]
        usage: Option<String>,
        #[serde(default, deserialize_with = "if_present")]
        alg: Option<String>,
        #[serde(default, deserialize_with = "if_present")]
        key_ops: Option<Vec<String>>,
    }
    let jwk: Jwk = object(jwk.get().as_bytes())?;
    let modulus = unsigned(&jwk.n)?;
    let exponent = unsigned(&jwk.e)?;
    let usable = jwk.kty == "RSA"
        && is_odd(&modulus, MODULUS_BITS)
        && is_odd(&exponent, EXPONENT_BITS)
        && jwk.usage.is_none_or(|usage| usage == "sig")
        && jwk.alg.is_none_or(|alg| alg == "RS256")
        && jwk.key_ops.is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
    let components = RsaPublicKeyComponents { n: &modulus, e: &exponent };
    let parsed = usable.then(|| components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256))?.ok()?;
    Some(Key { kid: jwk.kid, parsed, has_small_exponent: exponent.len() < 3 })
}

/// A Base64urlUInt (RFC 7518, section 2), most significant byte first, without leading zeros.
fn unsigned(number: &str) -> Option<Vec<u8>> {
    Some(decode(number)?.into_iter().skip_while(|byte| *byte == 0).collect())
}

/// Whether this is an odd number of so many bits, as a modulus and an exponent are.
fn is_odd(number: &[u8], bits: RangeInclusive<usize>) -> bool {
    let (Some(first), Some(last)) = (number.first(), number.last()) else {
        return false;
    };
    last % 2 == 1 && bits.contains(&(number.len() * 8 - first.leading_zeros() as usize))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use serde_json::{Value, json};

    use super::*;

    fn base64url(bytes: impl AsRef<[u8]>) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    fn number(bits: usize) -> String {
        let mut bytes = vec![0xff; bits.div_ceil(8)];
        bytes[0] >>= bytes.len() * 8 - bits;
        base64url(bytes)
    }

    fn jwk() -> Value {
        json!({ "kty": "RSA", "kid": "a", "n": number(2048), "e": "AQAB" })
    }

    fn parse(keys: &[Value]) -> Result<Keys, BadDocument> {
        Keys::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    fn is_usable(changes: &[(&str, Value)]) -> bool {
        let mut jwk = jwk();
        for (name, value) in changes {
            jwk[name] = value.clone();
        }
        parse(&[jwk]).is_ok()
    }

    #[test]
    fn a_key_is_usable_or_skipped() {
        let usable: [&[(&str, Value)]; 14] = [
            &[],
            &[("use", json!("sig"))],
            &[("alg", json!("RS256"))],
            &[("key_ops", json!(["verify"]))],
            &[("key_ops", json!(["sign", "verify"]))],
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
            assert!(is_usable(changes), "{changes:?}");
        }
        let unusable = [
            ("kty", json!("EC")),
            ("kty", json!("rsa")),
            ("kty", json!(null)),
            ("kid", json!(1)),
            ("kid", json!(null)),
            ("n", json!(number(2047))),
            ("n", json!(number(1024))),
            ("n", json!("")),
            ("n", json!("AA")),
            ("n", json!(1)),
            ("n", json!(number(2048) + "=")),
            ("n", json!(number(2048).replace('_', "/"))),
            // None that the crypto library could verify with.
            ("n", json!(number(8193))),
            ("n", json!(base64url([&[0xff; 255][..], &[0xfe]].concat()))),
            ("e", json!(number(34))),
            ("e", json!("BA")),
            // Enough bytes and too few bits.
            ("n", json!(base64url([&[0; 128][..], &[0xff; 128]].concat()))),
            ("n", json!(base64url([&[0x7f][..], &[0xff; 255]].concat()))),
            ("e", json!("")),
            ("e", json!("AA")),
            ("e", json!("AQ")),
            ("e", json!("Ag")),
            ("e", json!("AAE")),
            ("e", json!(65537)),
            ("use", json!("enc")),
            ("use", json!("")),
            ("use", json!(null)),
            ("use", json!(["sig"])),
            ("alg", json!("RS512")),
            ("alg", json!("rs256")),
            ("alg", json!("HS256")),
            ("alg", json!(null)),
            ("key_ops", json!([])),
            ("key_ops", json!(["sign"])),
            ("key_ops", json!("verify")),
            ("key_ops", json!(["verify", 1])),
            ("key_ops", json!(null)),
        ];
        for change in unusable {
            assert!(!is_usable(std::slice::from_ref(&change)), "{change:?}");
        }
        for missing in ["kty", "kid", "n", "e"] {
            let mut jwk = jwk();
            jwk.as_object_mut().unwrap().remove(missing);
            assert!(matches!(parse(&[jwk]), Err(BadDocument::NoUsableKey(1))), "{missing}");
        }
    }

    #[test]
    fn an_odd_key_spoils_no_other() {
        let twice = format!(r#"{{"keys":[{0},{{"kid":"x","kid":"x"}},null,1,"x",[],{{}},{0}]}}"#, jwk());
        assert_eq!(Keys::parse(twice.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn the_first_usable_key_of_a_kid_counts() {
        let (mut unusable, first, mut second) = (jwk(), jwk(), jwk());
        unusable["use"] = json!("enc");
        second["n"] = json!(number(3072));
        let keys = parse(&[unusable, first, second]).unwrap();
        assert_eq!((keys.len(), keys.get("a")), (1, parse(&[jwk()]).unwrap().get("a")));
        assert!(keys.get("A").is_none() && keys.get("").is_none());
    }

    #[test]
    fn a_key_that_changes_in_any_part_is_another() {
        let key = |change: (&str, Value)| {
            let mut jwk = jwk();
            jwk[change.0] = change.1;
            let keys = parse(&[jwk]).unwrap();
            keys.get("a").or(keys.get("b")).unwrap().clone()
        };
        let same = key(("use", json!("sig")));
        assert_eq!(same, key(("alg", json!("RS256"))));
        assert_ne!(same, key(("kid", json!("b"))));
        assert_ne!(same, key(("n", json!(number(3072)))));
        assert_ne!(same, key(("e", json!("Aw"))));
    }

    #[test]
    fn a_document_is_an_object_with_keys() {
        let array = format!("[[{}]]", jwk());
        let twice = format!(r#"{{"keys":[{0}],"keys":[{0}]}}"#, jwk());
        for document in
            ["", "{}", "[]", "null", r#"{"keys":{}}"#, r#"{"keys":null}"#, &array, &twice, "<html>", "\u{feff}{}"]
        {
            assert!(matches!(Keys::parse(document.as_bytes()), Err(BadDocument::NotKeySet)), "{document}");
        }
        assert!(matches!(parse(&[]), Err(BadDocument::NoUsableKey(0))));
    }

    /// RFC 7515, appendix A.2. Its header has no `kid`, so it is the signature alone that is verified here.
    #[test]
    fn verifies_the_published_vector() {
        let jwk = json!({
            "kty": "RSA",
            "kid": "A.2",
            "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
            "e": "AQAB",
        });
        let signing_input = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        let keys = parse(&[jwk]).unwrap();
        let verify = |signing_input: &str, signature: &str| {
            let (signing_input, signature) = (signing_input.as_bytes(), signature.as_bytes());
            let token = UnverifiedToken { signing_input, payload: b"", signature, kid: "A.2".into() };
            keys.get("A.2").unwrap().verify(&token)
        };
        assert_eq!(verify(signing_input, signature), Ok(()));
        assert_eq!(verify(&signing_input.replace("J9.", "J8."), signature), Err(Invalid::Signature));
        assert_eq!(verify(signing_input, &signature.replace("cC4", "cC5")), Err(Invalid::Signature));
        assert_eq!(verify(signing_input, ""), Err(Invalid::Signature));
        // The whole token is none of the shape that this API takes.
        let token = format!("{signing_input}.{signature}");
        assert_eq!(UnverifiedToken::parse(token.as_bytes()).err(), Some(Invalid::MalformedHeader));
    }
}
