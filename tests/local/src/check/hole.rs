//! The kinds of holes, and what each lets an attacker do.

/// A kind of hole: what an API leaves out when it accepts a certain bad token.
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
    /// Claims that two readers would understand differently.
    Ambiguity,
    /// The token is taken from elsewhere than the `Authorization` header.
    Place,
    /// One token can be written in several ways.
    Encoding,
    /// A good token is refused.
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
            Self::Open => "The API answers without any token. Everyone who can reach it can use it.",
            Self::Unverified => {
                "The API does not verify tokens at all: any text passes as one. In JavaScript, a missing `await` before \
                 the verification does this."
            }
            Self::Signature => {
                "The API does not check the signature. Anyone can write a token that names any caller, and the API \
                 believes it."
            }
            Self::Algorithm => {
                "The token chooses how it is checked. Anyone can say `none`, or sign with the public key, which \
                 everyone knows. Tell the library that RS256 is the only algorithm."
            }
            Self::KeyFromToken => {
                "The API takes the key from the token or from an address in it. Anyone can bring a key and sign \
                 tokens with it. Use the issuer's JWKS only."
            }
            Self::Fetch => {
                "The API fetches an address that a token names. Anyone can make it send requests to machines that \
                 only it can reach (SSRF)."
            }
            Self::Key => {
                "The API uses a key that it must not use for RS256: too small, withdrawn from this purpose, or of \
                 another kind. Who breaks or holds such a key can sign tokens."
            }
            Self::Header => {
                "The API ignores a header member that changes what the token means. A token of another purpose \
                 passes."
            }
            Self::Issuer => {
                "The API does not check `iss`. One set of keys signs for many: tokens of other teams and other \
                 products pass."
            }
            Self::Audience => {
                "The API does not check `aud`. A token that a function gave to another API passes here, so each of \
                 those APIs can call this one."
            }
            Self::Subject => {
                "The API does not check `sub` in full. Other projects, other teams, or previews of anyone's pull \
                 request can call it. Compare the whole text."
            }
            Self::Expiry => {
                "The API does not check `exp`. A token that was stolen once, from a log or a backup, works for ever."
            }
            Self::NotYet => "The API does not check `nbf` or `iat`. Tokens work before they are meant to.",
            Self::Ambiguity => {
                "The API accepts a token that two readers understand differently. A check at the first reader does \
                 not hold at the second."
            }
            Self::Place => {
                "The API takes a token from elsewhere than one `Authorization` header. Addresses end up in logs and \
                 histories, and browsers send cookies for other sites."
            }
            Self::Encoding => {
                "The API accepts one token in several spellings. A list of revoked tokens, or a check for replays, \
                 is evaded by another spelling."
            }
            Self::GoodRefused => "The API refuses a good token. A caller that does everything right is turned away.",
        }
    }

    /// Whether the hole follows from [`Hole::Signature`]: without a signature check, keys and algorithms don't matter.
    pub(crate) fn follows_from_signature(self) -> bool {
        matches!(self, Self::Algorithm | Self::KeyFromToken | Self::Key | Self::Encoding)
    }
}
