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
    /// Another method is open.
    Method,
    /// Another spelling of the path is open.
    Path,
    /// Accepted tokens are remembered by a part of them, or for too long.
    Cache,
    /// A bad token makes it fail.
    Crash,
    /// A token is repeated in an answer.
    Echo,
    /// Unknown `kid`s cause a flood of requests to the issuer.
    Flood,
    /// It misbehaves while its issuer is down.
    Outage,
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
            Self::Method => "method",
            Self::Path => "path",
            Self::Cache => "cache",
            Self::Crash => "crash",
            Self::Echo => "echo",
            Self::Flood => "flood",
            Self::Outage => "outage",
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
                 key that they made. Use the issuer's JWKS only."
            }
            Self::Fetch => {
                "The API fetches a URL from the token, or runs a command from it. An attacker can make the API send \
                 requests to machines in its network (SSRF)."
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
            Self::Method => {
                "The API checks the token for some methods only. Anyone can use the other methods. Put the check in \
                 front of all of them."
            }
            Self::Path => {
                "The API checks the token for one spelling of the path only. Anyone can use another spelling. Put the \
                 check in front of all paths."
            }
            Self::Cache => {
                "The API remembers tokens that it has accepted, and accepts something else for one of them. Compare \
                 the whole token, and check its time at each use."
            }
            Self::Crash => {
                "It failed instead of refusing: a bad token caused an error 5xx, a closed connection or no answer. \
                 An attacker can stop the API or fill its log with errors."
            }
            Self::Echo => {
                "An answer repeats the token. Answers end up in caches, logs and error reports. Anyone who reads \
                 these can use the token."
            }
            Self::Flood => {
                "Each unknown `kid` causes a request to the issuer. An attacker can make the API flood its issuer, and \
                 wait for it."
            }
            Self::Outage => {
                "While its issuer fails, the API does not answer 503, waits too long, or goes where the issuer's \
                 redirect leads. Callers can't tell an outage from an invalid token, so they don't try again."
            }
            Self::GoodRefused => "The API refuses a valid token. Correct callers can't use it.",
        }
    }

    /// Returns the plain cases of the hole: [`Hole::meaning`] is true if the API fails one of them. Empty if any case
    /// shows it. Then returns what the API checks if it fails other cases only.
    pub(crate) fn plain(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Signature => (&["forged", "signature-stripped", "payload-changed", "kid-unknown"], "the signature"),
            Self::Algorithm => (
                &[
                    "alg-none",
                    "alg-none-capital",
                    "alg-none-mixed",
                    "alg-none-space",
                    "alg-empty",
                    "hs256-pem",
                    "hs256-pem-trimmed",
                    "hs256-rsa-pem",
                    "no-alg-hs256",
                    "no-alg-none",
                    "symmetric-key",
                    "jwe",
                ],
                "the algorithm",
            ),
            Self::Key => (&["small-key", "exponent-one"], "the key"),
            Self::Issuer => (&["iss-other-team"], "`iss`"),
            Self::Audience => (&["aud-other"], "`aud`"),
            Self::Subject => {
                (&["sub-other", "other-project", "other-environment", "other-team", "development"], "`sub`")
            }
            Self::Expiry => (&["expired"], "`exp`"),
            Self::NotYet => (&["nbf-future"], "`nbf` and `iat`"),
            _ => (&[], ""),
        }
    }

    /// Whether the hole follows from [`Hole::Signature`]: without a signature check, keys and algorithms don't matter.
    pub(crate) fn follows_from_signature(self) -> bool {
        matches!(self, Self::Algorithm | Self::KeyFromToken | Self::Key | Self::Encoding | Self::Cache)
    }
}
