//! The backend under pressure: who is slow, silent, too many or too much doesn't keep it from serving the others.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::program::{command, trusting};
use common::{Answer, Backend, FORGED_KEY, FakeIssuer, KEY, Program, advance, claims, exchange, fresh_token, token};
use common::{patiently, request, token_of_kid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);

/// All that still comes on this connection, until the other side closes it.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset ends it as well.
    let _ = patiently(stream.read_to_end(&mut rest)).await;
    rest
}

fn is_open(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

async fn is_healthy(address: SocketAddr) -> bool {
    request(address, "GET", "/healthz", &[]).await.status == 200
}

#[tokio::test]
async fn a_head_takes_10_s_at_most() {
    let backend = Backend::start_ready(&FakeIssuer::start(&KEY).await).await;
    let mut streams = Vec::new();
    for sent in ["", "G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ", "\r\n"] {
        let mut stream = TcpStream::connect(backend.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    // Who comes later is served, so those before have been accepted.
    assert!(is_healthy(backend.address).await);
    for _ in 0..3 {
        advance(3 * SECOND).await;
        // A byte now and then doesn't buy time.
        streams[3].write_all(b"x").await.unwrap();
        assert!(is_healthy(backend.address).await);
    }
    assert!(streams.iter().all(is_open));
    advance(SECOND).await;
    for stream in &mut streams {
        assert_eq!(rest(stream).await, b"");
    }
    assert!(is_healthy(backend.address).await);
}

#[tokio::test]
async fn a_head_is_bounded() {
    let backend = Backend::start_ready(&FakeIssuer::start(&KEY).await).await;
    let head =
        |bytes: usize| format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: {}\r\n\r\n", "x".repeat(bytes));
    assert_eq!(Answer::parse(exchange(backend.address, head(60 * 1024).as_bytes()).await).status, 401);
    let mut stream = TcpStream::connect(backend.address).await.unwrap();
    // It may be refused before all of it is sent.
    let _ = stream.write_all(head(1024 * 1024).as_bytes()).await;
    let answer = rest(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
}

/// The client sends and sends, and reads no answer: the backend reads no further, and then hangs up.
#[tokio::test]
async fn a_client_that_stops_reading_is_left_after_10_s() {
    let backend = Backend::start_ready(&FakeIssuer::start(&KEY).await).await;
    let mut stream = TcpStream::connect(backend.address).await.unwrap();
    let requests = "GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    let (mut written, mut stuck) = (0, 0);
    // Both ends are on this thread: once nothing moves in so many rounds, nothing moves at all.
    while stuck < 1000 {
        match stream.try_write(&requests.as_bytes()[written % requests.len()..]) {
            Ok(bytes) => (written, stuck) = (written + bytes, 0),
            Err(_) => stuck += 1,
        }
        tokio::task::yield_now().await;
    }
    assert!(is_healthy(backend.address).await);
    advance(11 * SECOND).await;
    assert!(is_healthy(backend.address).await);
    let answers = String::from_utf8(rest(&mut stream).await).unwrap().matches("HTTP/1.1 ").count();
    assert!(answers > 0 && answers < written / (requests.len() / 1000), "{answers} answers");
}

/// Sends a request on a connection that is kept, and reads the answer to it.
async fn ask_again(stream: &mut TcpStream) {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "the connection was closed");
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}

/// Half-open connections, more than there may be: those silent longest make room for those who have something to ask.
async fn crowd(allowed: usize, command: std::process::Command) {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Program::spawn(trusting(&issuer, command)).await;
    assert_eq!(common::get(backend.address, &token()).await.status, 200);
    // Of all the connections this is the oldest, but not a silent one.
    let mut kept = TcpStream::connect(backend.address).await.unwrap();
    let mut half_open = Vec::new();
    for count in 0..allowed + 10 {
        if count % 50 == 0 {
            // Who comes later is served: all before it have been accepted, and are silent since then at the latest.
            assert!(is_healthy(backend.address).await);
            ask_again(&mut kept).await;
        }
        let mut stream = TcpStream::connect(backend.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost").await.unwrap();
        half_open.push(stream);
    }
    for _ in 0..20 {
        // Sooner than the silent ones would be left for their silence.
        let answer = patiently(common::get(backend.address, &fresh_token(&KEY))).await;
        assert_eq!(answer.status, 200);
    }
    ask_again(&mut kept).await;
    for stream in &mut half_open[..10] {
        assert_eq!(rest(stream).await, b"");
    }
    // Those that came last are still there.
    assert!(half_open[allowed * 9 / 10..].iter().all(is_open));
}

/// A backend that is allowed so few files that 100 connections are its most.
fn with_few_files() -> std::process::Command {
    let mut command = std::process::Command::new("sh");
    command.env_clear().args(["-c", "ulimit -n 164 && exec \"$0\"", env!("CARGO_BIN_EXE_backend")]);
    command
}

#[tokio::test]
async fn where_files_are_few_the_one_silent_longest_makes_room() {
    crowd(100, with_few_files()).await;
}

/// What counts is how many there are at once.
#[tokio::test]
async fn connections_that_have_ended_push_nobody_out() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Program::spawn(trusting(&issuer, with_few_files())).await;
    let mut kept = TcpStream::connect(backend.address).await.unwrap();
    ask_again(&mut kept).await;
    for _ in 0..250 {
        assert!(is_healthy(backend.address).await);
    }
    ask_again(&mut kept).await;
}

#[tokio::test]
async fn of_more_than_10_000_connections_the_one_silent_longest_makes_room() {
    let files = rlimit::increase_nofile_limit(10_200).unwrap();
    if files < 10_200 {
        eprintln!("skipped: this system allows {files} open files");
        return;
    }
    crowd(10_000, command()).await;
}

/// The backend is on this thread, so it accepts none of them before the last is there.
#[tokio::test]
async fn a_burst_of_connections_finds_room() {
    let backend = Backend::start_ready(&FakeIssuer::start(&KEY).await).await;
    assert!(is_healthy(backend.address).await);
    let connect = |_| std::net::TcpStream::connect_timeout(&backend.address, SECOND);
    let burst: Result<Vec<_>, _> = (0..1000).map(connect).collect();
    assert_eq!(burst.unwrap().len(), 1000);
    assert!(is_healthy(backend.address).await);
}

/// Whatever it is sent, it asks the issuer no more often than its cooldowns allow, and serves the honest.
#[tokio::test]
async fn a_flood_of_garbage_costs_two_fetches_at_most() {
    let issuer = FakeIssuer::start(&KEY).await;
    let backend = Backend::start(&issuer).await;
    let forged = FORGED_KEY.mint(&claims());
    let mut requests = JoinSet::new();
    for count in 0..400 {
        let garbage = match count % 4 {
            0 => token_of_kid(&format!("unknown-{count}")),
            1 => forged.clone(),
            2 => "x".repeat(9000),
            _ => format!("{forged}{count}"),
        };
        let address = backend.address;
        requests.spawn(async move { common::get(address, &garbage).await.status });
        if count % 40 == 0 {
            assert_eq!(backend.get(&fresh_token(&KEY)).await.status, 200);
        }
    }
    while let Some(status) = requests.join_next().await {
        assert_eq!(status.unwrap(), 401);
    }
    assert!(issuer.fetches() <= 2, "{} fetches", issuer.fetches());
}

/// The same in the middle of an outage: one fetch for those who wait, and none by those whose token is no token.
#[tokio::test]
async fn a_flood_in_an_outage_waits_for_one_fetch() {
    let issuer = FakeIssuer::start(&KEY).await;
    issuer.hold();
    issuer.serve(500, "", "");
    let backend = Backend::start(&issuer).await;
    let mut requests = JoinSet::new();
    for count in 0..200 {
        let (address, token) = (backend.address, token_of_kid(&count.to_string()));
        requests.spawn(async move { common::get(address, &token).await.status });
    }
    issuer.asked(1).await;
    assert_eq!(backend.get("garbage").await.status, 401);
    assert_eq!(issuer.fetches(), 1);
    issuer.release();
    while let Some(status) = requests.join_next().await {
        assert_eq!(status.unwrap(), 503);
    }
}
