//! Base64url and JSON, read strictly.
//!
//! Pure functions. If two parsers read a text differently, an attacker can use the difference. So each value has one
//! spelling here, and no JSON type is converted to another.

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Decodes canonical base64url without padding (RFC 7515, section 2).
pub(crate) fn base64url(part: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    BASE64_URL_SAFE_NO_PAD.decode(part).ok()
}

/// Reads a JSON object in UTF-8.
///
/// serde alone would also fill a struct from an array, member by member, and would not check the UTF-8 of members that
/// it skips.
pub(crate) fn object<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    let json = std::str::from_utf8(json).map_err(Error::custom)?;
    if !json.trim_ascii_start().starts_with('{') {
        return Err(Error::custom("not a JSON object"));
    }
    serde_json::from_str(json)
}

/// Reads an optional member. `null` is an error; serde's own `Option` takes it for absent.
pub(crate) fn if_present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(member: D) -> Result<Option<T>, D::Error> {
    T::deserialize(member).map(Some)
}

/// Reads a string. Any other JSON value counts as absent.
///
/// This does not use `serde_json::Value`. With the feature `raw_value`, which any crate of a program can enable,
/// `Value` reads `{"$serde_json::private::RawValue": "\"acme\""}` as the string `acme`.
pub(crate) fn if_string<'de, D: Deserializer<'de>>(member: D) -> Result<Option<String>, D::Error> {
    Ok(serde_json::from_str(<&RawValue>::deserialize(member)?.get()).ok())
}

/// JSON that `serde_json::Value` reads as it is written: no object, at any depth, has the name that turns it into another
/// value. (The other name of this kind, `$serde_json::private::Number`, can only turn an object into a number.)
pub(crate) struct AsWritten;

const RAW_VALUE: &str = "$serde_json::private::RawValue";

impl<'de> Deserialize<'de> for AsWritten {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for AsWritten {
    type Value = Self;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self, A::Error> {
        while elements.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        while let Some((name, _)) = members.next_entry::<String, Self>()? {
            if name == RAW_VALUE {
                return Err(Error::custom(format_args!(
                    "a claim has the member `{RAW_VALUE}`, which serde_json reserves"
                )));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Members {
        #[serde(deserialize_with = "if_present")]
        strict: Option<String>,
        #[serde(deserialize_with = "if_string")]
        lenient: Option<String>,
    }

    fn read(json: &str) -> Option<Members> {
        object(json.as_bytes()).ok()
    }

    #[test]
    fn base64url_has_one_spelling() {
        assert_eq!(base64url("e30").unwrap(), b"{}");
        for other in ["e30=", "e31", "e3 0", "e30\n", "e3+/", "\u{e9}"] {
            assert_eq!(base64url(other), None, "{other}");
        }
    }

    #[test]
    fn only_an_object_is_an_object() {
        assert_eq!(read(" {}"), Some(Members::default()));
        for json in ["", "[]", "[\"a\",\"b\"]", "null", "\"{}\"", "{} {}", "{", "\u{feff}{}"] {
            assert_eq!(read(json), None, "{json}");
        }
    }

    #[test]
    fn an_object_is_utf8_even_in_members_that_are_skipped() {
        assert!(object::<Members>("{\"x\":\"\u{e9}\"}".as_bytes()).is_ok());
        assert!(object::<Members>(b"{\"x\":\"\xff\"}").is_err());
    }

    #[test]
    fn null_is_not_absent_and_a_member_occurs_once() {
        assert_eq!(read(r#"{"strict":"a"}"#).unwrap().strict.as_deref(), Some("a"));
        for json in [r#"{"strict":null}"#, r#"{"strict":1}"#, r#"{"strict":"a","strict":"a"}"#] {
            assert_eq!(read(json), None, "{json}");
        }
    }

    #[test]
    fn a_lenient_member_is_a_string_or_absent() {
        assert_eq!(read(r#"{"lenient":"a\u0062"}"#).unwrap().lenient.as_deref(), Some("ab"));
        for other in ["null", "1", "true", "[\"a\"]", "{}", r#"{"$serde_json::private::RawValue":"\"a\""}"#] {
            assert_eq!(read(&format!(r#"{{"lenient":{other}}}"#)), Some(Members::default()), "{other}");
        }
        assert_eq!(read(r#"{"lenient":"a","lenient":"a"}"#), None);
    }
}
