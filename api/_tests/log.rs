//! The log on Vercel: the runtime's own protocol, one frame for a failure, at its invocation.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixListener;

use crate::stage::{Folder, SUBJECT, shows, soon, token};
use crate::stub::{Stub, answer};

#[tokio::test]
async fn on_vercel_a_failure_is_logged_at_its_own_invocation() {
    let (folder, secret) = (Folder::new(), token("secret", 3600));
    let body = json!({ "detail": format!("not {secret}") }).to_string();
    let backend = Stub::always(answer("403 Forbidden", "", body)).await;
    let path = folder.path("ipc").to_str().unwrap().to_owned();
    let listener = UnixListener::bind(&path).unwrap();
    // The runtime does not print its port in this mode, so this waits for its first message.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let _function = tokio::process::Command::new(env!("CARGO_BIN_EXE_index"))
        .env_clear()
        .envs([("VERCEL_IPC_PATH", &*path), ("VERCEL_DEV_PORT", &*port), ("BACKEND_URL", &*backend.url())])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let mut frames = BufReader::new(stream).split(0);
    let mut next =
        async || -> Value { serde_json::from_slice(&soon(frames.next_segment()).await.unwrap().unwrap()).unwrap() };
    assert_eq!(next().await["type"], "server-started");

    let headers = [
        ("x-vercel-internal-invocation-id", "inv_1"),
        ("x-vercel-internal-request-id", "7"),
        ("x-vercel-internal-oidc-token", &*secret),
    ];
    let mut request = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()
        .unwrap()
        .get(format!("http://127.0.0.1:{port}/api/call"));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    assert_eq!(soon(request.send()).await.unwrap().status(), 502);
    let (log, end) = (next().await, next().await);
    assert_eq!((&log["type"], &end["type"]), (&json!("log"), &json!("end")));
    assert_eq!(log["payload"]["context"], json!({ "invocationId": "inv_1", "requestId": 7 }));
    assert_eq!(log["payload"]["level"], "error");
    let message = String::from_utf8(STANDARD.decode(log["payload"]["message"].as_str().unwrap()).unwrap()).unwrap();
    assert!(message.starts_with("backend_refused: Refused with 403 and no code"), "{message}");
    assert!(message.contains(&format!("sub=`{SUBJECT}`")), "{message}");
    assert!(!shows(&message, &secret));
}
