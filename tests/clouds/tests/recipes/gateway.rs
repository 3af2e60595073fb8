//! A stand-in for Vercel AI Gateway, which streams a model's answer.

use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use local::Issuer;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::internet::Internet;
use crate::stage::{Function, token_with, vercel, verify};

type Pieces = mpsc::Receiver<Result<Bytes, std::io::Error>>;

#[derive(Clone)]
struct Gateway {
    vercel: Arc<Issuer>,
    /// What the model says, as the test sends it.
    model: Arc<Mutex<Option<Pieces>>>,
}

impl Gateway {
    fn new() -> (Self, mpsc::Sender<Result<Bytes, std::io::Error>>) {
        let (say, model) = mpsc::channel(1);
        (Self { vercel: Arc::new(vercel()), model: Arc::new(Mutex::new(Some(model))) }, say)
    }

    async fn internet(&self) -> Internet {
        let routes = Router::new().route("/v1/chat/completions", post(complete)).with_state(self.clone());
        Internet::of([("ai-gateway.vercel.sh", routes)]).await
    }
}

async fn complete(State(gateway): State<Gateway>, headers: HeaderMap, Json(prompt): Json<Value>) -> Response {
    let token = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if let Err(reason) = verify(&gateway.vercel, token.unwrap_or_default()) {
        let error = json!({ "error": { "message": format!("{reason:?}"), "type": "authentication_error" } });
        return (StatusCode::UNAUTHORIZED, Json(error)).into_response();
    }
    let is_prompt = prompt["model"].is_string() && prompt["messages"][0]["role"] == "user" && prompt["stream"] == true;
    let Some(model) = gateway.model.lock().unwrap().take().filter(|_| is_prompt) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    ([("content-type", "text/event-stream")], Body::from_stream(ReceiverStream::new(model))).into_response()
}

const FIRST: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"As\"}}]}\n\n";
const REST: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"sam.\"}}]}\n\ndata: [DONE]\n\n";

#[tokio::test]
async fn each_piece_reaches_the_client_before_the_next_is_written() {
    let (gateway, model) = Gateway::new();
    let internet = gateway.internet().await;
    let (function, token) = (Function::start(&internet.variables()).await, token_with(&gateway.vercel, |_| ()));
    model.send(Ok(FIRST.into())).await.unwrap();
    let mut response = function.request("/gateway").header("x-vercel-oidc-token", &token).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    assert_eq!(response.chunk().await.unwrap().unwrap(), FIRST);
    model.send(Ok(REST.into())).await.unwrap();
    drop(model);
    assert_eq!(response.text().await.unwrap(), REST);
    assert_eq!(internet.unknown_hosts(), [""; 0]);
}

#[tokio::test]
async fn the_invocation_stays_open_until_the_stream_ends() {
    let (gateway, model) = Gateway::new();
    let internet = gateway.internet().await;
    let (function, mut platform) = Function::start_on_vercel(&internet.variables()).await;
    let token = token_with(&gateway.vercel, |_| ());
    model.send(Ok(FIRST.into())).await.unwrap();
    let mut response = function.invocation(1, "/gateway").header("x-vercel-oidc-token", token).send().await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), FIRST);
    function.invocation(2, "/none").send().await.unwrap();
    assert_eq!(platform.ended().await, 2);
    drop(model);
    assert_eq!(response.chunk().await.unwrap(), None);
    assert_eq!(platform.ended().await, 1);
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client() {
    let (gateway, model) = Gateway::new();
    let internet = gateway.internet().await;
    let (function, token) = (Function::start(&internet.variables()).await, token_with(&gateway.vercel, |_| ()));
    model.send(Ok(FIRST.into())).await.unwrap();
    let mut response = function.request("/gateway").header("x-vercel-oidc-token", &token).send().await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), FIRST);
    model.send(Err(std::io::Error::other("the model has gone"))).await.unwrap();
    assert!(response.chunk().await.is_err());
}

#[tokio::test]
async fn a_client_that_goes_ends_the_call_to_the_gateway() {
    let (gateway, model) = Gateway::new();
    let internet = gateway.internet().await;
    let (function, token) = (Function::start(&internet.variables()).await, token_with(&gateway.vercel, |_| ()));
    model.send(Ok(FIRST.into())).await.unwrap();
    let mut response = function.request("/gateway").header("x-vercel-oidc-token", &token).send().await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), FIRST);
    drop(response);
    // The function notices when it passes a piece on.
    while model.send(Ok(REST.into())).await.is_ok() {}
}

#[tokio::test]
async fn the_gateway_refuses_each_wrong_token() {
    let (gateway, model) = Gateway::new();
    drop(model);
    let internet = gateway.internet().await;
    let function = Function::start(&internet.variables()).await;
    // The crate itself does not send a token that expired more than 30 s ago.
    let past = json!(UNIX_EPOCH.elapsed().unwrap().as_secs() - 5);
    for (claim, value) in [("exp", past), ("aud", json!("https://vercel.com/other")), ("iss", json!("https://other"))] {
        let token = token_with(&gateway.vercel, |claims| claims[claim] = value);
        let explained = function.refused("/gateway", &token).await;
        assert!(explained.contains("401"), "{claim}: {explained}");
    }
    assert!(function.refused("/gateway", &token_with(&vercel(), |_| ())).await.contains("401"));
}
