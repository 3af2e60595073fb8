//! Where the function's own token is: a header of the request, a file, or a variable.
//!
//! Guarantees: the first source that is set is used, and one that holds no usable token is an error instead of a
//! fallback. See <https://vercel.com/docs/oidc>.

use std::path::PathBuf;

use http::HeaderMap;

use crate::error::TokenError;
use crate::file;
use crate::token::{Slip, Source, Token};

/// The header that Vercel documents, then the one that Vercel hands to a runtime. Other languages' runtimes rename it,
/// the Rust runtime does not.
const HEADERS: [(&str, Source); 2] =
    [("x-vercel-oidc-token", Source::Header), ("x-vercel-internal-oidc-token", Source::InternalHeader)];

/// What the environment says about the token.
#[derive(Clone, Default)]
pub(crate) struct Environment {
    /// `VERCEL_OIDC_TOKEN_FILE`: read at each call, because the file may be replaced at any time.
    pub(crate) file: Option<PathBuf>,
    /// `VERCEL_OIDC_TOKEN`.
    pub(crate) variable: Option<String>,
}

/// Finds the function's own token.
pub(crate) async fn find(headers: &HeaderMap, environment: &Environment) -> Result<Token, TokenError> {
    for (name, source) in HEADERS {
        let mut values = headers.get_all(name).iter();
        if let Some(value) = values.find(|value| !value.as_bytes().trim_ascii().is_empty()) {
            return parse(value.as_bytes(), source);
        }
    }
    if let Some(path) = &environment.file {
        let bytes = file::read(path.clone()).await;
        let bytes = bytes.map_err(|problem| TokenError::File { path: path.clone(), problem })?;
        return parse(&bytes, Source::File);
    }
    match &environment.variable {
        Some(text) => parse(text.as_bytes(), Source::Variable),
        None => Err(TokenError::Missing),
    }
}

fn parse(bytes: &[u8], source: Source) -> Result<Token, TokenError> {
    let token = std::str::from_utf8(bytes).map_err(|_| Slip::Characters).and_then(|text| Token::parse(text, source));
    token.map_err(|slip| TokenError::Malformed { found: source, slip })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TOKEN: &str = "e30.e30.c2ln";

    #[tokio::test]
    async fn a_header_wins_over_the_variable_and_a_blank_header_counts_as_unset() {
        let environment = Environment { variable: Some(TOKEN.to_owned()), file: None };
        let mut headers = HeaderMap::new();
        for (name, value, source) in [
            ("x-unrelated", TOKEN, Source::Variable),
            ("x-vercel-oidc-token", " ", Source::Variable),
            ("x-vercel-internal-oidc-token", TOKEN, Source::InternalHeader),
            ("x-vercel-oidc-token", TOKEN, Source::Header),
        ] {
            headers.append(name, HeaderValue::from_static(value));
            assert_eq!(find(&headers, &environment).await.unwrap().source(), source);
        }
    }

    #[tokio::test]
    async fn a_source_without_a_usable_token_is_an_error_instead_of_a_fallback() {
        let environment = Environment { variable: Some(TOKEN.to_owned()), file: None };
        let mut headers = HeaderMap::new();
        headers.insert("x-vercel-oidc-token", HeaderValue::from_bytes(b"caf\xe9").unwrap());
        let error = find(&headers, &environment).await.unwrap_err();
        assert!(matches!(error, TokenError::Malformed { found: Source::Header, slip: Slip::Characters }));
        let environment = Environment { file: Some(PathBuf::from("/nowhere/token")), ..environment };
        let error = find(&HeaderMap::new(), &environment).await.unwrap_err();
        assert!(matches!(error, TokenError::File { .. }));
        assert!(!error.to_string().contains("nowhere") && error.log_detail().contains("path=`/nowhere/token`"));
    }

    #[tokio::test]
    async fn without_any_source_the_error_says_how_to_get_a_token() {
        let error = find(&HeaderMap::new(), &Environment::default()).await.unwrap_err();
        assert!(matches!(error, TokenError::Missing));
    }

    #[tokio::test]
    async fn a_token_in_place_of_a_path_is_not_shown() {
        let token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2ln";
        for path in [token.to_owned(), format!("/x/{token}")] {
            let environment = Environment { file: Some(path.into()), ..Environment::default() };
            let error = find(&HeaderMap::new(), &environment).await.unwrap_err();
            let text = format!("{error} {}", error.log_detail());
            assert!(!text.contains("eyJ") && !text.contains("c2ln"), "{text}");
        }
    }
}
