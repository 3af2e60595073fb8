//! Members of JSON objects that others wrote: tokens, answers, files.
//!
//! Guarantees: only a JSON object has members (serde fills a struct from an array too); a member given twice counts as
//! absent; a string is never read by way of `serde_json::Value`, where some of serde_json's features read an object
//! with a magic key as a string.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor};

/// The member `name` of a JSON object. `None` if the text is no JSON object, or if it has no such member of that type.
pub(crate) fn member<T: DeserializeOwned>(json: &[u8], name: &str) -> Option<T> {
    read(json, name)?
}

/// Whether the text is a JSON object.
pub(crate) fn is_object(json: &[u8]) -> bool {
    read::<IgnoredAny>(json, "").is_some()
}

/// `None` if the text is no JSON object, or if the member has another type.
fn read<T: DeserializeOwned>(json: &[u8], name: &str) -> Option<Option<T>> {
    let text = std::str::from_utf8(json).ok()?;
    let mut json = serde_json::Deserializer::from_str(text);
    let found = json.deserialize_map(Member { name, of: PhantomData }).ok()?;
    json.end().ok()?;
    Some(found)
}

struct Member<'a, T> {
    name: &'a str,
    of: PhantomData<T>,
}

impl<'de, T: DeserializeOwned> Visitor<'de> for Member<'_, T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut found, mut times) = (None, 0);
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            if key == self.name {
                times += 1;
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found.filter(|_| times == 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_member_of_its_type() {
        assert_eq!(member::<String>(br#" {"a": 1, "b": "x"} "#, "b"), Some("x".to_owned()));
        assert_eq!(member::<f64>(br#"{"a": 1, "b": "x"}"#, "a"), Some(1.0));
        assert_eq!(member::<String>(br#"{"\u0062": "\u0078"}"#, "b"), Some("x".to_owned()));
    }

    #[test]
    fn a_member_of_another_type_counts_as_absent() {
        for json in [r#"{"b": 1}"#, r#"{"b": null}"#, r#"{"b": ["x"]}"#, r#"{"a": "x"}"#, "{}"] {
            assert_eq!(member::<String>(json.as_bytes(), "b"), None, "{json}");
        }
        let magic = br#"{"b": {"$serde_json::private::RawValue": "\"x\""}}"#;
        assert_eq!(member::<String>(magic, "b"), None);
        assert_eq!(member::<f64>(br#"{"b": {"$serde_json::private::Number": "7"}}"#, "b"), None);
    }

    #[test]
    fn a_member_given_twice_counts_as_absent() {
        assert_eq!(member::<String>(br#"{"b": "x", "b": "x"}"#, "b"), None);
    }

    #[test]
    fn only_an_object_has_members() {
        for json in ["", "x", "[]", r#"["x"]"#, r#""x""#, "7", "null", r#"{"b": "x"} x"#, r#"{"b": "x""#] {
            assert!(!is_object(json.as_bytes()), "{json}");
            assert_eq!(member::<String>(json.as_bytes(), "b"), None, "{json}");
        }
        assert!(!is_object(b"{\"b\": \"\xff\"}"));
        assert!(is_object(b"{}") && is_object(br#" {"b": []} "#));
    }
}
