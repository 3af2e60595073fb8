//! The limits in time, with a clock that the tests move: the function's library in this process, real sockets.

use std::future::ready;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use caller::{Caller, Settings};
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::advance;

use crate::stage::TOKEN;
use crate::stub::{Reply, Stub, ok};

/// Keeps the paused clock from moving by itself: it does so only if no blocking task runs.
struct StoppedClock(#[expect(dead_code, reason = "its end ends the blocking task")] mpsc::Sender<()>);

impl StoppedClock {
    fn new() -> Self {
        let (end, ended) = mpsc::channel();
        tokio::task::spawn_blocking(move || ended.recv());
        Self(end)
    }
}

fn caller(url: String) -> Arc<Caller> {
    Arc::new(Caller::new(Settings::read(move |name| (name == "BACKEND_URL").then(|| url.clone()))))
}

fn call(caller: &Arc<Caller>) -> JoinHandle<Response<String>> {
    let caller = Arc::clone(caller);
    tokio::spawn(async move {
        let request = Request::get("/api/call").header("x-vercel-oidc-token", TOKEN).body(()).unwrap();
        caller.handle(&request, |_| ()).await
    })
}

/// Lets everything run that can run.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// The answer to a call that must be over by now.
async fn answer_of(called: JoinHandle<Response<String>>) -> Response<String> {
    settle().await;
    assert!(called.is_finished());
    called.await.unwrap()
}

fn code(response: &Response<String>) -> (u16, Value) {
    let body: Value = serde_json::from_str(response.body()).unwrap();
    (response.status().as_u16(), body["code"].clone())
}

#[tokio::test(start_paused = true)]
async fn no_whole_answer_in_ten_seconds_is_a_timeout() {
    let _clock = StoppedClock::new();
    // Nothing at all, and a body that stops.
    for head in ["", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"] {
        let backend = Stub::start(move |_, _| ready(Reply::Hang(head.into()))).await;
        let called = call(&caller(backend.url()));
        while backend.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        settle().await;
        advance(Duration::from_millis(9_990)).await;
        settle().await;
        assert!(!called.is_finished());
        advance(Duration::from_millis(20)).await;
        assert_eq!(code(&answer_of(called).await), (504, json!("backend_timeout")));
        assert_eq!(backend.requests().len(), 1);
    }
}

#[cfg_attr(not(target_os = "linux"), ignore = "only Linux tells how many connections a full queue holds")]
#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_two_seconds_is_given_up_as_unreachable() {
    let _clock = StoppedClock::new();
    // A queue for one connection, and one more, that are never accepted. The system does not answer a third.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let _queue = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    let called = call(&caller(format!("http://{address}")));
    settle().await;
    advance(Duration::from_millis(1_990)).await;
    settle().await;
    assert!(!called.is_finished());
    advance(Duration::from_millis(20)).await;
    let response = answer_of(called).await;
    assert_eq!(code(&response), (502, json!("backend_unreachable")));
    assert!(response.body().contains("connecting took too long"), "{}", response.body());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_idle_for_four_seconds_is_not_used_again() {
    let _clock = StoppedClock::new();
    for (milliseconds, connections) in [(3_900, 1), (4_100, 2)] {
        let backend = Stub::always(ok(&json!({}))).await;
        let caller = caller(backend.url());
        assert_eq!(call(&caller).await.unwrap().status(), 200);
        settle().await;
        advance(Duration::from_millis(milliseconds)).await;
        settle().await;
        assert_eq!(call(&caller).await.unwrap().status(), 200);
        assert_eq!(backend.connections(), connections, "{milliseconds} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_went_silent_costs_one_call() {
    let _clock = StoppedClock::new();
    let backend =
        Stub::start(|before, _| ready(if before == 1 { Reply::Hang(Vec::new()) } else { Reply::Keep(ok(&json!({}))) }))
            .await;
    let caller = caller(backend.url());
    assert_eq!(call(&caller).await.unwrap().status(), 200);
    let called = call(&caller);
    while backend.requests().len() < 2 {
        tokio::task::yield_now().await;
    }
    settle().await;
    assert_eq!(backend.connections(), 1);
    advance(Duration::from_millis(10_010)).await;
    assert_eq!(code(&answer_of(called).await), (504, json!("backend_timeout")));
    assert_eq!(call(&caller).await.unwrap().status(), 200);
    assert_eq!(backend.connections(), 2);
}
