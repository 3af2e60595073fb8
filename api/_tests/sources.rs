//! Where the token comes from: header, internal header, file, variable, in this order.

use std::process::Command;

use crate::stage::{Folder, Function, SUBJECT, TOKEN, shows, soon, token};
use crate::stub::{Stub, header};

/// The token that reached the backend.
fn sent(backend: &Stub) -> String {
    let requests = backend.requests();
    let authorization = header(requests.last().unwrap(), "authorization").unwrap();
    authorization.strip_prefix("Bearer ").unwrap().to_owned()
}

#[tokio::test]
async fn the_first_source_that_is_set_wins() {
    let (backend, folder) = (Stub::good().await, Folder::new());
    let [public, internal, file, variable] = ["public", "internal", "file", "variable"].map(|name| token(name, 3600));
    let path = folder.write("token", &file);
    let all = [("BACKEND_URL", &*backend.url()), ("VERCEL_OIDC_TOKEN", &*variable), ("VERCEL_OIDC_TOKEN_FILE", &*path)];
    let with_file = Function::start(&all).await;
    let without_file = Function::start(&all[..2]).await;

    let (one, two) = (("x-vercel-oidc-token", &*public), ("x-vercel-internal-oidc-token", &*internal));
    for (function, headers, expected) in [
        (&with_file, &[one, two][..], &public),
        (&with_file, &[two], &internal),
        (&with_file, &[], &file),
        (&without_file, &[two], &internal),
        (&without_file, &[], &variable),
    ] {
        let answer = function.call(headers).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(sent(&backend), *expected);
    }
}

#[tokio::test]
async fn a_blank_source_counts_as_unset() {
    let (backend, token) = (Stub::good().await, token("a", 3600));
    let variables =
        [("BACKEND_URL", &*backend.url()), ("VERCEL_OIDC_TOKEN", &*token), ("VERCEL_OIDC_TOKEN_FILE", " \t")];
    let function = Function::start(&variables).await;
    assert_eq!(function.call(&[("x-vercel-oidc-token", " "), ("x-vercel-internal-oidc-token", "")]).await.status, 200);
    assert_eq!(sent(&backend), token);
    assert_eq!(function.call(&[("x-vercel-oidc-token", ""), ("x-vercel-oidc-token", TOKEN)]).await.status, 200);
    assert_eq!(sent(&backend), TOKEN);

    let variables = [("BACKEND_URL", &*backend.url()), ("VERCEL_OIDC_TOKEN", " ")];
    let detail = Function::start(&variables).await.call(&[]).await.is_problem(500, "token_unavailable");
    assert!(detail.contains("There is no OIDC token"), "{detail}");
}

#[tokio::test]
async fn the_file_is_read_at_each_call_and_trimmed() {
    let (backend, folder) = (Stub::good().await, Folder::new());
    let [first, second] = ["first", "second"].map(|name| token(name, 3600));
    let path = folder.write("token", &format!("\n {first} \r\n"));
    let function = Function::start(&[("BACKEND_URL", &backend.url()), ("VERCEL_OIDC_TOKEN_FILE", &path)]).await;
    assert_eq!(function.call(&[]).await.status, 200);
    assert_eq!(sent(&backend), first);
    folder.write("token", &second);
    assert_eq!(function.call(&[]).await.status, 200);
    assert_eq!(sent(&backend), second);
}

#[tokio::test]
async fn the_source_of_the_token_is_in_the_timing() {
    let (backend, folder) = (Stub::good().await, Folder::new());
    let url = backend.url();
    let file = folder.write("token", TOKEN);
    for (variables, headers, source) in [
        (&[][..], &[("x-vercel-oidc-token", TOKEN)][..], "x-vercel-oidc-token"),
        (&[], &[("x-vercel-internal-oidc-token", TOKEN)], "x-vercel-internal-oidc-token"),
        (&[("VERCEL_OIDC_TOKEN_FILE", &*file)], &[], "file"),
        (&[("VERCEL_OIDC_TOKEN", TOKEN)], &[], "variable"),
    ] {
        let function = Function::start(&[&[("BACKEND_URL", &*url)], variables].concat()).await;
        let answer = function.call(headers).await;
        let timing = answer.header("server-timing");
        assert!(timing.split(", ").next().unwrap().ends_with(&format!(";desc={source}")), "{timing}");
    }
}

#[tokio::test]
async fn a_file_without_a_token_is_an_error_and_no_fallback_and_only_the_log_names_it() {
    let (backend, folder) = (Stub::good().await, Folder::new());
    let path = folder.path("token").to_str().unwrap().to_owned();
    let variables =
        [("BACKEND_URL", &*backend.url()), ("VERCEL_OIDC_TOKEN", TOKEN), ("VERCEL_OIDC_TOKEN_FILE", &*path)];
    let function = Function::start(&variables).await;
    let missing = function.call(&[]).await.is_problem(500, "token_unavailable");
    assert!(missing.contains("can't be read") && missing.contains("`VERCEL_OIDC_TOKEN_FILE`"), "{missing}");
    for text in ["", " \n"] {
        folder.write("token", text);
        let empty = function.call(&[]).await.is_problem(500, "token_unavailable");
        assert!(empty.contains("it is empty") && empty.contains("`VERCEL_OIDC_TOKEN_FILE`"), "{empty}");
        assert!(!empty.contains(&path), "{empty}");
    }
    assert_eq!(backend.requests().len(), 0);
    folder.write("token", "not-a-jwt");
    assert!(!function.call(&[]).await.is_problem(500, "token_unavailable").contains(&path));
    let printed = function.stop().await;
    assert!(!missing.contains(&path) && printed.lines().count() == 4, "{printed}");
    assert!(printed.lines().all(|line| line.ends_with(&format!(" path=`{path}`"))), "{printed}");
}

#[tokio::test]
async fn a_file_is_regular_and_has_at_most_64_kib() {
    let (backend, folder) = (Stub::good().await, Folder::new());
    let path = folder.path("token").to_str().unwrap().to_owned();
    let function = Function::start(&[("BACKEND_URL", &backend.url()), ("VERCEL_OIDC_TOKEN_FILE", &path)]).await;
    let token = token("a", 3600);
    folder.write("token", &format!("{token}{}", " ".repeat(65_536 - token.len())));
    assert_eq!(function.call(&[]).await.status, 200);
    folder.write("token", &format!("{token}{}", " ".repeat(65_537 - token.len())));
    let detail = function.call(&[]).await.is_problem(500, "token_unavailable");
    assert!(detail.contains("larger than 64 KiB"), "{detail}");

    std::fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let detail = soon(function.call(&[])).await.is_problem(500, "token_unavailable");
    assert!(detail.contains("not a regular file"), "{detail}");

    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(folder.write("elsewhere", &token), &path).unwrap();
    assert_eq!(function.call(&[]).await.status, 200);
    assert_eq!(sent(&backend), token);
}

#[tokio::test]
async fn without_a_token_the_developer_learns_how_to_get_one() {
    let backend = Stub::good().await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    let detail = function.call(&[]).await.is_problem(500, "token_unavailable");
    for remedy in ["OIDC federation", "`vercel env pull`", "`VERCEL_OIDC_TOKEN`"] {
        assert!(detail.contains(remedy), "{detail}");
    }
    assert!(function.stop().await.contains("Error: token_unavailable: There is no OIDC token."));
}

#[tokio::test]
async fn what_is_no_jwt_is_never_sent_and_the_mistake_is_named() {
    let (backend, folder) = (Stub::good().await, Folder::new());
    let (url, good) = (backend.url(), token("a", 3600));
    let path = folder.path("token").to_str().unwrap().to_owned();
    let array = format!("e30.{}.c2ln", "W10");
    for (text, mistake) in [
        (format!("\"{good}\""), "it has quotes around it"),
        (format!("'{good}'"), "it has quotes around it"),
        (format!("Bearer {good}"), "it begins with `Bearer`"),
        (format!("VERCEL_OIDC_TOKEN={good}"), "it begins with a name and `=`"),
        (format!("VERCEL_OIDC_TOKEN=\"{good}\""), "it begins with a name and `=`"),
        (format!("{good} {good}"), "it has characters that no JWT has"),
        (format!("{good}é"), "it has characters that no JWT has"),
        ("not-a-jwt".to_owned(), "it does not have the form of a JWT"),
        (array, "it does not have the form of a JWT"),
    ] {
        folder.write("token", &text);
        let base = ("BACKEND_URL", &*url);
        let by_file = Function::start(&[base, ("VERCEL_OIDC_TOKEN_FILE", &path)]).await;
        let by_variable = Function::start(&[base, ("VERCEL_OIDC_TOKEN", &text)]).await;
        for (answer, source) in [
            (by_file.call(&[]).await, "the file of `VERCEL_OIDC_TOKEN_FILE`"),
            (by_variable.call(&[]).await, "`VERCEL_OIDC_TOKEN`"),
            (by_variable.call_with(&text).await, "the header `x-vercel-oidc-token`"),
            (by_variable.call(&[("x-vercel-internal-oidc-token", &text)]).await, "`x-vercel-internal-oidc-token`"),
        ] {
            let detail = answer.is_problem(500, "token_unavailable");
            assert!(detail.contains(source), "{detail}");
            assert!(detail.contains(mistake), "{text:?} {source}: {detail}");
            assert!(!shows(&answer.text, &good), "{}", answer.text);
        }
        assert!(!shows(&by_file.stop().await, &good) && !shows(&by_variable.stop().await, &good));
    }
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn a_token_in_place_of_a_path_is_not_shown() {
    let backend = Stub::good().await;
    let secret = token("secret", 3600);
    for path in [secret.clone(), format!("/x/{secret}")] {
        let function = Function::start(&[("BACKEND_URL", &backend.url()), ("VERCEL_OIDC_TOKEN_FILE", &path)]).await;
        let answer = function.call(&[]).await;
        answer.is_problem(500, "token_unavailable");
        assert!(!shows(&answer.text, &secret) && !shows(&function.stop().await, &secret));
    }
}

/// The backend allows 30 s for clock skew.
#[tokio::test]
async fn an_expired_token_is_not_sent_and_the_answer_says_how_long_ago() {
    let backend = Stub::good().await;
    let url = ("BACKEND_URL", &*backend.url());
    for name in ["x-vercel-oidc-token", "x-vercel-internal-oidc-token"] {
        let function = Function::start(&[url]).await;
        for seconds in [10, -1] {
            let token = token("new", seconds);
            assert_eq!(function.call(&[(name, &token)]).await.status, 200, "{seconds}");
            assert_eq!(sent(&backend), token);
        }
        let expired = token("old", -3000);
        let sent = backend.requests().len();
        let detail = function.call(&[(name, &expired)]).await.is_problem(500, "token_unavailable");
        assert!(detail.starts_with(&format!("The token in the header `{name}` expired 50 min ago.")), "{detail}");
        assert_eq!(backend.requests().len(), sent);
        let printed = function.stop().await;
        assert!(printed.contains(SUBJECT) && !shows(&printed, &expired), "{printed}");
    }
    let expired = token("old", -30_000);
    let function = Function::start(&[url, ("VERCEL_OIDC_TOKEN", &expired), ("VERCEL_ENV", "preview")]).await;
    let detail = function.call(&[]).await.is_problem(500, "token_unavailable");
    assert!(detail.starts_with("The token in `VERCEL_OIDC_TOKEN` expired 8 h ago."), "{detail}");
}

#[tokio::test]
async fn a_token_without_a_readable_expiry_is_sent_as_it_is() {
    let backend = Stub::good().await;
    // `{}`, `{"exp":"1"}`, `{"exp":1,"exp":1}`
    for claims in ["e30", "eyJleHAiOiIxIn0", "eyJleHAiOjEsImV4cCI6MX0"] {
        let token = format!("e30.{claims}.c2ln");
        let function = Function::start(&[("BACKEND_URL", &backend.url()), ("VERCEL_OIDC_TOKEN", &token)]).await;
        assert_eq!(function.call(&[]).await.status, 200);
        assert_eq!(sent(&backend), token);
    }
}
