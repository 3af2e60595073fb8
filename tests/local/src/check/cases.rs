//! The table of tokens: valid tokens, and tokens with exactly one thing wrong.
//!
//! The issuer has signed each token, unless the case is about the signature. So only one check can refuse the token.

use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use serde_json::{Value, json};

use super::hole::Hole;
use super::jwe::{deflated, encrypted};
use super::kit::{Kit, MAIN, NEXT, OCT_SECRET, Phase, ROTATED, Request, changed, message, pem};
use crate::base64url;

/// What the API should answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// 2xx.
    Accept,
    /// 2xx. The API may refuse it for some seconds, until it has fetched the new key.
    AcceptSoon,
    /// 4xx. Any other answer shows this hole.
    Refuse(Hole),
    /// 4xx is better, but 2xx is not a hole: a standard permits the token, or accepting it alone gains an attacker
    /// nothing.
    ShouldRefuse(Hole),
    /// As `Refuse`, and 404 and 405 also show that nothing is there. A 2xx without a body, as a CORS preflight gets it,
    /// gives nothing away if `empty_is_fine`.
    RefuseOrAbsent { hole: Hole, empty_is_fine: bool },
    /// 4xx, after the API has fetched the keys again.
    RefuseSoon(Hole),
    /// Any answer.
    Either,
}

/// One token, and what is wrong with it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// The attack, or the section of a standard.
    pub(crate) source: &'static str,
    pub(crate) expected: Expected,
    pub(crate) request: MakeRequest,
}

impl Case {
    /// Whether the token has the accepted ids under other names. The issuer makes no such token, so an API that trusts
    /// ids needs to check no names.
    pub(crate) fn differs_in_names_only(&self) -> bool {
        let names = ["iss-global", "iss-other-team", "iss-shorter", "iss-longer", "iss-slash", "environment-longer"];
        names.contains(&self.name) || self.name.starts_with("sub-") || self.name == "address-in-sub"
    }
}

/// Cases that belong together.
pub(crate) struct Group {
    pub(crate) title: &'static str,
    pub(crate) phase: Phase,
    pub(crate) cases: Vec<Case>,
}

type MakeRequest = Box<dyn Fn(&Kit) -> Request + Send + Sync>;

fn case(
    expected: Expected,
    name: &'static str,
    what: &'static str,
    source: &'static str,
    request: impl Fn(&Kit) -> Request + Send + Sync + 'static,
) -> Case {
    Case { name, what, source, expected, request: Box::new(request) }
}

fn good(
    name: &'static str,
    what: &'static str,
    source: &'static str,
    request: impl Fn(&Kit) -> Request + Send + Sync + 'static,
) -> Case {
    case(Expected::Accept, name, what, source, request)
}

fn bad(
    hole: Hole,
    name: &'static str,
    what: &'static str,
    source: &'static str,
    request: impl Fn(&Kit) -> Request + Send + Sync + 'static,
) -> Case {
    case(Expected::Refuse(hole), name, what, source, request)
}

fn odd(
    hole: Hole,
    name: &'static str,
    what: &'static str,
    source: &'static str,
    request: impl Fn(&Kit) -> Request + Send + Sync + 'static,
) -> Case {
    case(Expected::ShouldRefuse(hole), name, what, source, request)
}

fn any(
    name: &'static str,
    what: &'static str,
    source: &'static str,
    request: impl Fn(&Kit) -> Request + Send + Sync + 'static,
) -> Case {
    case(Expected::Either, name, what, source, request)
}

const HOUR: Duration = Duration::from_secs(3600);

/// All cases. Tokens with an unknown `kid` come last, because many verifiers then fetch the keys and do not fetch them
/// again for 30 seconds.
pub(crate) fn groups() -> Vec<Group> {
    let group = |title, phase, cases| Group { title, phase, cases };
    vec![
        group("Valid tokens", Phase::First, good_tokens()),
        group("Where the token is", Phase::First, places()),
        group("Other methods, without a token", Phase::First, methods()),
        group("Other spellings of the path, without a token", Phase::First, paths()),
        group("The form of the token", Phase::First, forms()),
        group("The signature", Phase::First, signatures()),
        group("A token much like one that was just accepted", Phase::First, after_accepted()),
        group("The algorithm", Phase::First, algorithms()),
        group("Keys in the header", Phase::First, keys_in_the_header()),
        group("Other members of the header", Phase::First, headers()),
        group("The issuer", Phase::First, issuers()),
        group("The audience", Phase::First, audiences()),
        group("The subject", Phase::First, subjects()),
        group("The time", Phase::First, times()),
        group("Claims given twice", Phase::First, duplicates()),
        group("Addresses and commands in the token", Phase::First, addresses()),
        group("Large and deep tokens", Phase::First, large_tokens()),
        group("A new key", Phase::Rotated, rotation()),
        group("A withdrawn key, and keys that must not be used", Phase::Odd, odd_keys()),
        group("Unknown keys", Phase::Odd, unknown_keys()),
    ]
}

fn good_tokens() -> Vec<Case> {
    vec![
        case(Expected::AcceptSoon, "good", "a token as Vercel makes it", "RFC 7519 7.2", |kit| {
            Request::Token(kit.good())
        }),
        good("good-aud-array", "`aud` is an array that holds the accepted audience", "RFC 7519 4.1.3", |kit| {
            kit.with_claim("aud", json!(["https://other.example", kit.audience]))
        }),
        good("good-more-claims", "a claim that the API does not know", "RFC 7519 4.3", |kit| {
            kit.with_claim("custom", json!({ "nested": [1, "zwölf", null] }))
        }),
        good("good-lower-case-scheme", "`authorization: bearer` in lower case", "RFC 9110 11.1", |kit| {
            Request::Authorization(vec![format!("bearer {}", kit.good())])
        }),
    ]
}

fn places() -> Vec<Case> {
    use Hole::{Open, Place, Unverified};
    vec![
        bad(Open, "no-token", "no token at all", "RFC 6750 3.1", |_| Request::Nothing),
        bad(Unverified, "empty-token", "the scheme `Bearer` and nothing after it", "RFC 6750 2.1", |_| {
            Request::Authorization(vec!["Bearer".to_owned()])
        }),
        bad(Unverified, "garbage", "text that is not a token", "RFC 7519 7.2", |_| {
            Request::Token("garbage".to_owned())
        }),
        bad(Place, "query", "the token in the query, and no header", "RFC 9700 4.3.2", |kit| {
            Request::Query(kit.good())
        }),
        case(
            Expected::RefuseOrAbsent { hole: Place, empty_is_fine: false },
            "form",
            "the token in the body of a form, and no header",
            "RFC 6750 2.2, CSRF",
            |kit| Request::Form(kit.good()),
        ),
        bad(Place, "cookie", "the token in a cookie, and no header", "RFC 6750 5.3, CSRF", |kit| {
            Request::Header("cookie", format!("access_token={0}; token={0}; authorization={0}", kit.good()))
        }),
        bad(Place, "vercel-header", "the token in `x-vercel-oidc-token` instead", "RFC 6750 2", |kit| {
            Request::Header("x-vercel-oidc-token", kit.good())
        }),
        bad(Place, "basic-scheme", "the scheme `Basic` before the token", "RFC 6750 2.1", |kit| {
            Request::Authorization(vec![format!("Basic {}", kit.good())])
        }),
        odd(Place, "no-scheme", "the token without a scheme", "RFC 6750 2.1", |kit| {
            Request::Authorization(vec![kit.good()])
        }),
        odd(
            Place,
            "two-headers-good-first",
            "two `Authorization` headers, the second is garbage",
            "RFC 6750 3.1",
            |kit| Request::Authorization(vec![format!("Bearer {}", kit.good()), "Bearer garbage".to_owned()]),
        ),
        odd(
            Place,
            "two-headers-good-last",
            "two `Authorization` headers, the first is garbage",
            "RFC 6750 3.1",
            |kit| Request::Authorization(vec!["Bearer garbage".to_owned(), format!("Bearer {}", kit.good())]),
        ),
        odd(Place, "two-tokens", "two tokens in one header", "RFC 6750 2.1", |kit| {
            Request::Authorization(vec![format!("Bearer {} garbage", kit.good())])
        }),
    ]
}

fn methods() -> Vec<Case> {
    let case = |empty_is_fine, name, what, method| Case {
        name,
        what,
        source: "RFC 9110 9.3",
        expected: Expected::RefuseOrAbsent { hole: Hole::Method, empty_is_fine },
        request: Box::new(move |_| Request::Method(method)),
    };
    vec![
        case(false, "no-token-get", "GET without a token", "GET"),
        case(false, "no-token-head", "HEAD without a token", "HEAD"),
        case(false, "no-token-post", "POST without a token", "POST"),
        case(false, "no-token-put", "PUT without a token", "PUT"),
        case(false, "no-token-patch", "PATCH without a token", "PATCH"),
        case(false, "no-token-delete", "DELETE without a token", "DELETE"),
        case(true, "no-token-options", "OPTIONS without a token, answered with contents", "OPTIONS"),
    ]
}

/// Each case skips a path that it does not change.
fn paths() -> Vec<Case> {
    type Spell = fn(&str) -> Option<String>;
    let case = |name, what, spell: Spell| Case {
        name,
        what,
        source: "RFC 3986 6.2.2, RFC 9110 4.2.3",
        expected: Expected::RefuseOrAbsent { hole: Hole::Path, empty_is_fine: false },
        request: Box::new(move |_| Request::Path(spell)),
    };
    vec![
        case("path-two-slashes", "two slashes at the start", |path| Some(format!("/{path}"))),
        case("path-slash-at-end", "a slash at the end", |path| (path != "/").then(|| format!("{path}/"))),
        case("path-case", "letters in the other case", |path| {
            let other = |letter: char| match letter.is_ascii_uppercase() {
                true => letter.to_ascii_lowercase(),
                false => letter.to_ascii_uppercase(),
            };
            Some(path.chars().map(other).collect())
        }),
        case("path-encoded", "a letter in percent-encoding", |path| {
            let letter = path.find(|letter: char| letter.is_ascii_alphabetic())?;
            let (before, after) = path.split_at(letter);
            Some(format!("{before}%{:02X}{}", after.as_bytes().first()?, &after[1..]))
        }),
        case("path-dot", "a segment `%2e`", |path| Some(format!("/%2e{path}"))),
        case("path-dots", "a segment and `..`", |path| Some(format!("/x/..{path}"))),
        case("path-own-dots", "the path, `..` and the path again", |path| {
            (path != "/").then(|| format!("{}/..{path}", path.trim_end_matches('/')))
        }),
        case("path-semicolon", "a parameter after `;`", |path| Some(format!("{path};x=y"))),
    ]
}

fn forms() -> Vec<Case> {
    use Hole::{Ambiguity, Encoding, Signature};
    vec![
        bad(Signature, "two-parts", "header and payload, and no signature part", "RFC 7515 7.1", |kit| {
            kit.rewritten(|[header, payload, _]| format!("{header}.{payload}"))
        }),
        bad(Ambiguity, "four-parts", "a fourth part after the signature", "RFC 7515 5.2", |kit| {
            kit.rewritten(|[header, payload, signature]| format!("{header}.{payload}.{signature}.e30"))
        }),
        bad(Ambiguity, "json-serialization", "a JWS in JSON form", "RFC 7519 1", |kit| {
            kit.rewritten(|[header, payload, signature]| {
                json!({ "protected": header, "payload": payload, "signature": signature }).to_string()
            })
        }),
        bad(Ambiguity, "nested", "the payload is another valid token (`cty: JWT`)", "RFC 7519 5.2", |kit| {
            let header = kit.header_but("cty", json!("JWT")).to_string();
            Request::Token(kit.main.sign(header.as_bytes(), kit.good().as_bytes()))
        }),
        bad(Ambiguity, "payload-array", "the claims are an array", "RFC 7519 7.2", |kit| {
            let claims = kit.claims();
            let names = ["iss", "sub", "aud", "exp", "nbf", "iat"];
            kit.with_payload(&names.map(|name| claims[name].clone()).iter().cloned().collect::<Value>().to_string())
        }),
        bad(
            Ambiguity,
            "payload-array-of-object",
            "the claims are an object inside of an array",
            "RFC 7519 7.2",
            |kit| kit.with_payload(&json!([kit.claims()]).to_string()),
        ),
        bad(Ambiguity, "payload-string", "the claims are a JSON string that holds the object", "RFC 7519 7.2", |kit| {
            kit.with_payload(&json!(kit.claims().to_string()).to_string())
        }),
        bad(Ambiguity, "payload-empty", "the payload is empty", "RFC 7519 7.2", |kit| kit.with_payload("")),
        bad(Ambiguity, "payload-empty-object", "the token makes no claims", "RFC 7519 4", |kit| kit.with_payload("{}")),
        bad(Ambiguity, "payload-trailing-data", "text after the claims", "RFC 7519 7.2", |kit| {
            kit.with_payload(&format!("{}{{\"sub\":\"x\"}}", kit.claims()))
        }),
        bad(Ambiguity, "header-array", "the header is an array", "RFC 7515 4", |kit| {
            Request::Token(
                kit.main
                    .sign(json!(["RS256", "JWT", MAIN]).to_string().as_bytes(), kit.claims().to_string().as_bytes()),
            )
        }),
        bad(Ambiguity, "header-trailing-data", "text after the header", "RFC 7515 5.2", |kit| {
            let header = format!("{}{{}}", kit.header());
            Request::Token(kit.main.sign(header.as_bytes(), kit.claims().to_string().as_bytes()))
        }),
        bad(
            Hole::Algorithm,
            "jwe",
            "encrypted, in five parts, with the public key as the password",
            "RFC 7516, CVE-2023-51774",
            |kit| jwe(kit, 1000),
        ),
        bad(
            Hole::Algorithm,
            "jwe-p2c",
            "encrypted with a password and 2,000,000,000 iterations",
            "CVE-2022-36083",
            |kit| jwe(kit, 2_000_000_000),
        ),
        odd(Ambiguity, "zip", "`zip: DEF`: the payload is compressed before it is signed", "RFC 7516 4.1.3", |kit| {
            let header = kit.header_but("zip", json!("DEF")).to_string();
            Request::Token(kit.main.sign(header.as_bytes(), &deflated(&kit.claims().to_string())))
        }),
        odd(Encoding, "header-padding", "the header's base64url has padding", "RFC 7515 2", |kit| {
            kit.encoded(|part, bytes| if part == 0 { padded(bytes) } else { base64url(bytes) })
        }),
        odd(Encoding, "payload-padding", "the payload's base64url has padding", "RFC 7515 2", |kit| {
            kit.encoded(|part, bytes| if part == 1 { padded(bytes) } else { base64url(bytes) })
        }),
        odd(Encoding, "signature-padding", "padding after the signature", "RFC 7515 2", |kit| {
            kit.encoded(|part, bytes| if part == 2 { padded(bytes) } else { base64url(bytes) })
        }),
        odd(Encoding, "header-spare-bits", "spare bits in the header's base64url are set", "RFC 4648 3.5", |kit| {
            kit.encoded(|part, bytes| if part == 0 { spare_bits(bytes) } else { base64url(bytes) })
        }),
        odd(Encoding, "payload-spare-bits", "spare bits in the payload's base64url are set", "RFC 4648 3.5", |kit| {
            kit.encoded(|part, bytes| if part == 1 { spare_bits(bytes) } else { base64url(bytes) })
        }),
        odd(
            Encoding,
            "signature-spare-bits",
            "spare bits in the signature's base64url are set",
            "RFC 4648 3.5",
            |kit| kit.encoded(|part, bytes| if part == 2 { spare_bits(bytes) } else { base64url(bytes) }),
        ),
        odd(Encoding, "signature-standard-base64", "the signature with `+` and `/`", "RFC 7515 2", |kit| {
            kit.encoded(|part, bytes| if part == 2 { STANDARD_NO_PAD.encode(bytes) } else { base64url(bytes) })
        }),
        odd(Encoding, "space-inside", "a tab inside of the signature", "RFC 7515 5.2", |kit| {
            kit.rewritten(|[header, payload, mut signature]| {
                signature.insert(10, '\t');
                format!("{header}.{payload}.{signature}")
            })
        }),
    ]
}

fn signatures() -> Vec<Case> {
    use Hole::Signature;
    vec![
        bad(Signature, "forged", "signed by an attacker's key under the issuer's `kid`", "RFC 8725 3.3", |kit| {
            kit.forged(&kit.header())
        }),
        bad(Signature, "signature-stripped", "the signature is empty", "RFC 8725 3.3", |kit| {
            kit.rewritten(|[header, payload, _]| format!("{header}.{payload}."))
        }),
        bad(Signature, "signature-truncated", "the last byte of the signature is missing", "RFC 7515 5.2", |kit| {
            kit.signed_by(&kit.header(), |message| kit.main.signature(message)[..255].to_vec())
        }),
        bad(Signature, "signature-longer", "one byte after the signature", "RFC 8017 8.2.2", |kit| {
            kit.signed_by(&kit.header(), |message| [kit.main.signature(message), vec![0]].concat())
        }),
        bad(Signature, "signature-bit-flipped", "one bit of the signature is wrong", "RFC 7515 5.2", |kit| {
            kit.signed_by(&kit.header(), |message| {
                let mut signature = kit.main.signature(message);
                signature[100] ^= 1;
                signature
            })
        }),
        bad(Signature, "signature-zeros", "the signature is all zeros", "CVE-2022-21449", |kit| {
            kit.signed_by(&kit.header(), |_| vec![0; 256])
        }),
        bad(Signature, "signature-of-another", "the signature of another valid token", "RFC 7515 5.2", |kit| {
            let other = message(&kit.header(), &changed(kit.claims(), "jti", json!("another")));
            kit.signed_by(&kit.header(), |_| kit.main.signature(other.as_bytes()))
        }),
        bad(Signature, "payload-changed", "a claim was changed after signing", "RFC 7515 5.2", |kit| {
            kit.rewritten(|[header, _, signature]| {
                let payload = base64url(changed(kit.claims(), "plan", json!("enterprise")).to_string().as_bytes());
                format!("{header}.{payload}.{signature}")
            })
        }),
        bad(Signature, "header-changed", "the header was changed after signing", "RFC 7515 5.2", |kit| {
            kit.rewritten(|[_, payload, signature]| {
                format!("{}.{payload}.{signature}", base64url(kit.header_but("x", json!(1)).to_string().as_bytes()))
            })
        }),
        bad(Signature, "signature-of-payload", "the signature covers the payload alone", "RFC 7515 5.1", |kit| {
            kit.signed_by(&kit.header(), |message| {
                let payload = message.split(|byte| *byte == b'.').nth(1).unwrap_or_default();
                kit.main.signature(payload)
            })
        }),
    ]
}

fn after_accepted() -> Vec<Case> {
    let case = |name, what, change: fn(&Kit, [String; 3]) -> String| {
        bad(Hole::Cache, name, what, "CVE-2026-35039", move |kit| {
            let accepted = kit.good();
            let mut parts = accepted.split('.').map(str::to_owned);
            let changed = change(kit, [(); 3].map(|()| parts.next().unwrap_or_default()));
            Request::AfterAccepted(accepted, changed)
        })
    };
    vec![
        case("seen-no-signature", "the same header and payload, no signature", |_, [header, payload, _]| {
            format!("{header}.{payload}.")
        }),
        case("seen-other-payload", "the same header and signature, other claims", |kit, [header, _, signature]| {
            format!("{header}.{}.{signature}", base64url(changed(kit.claims(), "plan", json!("x")).to_string()))
        }),
        case("seen-other-header", "the same payload and signature, another header", |kit, [_, payload, signature]| {
            format!("{}.{payload}.{signature}", base64url(kit.header_but("x", json!(1)).to_string()))
        }),
        case(
            "seen-other-signature",
            "the same header and payload, another end of the signature",
            |_, [header, payload, signature]| {
                // The last character has spare bits, so the change is before it.
                let (start, end) = signature.split_at(signature.len() - 8);
                let other = if end.starts_with('A') { "BBBBBB" } else { "AAAAAA" };
                format!("{header}.{payload}.{start}{other}{}", &end[6..])
            },
        ),
    ]
}

fn algorithms() -> Vec<Case> {
    use Hole::Algorithm;
    vec![
        bad(Algorithm, "alg-none", "`alg: none`, no signature", "RFC 8725 3.1, CVE-2018-1000531", |kit| {
            kit.unsigned("none")
        }),
        bad(Algorithm, "alg-none-capital", "`alg: None`, no signature", "deny-list beaten by letter case", |kit| {
            kit.unsigned("None")
        }),
        bad(Algorithm, "alg-none-mixed", "`alg: nOnE`, no signature", "deny-list beaten by letter case", |kit| {
            kit.unsigned("nOnE")
        }),
        bad(Algorithm, "alg-none-space", "`alg: none` with a space after it", "allow-list beaten by a space", |kit| {
            kit.unsigned("none ")
        }),
        bad(Algorithm, "alg-none-signed", "`alg: none` under the issuer's own signature", "RFC 8725 3.1", |kit| {
            kit.with_header("alg", json!("none"))
        }),
        bad(Algorithm, "alg-empty", "`alg` is empty, no signature", "RFC 7515 4.1.1", |kit| kit.unsigned("")),
        bad(Algorithm, "alg-missing", "no `alg`", "RFC 7515 4.1.1", |kit| kit.with_header("alg", Value::Null)),
        bad(Algorithm, "alg-number", "`alg` is a number", "RFC 7515 4.1.1", |kit| kit.with_header("alg", json!(256))),
        bad(Algorithm, "alg-array", "`alg` is an array", "RFC 7515 4.1.1", |kit| {
            kit.with_header("alg", json!(["RS256"]))
        }),
        bad(Algorithm, "alg-lower-case", "`alg: rs256`", "RFC 7515 4.1.1", |kit| {
            kit.with_header("alg", json!("rs256"))
        }),
        bad(Algorithm, "alg-space", "`alg: RS256` with a space after it", "RFC 7515 4.1.1", |kit| {
            kit.with_header("alg", json!("RS256 "))
        }),
        bad(
            Algorithm,
            "hs256-pem",
            "HS256, its secret is the public key as PEM",
            "CVE-2015-9235, CVE-2016-10555",
            |kit| kit.hmac(MAIN, "HS256", pem("PUBLIC KEY", &kit.main.public_key_info()).as_bytes()),
        ),
        bad(
            Algorithm,
            "hs256-pem-trimmed",
            "HS256, the same PEM without its last line break",
            "CVE-2016-10555",
            |kit| kit.hmac(MAIN, "HS256", pem("PUBLIC KEY", &kit.main.public_key_info()).trim_end().as_bytes()),
        ),
        bad(
            Algorithm,
            "hs256-rsa-pem",
            "HS256, its secret is the RSA public key as PEM",
            "CVE-2022-29217, CVE-2023-48223",
            |kit| kit.hmac(MAIN, "HS256", pem("RSA PUBLIC KEY", &kit.main.rsa_public_key()).as_bytes()),
        ),
        bad(Algorithm, "hs256-der", "HS256, its secret is the public key in DER", "RFC 8725 2.1", |kit| {
            kit.hmac(MAIN, "HS256", &kit.main.public_key_info())
        }),
        bad(Algorithm, "hs256-rsa-der", "HS256, its secret is the RSA public key in DER", "RFC 8725 2.1", |kit| {
            kit.hmac(MAIN, "HS256", &kit.main.rsa_public_key())
        }),
        bad(Algorithm, "hs256-jwk", "HS256, its secret is the JWK as text", "RFC 8725 2.1", |kit| {
            kit.hmac(MAIN, "HS256", kit.main.jwk().to_string().as_bytes())
        }),
        bad(Algorithm, "hs256-n", "HS256, its secret is the JWK's `n` as text", "RFC 8725 2.1", |kit| {
            kit.hmac(MAIN, "HS256", kit.main.jwk()["n"].as_str().unwrap_or_default().as_bytes())
        }),
        bad(Algorithm, "hs256-modulus", "HS256, its secret is the modulus", "RFC 8725 2.1", |kit| {
            kit.hmac(MAIN, "HS256", &modulus(kit))
        }),
        bad(Algorithm, "hs256-empty", "HS256 with an empty secret", "RFC 8725 3.5", |kit| kit.hmac(MAIN, "HS256", b"")),
        bad(Algorithm, "hs384-pem", "HS384, its secret is the public key as PEM", "RFC 8725 2.1", |kit| {
            kit.hmac(MAIN, "HS384", pem("PUBLIC KEY", &kit.main.public_key_info()).as_bytes())
        }),
        bad(Algorithm, "hs512-pem", "HS512, its secret is the public key as PEM", "RFC 8725 2.1", |kit| {
            kit.hmac(MAIN, "HS512", pem("PUBLIC KEY", &kit.main.public_key_info()).as_bytes())
        }),
        odd(Algorithm, "rs384", "RS384, signed by the issuer's key", "RFC 8725 3.1", |kit| {
            kit.signed_by(&kit.header_but("alg", json!("RS384")), |message| {
                kit.main.signature_by(&RSA_PKCS1_SHA384, message)
            })
        }),
        odd(Algorithm, "rs512", "RS512, signed by the issuer's key", "RFC 8725 3.1", |kit| {
            kit.signed_by(&kit.header_but("alg", json!("RS512")), |message| {
                kit.main.signature_by(&RSA_PKCS1_SHA512, message)
            })
        }),
        odd(Algorithm, "ps256", "PS256, signed by the issuer's key", "RFC 8725 3.1", |kit| {
            kit.signed_by(&kit.header_but("alg", json!("PS256")), |message| {
                kit.main.signature_by(&RSA_PSS_SHA256, message)
            })
        }),
        bad(Algorithm, "es256-zeros", "ES256 under an RSA key's `kid`, signature all zeros", "CVE-2022-21449", |kit| {
            kit.signed_by(&kit.header_but("alg", json!("ES256")), |_| vec![0; 64])
        }),
    ]
}

fn keys_in_the_header() -> Vec<Case> {
    use Hole::KeyFromToken;
    vec![
        bad(KeyFromToken, "embedded-jwk", "signed by the key in the header's `jwk`", "CVE-2018-0114", |kit| {
            kit.forged(&kit.header_but("jwk", kit.attacker_jwk(MAIN)))
        }),
        bad(KeyFromToken, "embedded-x5c", "signed by the certificate in the header's `x5c`", "RFC 7515 4.1.6", |kit| {
            kit.forged(&kit.header_but("x5c", json!([STANDARD.encode(kit.attacker_certificate())])))
        }),
        bad(KeyFromToken, "jku", "signed by a key at the address in the header's `jku`", "RFC 8725 3.10", |kit| {
            kit.forged(&kit.header_but("jku", json!(kit.attacker_url("jku", "/.well-known/jwks"))))
        }),
        bad(KeyFromToken, "x5u", "signed by a key at the address in the header's `x5u`", "RFC 8725 3.10", |kit| {
            kit.forged(&kit.header_but("x5u", json!(kit.attacker_url("x5u", "/certificate.pem"))))
        }),
    ]
}

fn headers() -> Vec<Case> {
    use Hole::{Ambiguity, Header};
    vec![
        bad(
            Header,
            "crit-unknown",
            "`crit` names an extension that does not exist",
            "RFC 7515 4.1.11, CVE-2025-59420",
            |kit| {
                Request::Token(kit.signed(
                    &changed(kit.header_but("crit", json!(["x-check"])), "x-check", json!(true)),
                    &kit.claims(),
                ))
            },
        ),
        bad(Header, "crit-b64", "`crit: [b64]`, `b64: false`: the payload is not encoded", "RFC 7797", |kit| {
            let header = changed(kit.header_but("crit", json!(["b64"])), "b64", json!(false)).to_string();
            let claims = kit.claims().to_string();
            let signature = kit.main.signature(format!("{}.{claims}", base64url(header.as_bytes())).as_bytes());
            let parts = [header.as_bytes(), claims.as_bytes(), &signature].map(base64url);
            Request::Token(parts.join("."))
        }),
        bad(Header, "crit-empty", "`crit` is an empty array", "RFC 7515 4.1.11", |kit| {
            kit.with_header("crit", json!([]))
        }),
        bad(Header, "crit-string", "`crit` is not an array", "RFC 7515 4.1.11", |kit| {
            kit.with_header("crit", json!("exp"))
        }),
        odd(Header, "typ-at-jwt", "`typ: at+jwt`: a token of another kind", "RFC 8725 3.11, RFC 9068 4", |kit| {
            kit.with_header("typ", json!("at+jwt"))
        }),
        odd(Header, "typ-logout-jwt", "`typ: logout+jwt`: a token of another kind", "RFC 8725 3.11", |kit| {
            kit.with_header("typ", json!("logout+jwt"))
        }),
        odd(Header, "typ-number", "`typ` is a number", "RFC 7515 4.1.9", |kit| kit.with_header("typ", json!(1))),
        odd(Ambiguity, "alg-twice", "`alg` twice, the first is `none`", "RFC 7515 4", |kit| {
            let header = format!(r#"{{"alg":"none",{}"#, &kit.header().to_string()[1..]);
            Request::Token(kit.main.sign(header.as_bytes(), kit.claims().to_string().as_bytes()))
        }),
    ]
}

fn issuers() -> Vec<Case> {
    use Hole::{Issuer, KeyFromToken};
    vec![
        bad(Issuer, "iss-global", "`iss` is the same issuer in global mode", "RFC 8725 3.8", |kit| {
            let (global, _) = kit.issuer.rsplit_once('/').unwrap_or_default();
            kit.with_claim("iss", json!(global))
        }),
        bad(Issuer, "iss-other-team", "`iss` is another team's, with the same keys", "RFC 8725 3.8", |kit| {
            let (global, _) = kit.issuer.rsplit_once('/').unwrap_or_default();
            kit.with_claim("iss", json!(format!("{global}/other-team")))
        }),
        bad(Issuer, "iss-passport", "`iss` is Vercel's Passport, with the same keys", "RFC 8725 2.8", |kit| {
            kit.with_claim("iss", json!(format!("https://passport.vercel.com/{}", kit.deployment.team)))
        }),
        bad(Issuer, "iss-slash", "`iss` with a slash at its end", "OpenID Connect Core 3.1.3.7", |kit| {
            kit.with_claim("iss", json!(format!("{}/", kit.issuer)))
        }),
        bad(Issuer, "iss-longer", "the accepted `iss` is only the start of this one", "RFC 7519 4.1.1", |kit| {
            kit.with_claim("iss", json!(format!("{}.attacker.example", kit.issuer)))
        }),
        bad(Issuer, "iss-shorter", "this `iss` is only the start of the accepted one", "CVE-2024-53861", |kit| {
            let mut issuer = kit.issuer.clone();
            issuer.pop();
            kit.with_claim("iss", json!(issuer))
        }),
        bad(Issuer, "iss-upper-case", "`iss` in upper case", "RFC 7519 2, StringOrURI", |kit| {
            kit.with_claim("iss", json!(kit.issuer.to_uppercase()))
        }),
        bad(Issuer, "iss-missing", "no `iss`", "RFC 8725 3.8", |kit| kit.with_claim("iss", Value::Null)),
        bad(Issuer, "iss-array", "`iss` is an array that holds the accepted one", "CVE-2025-30144", |kit| {
            kit.with_claim("iss", json!([kit.issuer, "https://attacker.example"]))
        }),
        bad(Issuer, "iss-object", "`iss` is an object", "RFC 7519 4.1.1", |kit| {
            kit.with_claim("iss", json!({ "url": kit.issuer }))
        }),
        bad(Issuer, "iss-null", "`iss` is null", "RFC 7519 4.1.1", |kit| kit.with_claim_text("iss", "null")),
        bad(
            KeyFromToken,
            "iss-of-the-attacker",
            "`iss` names the attacker, who also publishes the key",
            "RFC 8725 3.8, 3.10",
            |kit| {
                let claims = changed(kit.claims(), "iss", json!(kit.attacker_url("iss-of-the-attacker", "")));
                let header = kit.header().to_string();
                Request::Token(kit.attacker.sign(header.as_bytes(), claims.to_string().as_bytes()))
            },
        ),
    ]
}

fn audiences() -> Vec<Case> {
    use Hole::Audience;
    vec![
        bad(Audience, "aud-other", "`aud` is another API", "RFC 8725 3.9", |kit| {
            kit.with_claim("aud", json!("https://other-api.example"))
        }),
        bad(Audience, "aud-other-team", "`aud` is the default of another team", "RFC 8725 3.9", |kit| {
            kit.with_claim("aud", json!("https://vercel.com/other-team"))
        }),
        bad(Audience, "aud-missing", "no `aud`", "RFC 8725 3.9", |kit| kit.with_claim("aud", Value::Null)),
        bad(Audience, "aud-longer", "the accepted `aud` is only the start of this one", "RFC 7519 4.1.3", |kit| {
            kit.with_claim("aud", json!(format!("{}-2", kit.audience)))
        }),
        bad(Audience, "aud-shorter", "this `aud` is only the start of the accepted one", "RFC 7519 4.1.3", |kit| {
            let mut audience = kit.audience.clone();
            audience.pop();
            kit.with_claim("aud", json!(audience))
        }),
        bad(Audience, "aud-slash", "`aud` with a slash at its end", "RFC 7519 4.1.3", |kit| {
            kit.with_claim("aud", json!(format!("{}/", kit.audience)))
        }),
        bad(Audience, "aud-upper-case", "`aud` in upper case", "RFC 7519 4.1.3", |kit| {
            kit.with_claim("aud", json!(kit.audience.to_uppercase()))
        }),
        bad(Audience, "aud-array-of-others", "`aud` is an array without the accepted one", "RFC 7519 4.1.3", |kit| {
            kit.with_claim("aud", json!(["https://other-api.example", format!("{}-2", kit.audience)]))
        }),
        bad(Audience, "aud-array-empty", "`aud` is an empty array", "RFC 7519 4.1.3, CVE-2020-26160", |kit| {
            kit.with_claim("aud", json!([]))
        }),
        bad(Audience, "aud-array-nested", "`aud` is an array inside of an array", "RFC 7519 4.1.3", |kit| {
            kit.with_claim("aud", json!([[kit.audience]]))
        }),
        bad(Audience, "aud-list", "`aud` is a list in one text, separated by spaces", "RFC 7519 4.1.3", |kit| {
            kit.with_claim("aud", json!(format!("https://other-api.example {}", kit.audience)))
        }),
        bad(Audience, "aud-number", "`aud` is a number", "claim of the wrong type counted as absent", |kit| {
            kit.with_claim("aud", json!(1))
        }),
        bad(Audience, "aud-object", "`aud` is an object", "claim of the wrong type counted as absent", |kit| {
            kit.with_claim("aud", json!({ kit.audience.as_str(): true }))
        }),
        bad(Audience, "aud-null", "`aud` is null", "RFC 7519 4.1.3", |kit| kit.with_claim_text("aud", "null")),
        bad(Audience, "aud-empty", "`aud` is empty", "RFC 7519 4.1.3", |kit| kit.with_claim("aud", json!(""))),
    ]
}

fn subjects() -> Vec<Case> {
    use Hole::Subject;
    vec![
        bad(Subject, "other-environment", "from a preview deployment", "RFC 8725 3.8", |kit| {
            kit.of(|deployment| {
                let other = if deployment.environment == "preview" { "production" } else { "preview" };
                other.clone_into(&mut deployment.environment);
            })
        }),
        bad(Subject, "development", "from a developer's machine", "RFC 8725 3.8", |kit| {
            kit.of(|deployment| {
                let other = if deployment.environment == "development" { "production" } else { "development" };
                other.clone_into(&mut deployment.environment);
            })
        }),
        bad(Subject, "other-project", "from another project of the team", "RFC 8725 3.8", |kit| {
            kit.of(|deployment| deployment.project = "blog".to_owned())
        }),
        bad(Subject, "other-team", "from a project of this name in another team", "RFC 8725 3.8", |kit| {
            kit.of(|deployment| deployment.team = "other-team".to_owned())
        }),
        bad(
            Subject,
            "project-longer",
            "from a project whose name begins like the accepted one",
            "prefix match",
            |kit| kit.of(|deployment| deployment.project.push_str("-admin")),
        ),
        bad(
            Subject,
            "environment-longer",
            "from an environment whose name begins like the accepted one",
            "prefix match",
            |kit| kit.of(|deployment| deployment.environment.push_str("-2")),
        ),
        bad(Subject, "sub-longer", "the accepted `sub` is only the start of this one", "prefix match", |kit| {
            kit.with_claim("sub", json!(format!("{}:extra:part", kit.subject)))
        }),
        bad(Subject, "sub-shorter", "this `sub` is only the start of the accepted one", "prefix match", |kit| {
            let mut subject = kit.subject.clone();
            subject.pop();
            kit.with_claim("sub", json!(subject))
        }),
        bad(Subject, "sub-contains", "the accepted `sub` is only the end of this one", "substring match", |kit| {
            kit.with_claim("sub", json!(format!("owner:other-team:project:x:environment:{}", kit.subject)))
        }),
        bad(Subject, "sub-case", "`sub` in another case", "RFC 7519 4.1.2", |kit| {
            kit.with_claim("sub", json!(kit.subject.to_uppercase()))
        }),
        bad(Subject, "sub-space", "a line break after the accepted `sub`", "RFC 7519 4.1.2", |kit| {
            kit.with_claim("sub", json!(format!("{}\n", kit.subject)))
        }),
        bad(Subject, "sub-other", "`sub` is someone else", "RFC 8725 3.8", |kit| {
            kit.with_claim("sub", json!("someone-else"))
        }),
        bad(Subject, "sub-wildcard", "`sub` is a pattern that matches everything", "pattern from the token", |kit| {
            kit.with_claim("sub", json!("*"))
        }),
        bad(Subject, "sub-empty", "`sub` is empty", "RFC 7519 4.1.2", |kit| kit.with_claim("sub", json!(""))),
        bad(Subject, "sub-missing", "no `sub`, and the right text in `scope`", "RFC 7519 4.1.2", |kit| {
            kit.with_claim("sub", Value::Null)
        }),
        bad(Subject, "sub-null", "`sub` is null", "RFC 7519 4.1.2", |kit| kit.with_claim_text("sub", "null")),
        bad(Subject, "sub-array", "`sub` is an array that holds the accepted one", "claim of the wrong type", |kit| {
            kit.with_claim("sub", json!([kit.subject]))
        }),
        bad(
            Subject,
            "sub-object",
            "`sub` is an object that some JSON libraries take for a text",
            "claim of the wrong type",
            |kit| kit.with_claim("sub", json!({ "$serde_json::private::RawValue": json!(kit.subject).to_string() })),
        ),
        odd(
            Subject,
            "other-owner-id",
            "the right names, and another `owner_id`",
            "a team's name can change hands",
            |kit| kit.with_claim("owner_id", json!("team_another")),
        ),
        odd(
            Subject,
            "other-project-id",
            "the right names, and another `project_id`",
            "a name can change hands",
            |kit| kit.with_claim("project_id", json!("prj_another")),
        ),
    ]
}

fn times() -> Vec<Case> {
    use Hole::{Expiry, NotYet};
    vec![
        bad(Expiry, "expired", "expired an hour ago", "RFC 7519 4.1.4", |kit| {
            Request::Token(kit.expiring(SystemTime::now() - HOUR))
        }),
        bad(Expiry, "expired-10-min", "expired ten minutes ago", "RFC 7519 4.1.4", |kit| {
            Request::Token(kit.expiring(SystemTime::now() - Duration::from_secs(600)))
        }),
        bad(Expiry, "expired-a-year", "expired a year ago", "RFC 7519 4.1.4", |kit| {
            Request::Token(kit.expiring(SystemTime::now() - 365 * 24 * HOUR))
        }),
        odd(Expiry, "exp-missing", "no `exp`", "OpenID Connect Core 2; optional in RFC 7519", |kit| {
            kit.with_claim("exp", Value::Null)
        }),
        bad(Expiry, "exp-null", "`exp` is null", "RFC 7519 4.1.4", |kit| kit.with_claim_text("exp", "null")),
        bad(Expiry, "exp-string-past", "`exp` is a text with a number long past", "RFC 7519 4.1.4", |kit| {
            kit.with_claim("exp", json!("1000000000"))
        }),
        odd(Expiry, "exp-string", "`exp` is a text with a number far ahead", "RFC 7519 4.1.4", |kit| {
            kit.with_claim("exp", json!("9999999999"))
        }),
        bad(Expiry, "exp-word", "`exp` is the text `never`", "claim of the wrong type counted as absent", |kit| {
            kit.with_claim("exp", json!("never"))
        }),
        bad(Expiry, "exp-true", "`exp` is true", "claim of the wrong type counted as absent", |kit| {
            kit.with_claim("exp", json!(true))
        }),
        bad(Expiry, "exp-array", "`exp` is an array", "claim of the wrong type counted as absent", |kit| {
            kit.with_claim("exp", json!([9_999_999_999_u64]))
        }),
        bad(Expiry, "exp-object", "`exp` is an object", "claim of the wrong type counted as absent", |kit| {
            kit.with_claim("exp", json!({ "seconds": 9_999_999_999_u64 }))
        }),
        bad(Expiry, "exp-zero", "`exp` is 0", "RFC 7519 4.1.4", |kit| kit.with_claim("exp", json!(0))),
        bad(Expiry, "exp-negative", "`exp` is negative", "RFC 7519 4.1.4", |kit| kit.with_claim("exp", json!(-1))),
        bad(Expiry, "exp-very-negative", "`exp` is below 64 bits", "integer overflow", |kit| {
            kit.with_claim_text("exp", "-18446744073709551617")
        }),
        any("exp-huge", "`exp` is above 64 bits", "integer overflow", |kit| {
            kit.with_claim_text("exp", "18446744073709551617")
        }),
        any("exp-exponent", "`exp` is 1e300", "floating-point overflow", |kit| kit.with_claim_text("exp", "1e300")),
        bad(NotYet, "nbf-future", "not valid for another hour", "RFC 7519 4.1.5", |kit| {
            kit.with_claim("nbf", json!(crate::unix_seconds(SystemTime::now() + HOUR)))
        }),
        bad(NotYet, "nbf-string", "`nbf` is a text with a number far ahead", "RFC 7519 4.1.5", |kit| {
            kit.with_claim("nbf", json!("9999999999"))
        }),
        odd(NotYet, "iat-future", "issued in an hour", "RFC 7519 4.1.6", |kit| {
            kit.with_claim("iat", json!(crate::unix_seconds(SystemTime::now() + HOUR)))
        }),
        odd(NotYet, "iat-string", "`iat` is a text", "RFC 7519 4.1.6", |kit| kit.with_claim("iat", json!("yesterday"))),
    ]
}

fn duplicates() -> Vec<Case> {
    use Hole::{Ambiguity, Audience, Expiry, Issuer, Subject};
    const OTHER: &str = "https://attacker.example";
    vec![
        bad(Issuer, "iss-twice-bad-last", "`iss` twice, the last one is wrong", "RFC 7519 4", |kit| {
            kit.with_claim_twice("iss", &json!(kit.issuer), &json!(OTHER))
        }),
        odd(Ambiguity, "iss-twice-good-last", "`iss` twice, the first one is wrong", "RFC 7519 4", |kit| {
            kit.with_claim_twice("iss", &json!(OTHER), &json!(kit.issuer))
        }),
        bad(Audience, "aud-twice-bad-last", "`aud` twice, the last one is wrong", "RFC 7519 4", |kit| {
            kit.with_claim_twice("aud", &json!(kit.audience), &json!(OTHER))
        }),
        odd(Ambiguity, "aud-twice-good-last", "`aud` twice, the first one is wrong", "RFC 7519 4", |kit| {
            kit.with_claim_twice("aud", &json!(OTHER), &json!(kit.audience))
        }),
        bad(Subject, "sub-twice-bad-last", "`sub` twice, the last one is wrong", "RFC 7519 4", |kit| {
            kit.with_claim_twice("sub", &json!(kit.subject), &json!("someone-else"))
        }),
        odd(Ambiguity, "sub-twice-good-last", "`sub` twice, the first one is wrong", "RFC 7519 4", |kit| {
            kit.with_claim_twice("sub", &json!("someone-else"), &json!(kit.subject))
        }),
        bad(Expiry, "exp-twice-bad-last", "`exp` twice, the last one is past", "RFC 7519 4", |kit| {
            kit.with_claim_twice("exp", &json!(9_999_999_999_u64), &json!(1))
        }),
        odd(Ambiguity, "exp-twice-good-last", "`exp` twice, the first one is past", "RFC 7519 4", |kit| {
            let exp = kit.claims()["exp"].clone();
            kit.with_claim_twice("exp", &json!(1), &exp)
        }),
    ]
}

/// The attacker's host must stay silent: each text names an address on it, and a command that fetches this address.
fn addresses() -> Vec<Case> {
    use Hole::{Audience, Issuer, Signature, Subject};
    const SOURCE: &str = "RFC 8725 3.10, SSRF, CWE-78";
    let in_header = |name, what, member: &'static str| {
        bad(Signature, name, what, SOURCE, move |kit| {
            kit.forged(&kit.header_but(member, json!(kit.address_and_command(name))))
        })
    };
    let in_claim = |expected, name, what, claim: &'static str| {
        case(expected, name, what, SOURCE, move |kit| kit.with_claim(claim, json!(kit.address_and_command(name))))
    };
    vec![
        in_header("address-in-alg", "an address and a command in `alg`", "alg"),
        in_header("address-in-typ", "an address and a command in `typ`", "typ"),
        in_header("address-in-cty", "an address and a command in `cty`", "cty"),
        in_header("address-in-jku", "an address and a command in `jku`", "jku"),
        in_header("address-in-x5u", "an address and a command in `x5u`", "x5u"),
        in_header("address-in-x5t", "an address and a command in `x5t`", "x5t"),
        in_header("address-in-jwk", "an address and a command in `jwk`", "jwk"),
        in_header("address-in-header-iss", "an address and a command in the header's `iss`", "iss"),
        in_claim(Expected::Refuse(Issuer), "address-in-iss", "an address and a command in `iss`", "iss"),
        in_claim(Expected::Refuse(Audience), "address-in-aud", "an address and a command in `aud`", "aud"),
        in_claim(Expected::Refuse(Subject), "address-in-sub", "an address and a command in `sub`", "sub"),
        in_claim(Expected::Either, "address-in-jti", "an address and a command in `jti`", "jti"),
        in_claim(Expected::Either, "address-in-owner", "an address and a command in `owner`", "owner"),
        in_claim(Expected::Either, "address-in-owner-id", "an address and a command in `owner_id`", "owner_id"),
        in_claim(Expected::Either, "address-in-project", "an address and a command in `project`", "project"),
        in_claim(Expected::Either, "address-in-project-id", "an address and a command in `project_id`", "project_id"),
        in_claim(
            Expected::Either,
            "address-in-environment",
            "an address and a command in `environment`",
            "environment",
        ),
        in_claim(Expected::Either, "address-in-scope", "an address and a command in `scope`", "scope"),
        in_claim(Expected::Either, "address-in-user-id", "an address and a command in `user_id`", "user_id"),
        in_claim(Expected::Either, "address-in-plan", "an address and a command in `plan`", "plan"),
        in_claim(Expected::Either, "address-in-picture", "an address and a command in `picture`", "picture"),
        any("address-of-claims", "claims at an address (`_claim_sources`)", "OpenID Connect Core 5.6.2", |kit| {
            let endpoint = kit.attacker_url("address-of-claims", "/claims");
            let claims = changed(kit.claims(), "_claim_names", json!({ "owner": "attacker" }));
            let sources = json!({ "attacker": { "endpoint": endpoint, "access_token": "x" } });
            Request::Token(kit.signed(&kit.header(), &changed(claims, "_claim_sources", sources)))
        }),
    ]
}

/// An API may accept or refuse these tokens, and close the connection of a large one. It must not crash.
fn large_tokens() -> Vec<Case> {
    /// Deeper than the recursion limits of Python (1000) and of serde_json (128), and less than 8 KiB.
    const DEPTH: usize = 1900;
    let deep = || format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    vec![
        any("large", "100 KiB, signed by the issuer", "denial of service", |kit| {
            kit.with_claim("custom", json!("x".repeat(75 * 1024)))
        }),
        any("large-header", "a header of 100 KiB, signed by an attacker", "denial of service", |kit| {
            kit.forged(&kit.header_but("custom", json!("x".repeat(75 * 1024))))
        }),
        any("deep-payload", "arrays in arrays in a claim, signed by the issuer", "CVE-2025-53864", move |kit| {
            kit.with_claim_text("custom", &deep())
        }),
        bad(Hole::Signature, "deep-header", "arrays in arrays in the header", "CVE-2025-53864", move |kit| {
            let header = format!(r#"{{"custom":{},{}"#, deep(), &kit.header().to_string()[1..]);
            Request::Token(kit.attacker.sign(header.as_bytes(), kit.claims().to_string().as_bytes()))
        }),
        any("many-members", "500 more claims", "denial of service", |kit| {
            let more: String = (0..500).map(|number| format!("\"c{number}\":1,")).collect();
            kit.with_payload(&format!("{{{more}{}", &kit.claims().to_string()[1..]))
        }),
    ]
}

fn rotation() -> Vec<Case> {
    vec![
        case(
            Expected::AcceptSoon,
            "rotated-key",
            "signed by a key that the issuer has just added",
            "OpenID Connect Core 10.1.1",
            |kit| of_key(kit, ROTATED, |message| kit.rotated.signature(message)),
        ),
        good("key-before-rotation", "signed by the old key, which is still published", "RFC 7517 5", |kit| {
            Request::Token(kit.good())
        }),
        odd(Hole::Key, "kid-of-another-key", "signed by one key, under the other's `kid`", "RFC 7515 4.1.4", |kit| {
            of_key(kit, ROTATED, |message| kit.main.signature(message))
        }),
    ]
}

fn odd_keys() -> Vec<Case> {
    use Hole::{Algorithm, Key};
    vec![
        case(
            Expected::AcceptSoon,
            "key-beside-odd-ones",
            "signed by a new key, published beside keys that must be skipped",
            "RFC 7517 5",
            |kit| of_key(kit, NEXT, |message| kit.rotated.signature(message)),
        ),
        good("key-without-alg", "signed by a key without `alg`", "RFC 7517 4.4 (optional)", |kit| {
            of_key(kit, "no-alg", |message| kit.rotated.signature(message))
        }),
        case(
            Expected::RefuseSoon(Key),
            "withdrawn-key",
            "signed by a key that the issuer has withdrawn",
            "OpenID Connect Core 10.1.1",
            |kit| Request::Token(kit.good()),
        ),
        bad(Key, "small-key", "signed by an RSA key of 1024 bits", "RFC 7518 3.3", |kit| {
            of_key(kit, "small", |message| kit.small.signature(message))
        }),
        odd(Key, "exponent-one", "signed by an RSA key with exponent 1: anyone can", "RFC 8017 3.1", |kit| {
            of_key(kit, "exponent-one", |message| kit.exponent_one.signature(message))
        }),
        odd(Key, "encryption-key", "signed by a key whose `use` is `enc`", "RFC 7517 4.2", |kit| {
            of_key(kit, "encryption", |message| kit.rotated.signature(message))
        }),
        odd(Key, "key-ops", "signed by a key whose `key_ops` lack `verify`", "RFC 7517 4.3", |kit| {
            of_key(kit, "no-verify", |message| kit.rotated.signature(message))
        }),
        odd(Key, "key-alg", "RS256 by a key whose `alg` is RS512", "RFC 7517 4.4, RFC 8725 3.1", |kit| {
            of_key(kit, "rs512", |message| kit.rotated.signature(message))
        }),
        odd(Algorithm, "ec-key", "ES256, signed by an EC key that the issuer publishes", "RFC 8725 3.1", |kit| {
            let header = json!({ "alg": "ES256", "typ": "JWT", "kid": "ec" });
            kit.signed_by(&header, |message| kit.ec.signature(message))
        }),
        bad(Algorithm, "symmetric-key", "HS256 by a symmetric key that the issuer publishes", "RFC 8725 3.1", |kit| {
            kit.hmac("oct", "HS256", OCT_SECRET)
        }),
        bad(
            Algorithm,
            "no-alg-hs256",
            "HS256 with a public key that has no `alg`",
            "RFC 8725 2.1, key without `alg`",
            |kit| kit.hmac("no-alg", "HS256", pem("PUBLIC KEY", &kit.rotated.public_key_info()).as_bytes()),
        ),
        odd(Algorithm, "no-alg-rs512", "RS512 by a key that has no `alg`", "RFC 8725 3.1, key without `alg`", |kit| {
            let header = json!({ "alg": "RS512", "typ": "JWT", "kid": "no-alg" });
            kit.signed_by(&header, |message| kit.rotated.signature_by(&RSA_PKCS1_SHA512, message))
        }),
        bad(
            Algorithm,
            "no-alg-none",
            "`alg: none` under the `kid` of a key that has no `alg`",
            "RFC 8725 3.1",
            |kit| kit.signed_by(&json!({ "alg": "none", "typ": "JWT", "kid": "no-alg" }), |_| Vec::new()),
        ),
    ]
}

fn unknown_keys() -> Vec<Case> {
    use Hole::{Algorithm, KeyFromToken, Signature};
    vec![
        bad(Signature, "kid-unknown", "an attacker's key and `kid`", "RFC 7515 4.1.4", |kit| {
            kit.forged(&kit.header_but("kid", json!("attacker")))
        }),
        bad(Signature, "kid-missing-forged", "an attacker's key, no `kid`", "RFC 7515 4.1.4", |kit| {
            kit.forged(&kit.header_but("kid", Value::Null))
        }),
        bad(Signature, "kid-prototype", "an attacker's key, `kid: __proto__`", "prototype pollution", |kit| {
            kit.forged(&kit.header_but("kid", json!("__proto__")))
        }),
        bad(KeyFromToken, "embedded-jwk-no-kid", "signed by the key in `jwk`, no `kid`", "CVE-2018-0114", |kit| {
            let header = kit.header_but("kid", Value::Null);
            kit.forged(&changed(header, "jwk", kit.attacker_jwk("attacker")))
        }),
        bad(
            KeyFromToken,
            "embedded-jwk-own-kid",
            "signed by the key in `jwk`, under its own `kid`",
            "CVE-2018-0114",
            |kit| {
                let header = kit.header_but("kid", json!("attacker"));
                kit.forged(&changed(header, "jwk", kit.attacker_jwk("attacker")))
            },
        ),
        bad(KeyFromToken, "jku-own-kid", "signed by a key at `jku`, under its own `kid`", "RFC 8725 3.10", |kit| {
            let header = kit.header_but("kid", json!("attacker"));
            kit.forged(&changed(header, "jku", json!(kit.attacker_url("jku-own-kid", "/.well-known/jwks"))))
        }),
        bad(KeyFromToken, "kid-url", "`kid` is the address of the attacker's keys", "RFC 8725 3.10", |kit| {
            kit.forged(&kit.header_but("kid", json!(kit.attacker_url("kid-url", "/.well-known/jwks"))))
        }),
        bad(Signature, "address-in-kid", "an address and a command in `kid`", "CWE-78, CVE-2018-0114", |kit| {
            kit.forged(&kit.header_but("kid", json!(kit.address_and_command("address-in-kid"))))
        }),
        bad(
            Algorithm,
            "kid-path",
            "`kid` is the path of an empty file, HS256 with an empty secret",
            "RFC 8725 3.10",
            |kit| kit.hmac("../../../../../../dev/null", "HS256", b""),
        ),
        bad(
            Algorithm,
            "kid-sql",
            "`kid` is SQL that selects a secret, HS256 with this secret",
            "RFC 8725 3.10",
            |kit| kit.hmac("x' UNION SELECT 'secret' -- ", "HS256", b"secret"),
        ),
        odd(Signature, "kid-renamed", "a known key under an unknown `kid`", "RFC 7515 4.1.4", |kit| {
            of_key(kit, "CHECK-3", |message| kit.rotated.signature(message))
        }),
        odd(Signature, "kid-missing", "a known key, no `kid`", "RFC 7515 4.1.4", |kit| {
            kit.signed_by(&kit.header_but("kid", Value::Null), |message| kit.rotated.signature(message))
        }),
        odd(Signature, "kid-empty", "a known key, the `kid` is empty", "RFC 7515 4.1.4", |kit| {
            of_key(kit, "", |message| kit.rotated.signature(message))
        }),
        odd(Signature, "kid-number", "a known key, the `kid` is a number", "RFC 7515 4.1.4", |kit| {
            kit.signed_by(&kit.header_but("kid", json!(3)), |message| kit.rotated.signature(message))
        }),
    ]
}

fn of_key(kit: &Kit, kid: &str, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Request {
    kit.signed_by(&kit.header_but("kid", json!(kid)), sign)
}

fn jwe(kit: &Kit, p2c: u64) -> Request {
    let password = pem("PUBLIC KEY", &kit.main.public_key_info());
    encrypted(MAIN, &password, p2c, &kit.claims().to_string())
        .map_or(Request::Skip("the token could not be encrypted"), Request::Token)
}

fn modulus(kit: &Kit) -> Vec<u8> {
    URL_SAFE.decode(format!("{}==", kit.main.jwk()["n"].as_str().unwrap_or_default())).unwrap_or_default()
}

/// Encodes bytes with padding at the end.
fn padded(bytes: &[u8]) -> String {
    URL_SAFE.encode(bytes)
}

/// Encodes bytes, and sets a spare bit of the last character.
fn spare_bits(bytes: &[u8]) -> String {
    let mut text = base64url(bytes);
    // The spare bits are zero, so the character is one of `AEIMQUYcgkosw048`. The next character of the alphabet has
    // the bit.
    let last = text.pop().and_then(|last| char::from_u32(u32::from(last) + 1));
    text.extend(last);
    text
}
