//! The kinds of holes, and what each lets an attacker do.

/// A kind of hole: the check that an API lacks if it accepts an invalid token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hole {
    /// Answers without a token.
    Open,
    /// Any text passes as a token.
    Unverified,
    /// The signature is not checked.
    Signature,
    /// The token chooses how it is checked.
    Algorithm,
    /// The key comes from the token.
    KeyFromToken,
    /// An address in a token is fetched.
    Fetch,
    /// A key that must not be used is used.
    Key,
    /// `crit` or `typ` is ignored.
    Header,
    /// `iss` is not checked.
    Issuer,
    /// `aud` is not checked.
    Audience,
    /// `sub` is not checked, or only in part.
    Subject,
    /// `exp` is not checked.
    Expiry,
    /// `nbf` or `iat` is not checked.
    NotYet,
    /// A token that two parsers read differently is accepted.
    Ambiguity,
    /// The token is taken from a place other than the `Authorization` header.
    Place,
    /// One token can be written in several ways.
    Encoding,
    /// A valid token is refused.
    GoodRefused,
}

impl Hole {
    /// Returns the name of the hole, as `--json` shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Unverified => "unverified",
            Self::Signature => "signature",
            Self::Algorithm => "algorithm",
            Self::KeyFromToken => "key-from-token",
            Self::Fetch => "fetch",
            Self::Key => "key",
            Self::Header => "header",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Subject => "subject",
            Self::Expiry => "expiry",
            Self::NotYet => "not-yet",
            Self::Ambiguity => "ambiguity",
            Self::Place => "place",
            Self::Encoding => "encoding",
            Self::GoodRefused => "good-refused",
        }
    }

    /// Returns what is wrong and what an attacker can do with it, for a reader who has never met OIDC.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Open => "The API answers without a token. Anyone who can reach it can use it.",
            Self::Unverified => {
                "The API does not verify tokens: it accepts any text. In JavaScript, the cause can be a missing \
                 `await` before the verification."
            }
            Self::Signature => {
                "The API does not check the signature. Anyone can make a token that names any caller, and the API \
                 accepts it."
            }
            Self::Algorithm => {
                "The token chooses the algorithm. An attacker can choose `none`, or HMAC with the public key as the \
                 secret. Set RS256 as the library's only algorithm."
            }
            Self::KeyFromToken => {
                "The API takes the key from the token or from a URL in the token. An attacker can sign tokens with a \
                 key of their own. Use the issuer's JWKS only."
            }
            Self::Fetch => {
                "The API fetches a URL from the token. An attacker can make the API send requests to machines in its \
                 network (SSRF)."
            }
            Self::Key => {
                "The API uses a key that is not meant for RS256 signatures: too small, withdrawn, or of another kind. \
                 An attacker who breaks or has such a key can sign tokens."
            }
            Self::Header => {
                "The API ignores a header member that changes what the token means. It accepts tokens that were made \
                 for another purpose."
            }
            Self::Issuer => {
                "The API does not check `iss`. The same keys sign for other teams and other products, and the API \
                 accepts their tokens."
            }
            Self::Audience => {
                "The API does not check `aud`. A function sends its token to other APIs, and each of them can call \
                 this API with that token."
            }
            Self::Subject => {
                "The API does not check all of `sub`. Other projects, other teams, or the preview of any pull request \
                 can call it. Compare the whole text."
            }
            Self::Expiry => {
                "The API does not check `exp`. A token that is stolen from a log or a backup can be used for ever."
            }
            Self::NotYet => "The API does not check `nbf` or `iat`. It accepts tokens before they are valid.",
            Self::Ambiguity => {
                "The API accepts a token that two parsers read differently. A check that uses the first parser does \
                 not protect code that uses the second."
            }
            Self::Place => {
                "The API takes the token from a place other than one `Authorization` header. URLs end up in logs and \
                 histories, and browsers send cookies with requests from other sites."
            }
            Self::Encoding => {
                "The API accepts several spellings of one token. An attacker can evade a list of revoked tokens or a \
                 replay check with another spelling."
            }
            Self::GoodRefused => "The API refuses a valid token. Correct callers can't use it.",
        }
    }

    /// Whether the hole follows from [`Hole::Signature`]: without a signature check, keys and algorithms don't matter.
    pub(crate) fn follows_from_signature(self) -> bool {
        matches!(self, Self::Algorithm | Self::KeyFromToken | Self::Key | Self::Encoding)
    }
}
