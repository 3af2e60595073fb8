//! Where a function's own OIDC token is found, and what can be read in it without trusting it.
//!
//! To copy: this file alone goes into any Vercel Rust function that has `base64` 0.22, `http` 1, `serde_json` 1,
//! `thiserror` 2, `tokio` 1 with `fs`, and `zeroize` 1. There, `token::find(request.headers(), |name|
//! std::env::var(name).ok()).await` is all it takes.
//!
//! Guarantees: the first source that is set wins, and one that is broken is an error, never a fall-back; a [`Token`]
//! can be sent as a header value, does not show in logs, and is wiped from memory when dropped (which the header values
//! made of it, and where it was found, are not). Left to others: whether the token is genuine (only who receives it can
//! tell), and what to do about one that has expired.
//!
//! See <https://vercel.com/docs/oidc>.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// The header that Vercel documents, then the one that it hands to a runtime: other languages' runtimes rename it, the
/// Rust one does not.
static HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("x-vercel-oidc-token"), HeaderName::from_static("x-vercel-internal-oidc-token")];
const FILE: &str = "VERCEL_OIDC_TOKEN_FILE";
const VARIABLE: &str = "VERCEL_OIDC_TOKEN";

/// Finds the function's token: in the request's headers, else in the file that `VERCEL_OIDC_TOKEN_FILE` names, else in
/// `VERCEL_OIDC_TOKEN`.
///
/// `variable` reads an environment variable; a blank one counts as unset. The file is read at each call, for it may be
/// replaced at any time.
///
/// # Errors
///
/// There is no token, or the first source that is set holds none that could be sent.
pub async fn find(
    headers: &HeaderMap,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<(Token, Source), TokenError> {
    let variable = |name| variable(name).map(Zeroizing::new).filter(|value| !value.trim().is_empty());
    let header = HEADERS.iter().find_map(|name| {
        let mut values = headers.get_all(name).iter();
        Some((name.as_str(), values.find(|value| !value.as_bytes().trim_ascii().is_empty())?))
    });
    let (token, source) = if let Some((name, value)) = header {
        (std::str::from_utf8(value.as_bytes()).ok().and_then(Token::new), Source::Header(name))
    } else if let Some(path) = variable(FILE) {
        let path = path.trim().to_owned();
        match tokio::fs::read_to_string(&path).await.map(Zeroizing::new) {
            Ok(text) => (Token::new(&text), Source::File(path)),
            Err(cause) => return Err(TokenError::File { path, cause }),
        }
    } else if let Some(text) = variable(VARIABLE) {
        (Token::new(&text), Source::Variable)
    } else {
        return Err(TokenError::Missing);
    };
    match token {
        Some(token) => Ok((token, source)),
        None => Err(TokenError::Unreadable(source)),
    }
}

/// Where a token was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// This header of the request: Vercel made the token for it.
    Header(&'static str),
    /// The file at this path.
    File(String),
    /// The variable `VERCEL_OIDC_TOKEN`.
    Variable,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "the header `{name}`"),
            Self::File(path) => write!(f, "the file `{path}` (`{FILE}`)"),
            Self::Variable => write!(f, "the variable `{VARIABLE}`"),
        }
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No source is set.
    #[error(
        "there is no OIDC token: on Vercel, enable it in the project's settings (Settings → Security → Secure Backend Access with OIDC Federation) \
         and deploy again; on your own machine, run `vercel env pull`, which writes `{VARIABLE}`"
    )]
    Missing,
    /// The file can't be read.
    #[error("the token file `{path}` can't be read: check `{FILE}`, and that the file is there and is text")]
    File {
        /// The file's path.
        path: String,
        /// What the system says.
        #[source]
        cause: std::io::Error,
    },
    /// What is there is no token.
    #[error("{0} holds no token: it is empty, or has blanks or other characters that no token has")]
    Unreadable(Source),
}

/// A bearer token: whoever holds it can use it, so it shows in no `Debug` or `Display`, and is wiped from memory when
/// dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<Box<str>>);

impl Token {
    /// Takes a token's text, less the blanks around it; nothing if it is empty or could not be sent as one credential.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        // Looks at every byte, with no way out at the first bad one: that compiles to vector code.
        let can_be_sent = text.bytes().fold(!text.is_empty(), |good, byte| good & byte.is_ascii_graphic());
        can_be_sent.then(|| Self(Zeroizing::new(text.into())))
    }

    /// The token itself. It must go to no one but its audience.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The value for an `Authorization` header, marked sensitive.
    #[must_use]
    pub fn bearer(&self) -> HeaderValue {
        sensitive(["Bearer ", self.expose()].concat())
    }

    /// The value for a header that holds the bare token, marked sensitive.
    #[must_use]
    pub fn header(&self) -> HeaderValue {
        sensitive(self.expose().to_owned())
    }

    /// The `exp` claim, which nobody has verified: good for a hint that a new token is due, and for nothing else.
    #[must_use]
    pub fn unverified_expiry(&self) -> Option<SystemTime> {
        let seconds = self.unverified_claim("exp")?.as_f64()?.max(0.0);
        UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
    }

    /// The `sub` claim, which nobody has verified.
    #[must_use]
    pub fn unverified_subject(&self) -> Option<String> {
        Some(self.unverified_claim("sub")?.as_str()?.to_owned())
    }

    fn unverified_claim(&self, name: &str) -> Option<Value> {
        let (_, rest) = self.0.split_once('.')?;
        let (payload, _) = rest.split_once('.')?;
        let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
        serde_json::from_slice::<Map<String, Value>>(&payload).ok()?.remove(name)
    }
}

#[expect(clippy::expect_used, reason = "`Token::new` lets nothing else through")]
fn sensitive(text: String) -> HeaderValue {
    let mut value = HeaderValue::try_from(text).expect("visible ASCII is a header value");
    value.set_sensitive(true);
    value
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn jwt(claims: &str) -> Token {
        Token::new(&format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims))).unwrap()
    }

    #[test]
    fn a_token_does_not_show() {
        let token = jwt("{}");
        assert_eq!(format!("{token} {token:?} {token:#?}"), "*** *** ***");
        assert_eq!(format!("{:?} {:?}", token.bearer(), token.header()), "Sensitive Sensitive");
    }

    #[test]
    fn a_token_is_what_can_be_sent_as_one_credential() {
        assert_eq!(Token::new(" a.b~c+/= \n").unwrap().expose(), "a.b~c+/=");
        for bad in ["", " ", "a b", "a\nb", "a\0", "ä", "a\u{7f}"] {
            assert_eq!(Token::new(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn expiry_and_subject_are_read_where_they_can_be() {
        let seconds = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs_f64(seconds));
        for (claims, expiry) in [
            (r#"{"exp": 1000}"#, seconds(1000.0)),
            (r#"{"exp": 1000.5}"#, seconds(1000.5)),
            (r#"{"exp": 0}"#, seconds(0.0)),
            (r#"{"exp": -1}"#, seconds(0.0)),
            (r#"{"exp": 1e300}"#, None),
            (r#"{"exp": "1000"}"#, None),
            (r#"{"exp": null}"#, None),
            ("{}", None),
            ("[]", None),
            ("no", None),
        ] {
            assert_eq!(jwt(claims).unverified_expiry(), expiry, "{claims}");
        }
        assert_eq!(jwt(r#"{"sub": "me"}"#).unverified_subject().as_deref(), Some("me"));
        assert_eq!(jwt(r#"{"sub": 7}"#).unverified_subject(), None);
        for opaque in ["opaque", "a.b", "a.b.c", "a.*.c"] {
            assert_eq!(Token::new(opaque).unwrap().unverified_expiry(), None);
        }
    }
}
