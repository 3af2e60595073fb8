//! An expired development token: the Vercel CLI gives a new one, once for all requests that wait.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::stage::{Folder, Function, SUBJECT, jwt, prints, shows, soon, token};
use crate::stub::{Stub, header};

/// Starts the function in this folder with an expired token in the variable, and this `PATH`.
async fn start(folder: &Folder, backend: &Stub, path: &str, more: &[(&str, &str)]) -> Function {
    let (url, old) = (backend.url(), token("old", -3600));
    let mut variables = vec![("BACKEND_URL", &*url), ("VERCEL_OIDC_TOKEN", &*old), ("PATH", path)];
    // The last value of a variable counts.
    variables.extend(more);
    Function::start_in(&folder.path("."), &variables).await
}

fn sent(backend: &Stub) -> Vec<String> {
    let requests = backend.requests();
    let tokens = requests.iter().map(|request| header(request, "authorization").unwrap());
    tokens.map(|value| value.replacen("Bearer ", "", 1)).collect()
}

#[tokio::test]
async fn an_expired_token_is_replaced_once_and_the_new_token_is_cached() {
    let (folder, backend, new) = (Folder::new(), Stub::good().await, token("new", 3600));
    let path = folder.link().vercel(&prints(&new));
    let function = start(&folder, &backend, &path, &[]).await;
    for _ in 0..3 {
        let answer = function.call(&[]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    assert_eq!(sent(&backend), [new.clone(), new.clone(), new.clone()]);
    assert_eq!(folder.calls(), ["project token prj_shop --format=json --scope team_acme"]);
    assert!(!shows(&function.stop().await, &new));
}

#[tokio::test]
async fn a_token_is_replaced_from_a_minute_before_it_expires() {
    for (seconds, calls) in [(30, 1), (58, 1), (120, 0)] {
        let (folder, backend, new) = (Folder::new(), Stub::good().await, token("new", 3600));
        let path = folder.link().vercel(&prints(&new));
        let file = folder.write("token", &token("file", seconds));
        let function = start(&folder, &backend, &path, &[("VERCEL_OIDC_TOKEN_FILE", &file)]).await;
        assert_eq!(function.call(&[]).await.status, 200);
        assert_eq!(folder.calls().len(), calls, "{seconds} s left");
        assert_eq!(sent(&backend)[0] == new, calls == 1);
    }
}

#[tokio::test]
async fn a_refreshed_token_is_cached_until_60_seconds_before_it_expires() {
    for (seconds, calls) in [(120, 1), (58, 2)] {
        let (folder, backend) = (Folder::new(), Stub::good().await);
        let path = folder.link().vercel(&prints(&token("new", seconds)));
        let function = start(&folder, &backend, &path, &[]).await;
        for _ in 0..2 {
            assert_eq!(function.call(&[]).await.status, 200);
        }
        assert_eq!(folder.calls().len(), calls, "{seconds} s left");
    }
}

#[tokio::test]
async fn the_project_is_found_above_and_needs_no_team() {
    let (folder, backend) = (Folder::new(), Stub::good().await);
    folder.write(".vercel/project.json", r#"{"projectId": "prj_above"}"#);
    folder.write("a/b/here", "");
    let path = folder.vercel(&prints(&token("new", 3600)));
    let (url, old) = (backend.url(), token("old", -3600));
    let variables =
        [("BACKEND_URL", &*url), ("VERCEL_OIDC_TOKEN", &*old), ("PATH", &*path), ("VERCEL_ENV", "development")];
    let function = Function::start_in(&folder.path("a/b"), &variables).await;
    assert_eq!(function.call(&[]).await.status, 200);
    assert_eq!(folder.calls(), ["project token prj_above --format=json"]);
}

#[tokio::test]
async fn two_hundred_requests_at_once_run_the_cli_once() {
    let (folder, backend, new) = (Folder::new(), Stub::good().await, token("new", 3600));
    let path = folder.link().vercel(&prints(&new));
    let function = std::sync::Arc::new(start(&folder, &backend, &path, &[]).await);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let function = std::sync::Arc::clone(&function);
        calls.spawn(async move { function.call(&[]).await.status });
    }
    assert_eq!(soon(calls.join_all()).await, [200; 200]);
    assert_eq!(folder.calls().len(), 1);
}

#[tokio::test]
async fn an_abandoned_request_leaves_the_others_served() {
    let (folder, backend, new) = (Folder::new(), Stub::good().await, token("new", 3600));
    let pipe = |name: &str| -> PathBuf {
        let path = folder.path(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    };
    let (started, gate) = (pipe("started"), pipe("gate"));
    // Opening a pipe waits for the other end: the CLI tells that it runs, and then waits.
    let script = format!("echo > '{}'\nread go < '{}'\n{}", started.display(), gate.display(), prints(&new));
    let path = folder.link().vercel(&script);
    let function = start(&folder, &backend, &path, &[]).await;

    let abandoned = tokio::spawn(function.request("GET", "/api/call").send());
    soon(tokio::task::spawn_blocking(move || fs::read(started).unwrap())).await.unwrap();
    abandoned.abort();
    assert!(abandoned.await.unwrap_err().is_cancelled());
    let other = function.call(&[]);
    let (answer, opened) =
        soon(async { tokio::join!(other, tokio::task::spawn_blocking(move || fs::write(gate, "go\n"))) }).await;
    opened.unwrap().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(folder.calls().len(), 1);
}

#[tokio::test]
async fn in_preview_and_production_the_cli_never_runs() {
    for environment in ["preview", "production", "staging"] {
        let (folder, backend) = (Folder::new(), Stub::good().await);
        let path = folder.link().vercel(&prints(&token("new", 3600)));
        let function = start(&folder, &backend, &path, &[("VERCEL_ENV", environment)]).await;
        let detail = function.call(&[]).await.is_problem(500, "token_unavailable");
        assert!(detail.contains("`VERCEL_OIDC_TOKEN`") && detail.contains("remove that setting"), "{detail}");
        assert_eq!((folder.calls().len(), backend.requests().len()), (0, 0));
    }
}

#[tokio::test]
async fn without_a_linked_folder_the_expired_token_names_the_project() {
    for (claims, expected) in [
        (
            r#"{"exp":1,"project_id":"prj_own","owner_id":"team_own"}"#,
            "project token prj_own --format=json --scope team_own",
        ),
        (r#"{"exp":1,"project_id":"prj_own","owner_id":"7Gw5ZMzpQA8h"}"#, "project token prj_own --format=json"),
        (r#"{"exp":1,"project_id":"prj_own","owner_id":"--token"}"#, "project token prj_own --format=json"),
    ] {
        let (folder, backend) = (Folder::new(), Stub::good().await);
        // What `vercel link --repo` writes in a monorepo.
        folder.write(".vercel/repo.json", r#"{"orgId": "team_acme", "projects": []}"#);
        let path = folder.vercel(&prints(&token("new", 3600)));
        let expired = jwt(claims);
        let function = start(&folder, &backend, &path, &[("VERCEL_OIDC_TOKEN", &expired)]).await;
        let answer = function.call(&[]).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert!(answer.header("server-timing").contains(";desc=refreshed"), "{answer:?}");
        assert_eq!(folder.calls(), [expected]);
    }
}

#[tokio::test]
async fn without_any_usable_project_id_the_developer_is_told_what_to_run() {
    for claims in [r#"{"exp":1}"#, r#"{"exp":1,"project_id":"--token"}"#, r#"{"exp":1,"project_id":7}"#] {
        let (folder, backend) = (Folder::new(), Stub::good().await);
        let path = folder.vercel(&prints(&token("new", 3600)));
        let function = start(&folder, &backend, &path, &[("VERCEL_OIDC_TOKEN", &jwt(claims))]).await;
        let detail = function.call(&[]).await.is_problem(500, "token_unavailable");
        assert!(detail.contains("`vercel link`") && detail.contains("`vercel env pull`"), "{detail}");
        assert_eq!(folder.calls().len(), 0);
    }
}

#[tokio::test]
async fn a_scope_is_given_for_a_team_only() {
    for (team, expected) in [
        ("team_acme", "project token prj_shop --format=json --scope team_acme"),
        ("7Gw5ZMzpQA8h90F832KGp7nw", "project token prj_shop --format=json"),
        ("user_me", "project token prj_shop --format=json"),
    ] {
        let (folder, backend) = (Folder::new(), Stub::good().await);
        folder.write(".vercel/project.json", &format!(r#"{{"projectId": "prj_shop", "orgId": "{team}"}}"#));
        let path = folder.vercel(&prints(&token("new", 3600)));
        assert_eq!(start(&folder, &backend, &path, &[]).await.call(&[]).await.status, 200);
        assert_eq!(folder.calls(), [expected]);
    }
}

#[tokio::test]
async fn a_project_file_without_usable_ids_is_refused_and_its_path_is_in_the_log_only() {
    for bad in [
        r#"{"projectId": "--token"}"#,
        r#"{"projectId": "-x", "orgId": "team_acme"}"#,
        r#"{"projectId": "_x"}"#,
        r#"{"projectId": "prj_shop", "orgId": "--cwd=/"}"#,
        r#"{"projectId": "prj shop"}"#,
        r#"{"projectId": "prj_shop;true"}"#,
        r#"{"projectId": "../prj"}"#,
        r#"{"projectId": ""}"#,
        r#"{"projectId": "prj_shop", "orgId": ""}"#,
        r#"{"projectId": {"$serde_json::private::RawValue": "\"prj_shop\""}}"#,
        r#"{"orgId": "team_acme"}"#,
        r#"["prj_shop", "team_acme"]"#,
        "not json",
    ] {
        let (folder, backend) = (Folder::new(), Stub::good().await);
        let file = folder.write(".vercel/project.json", bad);
        let path = folder.vercel(&prints(&token("new", 3600)));
        let function = start(&folder, &backend, &path, &[]).await;
        let detail = function.call(&[]).await.is_problem(500, "token_unavailable");
        assert!(detail.contains("`.vercel/project.json`") && detail.contains("`vercel link`"), "{bad}: {detail}");
        let folder_name = file.trim_end_matches("/.vercel/project.json");
        assert!(!detail.contains(folder_name) && function.stop().await.contains(folder_name), "{bad}: {detail}");
        assert_eq!(folder.calls().len(), 0, "{bad}");
    }
}

#[tokio::test]
async fn a_failure_of_the_cli_gives_the_command_to_run_and_nothing_that_the_cli_said() {
    let (folder, backend, secret) = (Folder::new(), Stub::good().await, token("secret", 3600));
    let path = folder.link().vercel(&format!("echo 'to stdout {secret}'\necho >&2 'to stderr {secret}'\nexit 1"));
    let function = start(&folder, &backend, &path, &[]).await;
    let detail = function.call(&[]).await.is_problem(500, "token_unavailable");
    let printed = function.stop().await;
    for text in [&detail, &printed] {
        assert!(text.contains("`vercel project token prj_shop --format=json --scope team_acme`"), "{text}");
        assert!(!text.contains("to std") && !shows(text, &secret), "{text}");
    }
}

#[tokio::test]
async fn a_failure_is_not_cached() {
    let (folder, backend, new) = (Folder::new(), Stub::good().await, token("new", 3600));
    let path = folder.link().vercel("echo 'no' >&2\nexit 1");
    let function = start(&folder, &backend, &path, &[]).await;
    function.call(&[]).await.is_problem(500, "token_unavailable");
    folder.vercel(&prints(&new));
    assert_eq!(function.call(&[]).await.status, 200);
    assert_eq!(sent(&backend), [new]);
}

#[tokio::test]
async fn what_the_cli_prints_must_hold_a_token_that_has_not_expired() {
    let expired = prints(&token("expired", -1));
    let flood =
        "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa || exit 1; done".to_owned();
    for (script, expected) in [
        ("echo 'hello'".to_owned(), "printed no token"),
        ("echo '{\"token\": \"\"}'".to_owned(), "not usable: it is empty"),
        (format!("echo '[\"{}\"]'", token("new", 3600)), "printed no token"),
        (prints("not-a-jwt"), "not usable: it does not have the form of a JWT"),
        (prints(&format!("Bearer {}", token("new", 3600))), "not usable: it begins with `Bearer`"),
        ("true".to_owned(), "printed no token"),
        (flood, "the Vercel CLI failed"),
        (format!("{}\nexit 1", prints(&token("new", 3600))), "the Vercel CLI failed"),
        (expired, "this machine's clock"),
    ] {
        let (folder, backend) = (Folder::new(), Stub::good().await);
        let path = folder.link().vercel(&script);
        let function = start(&folder, &backend, &path, &[]).await;
        let detail = soon(function.call(&[])).await.is_problem(500, "token_unavailable");
        assert!(detail.contains(expected), "{script}: {detail}");
        // The ids in use have 24 characters more, each.
        assert!(detail.len() + 2 * 24 <= 200, "{detail}");
        assert_eq!(backend.requests().len(), 0);
    }
}

#[tokio::test]
async fn without_the_cli_the_developer_learns_how_to_get_it() {
    let (folder, backend) = (Folder::new(), Stub::good().await);
    folder.link();
    let detail = start(&folder, &backend, "/nowhere", &[]).await.call(&[]).await.is_problem(500, "token_unavailable");
    assert!(detail.contains("`npm i -g vercel`") && detail.contains("`vercel project token prj_shop"), "{detail}");
    assert!(detail.len() + 2 * 24 <= 200, "{detail}");
    assert!(!detail.contains(SUBJECT));
}
