//! Serves the application until it is told to stop, and limits the number of connections.
//!
//! `axum::serve` has no such limit. At the limit, the connection that has been idle longest is closed. `connection.rs`
//! serves a single connection, and `requests.rs` has what each request gets.

mod connection;
mod json_lines;
pub mod log;
pub(crate) mod requests;
mod slots;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use self::connection::Activity;
use self::slots::{Evictable, Slots};
use crate::app::App;

/// Longer than a request that waits for a fetch of the keys (5 s).
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 10_000;
/// Measured: 10,000 connections with incomplete heads of at most [`connection::SMALL_HEAD_BYTES`] take at most 236 MB. A
/// large head takes up to 128 KiB, for as long as its connection lives.
const MAX_LARGE_HEADS: usize = 256;
/// The length of the accept queue. With the usual 128, a burst overflows it, and the clients try again after a second.
const BACKLOG: i32 = 4096;
/// Files for everything but clients' connections: the listener, the fetch of the keys, standard streams.
const OTHER_FILES: usize = 64;
/// The limit of most systems, if this system does not tell its own.
const USUAL_FILES: u64 = 1024;
/// How often a new connection looks for a slow reader, if all connections are busy.
const SLOW_READER_INTERVAL: Duration = Duration::from_secs(1);

/// Accepts connections until `shutdown` ends, then finishes the requests in flight for at most 10 s.
///
/// # Errors
///
/// The system refuses to listen. An error of a single connection ends only that connection.
pub async fn serve(listener: TcpListener, app: App, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    SockRef::from(&listener).listen(BACKLOG)?;
    let mut connections = Connections::new(max_connections(rlimit::increase_nofile_limit), MAX_LARGE_HEADS);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = async {
                match listener.accept().await {
                    Ok((stream, _)) => connections.add(stream, app.clone()).await,
                    // The client is already gone, or the system is out of files or memory: an immediate retry would
                    // not help.
                    Err(error) => {
                        tracing::warn!(%error, "could not accept a connection");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            } => {}
            () = &mut shutdown => break,
        }
    }
    drop(listener);
    if tokio::time::timeout(STOP_TIMEOUT, connections.stop()).await.is_err() {
        tracing::warn!("shutdown timed out with requests in flight");
    }
    Ok(())
}

/// [`MAX_CONNECTIONS`], or as many as the system has files for. Many systems start a process with a soft limit of 1024
/// files, for programs that use `select`.
fn max_connections(raise_limit: impl Fn(u64) -> io::Result<u64>) -> usize {
    let wanted = MAX_CONNECTIONS + OTHER_FILES;
    let files = raise_limit(wanted as u64).unwrap_or_else(|error| {
        tracing::warn!(%error, "the system refuses to raise the limit on open files (`ulimit -n`)");
        rlimit::Resource::NOFILE.get_soft().unwrap_or(USUAL_FILES)
    });
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    if files < wanted {
        tracing::warn!(files, "the system's limit on open files allows fewer than {MAX_CONNECTIONS} connections");
    }
    files.saturating_sub(OTHER_FILES).clamp(1, MAX_CONNECTIONS)
}

struct Connections {
    slots: Slots<Activity>,
    large_heads: Arc<Slots<Activity>>,
    /// The connections' tasks. All connections are closed when this is dropped.
    tasks: JoinSet<()>,
    became_idle: Arc<Notify>,
    /// Changes at a stop. Each connection holds a receiver until its last request is answered.
    stop: watch::Sender<()>,
}

impl Connections {
    fn new(max: usize, max_large_heads: usize) -> Self {
        let large_heads = Arc::new(Slots::new(max_large_heads));
        let stop = watch::Sender::new(());
        Self { slots: Slots::new(max), large_heads, tasks: JoinSet::new(), became_idle: Arc::default(), stop }
    }

    /// Serves this connection. At the limit, it evicts another one. If none can be evicted, it waits.
    async fn add(&mut self, stream: TcpStream, app: App) {
        while self.tasks.try_join_next().is_some() {}
        let activity = Arc::new(Activity::new(self.became_idle.clone()));
        while !self.slots.take(&activity) {
            tokio::select! {
                Some(_) = self.tasks.join_next() => {}
                () = self.became_idle.notified() => {}
                () = tokio::time::sleep(SLOW_READER_INTERVAL) => {}
            }
        }
        let (large_heads, stop) = (self.large_heads.clone(), self.stop.subscribe());
        self.tasks.spawn(connection::serve(stream, app, activity, large_heads, stop));
    }

    /// Closes idle connections, and waits until the requests in flight are answered.
    async fn stop(&self) {
        self.stop.send_replace(());
        // A connection with an incomplete head has no request in flight.
        for connection in self.slots.holders().iter().filter(|connection| connection.is_idle()) {
            connection.evict();
        }
        self.stop.closed().await;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use axum::Router;
    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use futures_util::{FutureExt, StreamExt, stream};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::{Semaphore, mpsc, oneshot};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    const ANSWER_BYTES: usize =
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n".len();

    /// A server with this many slots, and these routes without the guard.
    struct Server {
        connections: Connections,
        listener: TcpListener,
        app: App,
    }

    impl Server {
        async fn new(slots: usize, route: axum::routing::MethodRouter) -> Self {
            let connections = Connections::new(slots, 2);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            Self { connections, listener, app: app(route) }
        }

        /// The client's end of a new connection, once that has a slot.
        async fn connect(&mut self) -> TcpStream {
            let client = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = self.listener.accept().await.unwrap();
            self.connections.add(stream, self.app.clone()).await;
            client
        }

        /// Whether a new connection has to wait for a slot.
        async fn is_full(&mut self) -> bool {
            let _client = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = self.listener.accept().await.unwrap();
            self.connections.add(stream, self.app.clone()).now_or_never().is_none()
        }
    }

    fn app(route: axum::routing::MethodRouter) -> App {
        App::unguarded(Router::new().route("/", route))
    }

    async fn soon<T>(event: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(5), event).await.unwrap()
    }

    async fn is_closed(client: &mut TcpStream) -> bool {
        soon(client.read(&mut [0])).await.unwrap_or_default() == 0
    }

    /// Moves tokio's clock, and lets the server run before and after.
    async fn advance(by: Duration) {
        settle().await;
        tokio::time::pause();
        tokio::time::advance(by).await;
        tokio::time::resume();
        settle().await;
    }

    /// The server runs on the test's thread, so it does everything that it can do now.
    async fn settle() {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn evicts_idle_connections_but_no_busy_one() {
        let (entered, mut entries) = mpsc::unbounded_channel();
        let answers = Arc::new(Semaphore::new(0));
        let may_answer = answers.clone();
        let waits = get(async move || {
            entered.send(()).unwrap();
            may_answer.acquire().await.unwrap().forget();
        });
        let mut server = Server::new(2, waits).await;
        let mut first = server.connect().await;
        first.write_all(REQUEST).await.unwrap();
        entries.recv().await.unwrap();
        let mut idle = server.connect().await;
        // The first connection is older than the idle one, but busy.
        let mut second = server.connect().await;
        assert!(is_closed(&mut idle).await);
        second.write_all(REQUEST).await.unwrap();
        entries.recv().await.unwrap();
        // Both are busy. The wait ends when a connection becomes idle, although it stays open.
        assert!(server.is_full().await);
        answers.add_permits(1);
        soon(server.connect()).await;
    }

    /// An answer takes until all of it has been written, not until the handler returns.
    #[tokio::test]
    async fn an_answer_that_is_still_being_written_is_not_idle() {
        const BYTES: usize = 32 << 20;
        let mut server = Server::new(2, get(|| async { vec![b'x'; BYTES] })).await;
        let mut reading = server.connect().await;
        reading.write_all(REQUEST).await.unwrap();
        // The first bytes have arrived, so the handler has returned.
        let mut bytes = soon(reading.read(&mut [0; 1024])).await.unwrap();
        let mut idle = server.connect().await;
        let _newer = soon(server.connect()).await;
        // The second connection was closed, although the first began its answer earlier.
        assert!(is_closed(&mut idle).await);
        let mut buffer = vec![0; 1 << 20];
        while bytes < BYTES {
            match soon(reading.read(&mut buffer)).await.unwrap() {
                0 => panic!("closed after {bytes} bytes"),
                read => bytes += read,
            }
        }
        // The answer has been written, so the connection is idle.
        let mut newest = soon(server.connect()).await;
        assert!(soon(newest.write_all(REQUEST)).await.is_ok());
        let _more = soon(server.connect()).await;
        assert!(is_closed(&mut reading).await);
    }

    /// It pipelines requests, and takes over a little of each answer in time.
    #[tokio::test]
    async fn a_client_that_reads_slowly_is_evicted_after_60_s() {
        let mut server = Server::new(1, get(|| async { vec![b'x'; 8 << 20] })).await;
        let mut slow = server.connect().await;
        slow.write_all(&REQUEST.repeat(100)).await.unwrap();
        let mut buffer = vec![0; 4 << 20];
        // Each round takes over less than an answer, and more than hyper and the system hold of one.
        for round in 0..16 {
            advance(Duration::from_secs(4)).await;
            // What the rounds really take counts, too.
            if round < 12 {
                assert!(server.is_full().await);
            }
            soon(slow.read_exact(&mut buffer)).await.unwrap();
        }
        soon(server.connect()).await;
    }

    /// Both clients take over each answer within 8 s. One of them pipelines: it always has a request in flight when it
    /// reads slowly, and none for a moment every 16 s.
    #[tokio::test]
    async fn a_client_that_pipelines_is_evicted_although_it_catches_up() {
        const BYTES: usize = 8 << 20;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: 8388608\r\n\
                    date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";
        for requests in [1, 2] {
            let mut server = Server::new(1, get(|| async { vec![b'x'; BYTES] })).await;
            let mut slow = server.connect().await;
            // The system would hold more and more for a client that reads quickly.
            SockRef::from(&slow).set_recv_buffer_size(64 << 10).unwrap();
            let mut buffer = vec![0; BYTES / 2];
            let rounds = 2 * requests;
            for round in 0..=16 {
                if round % rounds == 0 {
                    slow.write_all(&REQUEST.repeat(requests)).await.unwrap();
                }
                advance(Duration::from_secs(4)).await;
                // At 68 s, and earlier. What the rounds really take counts, too.
                if round % rounds == 0 && (round < 12 || round == 16) {
                    assert_eq!(server.is_full().await, requests == 1 || round < 12, "{requests} {round}");
                }
                if round < 16 {
                    soon(slow.read_exact(&mut buffer)).await.unwrap();
                }
                if round % rounds == rounds - 1 {
                    soon(slow.read_exact(&mut buffer[..requests * head.len()])).await.unwrap();
                    settle().await;
                }
            }
        }
    }

    /// A client that reads a stream keeps its connection, however long the stream takes.
    #[tokio::test]
    async fn a_stream_that_is_read_is_not_evicted() {
        const PART: usize = 1 << 20;
        let parts = || stream::repeat(Bytes::from(vec![b'x'; PART])).map(Ok::<_, io::Error>);
        let mut server = Server::new(1, get(move || async move { Body::from_stream(parts()) })).await;
        let mut reading = server.connect().await;
        reading.write_all(REQUEST).await.unwrap();
        let mut buffer = vec![0; 4 * PART];
        for _ in 0..20 {
            advance(Duration::from_secs(4)).await;
            assert!(server.is_full().await);
            soon(reading.read_exact(&mut buffer)).await.unwrap();
        }
        // Its client stops reading. The write times out after 10 s.
        advance(Duration::from_secs(11)).await;
        soon(server.connect()).await;
    }

    /// It counts as a connection until its handler drops it.
    #[tokio::test]
    async fn an_upgraded_connection_is_not_idle() {
        let upgrade = get(|request: axum::extract::Request| async {
            tokio::spawn(async {
                let mut socket = hyper_util::rt::TokioIo::new(hyper::upgrade::on(request).await.unwrap());
                while socket.read_u8().await.is_ok() {}
            });
            (axum::http::StatusCode::SWITCHING_PROTOCOLS, [("connection", "upgrade"), ("upgrade", "x")])
        });
        let mut server = Server::new(1, upgrade).await;
        let mut upgraded = server.connect().await;
        upgraded.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        soon(upgraded.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
        for _ in 0..3 {
            advance(Duration::from_secs(80)).await;
            assert!(server.is_full().await);
        }
        drop(upgraded);
        soon(server.connect()).await;
    }

    /// Two connections may hold a large head here.
    #[tokio::test]
    async fn of_too_many_large_heads_the_longest_idle_is_closed() {
        let mut server = Server::new(10, get(|| async {})).await;
        let begin = |bytes: usize| format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}", "x".repeat(bytes));
        let mut clients = Vec::new();
        for bytes in [6000, 20_000, 7000, 6000, 20_000] {
            let mut client = server.connect().await;
            client.write_all(begin(bytes).as_bytes()).await.unwrap();
            settle().await;
            clients.push(client);
        }
        for (index, client) in clients.iter_mut().enumerate() {
            if index == 1 {
                assert!(is_closed(client).await);
                continue;
            }
            client.write_all(b"\r\n\r\n").await.unwrap();
            let mut answer = [0; 12];
            soon(client.read_exact(&mut answer)).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200", "{index}");
        }
    }

    /// Two connections may hold a large head here. What follows a pipelined request is part of the next head.
    #[tokio::test]
    async fn a_head_behind_a_pipelined_request_counts_whole() {
        let mut server = Server::new(10, get(|| async {})).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = server.connect().await;
            let next = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}", "x".repeat(5000));
            client.write_all(&[REQUEST, next.as_bytes()].concat()).await.unwrap();
            assert_eq!(soon(client.read(&mut [0; 1024])).await.unwrap(), ANSWER_BYTES);
            client.write_all(&[b'x'; 5000]).await.unwrap();
            settle().await;
            clients.push(client);
        }
        assert!(is_closed(&mut clients[0]).await);
        // Requests of the usual size, one after the other, are no large head.
        let mut usual = server.connect().await;
        for _ in 0..10 {
            let usual_head = format!("GET http://x/?a HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(2000));
            usual.write_all(usual_head.as_bytes()).await.unwrap();
            assert_eq!(soon(usual.read(&mut [0; 1024])).await.unwrap(), ANSWER_BYTES);
        }
        for client in &mut clients[1..] {
            client.write_all(b"\r\n\r\n").await.unwrap();
            assert_eq!(soon(client.read(&mut [0; 1024])).await.unwrap(), ANSWER_BYTES);
        }
    }

    #[tokio::test]
    async fn a_connection_that_has_ended_gives_its_slot_back() {
        let mut server = Server::new(3, get(|| async {})).await;
        let mut kept = server.connect().await;
        for _ in 0..5 {
            drop(server.connect().await);
            // It ends before the next one needs a slot.
            settle().await;
        }
        kept.write_all(REQUEST).await.unwrap();
        assert_eq!(soon(kept.read(&mut [0])).await.unwrap(), 1);
    }

    #[test]
    fn a_refused_limit_on_open_files_ends_no_start() {
        let refused = |_| Err(io::ErrorKind::PermissionDenied.into());
        let files = rlimit::Resource::NOFILE.get_soft().unwrap();
        let expected =
            usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(OTHER_FILES).clamp(1, MAX_CONNECTIONS);
        assert_eq!(max_connections(refused), expected);
        assert_eq!(max_connections(|_| Ok(164)), 100);
        assert_eq!(max_connections(|_| Ok(10)), 1);
        assert_eq!(max_connections(Ok), MAX_CONNECTIONS);
    }

    /// A handler that never ends holds up a stop for 10 s, and no longer.
    #[tokio::test]
    async fn a_stop_takes_10_s_at_most() {
        let (entered, mut entries) = mpsc::unbounded_channel();
        let hangs = get(|| async move {
            let _ = entered.send(());
            std::future::pending::<()>().await;
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        let server = tokio::spawn(serve(listener, app(hangs), shutdown));
        client.write_all(REQUEST).await.unwrap();
        entries.recv().await.unwrap();
        stop.send(()).unwrap();
        // The server begins to stop, and its limit of 10 s starts.
        settle().await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_millis(9_900)).await;
        assert!(!server.is_finished());
        tokio::time::advance(Duration::from_millis(200)).await;
        tokio::time::resume();
        tokio::time::timeout(Duration::from_secs(1), server).await.unwrap().unwrap().unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap_or_default(), 0);
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_an_incomplete_head() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        let server = tokio::spawn(serve(listener, app(get(|| async {})), shutdown));
        let mut incomplete = TcpStream::connect(address).await.unwrap();
        incomplete.write_all(b"GET / HTTP/1.1\r\nhost").await.unwrap();
        // A later client is answered, so the first is accepted.
        let mut other = TcpStream::connect(address).await.unwrap();
        other.write_all(REQUEST).await.unwrap();
        assert_eq!(soon(other.read(&mut [0])).await.unwrap(), 1);
        stop.send(()).unwrap();
        soon(server).await.unwrap().unwrap();
        assert!(is_closed(&mut incomplete).await);
    }
}
