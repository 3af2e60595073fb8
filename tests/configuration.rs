//! The real binary: which settings it reads from its environment, and how it starts and stops.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::program::command;
use common::{
    FakeIssuer, KEY, NEXT_KEY, Program, claims, claims_with, fresh_token, get, has_the_templates_routes, request,
    token, verdict,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Runs the binary, and returns its exit code, standard output and standard error. If it starts to serve, it is killed,
/// and there is no exit code.
fn run(variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    run_to_the_end(command().envs(variables.iter().copied()))
}

fn run_to_the_end(command: &mut Command) -> (Option<i32>, String, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        stdout.push_str(&line.unwrap());
        if stdout.contains("listening") {
            child.kill().unwrap();
        }
    }
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (child.wait().unwrap().code(), stdout, stderr)
}

type Variables<'a> = &'a [(&'a str, &'a str)];
/// Project, environment, and the status of the answer to its token.
type Callers<'a> = &'a [(&'a str, &'a str, u16)];

const PROJECT: [(&str, &str); 2] = [("OIDC_TEAM_SLUG", "acme"), ("OIDC_PROJECT_NAME", "storefront")];

#[test]
fn reports_every_problem_at_once_and_opens_no_port() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, stdout, stderr) = run(&[
        // In use: a process that listens before it has read all settings would report this.
        ("PORT", &port),
        ("HOST", "127.0.0.1"),
        ("LOG_FORMAT", "xml"),
        ("RUST_LOG", "backend=loud"),
        ("OIDC_TEAM_SLUG", "not/a/slug"),
        ("OIDC_PROJECT_NAME", "owner:x"),
        ("OIDC_ENVIRONMENT", "*"),
        ("OIDC_ISSUER_MODE", "both"),
        ("OIDC_ISSUER", "http://oidc.vercel.com"),
        ("OIDC_JWKS_URL", "file:///etc/passwd"),
        ("OIDC_AUDIENCE", ","),
        ("OIDC_CLOCK_LEEWAY_SECONDS", "301"),
        ("OIDC_REMEMBERED_TOKENS", "many"),
        ("TOKIO_WORKER_THREADS", "0"),
    ]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    let mut named: Vec<_> = stderr.lines().map(|line| line.split(':').next().unwrap()).collect();
    named.sort_unstable();
    let expected = [
        "LOG_FORMAT",
        "OIDC_AUDIENCE",
        "OIDC_CLOCK_LEEWAY_SECONDS",
        "OIDC_ENVIRONMENT",
        "OIDC_ISSUER",
        // One error for the wrong value, and one because it would have no effect.
        "OIDC_ISSUER_MODE",
        "OIDC_ISSUER_MODE",
        "OIDC_JWKS_URL",
        "OIDC_PROJECT_NAME",
        "OIDC_REMEMBERED_TOKENS",
        "OIDC_TEAM_SLUG",
        "RUST_LOG",
        "TOKIO_WORKER_THREADS",
    ];
    assert_eq!(named, expected, "{stderr}");
}

#[test]
fn refuses_each_wrong_value_alone() {
    let wrong = [
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "http"),
        ("HOST", "not a host"),
        ("HOST", "http://x"),
        ("LOG_FORMAT", "JSON"),
        ("RUST_LOG", "backend=loud"),
        ("RUST_LOG", "warning"),
        ("RUST_LOG", "true"),
        ("RUST_LOG", "1"),
        ("RUST_LOG", "backend"),
        ("OIDC_TEAM_SLUG", "a b"),
        ("OIDC_TEAM_SLUG", "a:b"),
        ("OIDC_TEAM_SLUG", "*"),
        ("OIDC_PROJECT_NAME", ","),
        ("OIDC_PROJECT_NAME", "a:b"),
        ("OIDC_PROJECT_NAME", "a,*"),
        ("OIDC_ENVIRONMENT", "production:x"),
        ("OIDC_ISSUER_MODE", "Team"),
        ("OIDC_ISSUER", "acme"),
        ("OIDC_ISSUER", "http://oidc.vercel.com/acme"),
        ("OIDC_ISSUER", "https://user@oidc.vercel.com/acme"),
        ("OIDC_JWKS_URL", "http://example.com"),
        ("OIDC_JWKS_URL", "http://127.0.0.1.example.com"),
        ("OIDC_JWKS_URL", "http://localhost.example.com"),
        ("OIDC_JWKS_URL", "http://[::2]/"),
        ("OIDC_JWKS_URL", "http://128.0.0.1/"),
        ("OIDC_JWKS_URL", "http://0.0.0.0/"),
        ("OIDC_JWKS_URL", "http://127.0.0.1@example.com/"),
        ("OIDC_JWKS_URL", "ftp://127.0.0.1/"),
        ("OIDC_JWKS_URL", "https://"),
        ("OIDC_SUBJECT", "owner:acme:project:*:environment:*"),
        ("OIDC_PROJECT_NAME", "\"web\""),
        ("OIDC_ENVIRONMENT", "preview # comment"),
        ("OIDC_AUDIENCE", "'https://vercel.com/acme'"),
        ("OIDC_OWNER_ID", "team_1;"),
        ("OIDC_PROJECT_ID", "prj 1"),
        ("OIDC_OWNER_ID", ","),
        ("OIDC_PROJECT_ID", ",,"),
        ("OIDC_CLOCK_LEEWAY_SECONDS", "301"),
        ("OIDC_CLOCK_LEEWAY_SECONDS", "-1"),
        ("OIDC_CLOCK_LEEWAY_SECONDS", "1.5"),
        ("OIDC_REMEMBERED_TOKENS", "-1"),
        ("TOKIO_WORKER_THREADS", "0"),
        ("TOKIO_WORKER_THREADS", "1025"),
        ("TOKIO_WORKER_THREADS", "two"),
    ];
    for (name, value) in wrong {
        let (code, _, stderr) = run(&[PROJECT[0], PROJECT[1], (name, value)]);
        assert_eq!((code, stderr.lines().count()), (Some(2), 1), "{name}={value}: {stderr}");
        // The project's name has no effect beside a subject.
        let named = if name == "OIDC_SUBJECT" { "OIDC_PROJECT_NAME" } else { name };
        assert!(stderr.starts_with(&format!("{named}: ")) && stderr.contains(name), "{name}={value}: {stderr}");
    }
}

#[test]
fn refuses_to_start_without_an_issuer_audience_and_subject() {
    let (issuer, audience) = (("OIDC_ISSUER", "https://issuer.test"), ("OIDC_AUDIENCE", "https://api.test"));
    let (subject, global) = (("OIDC_SUBJECT", "owner:acme:*"), ("OIDC_ISSUER_MODE", "global"));
    let cases: [(Variables, &[&str]); 12] = [
        (&[], &["OIDC_TEAM_SLUG", "OIDC_PROJECT_NAME"]),
        (&[("OIDC_TEAM_SLUG", " "), ("OIDC_PROJECT_NAME", "")], &["OIDC_TEAM_SLUG", "OIDC_PROJECT_NAME"]),
        (&[PROJECT[0]], &["OIDC_PROJECT_NAME"]),
        (&[PROJECT[1]], &["OIDC_TEAM_SLUG"]),
        (&[issuer, audience], &["OIDC_TEAM_SLUG", "OIDC_PROJECT_NAME"]),
        (&[issuer, audience, PROJECT[1]], &["OIDC_TEAM_SLUG"]),
        (&[issuer, subject], &["OIDC_TEAM_SLUG"]),
        (&[audience, subject], &["OIDC_TEAM_SLUG"]),
        (&[global, subject], &["OIDC_TEAM_SLUG"]),
        (&[global, audience], &["OIDC_TEAM_SLUG", "OIDC_PROJECT_NAME"]),
        // Same-project mode needs both variables of Vercel, and no trust variable.
        (&[("VERCEL_PROJECT_ID", "prj_1")], &["OIDC_TEAM_SLUG", "OIDC_PROJECT_NAME"]),
        (
            &[("VERCEL_PROJECT_ID", "prj_1"), ("VERCEL_ENV", "production"), ("OIDC_OWNER_ID", "team_1")],
            &["OIDC_TEAM_SLUG", "OIDC_PROJECT_NAME"],
        ),
    ];
    for (variables, named) in cases {
        let (code, _, stderr) = run(variables);
        let lines: Vec<_> = stderr.lines().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!((code, lines.as_slice()), (Some(2), named), "{variables:?}: {stderr}");
    }
}

#[test]
fn a_variable_that_is_not_utf8_is_an_error() {
    use std::os::unix::ffi::OsStrExt;
    let names = ["OIDC_TEAM_SLUG", "OIDC_PROJECT_NAME", "OIDC_ISSUER", "OIDC_OWNER_ID", "OIDC_SUBJECT", "PORT"];
    let alone = ["VERCEL_PROJECT_ID", "VERCEL_ENV"];
    for name in names.into_iter().chain(alone) {
        let mut command = command();
        if !alone.contains(&name) {
            command.envs(if name == "OIDC_SUBJECT" { &PROJECT[..1] } else { &PROJECT }.iter().copied());
        }
        command.envs([("VERCEL_PROJECT_ID", "prj_1"), ("VERCEL_ENV", "production")]);
        command.env(name, std::ffi::OsStr::from_bytes(b"\xff"));
        let (code, _, stderr) = run_to_the_end(&mut command);
        assert_eq!((code, stderr.trim_end()), (Some(2), &*format!("{name}: is not valid UTF-8")));
    }
}

/// The number of threads is 1 to 1024. A blank value counts as unset.
#[tokio::test]
async fn serves_with_the_given_number_of_threads() {
    for threads in ["1", "2", "", " "] {
        let issuer = FakeIssuer::start(&KEY).await;
        let backend = Program::start(&issuer, &[("TOKIO_WORKER_THREADS", threads)]).await;
        assert_eq!(verdict(backend.address, &token()).await, 200, "{threads}");
    }
}

#[test]
fn reports_unknown_arguments_with_the_other_errors() {
    let secret = token();
    let mut command = command();
    command.args(["--port=80", "serve", &secret, "--help=x"]).envs([PROJECT[0]]);
    let (code, stdout, stderr) = run_to_the_end(&mut command);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    let named: Vec<_> = stderr.lines().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(named, ["`--port=80`", "`serve`", &format!("`{}`", &secret[..24]), "`--help=x`", "OIDC_PROJECT_NAME"]);
    // An unknown argument is an error also if every setting is valid.
    let (code, _, stderr) = run_to_the_end(command_with_valid_settings().arg("--verbose"));
    assert_eq!((code, stderr.lines().count()), (Some(2), 1), "{stderr}");
}

fn command_with_valid_settings() -> Command {
    let mut command = command();
    command.envs(PROJECT);
    command
}

#[test]
fn answers_help_and_version_without_settings() {
    for (argument, text) in [("--help", "docs/settings.md"), ("-h", "docs/settings.md"), ("-V", "backend 0.")] {
        let (code, stdout, stderr) = run_to_the_end(command().arg(argument));
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{argument}");
        assert!(stdout.contains(text), "{argument}: {stdout}");
    }
    let (code, stdout, _) = run_to_the_end(command().arg("--version"));
    assert_eq!((code, stdout), (Some(0), format!("backend {}", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn exits_with_1_if_the_port_is_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, _, stderr) = run(&[PROJECT[0], PROJECT[1], ("HOST", "127.0.0.1"), ("PORT", &port)]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("PORT") && stderr.contains(&port), "{stderr}");
}

#[tokio::test]
async fn trusts_the_callers_that_the_settings_name() {
    let issuer = FakeIssuer::start(&KEY).await;
    let subject = |project: &str, environment: &str| format!("owner:acme:project:{project}:environment:{environment}");
    let cases: [(Variables, Callers); 3] = [
        (
            &[("OIDC_PROJECT_NAME", "a, b"), ("OIDC_ENVIRONMENT", "preview,development")],
            &[("a", "preview", 200), ("b", "development", 200), ("a", "production", 403), ("c", "preview", 403)],
        ),
        (
            &[("OIDC_PROJECT_NAME", ""), ("OIDC_SUBJECT", "owner:acme:project:web-*:environment:preview")],
            &[
                ("web-1", "preview", 200),
                ("web-", "preview", 403),
                ("web-1", "production", 403),
                ("storefront", "production", 403),
            ],
        ),
        (&[("OIDC_ENVIRONMENT", " ")], &[("storefront", "production", 200), ("storefront", "preview", 403)]),
    ];
    for (variables, callers) in cases {
        let backend = Program::start(&issuer, variables).await;
        for (project, environment, status) in callers {
            let token = KEY.mint(&claims_with("sub", json!(subject(project, environment))));
            assert_eq!(verdict(backend.address, &token).await, *status, "{variables:?} {project} {environment}");
        }
    }
}

#[tokio::test]
async fn accepts_the_configured_issuer_and_audience() {
    let issuer = FakeIssuer::start(&KEY).await;
    let mut other = claims_with("iss", json!("https://oidc.vercel.com"));
    let global = KEY.mint(&other);
    other["iss"] = json!("https://issuer.test");
    other["aud"] = json!("https://b.test");
    let own = KEY.mint(&other);
    let team = token();
    let cases: [(Variables, [u16; 3]); 3] = [
        (&[], [200, 401, 401]),
        (&[("OIDC_ISSUER_MODE", "global")], [401, 200, 401]),
        (
            &[("OIDC_ISSUER", "https://issuer.test"), ("OIDC_AUDIENCE", "https://a.test, https://b.test")],
            [401, 401, 200],
        ),
    ];
    for (variables, statuses) in cases {
        let backend = Program::start(&issuer, variables).await;
        for (token, status) in [&team, &global, &own].into_iter().zip(statuses) {
            assert_eq!(verdict(backend.address, token).await, status, "{variables:?}");
        }
    }
}

/// The leeway is 0 to 300 s, and 30 s if it is unset.
#[tokio::test]
async fn allows_clock_skew_up_to_the_leeway() {
    let issuer = FakeIssuer::start(&KEY).await;
    let now = local::unix_seconds(SystemTime::now());
    let expired = |seconds| KEY.mint(&claims_with("exp", json!(now - seconds)));
    for (leeway, good, bad) in [("", 10, 40), ("300", 250, 310), ("60", 40, 70)] {
        let backend = Program::start(&issuer, &[("OIDC_CLOCK_LEEWAY_SECONDS", leeway)]).await;
        assert_eq!(verdict(backend.address, &expired(good)).await, 200, "{leeway}");
        assert_eq!(verdict(backend.address, &expired(bad)).await, 401, "{leeway}");
    }
    let backend = Program::start(&issuer, &[("OIDC_CLOCK_LEEWAY_SECONDS", "0")]).await;
    assert_eq!(verdict(backend.address, &expired(1)).await, 401);
}

#[tokio::test]
async fn finds_the_keys_below_the_issuer() {
    let issuer = FakeIssuer::start(&KEY).await;
    let url = format!("http://{}", issuer.address);
    let variables = [("OIDC_ISSUER", url.as_str()), ("OIDC_JWKS_URL", "")];
    let backend = Program::start(&issuer, &variables).await;
    assert_eq!(verdict(backend.address, &KEY.mint(&claims_with("iss", json!(url)))).await, 200);
    assert_eq!(issuer.paths(), ["/.well-known/jwks"]);
}

/// Same-project mode fetches its keys from Vercel, so this test checks only the start and its log.
#[tokio::test]
async fn trusts_its_own_project_if_nothing_is_set() {
    let deployment = [("VERCEL_PROJECT_ID", "prj_1"), ("VERCEL_TARGET_ENV", "staging"), ("VERCEL_ENV", "preview")];
    for (variables, environment) in [(&deployment[..], "staging"), (&[deployment[0], deployment[2]], "preview")] {
        let mut command = command();
        command.envs([("HOST", "127.0.0.1"), ("PORT", "0"), ("OIDC_TEAM_SLUG", " ")]).envs(variables.iter().copied());
        // No proxy listens at port 1, so nothing is resolved or sent.
        command.env("HTTPS_PROXY", "http://127.0.0.1:1");
        let mut backend = Program::spawn(command).await;
        backend.prints("listening").await;
        backend.prints(&format!("`prj_1`, in its environment `{environment}`")).await;
    }
}

/// The warnings of a start with these settings.
async fn warnings(variables: Variables<'_>) -> Vec<String> {
    let issuer = FakeIssuer::start(&KEY).await;
    let mut backend = Program::start(&issuer, variables).await;
    backend.prints("fetched the issuer's keys").await;
    backend.output().lines().filter(|line| line.contains("WARN")).map(String::from).collect()
}

#[tokio::test]
async fn warns_of_each_wildcard() {
    let subjects = "owner:acme:project:*:environment:production,owner:acme:project:x:environment:preview";
    let warnings =
        warnings(&[("OIDC_PROJECT_NAME", ""), ("OIDC_SUBJECT", subjects), ("OIDC_OWNER_ID", "team_1")]).await;
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.contains("owner:acme:project:*:environment:production"), "{warning}");
}

/// A slug that is given up can be taken by someone else, who then gets tokens with the same names.
#[tokio::test]
async fn warns_if_trust_rests_on_names() {
    let by_names = warnings(&[]).await;
    let [warning] = &by_names[..] else { panic!("{by_names:?}") };
    assert!(warning.contains("names") && warning.contains("OIDC_OWNER_ID"), "{warning}");
    for id in [("OIDC_OWNER_ID", "team_1"), ("OIDC_PROJECT_ID", "prj_1")] {
        assert_eq!(warnings(&[id]).await, [""; 0], "{id:?}");
    }
}

#[tokio::test]
async fn logs_one_json_object_a_line() {
    if !has_the_templates_routes("logs_one_json_object_a_line") {
        return;
    }
    let issuer = FakeIssuer::start(&KEY).await;
    let variables = [("LOG_FORMAT", "json"), ("RUST_LOG", "info,access=debug")];
    let backend = Program::start(&issuer, &variables).await;
    let authorization = format!("Bearer {}", token());
    let headers =
        [("authorization", authorization.as_bytes()), ("x-vercel-id", b"fra1::x"), ("traceparent", b"00-1-2-01")];
    assert_eq!(request(backend.address, "GET", "/?secret=1", &headers).await.status, 200);
    assert_eq!(verdict(backend.address, "garbage").await, 401);
    assert_eq!(verdict(backend.address, &KEY.mint(&claims_with("sub", json!("owner:x")))).await, 403);
    backend.signal("TERM");
    let (code, output) = backend.end().await;
    assert_eq!(code, Some(0));
    let lines: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let requests: Vec<_> = lines.iter().filter(|line| line["status"].is_number()).collect();
    let [accepted, refused, forbidden] = requests[..] else { panic!("{output}") };
    assert_eq!(
        (&accepted["level"], &accepted["status"], &accepted["route"]),
        (&json!("DEBUG"), &json!(200), &json!("/"))
    );
    assert_eq!(accepted["target"], "access");
    assert_eq!((&accepted["sub"], &accepted["method"]), (&claims()["sub"], &json!("GET")));
    assert_eq!((&accepted["x_vercel_id"], &accepted["traceparent"]), (&json!("fra1::x"), &json!("00-1-2-01")));
    assert_eq!((&refused["level"], &refused["code"]), (&json!("INFO"), &json!("invalid_token")));
    assert!(refused["reason"].as_str().unwrap().contains("compact JWS") && refused["sub"].is_null());
    assert_eq!((&forbidden["level"], &forbidden["code"]), (&json!("INFO"), &json!("forbidden")));
    // The reason in the log says what would be accepted.
    let reason = forbidden["reason"].as_str().unwrap();
    assert!(reason.contains("`owner:x`") && reason.contains(claims()["sub"].as_str().unwrap()), "{reason}");
    assert!(!output.contains("secret"), "{output}");
}

#[tokio::test]
async fn rust_log_filters_the_log() {
    if !has_the_templates_routes("rust_log_filters_the_log") {
        return;
    }
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Program::start(&issuer, &[("RUST_LOG", "backend=info")]).await;
    assert_eq!(get(backend.address, &token()).await.status, 200);
    assert_eq!(verdict(backend.address, "garbage").await, 401);
    backend.signal("TERM");
    let (_, output) = backend.end().await;
    assert!(output.contains("refused a request") && !output.contains("answered a request"), "{output}");
}

/// It accepts no more connections, answers the requests in flight, and exits with 0.
#[tokio::test]
async fn stops_gracefully() {
    for signal in ["TERM", "INT"] {
        let issuer = FakeIssuer::start(&KEY).await;
        let mut backend = Program::start(&issuer, &[]).await;
        let address = backend.address;
        assert_eq!(verdict(address, &token()).await, 200);
        issuer.hold();
        issuer.serve_keys(&[&NEXT_KEY]);
        let in_flight = tokio::spawn(async move { verdict(address, &fresh_token(&NEXT_KEY)).await });
        let mut idle = tokio::net::TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(idle.read(&mut [0; 1024]).await.unwrap() > 0);
        // The first fetch was the start's. The second is for this request, so the request is in flight.
        issuer.wait_for_fetches(2).await;
        backend.signal(signal);
        backend.prints("stopping").await;
        refuses_connections(address);
        assert!(!in_flight.is_finished());
        // An idle connection is closed at once.
        assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
        issuer.release();
        assert_eq!(in_flight.await.unwrap(), 200, "{signal}");
        assert_eq!(backend.end().await.0, Some(0), "{signal}");
    }
}

/// The listener closes a moment after the log line.
fn refuses_connections(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline, "the backend still listens");
    }
}

/// The keys change while the backend is stopped.
#[tokio::test]
async fn fetches_the_keys_again_after_a_restart() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Program::start(&issuer, &[]).await;
    assert_eq!(verdict(backend.address, &token()).await, 200);
    backend.signal("INT");
    assert_eq!(backend.end().await.0, Some(0));
    issuer.serve_keys(&[&NEXT_KEY]);
    let backend = Program::start(&issuer, &[]).await;
    assert_eq!(verdict(backend.address, &fresh_token(&NEXT_KEY)).await, 200);
    assert_eq!(verdict(backend.address, &token()).await, 401);
}
