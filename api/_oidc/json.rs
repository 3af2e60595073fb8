//! JSON that others wrote: tokens, answers, files.
//!
//! Guarantees: only a JSON object is read, because serde also fills a struct from an array; a member occurs once; no
//! string is read through `serde_json::Value`, because some of serde_json's features make `Value` read an object with a
//! magic key as a string.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Reads a JSON object in UTF-8.
pub(crate) fn object<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(json).ok()?;
    if text.trim_ascii_start().starts_with('{') { serde_json::from_str(text).ok() } else { None }
}

/// Reads a member. A member of another type counts as absent.
pub(crate) fn if_valid<'de, D: Deserializer<'de>, T: DeserializeOwned>(member: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_str(<&RawValue>::deserialize(member)?.get()).ok())
}

/// The answer of the exchange or the Vercel CLI.
#[derive(Deserialize)]
pub(crate) struct TokenAnswer {
    pub(crate) token: String,
    /// Seconds since 1970.
    #[serde(default, deserialize_with = "if_valid")]
    pub(crate) expiry: Option<f64>,
}

#[cfg(test)]
mod tests {
    use serde::de::IgnoredAny;

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Members {
        #[serde(deserialize_with = "if_valid")]
        a: Option<f64>,
        #[serde(deserialize_with = "if_valid")]
        b: Option<String>,
    }

    fn members(json: &str) -> Option<Members> {
        object(json.as_bytes())
    }

    #[test]
    fn reads_a_member_of_its_type() {
        let expected = Members { a: Some(1.0), b: Some("x".to_owned()) };
        assert_eq!(members(r#" {"a": 1, "b": "x", "c": []} "#), Some(expected));
        let expected = Members { a: None, b: Some("x".to_owned()) };
        assert_eq!(members(r#"{"\u0062": "\u0078"}"#), Some(expected));
    }

    #[test]
    fn a_member_of_another_type_counts_as_absent() {
        for json in [r#"{"b": 1}"#, r#"{"b": null}"#, r#"{"b": ["x"]}"#, r#"{"a": "x"}"#, "{}"] {
            assert_eq!(members(json), Some(Members::default()), "{json}");
        }
        let magic = r#"{"b": {"$serde_json::private::RawValue": "\"x\""}}"#;
        assert_eq!(members(magic), Some(Members::default()));
        let magic = r#"{"a": {"$serde_json::private::Number": "7"}}"#;
        assert_eq!(members(magic), Some(Members::default()));
    }

    #[test]
    fn a_member_occurs_once() {
        assert_eq!(members(r#"{"b": "x", "b": "x"}"#), None);
    }

    #[test]
    fn only_an_object_has_members() {
        for json in ["", "x", "[]", r#"["x"]"#, r#""x""#, "7", "null", r#"{"b": "x"} x"#, r#"{"b": "x""#] {
            assert!(object::<IgnoredAny>(json.as_bytes()).is_none(), "{json}");
            assert_eq!(members(json), None, "{json}");
        }
        assert!(object::<IgnoredAny>(b"{\"b\": \"\xff\"}").is_none());
        assert!(object::<IgnoredAny>(b"{}").is_some() && object::<IgnoredAny>(br#" {"b": []} "#).is_some());
    }
}
