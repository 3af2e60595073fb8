//! Where the token comes from: header, internal header, file, variable, in this order.

use crate::stage::{Folder, Function, shows, token};
use crate::stub::{Stub, answer, header};

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
    assert_eq!(function.call(&[("x-vercel-oidc-token", ""), ("x-vercel-oidc-token", "second")]).await.status, 200);
    assert_eq!(sent(&backend), "second");

    let variables = [("BACKEND_URL", &*backend.url()), ("VERCEL_OIDC_TOKEN", " ")];
    let detail = Function::start(&variables).await.call(&[]).await.is_problem(500, "token_unavailable");
    assert!(detail.contains("there is no OIDC token") || detail.contains("There is no OIDC token"), "{detail}");
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
async fn a_file_without_a_token_is_an_error_that_names_it_and_no_fall_back() {
    let (backend, folder) = (Stub::good().await, Folder::new());
    let variable = token("variable", 3600);
    let path = folder.path("token").to_str().unwrap().to_owned();
    let variables =
        [("BACKEND_URL", &*backend.url()), ("VERCEL_OIDC_TOKEN", &*variable), ("VERCEL_OIDC_TOKEN_FILE", &*path)];
    let function = Function::start(&variables).await;
    let missing = function.call(&[]).await.is_problem(500, "token_unavailable");
    assert!(missing.contains(&path) && missing.contains("can't be read"), "{missing}");
    for text in ["", " \n"] {
        folder.write("token", text);
        let empty = function.call(&[]).await.is_problem(500, "token_unavailable");
        assert!(empty.contains(&path) && empty.contains("holds no token"), "{empty}");
    }
    assert_eq!(backend.requests().len(), 0);
}

#[tokio::test]
async fn without_a_token_the_developer_learns_how_to_get_one() {
    let backend = Stub::good().await;
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    let detail = function.call(&[]).await.is_problem(500, "token_unavailable");
    for remedy in ["Secure Backend Access with OIDC Federation", "`vercel env pull`", "`VERCEL_OIDC_TOKEN`"] {
        assert!(detail.contains(remedy), "{detail}");
    }
    assert!(function.stop().await.contains("Error: token_unavailable: there is no OIDC token"));
}

#[tokio::test]
async fn what_can_not_be_sent_as_one_token_is_refused_and_not_shown() {
    let (backend, folder) = (Stub::good().await, Folder::new());
    let good = token("a", 3600);
    let path = folder.path("token").to_str().unwrap().to_owned();
    let function = Function::start(&[("BACKEND_URL", &backend.url()), ("VERCEL_OIDC_TOKEN_FILE", &path)]).await;
    for bad in [format!("{good}\nx-evil: 1"), format!("{good} {good}"), format!("{good}\0"), format!("{good}é")] {
        folder.write("token", &bad);
        let answer = function.call(&[]).await;
        answer.is_problem(500, "token_unavailable");
        assert!(!shows(&answer.text, &good), "{}", answer.text);
    }
    let answer = function.call_with(&format!("{good} {good}")).await;
    assert!(answer.is_problem(500, "token_unavailable").contains("`x-vercel-oidc-token`"));
    assert_eq!(backend.requests().len(), 0);
    assert!(!shows(&function.stop().await, &good));
}

#[tokio::test]
async fn a_header_token_is_sent_as_it_is_even_if_it_has_expired() {
    let (backend, expired) = (Stub::always(answer("200 OK", "", "{}")).await, token("old", -3600));
    let function = Function::start(&[("BACKEND_URL", &backend.url())]).await;
    assert_eq!(function.call_with(&expired).await.status, 200);
    assert_eq!(sent(&backend), expired);
}

#[tokio::test]
async fn a_token_whose_expiry_can_not_be_read_is_sent_as_it_is() {
    let backend = Stub::good().await;
    for opaque in ["an-opaque-token", "a.b.c", "e30.e30.e30"] {
        let function = Function::start(&[("BACKEND_URL", &backend.url()), ("VERCEL_OIDC_TOKEN", opaque)]).await;
        assert_eq!(function.call(&[]).await.status, 200);
        assert_eq!(sent(&backend), opaque);
    }
}
