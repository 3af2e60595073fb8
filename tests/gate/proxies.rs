//! Each case against each proxy. `tests/gate/run` installs the proxies and runs these.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::common::{FORGED_KEY, FakeIssuer, KEY, Program, claims, claims_with, token};
use super::stand::{Kind, Stand, claim, shown};

macro_rules! cases {
    ($($case:ident)*) => {
        cases!(@ nginx Nginx $($case)*);
        cases!(@ caddy Caddy $($case)*);
        cases!(@ haproxy Haproxy $($case)*);
    };
    (@ $module:ident $kind:ident $($case:ident)*) => {
        mod $module {
            $(
                #[tokio::test]
                #[ignore = "needs the proxies: `tests/gate/run` installs them and runs this"]
                async fn $case() {
                    super::$case(super::Kind::$kind).await
                }
            )*
        }
    };
}

cases! {
    a_verified_caller_reaches_the_api
    other_requests_are_refused
    a_spoofed_header_does_not_reach_the_api
    nothing_passes_if_the_gate_is_down
    nothing_passes_if_the_gate_hangs
    nothing_passes_if_something_else_answers
    nothing_passes_if_the_issuer_is_down
    many_callers_at_once_keep_their_names
    a_token_counts_for_one_request_of_a_connection
    a_large_body_arrives_whole_and_not_at_the_gate
    a_websocket_needs_a_token_and_works
    every_spelling_of_a_path_needs_a_token
    the_check_finds_no_hole
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn in_environment(environment: &str) -> Value {
    let mut claims = claims();
    claims["sub"] = json!(format!("owner:acme:project:storefront:environment:{environment}"));
    claims["environment"] = json!(environment);
    claims
}

async fn a_verified_caller_reaches_the_api(kind: Kind) {
    let stand = Stand::start(kind).await;
    let (authorization, claims) = (bearer(&token()), claims());
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let headers = [("authorization", &*authorization), ("X-Other", "kept")];
        let answer = stand.ask(method, "/orders/1?a=b", &headers).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = answer.json();
        for (name, of) in [
            ("SUBJECT", "sub"),
            ("OWNER", "owner"),
            ("OWNER_ID", "owner_id"),
            ("PROJECT", "project"),
            ("PROJECT_ID", "project_id"),
            ("ENVIRONMENT", "environment"),
        ] {
            assert_eq!(claim(&seen, name), claims[of].as_str().unwrap(), "{seen}");
        }
        assert_eq!((&seen["method"], &seen["path"]), (&json!(method), &json!("/orders/1?a=b")));
        assert_eq!(seen["environ"]["HTTP_X_OTHER"], "kept");
        assert_eq!(seen["environ"].get("HTTP_AUTHORIZATION"), None, "{seen}");
    }
    assert_eq!(stand.ask("HEAD", "/", &[("authorization", &authorization)]).await.status, 200);
    assert_eq!(stand.seen().await, 7);
    stand.saw("accepted, 7 methods", "200; six headers; no `Authorization` at the API");
}

async fn other_requests_are_refused(kind: Kind) {
    let stand = Stand::start(kind).await;
    let good = bearer(&token());
    for (case, authorization, status, challenge) in [
        ("no token", &[][..], 401, "Bearer"),
        ("another scheme", &["Basic YTpi"], 401, "Bearer"),
        ("`Bearer` alone", &["Bearer"], 401, "Bearer error=\"invalid_request\""),
        ("two tokens", &["Bearer a b"], 401, "Bearer error=\"invalid_request\""),
        ("two headers", &[&good, &good], 401, "Bearer error=\"invalid_request\""),
        ("garbage", &["Bearer garbage"], 401, "Bearer error=\"invalid_token\""),
        ("forged", &[&bearer(&FORGED_KEY.mint(&claims()))], 401, "Bearer error=\"invalid_token\""),
        ("expired", &[&bearer(&KEY.mint(&claims_with("exp", json!(1))))], 401, "Bearer error=\"invalid_token\""),
        (
            "issuer",
            &[&bearer(&KEY.mint(&claims_with("iss", json!("https://x"))))],
            401,
            "Bearer error=\"invalid_token\"",
        ),
        (
            "audience",
            &[&bearer(&KEY.mint(&claims_with("aud", json!("https://x"))))],
            401,
            "Bearer error=\"invalid_token\"",
        ),
        ("foreign", &[&bearer(&KEY.mint(&in_environment("development")))], 403, "Bearer error=\"insufficient_scope\""),
    ] {
        let mut headers = vec![("X-Vercel-Oidc-Subject", "evil")];
        headers.extend(authorization.iter().map(|value| ("authorization", *value)));
        let answer = stand.ask("GET", "/orders", &headers).await;
        if kind == Kind::Nginx && case == "two headers" {
            // nginx refuses them itself.
            assert_eq!(answer.status, 400, "{answer:?}");
            continue;
        }
        assert_eq!(answer.status, status, "{case}: {answer:?}");
        // nginx passes the challenge of a 401 on, and nothing else of a refusal.
        if kind != Kind::Nginx || status == 401 {
            assert!(answer.header("www-authenticate").unwrap().starts_with(challenge), "{case}: {answer:?}");
        }
        if kind != Kind::Nginx {
            assert_eq!(answer.json()["status"], status);
        }
        stand.saw(case, shown(&answer));
    }
    assert_eq!(stand.seen().await, 0);
}

/// Every spelling that a CGI or WSGI program can't tell from the real name, and some that proxies treat differently.
async fn a_spoofed_header_does_not_reach_the_api(kind: Kind) {
    let stand = Stand::start(kind).await;
    let mut unnamed = claims();
    for claim in ["owner", "owner_id", "project", "project_id", "environment"] {
        unnamed.as_object_mut().unwrap().remove(claim);
    }
    let subject = "owner:acme:project:storefront:environment:production";
    let (authorization, mut reached) = (bearer(&KEY.mint(&unnamed)), 0);
    for claim_name in ["Subject", "Owner", "Owner-Id", "Project", "Project-Id", "Environment"] {
        let name = format!("X-Vercel-Oidc-{claim_name}");
        let mut lines = vec![
            format!("{name}: evil"),
            format!("{}: evil", name.to_lowercase()),
            format!("{}: evil", name.to_uppercase()),
            format!("{name}: evil\r\n{name}: evil"),
            format!("{name}:\r\n{name}: evil"),
            format!("{name} : evil"),
            format!("{name}: x\r\n evil"),
            format!("X-Other: x\r\n {name}: evil"),
            format!("\u{b}{name}: evil"),
            // The headers that `Connection` names are for the next hop only (RFC 9110, section 7.6.1).
            format!("Connection: {name}\r\n{name}: evil"),
            format!("connection: close, {}", name.to_lowercase()),
            format!("Connection: close\r\nConnection: {name}"),
            "Connection: authorization".to_owned(),
        ];
        // Each hyphen as a hyphen or an underscore.
        let hyphens: Vec<_> = name.match_indices('-').map(|(index, _)| index).collect();
        for choice in 1..1 << hyphens.len() {
            let mut spelling = name.clone();
            for (bit, index) in hyphens.iter().enumerate() {
                if choice >> bit & 1 == 1 {
                    spelling.replace_range(index..&(index + 1), "_");
                }
            }
            lines.push(format!("{}: evil", spelling.to_lowercase()));
            lines.push(format!("{spelling}: evil"));
        }
        for line in lines {
            let head = format!("GET / HTTP/1.1\r\nhost: x\r\n{line}\r\nauthorization: {authorization}\r\n");
            let close = if line.to_lowercase().contains("connection:") { "\r\n" } else { "connection: close\r\n\r\n" };
            let before = stand.seen().await;
            let close = if line.contains("close") {
                "\r\n"
            } else if close == "\r\n" {
                "connection: close\r\n\r\n"
            } else {
                close
            };
            let answer = stand.send(&[head.as_bytes(), close.as_bytes()].concat()).await;
            if stand.seen().await > before {
                let seen = answer.json();
                assert_eq!(claim(&seen, "SUBJECT"), subject, "{line:?}: {seen}");
                for absent in ["OWNER", "OWNER_ID", "PROJECT", "PROJECT_ID", "ENVIRONMENT"] {
                    assert_eq!(claim(&seen, absent), "", "{line:?}: {seen}");
                }
                // A folded line may become a part of another header.
                let values = seen["environ"].as_object().unwrap().iter().filter(|(name, _)| name.contains("VERCEL"));
                assert!(values.clone().all(|(_, value)| !value.as_str().unwrap().contains("evil")), "{line:?}: {seen}");
                reached += 1;
            } else {
                assert!((400..500).contains(&answer.status), "{line:?}: {answer:?}");
            }
        }
    }
    assert!(reached >= 60, "{reached}");
    stand.saw(
        "spoofed headers, in every spelling",
        format!("{reached} requests reached the API, none with the client's"),
    );
}

async fn nothing_passes_if_the_gate_is_down(kind: Kind) {
    let mut stand = Stand::start(kind).await;
    let authorization = bearer(&token());
    let headers = [("authorization", &*authorization), ("X-Vercel-Oidc-Subject", "evil")];
    assert_eq!(stand.ask("GET", "/", &headers).await.status, 200);
    // First connections are closed, then they are refused.
    stand.gate = None;
    for case in ["gate: connection closed", "gate: connection refused"] {
        for authorization in [&*authorization, "Bearer garbage", ""] {
            let answer = stand.ask("POST", "/", &[("authorization", authorization), headers[1]]).await;
            assert!((500..=504).contains(&answer.status), "{answer:?}");
            stand.saw(case, shown(&answer));
        }
        stand.relay.stop().await;
    }
    assert_eq!(stand.seen().await, 1);
}

async fn nothing_passes_if_the_gate_hangs(kind: Kind) {
    let gate = FakeIssuer::start(&KEY).await;
    gate.hold();
    let stand = Stand::with_gate(kind, gate.clone(), gate.address).await;
    let began = std::time::Instant::now();
    let (authorization, patience) = (bearer(&token()), std::time::Duration::from_secs(40));
    let headers = [("authorization", &*authorization)];
    let answer = tokio::time::timeout(patience, stand.ask("GET", "/", &headers)).await.unwrap();
    assert!((500..=504).contains(&answer.status), "{answer:?}");
    assert_eq!((stand.seen().await, gate.fetches() >= 1), (0, true));
    stand.saw("gate: no answer", format!("{} after {} s", shown(&answer), began.elapsed().as_secs()));
}

/// The gate's address is wrong, and another program answers there.
async fn nothing_passes_if_something_else_answers(kind: Kind) {
    let gate = FakeIssuer::start(&KEY).await;
    let stand = Stand::with_gate(kind, gate.clone(), gate.address).await;
    let authorization = bearer(&token());
    let headers = [("authorization", &*authorization), ("X-Vercel-Oidc-Subject", "evil")];
    for status in [301, 302, 304, 400, 404, 405, 418, 429, 500, 502, 599] {
        gate.serve(status, "x-vercel-oidc-subject: other\r\nlocation: /elsewhere\r\n", "");
        let answer = stand.ask("GET", "/", &headers).await;
        assert!(answer.status >= 300, "{status}: {answer:?}");
        stand.saw(&format!("gate: {status}"), shown(&answer));
    }
    for bytes in ["", "garbage\r\n\r\n", "HTTP/1.1 204", "HTTP/1.1 2040 X\r\n\r\n", "HTTP/1.1 204 X\r\nx\0y: z\r\n\r\n"]
    {
        gate.serve_bytes(bytes.into());
        let answer = stand.ask("GET", "/", &headers).await;
        assert!(answer.status >= 500, "{bytes:?}: {answer:?}");
    }
    // A page that answers 200 to everyone, without the gate's headers.
    for status in [200, 204] {
        gate.serve(status, "", "");
        let answer = stand.ask("GET", "/", &headers).await;
        assert_eq!(answer.status, 503, "{answer:?}");
        stand.saw(&format!("gate: {status} without its headers"), shown(&answer));
    }
    assert_eq!(stand.seen().await, 0);
}

async fn nothing_passes_if_the_issuer_is_down(kind: Kind) {
    let issuer = FakeIssuer::start(&KEY).await;
    issuer.serve(500, "", "");
    let stand = Stand::with_issuer(kind, issuer).await;
    let answer = stand.ask("GET", "/", &[("authorization", &bearer(&token()))]).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!((1..=30).contains(&answer.header("retry-after").unwrap().parse().unwrap()), "{answer:?}");
    assert_eq!(stand.seen().await, 0);
    // A refusal that needs no key stays one.
    assert_eq!(stand.ask("GET", "/", &[]).await.status, 401);
    stand.saw("issuer down", format!("{}, `Retry-After`", shown(&answer)));
}

async fn many_callers_at_once_keep_their_names(kind: Kind) {
    let stand = Stand::start(kind).await;
    let tokens = ["production", "preview"].map(|environment| (environment, KEY.mint(&in_environment(environment))));
    let mut requests = JoinSet::new();
    for number in 0..200 {
        let (environment, token) = tokens[number % 2].clone();
        let authorization = bearer(if number % 10 == 9 { "garbage" } else { &token });
        let address = stand.address;
        requests.spawn(async move {
            let headers = [("authorization", authorization.as_bytes())];
            let answer = super::common::request(address, "GET", &format!("/{number}"), &headers).await;
            if number % 10 == 9 {
                assert_eq!(answer.status, 401);
            } else {
                assert_eq!(answer.status, 200, "{answer:?}");
                let seen = answer.json();
                assert_eq!(
                    (claim(&seen, "ENVIRONMENT").as_str(), &seen["path"]),
                    (environment, &json!(format!("/{number}")))
                );
            }
        });
    }
    requests.join_all().await;
    assert_eq!(stand.seen().await, 180);
    stand.saw("200 at once", "180 × 200 with their own names, 20 × 401");
}

async fn a_token_counts_for_one_request_of_a_connection(kind: Kind) {
    let stand = Stand::start(kind).await;
    let request = |path: &str, header: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n");
    let authorization = format!("authorization: {}", bearer(&token()));
    let requests = [
        request("/1", &authorization),
        request("/2", "x-vercel-oidc-subject: evil"),
        request("/3", &authorization),
        request("/4", "authorization: Bearer garbage\r\nconnection: close"),
    ];
    let answers = super::common::exchange(stand.address, requests.concat().as_bytes()).await;
    let answers = String::from_utf8(answers).unwrap();
    let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!((statuses, stand.seen().await), (vec!["200", "401", "200", "401"], 2), "{answers}");
    stand.saw("four requests on one connection, two with a token", "200, 401, 200, 401");
}

/// Sends a body of this length while the answer is read, because a refusal comes before the end of the body.
async fn upload(stand: &Stand, authorization: &str, body: &[u8], chunked: bool) -> super::common::Answer {
    let length = if chunked { "transfer-encoding: chunked".into() } else { format!("content-length: {}", body.len()) };
    let head = format!(
        "POST /upload HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: {authorization}\r\n{length}\r\n\r\n"
    );
    let (mut from, mut to) = TcpStream::connect(stand.address).await.unwrap().into_split();
    let sending = async {
        to.write_all(head.as_bytes()).await?;
        for part in body.chunks(100_000) {
            if chunked {
                to.write_all(format!("{:x}\r\n", part.len()).as_bytes()).await?;
            }
            to.write_all(part).await?;
            if chunked {
                to.write_all(b"\r\n").await?;
            }
        }
        if chunked { to.write_all(b"0\r\n\r\n").await } else { Ok(()) }
    };
    let mut answer = Vec::new();
    let (_, _) = tokio::join!(sending, from.read_to_end(&mut answer));
    super::common::Answer::parse(answer)
}

async fn a_large_body_arrives_whole_and_not_at_the_gate(kind: Kind) {
    let stand = Stand::start(kind).await;
    let body: Vec<u8> = (0..10 << 20).map(|index: u32| index.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body);
    let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    for chunked in [false, true] {
        let answer = upload(&stand, &bearer(&token()), &body, chunked).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json()["body"], json!({ "length": body.len(), "sha256": digest }));
    }
    assert_eq!(stand.seen().await, 2);
    // Each question has a head alone.
    let bytes = stand.relay.bytes();
    assert!((500..10_000).contains(&bytes), "{bytes}");
    let refused = upload(&stand, "Bearer garbage", &body, false).await;
    assert_eq!((refused.status, stand.seen().await), (401, 2));
    stand.saw("a body of 10 MiB, with a length and chunked", format!("whole at the API, {bytes} bytes at the gate"));
}

/// RFC 6455: a handshake, and one short message each way.
async fn a_websocket_needs_a_token_and_works(kind: Kind) {
    let stand = Stand::start(kind).await;
    let handshake = |authorization: &str| {
        format!(
            "GET /socket HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nauthorization: {authorization}\r\n\r\n"
        )
    };
    for authorization in ["Bearer garbage", "Basic x"] {
        let mut stream = TcpStream::connect(stand.address).await.unwrap();
        stream.write_all(handshake(authorization).as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 401");
    }
    assert_eq!(stand.seen().await, 0);
    let mut stream = TcpStream::connect(stand.address).await.unwrap();
    stream.write_all(handshake(&bearer(&token())).as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
    let mut frame = vec![0x81, 0x80 | 5, 1, 2, 3, 4];
    frame.extend(b"hello".iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, mask)| byte ^ mask));
    stream.write_all(&frame).await.unwrap();
    let mut message = Vec::new();
    stream.read_to_end(&mut message).await.unwrap();
    let expected = "owner:acme:project:storefront:environment:production: hello";
    assert_eq!(message, [&[0x81, expected.len() as u8], expected.as_bytes()].concat());
    stand.saw("a WebSocket", "401 without a token, then an echo that names the caller");
}

async fn every_spelling_of_a_path_needs_a_token(kind: Kind) {
    let stand = Stand::start(kind).await;
    let paths = [
        "/",
        "//",
        "/orders",
        "//orders",
        "/orders/",
        "/ORDERS",
        "/orders/..",
        "/x/../orders",
        "/./orders",
        "/..",
        "/../orders",
        "/%2e%2e/orders",
        "/orders%2f",
        "/%2f",
        "/orders%00",
        "/orders;x=y",
        "/orders?x=/../y",
        "/verify",
        "/verify/x",
        "/healthz",
        "/readyz",
        "/_gate",
        "/_gate/",
        "/%5fgate",
        "/_GATE",
        "/orders%c0%af",
        "/orders%",
        "/a\\b",
        "http://x/orders",
        "http://127.0.0.1:1/orders",
        "*",
    ];
    for path in paths {
        let method = if path == "*" { "OPTIONS" } else { "GET" };
        let answer = stand.ask(method, path, &[("X-Vercel-Oidc-Subject", "evil")]).await;
        // Caddy answers `OPTIONS *` itself, with 200 and nothing.
        assert!((400..500).contains(&answer.status) || path == "*", "{path}: {answer:?}");
    }
    assert_eq!(stand.seen().await, 0);
    let (mut changed, mut refused) = (Vec::new(), Vec::new());
    for path in paths {
        let method = if path == "*" { "OPTIONS" } else { "GET" };
        let answer = stand.ask(method, path, &[("authorization", &bearer(&token()))]).await;
        // A client can't ask the gate itself.
        assert!(answer.status != 204 && answer.header("x-vercel-oidc-subject").is_none(), "{path}: {answer:?}");
        if answer.status != 200 || answer.body.is_empty() {
            refused.push(format!("`{path}` {}", answer.status));
            continue;
        }
        let seen = answer.json()["path"].as_str().unwrap().to_owned();
        if seen != path {
            changed.push(format!("`{path}` as `{seen}`"));
        }
    }
    stand.saw("paths without a token", format!("{} spellings, all refused", paths.len()));
    stand.saw("paths that the API gets in another spelling", changed.join(", "));
    stand.saw("paths that the proxy itself refuses", refused.join(", "));
}

/// The check for an API in any language (`docs/use-the-crates.md`). It is the issuer.
async fn the_check_finds_no_hole(kind: Kind) {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port().to_string();
    drop(free);
    let mut command = super::common::program::command();
    command.envs([
        ("HOST", "127.0.0.1"),
        ("PORT", "0"),
        ("OIDC_ISSUER", &*format!("http://127.0.0.1:{port}/acme")),
        ("OIDC_AUDIENCE", "https://vercel.com/acme"),
        ("OIDC_SUBJECT", "owner:acme:project:storefront:environment:production"),
        ("OIDC_OWNER_ID", "team_7Gw5ZMzpQA8h90F832KGp7nw"),
        ("OIDC_PROJECT_ID", "prj_7Gw5ZMBpQA8h9GF832KGp7nw"),
    ]);
    let gate = Program::spawn(command).await;
    let stand = Stand::with_gate(kind, FakeIssuer::start(&KEY).await, gate.address).await;
    let url = format!("http://{}/orders", stand.address);
    let check = tokio::task::spawn_blocking(move || {
        let arguments =
            ["run", "--quiet", "-p", "local", "--example", "check", "--", "--strict", "--port", &port, &url];
        std::process::Command::new(env!("CARGO")).args(arguments).output()
    });
    let output = check.await.unwrap().unwrap();
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    let summary = table.lines().find(|line| line.contains(" passed, ")).unwrap_or_else(|| panic!("{table}"));
    stand.saw("`check --strict`", summary);
}
