//! Properties that hold for every input that an attacker can send.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use axum::body::Body;
use axum::http::{HeaderValue, Request, StatusCode, header};
use common::{FakeIssuer, KEY, claims, fresh_token, settings, token};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tokio::runtime::Runtime;
use vercel_oidc_verifier::{Subject, Verifier};

/// The issuer serves until this process ends, because all tests share it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static VERIFIER: LazyLock<Arc<Verifier>> = LazyLock::new(|| verifier(&[]));
static TOKEN: LazyLock<String> = LazyLock::new(token);

/// A verifier that has cached these tokens.
fn verifier(cached: &[&str]) -> Arc<Verifier> {
    let issuer = RUNTIME.block_on(FakeIssuer::start(&KEY));
    let settings = settings(&issuer.url(), &[]);
    let verifier = Arc::new(Verifier::new(settings.trust, settings.keys));
    for token in cached {
        assert!(is_accepted_by(&verifier, token.as_bytes()));
    }
    verifier
}

fn is_accepted_by(verifier: &Verifier, token: &[u8]) -> bool {
    RUNTIME.block_on(verifier.verify(token, SystemTime::now())).is_ok()
}

fn is_accepted(token: &[u8]) -> bool {
    is_accepted_by(&VERIFIER, token)
}

/// The status of the whole application's answer to this header.
fn status(authorization: &[u8]) -> Option<StatusCode> {
    let value = HeaderValue::from_bytes(authorization).ok()?;
    let request = Request::get("/").header(header::AUTHORIZATION, value).body(Body::empty()).unwrap();
    Some(RUNTIME.block_on(backend::app::app(routes(), VERIFIER.clone()).answer(request)).status())
}

/// A route that never refuses, so each refusal comes from the guard.
fn routes() -> axum::Router {
    axum::Router::new().route("/", axum::routing::get(async || ()))
}

/// One change to a token, at any place.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Flip(Index, u32),
    Insert(Index, u8),
    Remove(Index),
    Cut(Index),
    Double(Index),
    Swap(Index, Index),
}

impl Change {
    fn apply(&self, token: &mut Vec<u8>) {
        if token.is_empty() {
            return;
        }
        let length = token.len();
        match self {
            Self::Set(at, byte) => token[at.index(length)] = *byte,
            Self::Flip(at, bit) => token[at.index(length)] ^= 1 << bit,
            Self::Insert(at, byte) => token.insert(at.index(length + 1), *byte),
            Self::Remove(at) => drop(token.remove(at.index(length))),
            Self::Cut(at) => token.truncate(at.index(length)),
            Self::Double(at) => token.extend_from_within(at.index(length)..),
            Self::Swap(one, other) => token.swap(one.index(length), other.index(length)),
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let base64url = select(&b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/"[..]);
    let byte = prop_oneof![4 => base64url, 1 => any::<u8>()];
    let at = any::<Index>;
    prop_oneof![
        (at(), byte.clone()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at(), 0..8_u32).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (at(), byte).prop_map(|(at, byte)| Change::Insert(at, byte)),
        at().prop_map(Change::Remove),
        at().prop_map(Change::Cut),
        at().prop_map(Change::Double),
        (at(), at()).prop_map(|(one, other)| Change::Swap(one, other)),
    ]
}

/// Valid JSON with odd values: numbers that no type holds, names that serde_json uses itself, objects with a member twice.
fn json() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        ".{0,8}",
        select(&["RS256", "rs256", "none", "key-1", "key-2", "JWT", "at+jwt", "$serde_json::private::RawValue"][..])
            .prop_map(String::from),
        select(&["acme", "https://oidc.vercel.com/acme/", "owner:acme:project:*:environment:*"][..])
            .prop_map(String::from),
    ]
    .prop_map(|text| serde_json::to_string(&text).unwrap());
    let number = prop_oneof![
        proptest::num::f64::NORMAL.prop_map(|number| number.to_string()),
        any::<i128>().prop_map(|number| number.to_string()),
        select(&["0", "-0", "1e9", "4102444800", "1.5e-9", "123456789012345678901234567890"][..])
            .prop_map(String::from),
    ];
    let simple = select(&["null", "true", "false"][..]).prop_map(String::from);
    prop_oneof![3 => text, 1 => number, 1 => simple].prop_recursive(3, 12, 4, |value| {
        let name =
            select(&["", "a", "iss", "kid", "$serde_json::private::RawValue", "$serde_json::private::Number"][..]);
        prop_oneof![
            vec(value.clone(), 0..4).prop_map(|values| format!("[{}]", values.join(","))),
            vec((name, value), 0..4).prop_map(|members| object(&members)),
        ]
    })
}

fn object(members: &[(&str, impl AsRef<str>)]) -> String {
    let members = members.iter().map(|(name, value)| format!("\"{name}\":{}", value.as_ref()));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// Whether `pattern` matches. Tries every way by the definition: `*` is one or more characters other than `:`.
fn naive_match(pattern: &[char], text: &[char]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        (['*', pattern @ ..], [c, text @ ..]) if *c != ':' => {
            // The star ends here, or takes one more character.
            naive_match(pattern, text) || naive_match(&[&['*'], pattern].concat(), text)
        }
        ([p, pattern @ ..], [c, text @ ..]) if *p != '*' => p == c && naive_match(pattern, text),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_token_is_never_accepted(changes in vec(change(), 1..4)) {
        // The first has cached no token, the second has cached this token, and the third two tokens.
        static VERIFIERS: LazyLock<[Arc<Verifier>; 3]> =
            LazyLock::new(|| [verifier(&[]), verifier(&[&TOKEN]), verifier(&[&TOKEN, &fresh_token(&KEY)])]);
        let mut changed = TOKEN.clone().into_bytes();
        for change in &changes {
            change.apply(&mut changed);
        }
        for verifier in &*VERIFIERS {
            prop_assert_eq!(is_accepted_by(verifier, &changed), changed == TOKEN.as_bytes());
        }
    }

    #[test]
    fn a_mix_of_parts_of_accepted_tokens_is_refused(parts in vec((0..3_usize, 0..3_usize), 1..5)) {
        static OTHERS: LazyLock<[String; 3]> = LazyLock::new(|| {
            [TOKEN.clone(), KEY.mint(&common::claims_with("jti", "a".into())), KEY.mint(&common::claims_with("jti", "b".into()))]
        });
        let part = |(token, part): &(usize, usize)| OTHERS[*token].split('.').nth(*part).unwrap();
        let made = parts.iter().map(part).collect::<Vec<_>>().join(".");
        prop_assert_eq!(is_accepted(made.as_bytes()), OTHERS.contains(&made));
    }

    #[test]
    fn any_header_gets_a_refusal(bytes in vec(any::<u8>(), 0..200), scheme in select(&["", "Bearer ", "bEARER\t", "Basic "][..])) {
        if let Some(status) = status(&[scheme.as_bytes(), &bytes].concat()) {
            prop_assert!(status.is_client_error(), "{status}");
        }
    }

    /// The members of a header that matter, each right, odd, absent or twice.
    #[test]
    fn a_header_is_accepted_only_if_its_members_are_right(
        members in vec((select(&["alg", "kid", "typ", "crit", "x"][..]), json()), 0..3),
        replaced in any::<bool>(),
    ) {
        let right = [("alg", "\"RS256\""), ("kid", "\"key-1\""), ("typ", "\"JWT\"")];
        let is_changed = |name: &str| members.iter().any(|(changed, _)| *changed == name);
        let unchanged = right.iter().filter(|(name, _)| !replaced || !is_changed(name));
        let all: Vec<_> = unchanged.copied().chain(members.iter().map(|(name, value)| (*name, value.as_str()))).collect();
        let values = |name: &str| all.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value).collect::<Vec<_>>();
        let is_right = values("alg") == ["\"RS256\""] && values("kid") == ["\"key-1\""] && values("crit").is_empty()
            && (values("typ").is_empty() || values("typ") == ["\"JWT\""]);
        let token = KEY.sign(object(&all).as_bytes(), claims().to_string().as_bytes());
        let expected = if is_right { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        prop_assert_eq!(status(format!("Bearer {token}").as_bytes()), Some(expected), "{}", object(&all));
    }

    /// A payload that is any JSON, and not a set of claims.
    #[test]
    fn any_json_as_payload_gets_a_refusal(payload in json()) {
        let token = KEY.sign(br#"{"alg":"RS256","kid":"key-1"}"#, payload.as_bytes());
        prop_assert_eq!(status(format!("Bearer {token}").as_bytes()), Some(StatusCode::UNAUTHORIZED), "{}", payload);
    }

    #[test]
    fn any_signed_payload_gets_an_answer(payload in prop_oneof![vec(any::<u8>(), 0..100), ".{0,100}".prop_map(String::into_bytes)]) {
        let token = KEY.sign(br#"{"alg":"RS256","kid":"key-1"}"#, &payload);
        prop_assert_eq!(status(format!("Bearer {token}").as_bytes()), Some(StatusCode::UNAUTHORIZED));
    }

    /// Valid claims, with one of them odd or twice.
    #[test]
    fn an_odd_claim_gets_the_answer_of_its_kind(
        name in select(&["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "owner", "project_id", "environment", "x"][..]),
        value in json(),
        twice in any::<bool>(),
    ) {
        let mut right = claims();
        // `claims` has no `jti` and no `x`.
        let twice = twice && right.get(name).is_some();
        if !twice {
            right.as_object_mut().unwrap().remove(name);
        }
        let payload = format!("{{\"{name}\":{value},{}", &right.to_string()[1..]);
        let token = KEY.sign(br#"{"alg":"RS256","kid":"key-1"}"#, payload.as_bytes());
        let is_text = value.starts_with('"');
        let expected: &[u16] = match name {
            _ if twice => &[401],
            // No value of `json` is an accepted one. A number may be a time.
            "iss" | "aud" => &[401],
            "sub" if is_text => &[403],
            "jti" if is_text => &[200],
            "exp" | "nbf" | "iat" if value.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => &[200, 401],
            "sub" | "jti" | "exp" | "nbf" | "iat" => &[401],
            // An odd one counts as absent, and this verifier does not need it.
            _ => &[200],
        };
        let status = status(format!("Bearer {token}").as_bytes()).unwrap().as_u16();
        prop_assert!(expected.contains(&status), "{status} {payload}");
    }

    #[test]
    fn a_pattern_matches_by_its_definition(pattern in "[ab:*é]{0,8}", text in "[ab:*é]{0,10}") {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(Subject::new(&*pattern).matches(&text), naive_match(&chars(&pattern), &chars(&text)), "{} {}", pattern, text);
    }

    /// The text is made from the pattern, so that matches are frequent.
    #[test]
    fn a_pattern_matches_texts_that_are_made_from_it(pieces in vec(("[ab:]{0,3}", "[ab]{1,4}"), 0..4), last in "[ab:]{0,3}") {
        let pattern: String = pieces.iter().map(|(literal, _)| format!("{literal}*")).collect::<String>() + &last;
        let text: String = pieces.iter().map(|(literal, star)| format!("{literal}{star}")).collect::<String>() + &last;
        prop_assert!(Subject::new(&*pattern).matches(&text), "{} {}", pattern, text);
    }
}

#[test]
fn the_unchanged_token_is_accepted() {
    assert!(is_accepted(TOKEN.as_bytes()));
    assert_eq!(status(format!("Bearer {}", *TOKEN).as_bytes()), Some(StatusCode::OK));
}
