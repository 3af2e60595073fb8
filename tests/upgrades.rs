//! WebSockets, server-sent events and streams work behind the guard as under `axum::serve`, each handler has a deadline,
//! and a client that goes away cancels its handler.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::sse::{Event, Sse};
use axum::routing::{any, get, post};
use common::{Answer, Backend, FakeIssuer, KEY, advance, request, settings, token, verifier, within_5_s};
use futures_util::{StreamExt, stream};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use vercel_oidc_verifier::VerifiedCaller;

const SECOND: Duration = Duration::from_secs(1);

/// A backend that has fetched the keys, with this route at `/`.
async fn with_route(route: axum::routing::MethodRouter) -> Backend {
    Backend::with_routes(&FakeIssuer::start(&KEY).await, Router::new().route("/", route)).await
}

/// Sends a request with a valid token and these headers on a new connection.
async fn send(backend: &Backend, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(backend.address).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n{headers}\r\n", token());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// Reads until what has arrived ends with this.
async fn read_to(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        assert!(within_5_s(stream.read_buf(&mut text)).await.unwrap() > 0, "{}", String::from_utf8_lossy(&text));
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Everything up to the end of the connection.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = within_5_s(stream.read_to_end(&mut rest)).await;
    rest
}

/// Tells its caller's subject, then echoes.
async fn echo(caller: VerifiedCaller, upgrade: WebSocketUpgrade) -> axum::response::Response {
    let subject = caller.claims().sub().unwrap().to_owned();
    upgrade.on_upgrade(async move |mut socket: WebSocket| {
        socket.send(Message::text(subject)).await.unwrap();
        while let Some(Ok(message)) = socket.recv().await {
            if socket.send(message).await.is_err() {
                break;
            }
        }
    })
}

const UPGRADE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

async fn open_web_socket(backend: &Backend) -> TcpStream {
    let mut socket = send(backend, UPGRADE).await;
    let head = read_to(&mut socket, &claims_sub()).await;
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    socket
}

fn claims_sub() -> String {
    common::claims()["sub"].as_str().unwrap().to_owned()
}

/// Sends a text message (RFC 6455, section 5.2: final, masked with zeros), and reads its echo.
async fn exchange_message(socket: &mut TcpStream, text: &str) {
    let length = u8::try_from(text.len()).unwrap();
    socket.write_all(&[&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat()).await.unwrap();
    let mut message = vec![0; 2 + text.len()];
    within_5_s(socket.read_exact(&mut message)).await.unwrap();
    assert_eq!(message, [&[0x81, length], text.as_bytes()].concat());
}

/// It is not idle after 75 s, and has no deadline.
#[tokio::test]
async fn a_web_socket_stays_open_while_it_is_silent() {
    let backend = with_route(any(echo)).await;
    let mut socket = open_web_socket(&backend).await;
    for _ in 0..3 {
        exchange_message(&mut socket, "hello").await;
        backend.serve_other_requests().await;
        advance(80 * SECOND).await;
        backend.serve_other_requests().await;
    }
    exchange_message(&mut socket, "still here").await;
    // A close frame ends it.
    socket.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
    rest(&mut socket).await;
}

#[tokio::test]
async fn a_web_socket_needs_a_token() {
    let backend = with_route(any(echo)).await;
    let headers = [("connection", &b"upgrade"[..]), ("upgrade", b"websocket"), ("sec-websocket-version", b"13")];
    assert_eq!(request(backend.address, "GET", "/", &headers).await.status, 401);
}

/// A stop finishes the requests in flight, and then closes WebSockets. It does not wait for them.
#[tokio::test]
async fn the_end_of_a_stop_closes_web_sockets() {
    let (entered, mut entries) = mpsc::unbounded_channel();
    let (finish, finished) = watch::channel(());
    let slow = get(async move || {
        entered.send(()).unwrap();
        finished.clone().changed().await.unwrap();
    });
    let issuer = FakeIssuer::start(&KEY).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let verifier = std::sync::Arc::new(verifier(settings(&issuer.url(), &[])));
    let app = backend::app::app(Router::new().route("/", any(echo)).route("/slow", slow), verifier);
    let (stop, stopped) = oneshot::channel::<()>();
    let mut server = tokio::spawn(backend::server::serve(listener, app, async { drop(stopped.await) }));
    let head = |path: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n{more}\r\n", token())
    };
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(head("/", UPGRADE).as_bytes()).await.unwrap();
    read_to(&mut socket, &claims_sub()).await;
    let mut in_flight = TcpStream::connect(address).await.unwrap();
    in_flight.write_all(head("/slow", "").as_bytes()).await.unwrap();
    within_5_s(entries.recv()).await.unwrap();
    stop.send(()).unwrap();
    exchange_message(&mut socket, "stopping").await;
    assert!(!server.is_finished());
    finish.send(()).unwrap();
    assert!(rest(&mut in_flight).await.starts_with(b"HTTP/1.1 200 "));
    within_5_s(&mut server).await.unwrap().unwrap();
    assert_eq!(rest(&mut socket).await, b"");
}

#[tokio::test]
async fn server_sent_events_arrive_one_by_one() {
    let (events, _) = watch::channel(0);
    let sender = events.clone();
    let route = get(async move || {
        let events = stream::unfold(sender.subscribe(), |mut events| async move {
            events.changed().await.ok()?;
            let count = *events.borrow();
            Some((Ok::<_, Infallible>(Event::default().data(count.to_string())), events))
        });
        Sse::new(events)
    });
    let backend = with_route(route).await;
    let mut client = send(&backend, "").await;
    let head = read_to(&mut client, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"), "{head}");
    for count in 1..=3 {
        events.send_replace(count);
        read_to(&mut client, &format!("data: {count}\n\n\r\n")).await;
        // The answer has begun, so it has no deadline.
        backend.serve_other_requests().await;
        advance(80 * SECOND).await;
        backend.serve_other_requests().await;
    }
}

/// The client sends the next part after it has got the answer to the one before.
#[tokio::test]
async fn a_body_streams_in_both_directions() {
    let backend = with_route(post(async |body: Body| Body::from_stream(body.into_data_stream()))).await;
    let mut client = TcpStream::connect(backend.address).await.unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
        token()
    );
    client.write_all(head.as_bytes()).await.unwrap();
    for part in ["one", "two", "three"] {
        let chunk = format!("{:x}\r\n{part}\r\n", part.len());
        client.write_all(chunk.as_bytes()).await.unwrap();
        read_to(&mut client, &chunk.to_uppercase().replace(&part.to_uppercase(), part)).await;
    }
    client.write_all(b"0\r\n\r\n").await.unwrap();
    read_to(&mut client, "0\r\n\r\n").await;
}

#[tokio::test]
async fn a_handler_that_takes_60_s_is_cancelled() {
    let backend = with_route(get(pending::<()>)).await;
    let mut client = send(&backend, "connection: close\r\n").await;
    backend.serve_other_requests().await;
    advance(59 * SECOND).await;
    backend.serve_other_requests().await;
    let is_unanswered = client.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(is_unanswered);
    advance(2 * SECOND).await;
    let answer = Answer::parse(rest(&mut client).await);
    assert_eq!((answer.status, answer.code().as_str()), (504, "timeout"));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
}

/// The handler's answer says that the body could not be read.
#[tokio::test]
async fn a_body_that_pauses_for_10_s_can_not_be_read() {
    let (parts, mut seen) = mpsc::unbounded_channel();
    let route = post(async move |body: Body| {
        let mut body = body.into_data_stream();
        while let Some(Ok(part)) = body.next().await {
            parts.send(part).unwrap();
        }
        "cut"
    });
    let backend = with_route(route).await;
    let mut client = TcpStream::connect(backend.address).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 9\r\n\r\n", token());
    client.write_all(head.as_bytes()).await.unwrap();
    for part in ["one", "two"] {
        client.write_all(part.as_bytes()).await.unwrap();
        assert_eq!(within_5_s(seen.recv()).await.unwrap(), part);
        backend.serve_other_requests().await;
        advance(9 * SECOND).await;
    }
    advance(2 * SECOND).await;
    assert!(rest(&mut client).await.ends_with(b"\r\n\r\ncut"));
}

/// A handler that tells when it begins and when it is dropped.
fn observed() -> (axum::routing::MethodRouter, mpsc::UnboundedReceiver<&'static str>, watch::Sender<bool>) {
    struct Dropped(mpsc::UnboundedSender<&'static str>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.send("dropped");
        }
    }
    let (events, seen) = mpsc::unbounded_channel();
    let answer = watch::Sender::new(false);
    let may_answer = answer.clone();
    let route = any(async move || {
        events.send("began").unwrap();
        let _dropped = Dropped(events.clone());
        may_answer.subscribe().wait_for(|answer| *answer).await.unwrap();
        events.send("answered").unwrap();
        "late"
    });
    (route, seen, answer)
}

/// A process that ends, or a client that closes its connection, before it has got its answer.
#[tokio::test]
async fn a_client_that_goes_away_cancels_its_handler() {
    for resets in [false, true] {
        // A body that the handler has not read, and a pipelined request, hide nothing.
        for more in ["", "content-length: 5\r\n\r\n12", "\r\nGET / HTTP/1.1\r\nhost: x\r\n"] {
            let (route, mut seen, _answer) = observed();
            let backend = with_route(route).await;
            let client = send(&backend, more).await;
            assert_eq!(within_5_s(seen.recv()).await, Some("began"));
            SockRef::from(&client).set_linger(resets.then_some(Duration::ZERO)).unwrap();
            drop(client);
            for _ in 0..3 {
                backend.serve_other_requests().await;
                advance(SECOND).await;
            }
            assert_eq!(within_5_s(seen.recv()).await, Some("dropped"), "{resets} {more}");
        }
    }
}

/// As `nc -N` does, with a handler that takes long.
#[tokio::test]
async fn a_client_that_closes_its_sending_side_waits_for_a_slow_handler() {
    let (route, mut seen, answer) = observed();
    let backend = with_route(route).await;
    for more in ["", "\r\nGET /healthz HTTP/1.1\r\nhost: x\r\n"] {
        answer.send_replace(false);
        let mut client = send(&backend, more).await;
        client.shutdown().await.unwrap();
        assert_eq!(within_5_s(seen.recv()).await, Some("began"));
        for _ in 0..10 {
            backend.serve_other_requests().await;
            advance(5 * SECOND).await;
        }
        answer.send_replace(true);
        let bytes = rest(&mut client).await;
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\r\n\r\nlate"), "{text}");
        assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 1 + usize::from(!more.is_empty()), "{text}");
        assert_eq!(within_5_s(seen.recv()).await, Some("answered"));
        assert_eq!(within_5_s(seen.recv()).await, Some("dropped"));
    }
}

/// The stream has no end.
#[tokio::test]
async fn a_stream_ends_with_its_client() {
    let (parts, _) = watch::channel(());
    let gone = parts.clone();
    let route = get(async move || {
        let parts = gone.subscribe();
        Body::from_stream(stream::repeat(()).map(move |()| {
            let _held = &parts;
            Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 1024]))
        }))
    });
    let backend = with_route(route).await;
    let mut client = send(&backend, "").await;
    read_to(&mut client, "x").await;
    drop(client);
    within_5_s(parts.closed()).await;
}

/// It waits for an event that does not come.
#[tokio::test]
async fn a_quiet_stream_ends_with_its_client() {
    for resets in [false, true] {
        let (parts, _) = watch::channel(());
        let held = parts.clone();
        let route = get(async move || {
            let parts = held.subscribe();
            let quiet = stream::once(async { Bytes::from_static(b"one") }).chain(stream::pending());
            Body::from_stream(quiet.map(move |part| {
                let _held = &parts;
                Ok::<_, Infallible>(part)
            }))
        });
        let backend = with_route(route).await;
        let mut client = send(&backend, "").await;
        read_to(&mut client, "one\r\n").await;
        SockRef::from(&client).set_linger(resets.then_some(Duration::ZERO)).unwrap();
        drop(client);
        for _ in 0..2 {
            backend.serve_other_requests().await;
            advance(80 * SECOND).await;
        }
        within_5_s(parts.closed()).await;
    }
}

/// Its first byte was sent before.
#[tokio::test]
async fn a_client_that_closes_its_sending_side_gets_the_rest_of_a_504_or_a_101() {
    let backend = with_route(get(pending::<()>)).await;
    let mut client = send(&backend, "").await;
    client.shutdown().await.unwrap();
    for _ in 0..61 {
        backend.serve_other_requests().await;
        advance(SECOND).await;
    }
    assert_eq!(Answer::parse(rest(&mut client).await).status, 504);

    let (upgrade, upgrades) = watch::channel(());
    let waits = any(async move |caller: VerifiedCaller, upgrade: WebSocketUpgrade| {
        upgrades.clone().changed().await.unwrap();
        echo(caller, upgrade).await
    });
    let backend = with_route(waits).await;
    let mut client = send(&backend, UPGRADE).await;
    client.shutdown().await.unwrap();
    for _ in 0..3 {
        backend.serve_other_requests().await;
        advance(SECOND).await;
    }
    upgrade.send(()).unwrap();
    let text = String::from_utf8_lossy(&rest(&mut client).await).into_owned();
    assert!(text.starts_with("HTTP/1.1 101 ") && text.contains(&claims_sub()), "{text}");
}
