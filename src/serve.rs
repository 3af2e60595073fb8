//! Serves the application until told to stop, and stays up under pressure.
//!
//! What `axum::serve` leaves open is bounded here: the time for a request's head, the time that a client may refuse to
//! read, and the number of connections. Where that number is reached, whoever has been silent longest makes room.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use crate::app::App;

/// A head takes one round trip; ten seconds are a very slow line's.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that reads nothing for so long is gone, or holds on to the connection for its own sake.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than an answer takes that has to wait for the issuer's keys.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Far more than 8 KiB of token and what proxies add. Times the connections, it bounds the memory that heads can take.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Each takes about 25 KiB while its head is awaited, so these a quarter of a gigabyte.
const MAX_CONNECTIONS: usize = 10_000;
/// Clients that the system keeps waiting to be accepted. With the usual 128, a burst makes the others wait for a
/// second, until they try again.
const BACKLOG: i32 = 4096;
/// Files kept for all that isn't a client's connection: the listener, the fetch of the keys, standard streams.
const OTHER_FILES: usize = 64;

/// Accepts connections until `shutdown` ends, then finishes what is in flight, for 10 s at most.
///
/// # Errors
///
/// Where the system refuses its limits on open files, or to listen. What goes wrong with single connections ends these
/// alone.
pub async fn serve(listener: TcpListener, app: App, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    SockRef::from(&listener).listen(BACKLOG)?;
    let mut connections = Connections::new(max_connections()?);
    let graceful = GracefulShutdown::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = async {
                let accepted = listener.accept().await;
                connections.room().await;
                accepted
            } => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, _)) => connections.add(stream, app.clone(), graceful.watcher()),
            // The client is gone already, or the machine is short of something: it won't be better at once.
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were still unanswered when the time to finish them was over");
    }
    Ok(())
}

/// [`MAX_CONNECTIONS`], or as many as the system has files for. Many systems start a process with a soft limit of
/// 1024 files, for the sake of programs that use `select`.
fn max_connections() -> io::Result<usize> {
    let wanted = MAX_CONNECTIONS + OTHER_FILES;
    let raised = rlimit::increase_nofile_limit(wanted as u64).map_err(|error| {
        io::Error::new(error.kind(), format!("can't raise the limit on open files (`ulimit -n`) to {wanted}: {error}"))
    })?;
    let files = usize::try_from(raised).unwrap_or(usize::MAX);
    if files < wanted {
        tracing::warn!(files, "the system's limit on open files allows fewer than {MAX_CONNECTIONS} connections");
    }
    Ok(files.saturating_sub(OTHER_FILES).clamp(1, MAX_CONNECTIONS))
}

struct Connections {
    max: usize,
    /// Ends all with its own end.
    tasks: JoinSet<()>,
    open: HashMap<Id, Connection>,
}

struct Connection {
    task: AbortHandle,
    /// The number of its present silence, the lowest being the longest, or [`BUSY`].
    silence: Arc<AtomicU64>,
}

/// A request is being answered.
const BUSY: u64 = u64::MAX;

/// Numbers the silences of all connections in the order in which they begin.
fn next_silence() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Connections {
    fn new(max: usize) -> Self {
        Self { max, tasks: JoinSet::new(), open: HashMap::new() }
    }

    /// Waits until there is room for one more. Only where each connection is being answered does this take time.
    async fn room(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.forget(ended);
        }
        while self.open.len() >= self.max {
            let silence = |(_, connection): &(&Id, &Connection)| connection.silence.load(Ordering::Relaxed);
            let silent = self.open.iter().filter(|connection| silence(connection) != BUSY).min_by_key(silence);
            match silent.map(|(longest, _)| *longest) {
                Some(longest) => {
                    if let Some(connection) = self.open.remove(&longest) {
                        connection.task.abort();
                    }
                }
                None => {
                    if let Some(ended) = self.tasks.join_next_with_id().await {
                        self.forget(ended);
                    }
                }
            }
        }
    }

    /// A handle to a task keeps all of its memory, so none outlives its connection.
    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
        self.open.remove(&id);
    }

    fn add(&mut self, stream: TcpStream, app: App, watcher: Watcher) {
        let silence = Arc::new(AtomicU64::new(next_silence()));
        let own = silence.clone();
        let task = self.tasks.spawn(async move {
            let service = service_fn(move |request| {
                let (app, own) = (app.clone(), own.clone());
                async move {
                    own.store(BUSY, Ordering::Relaxed);
                    let response = app.oneshot(request).await;
                    own.store(next_silence(), Ordering::Relaxed);
                    response
                }
            });
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(WRITE_TIMEOUT));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                // Answers are small: to copy one behind its head costs less than a write from two places.
                .writev(false)
                .max_buf_size(MAX_HEAD_BYTES)
                .serve_connection(TokioIo::new(Box::pin(stream)), service);
            // An error here is the client's: it went away, or sent what isn't HTTP.
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
        self.open.insert(task.id(), Connection { task, silence });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use axum::Router;
    use axum::routing::get;
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::{Semaphore, mpsc, oneshot};
    use tower::util::MapResponse;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    fn app(routes: Router) -> App {
        MapResponse::new(routes, std::convert::identity)
    }

    /// The client's end of a new connection.
    async fn connect(connections: &mut Connections, graceful: &GracefulShutdown, routes: &Router) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        connections.add(stream, app(routes.clone()), graceful.watcher());
        client
    }

    #[tokio::test]
    async fn only_the_silent_make_room() {
        let (entered, mut entries) = mpsc::unbounded_channel();
        let answers = Arc::new(Semaphore::new(0));
        let may_answer = answers.clone();
        let waits = get(async move || {
            entered.send(()).unwrap();
            may_answer.acquire().await.unwrap().forget();
        });
        let routes = Router::new().route("/", waits);
        let (mut connections, graceful) = (Connections::new(2), GracefulShutdown::new());
        let mut asking = Vec::new();
        for _ in 0..2 {
            let mut asks = connect(&mut connections, &graceful, &routes).await;
            asks.write_all(REQUEST).await.unwrap();
            entries.recv().await.unwrap();
            asking.push(asks);
            if connections.open.len() < connections.max {
                // Silent for a shorter time than the other has been open.
                let mut silent = connect(&mut connections, &graceful, &routes).await;
                connections.room().await;
                let closed = tokio::time::timeout(Duration::from_secs(1), silent.read(&mut [0])).await;
                assert_eq!(closed.unwrap().unwrap_or_default(), 0);
            }
        }
        assert!(connections.room().now_or_never().is_none());
        answers.add_permits(2);
        for asks in &mut asking {
            assert_eq!(asks.read(&mut [0]).await.unwrap(), 1);
        }
        tokio::time::timeout(Duration::from_secs(1), connections.room()).await.unwrap();
        assert_eq!(connections.open.len(), 1);
    }

    #[tokio::test]
    async fn forgets_a_connection_that_has_ended() {
        let (mut connections, graceful) = (Connections::new(10), GracefulShutdown::new());
        for _ in 0..5 {
            drop(connect(&mut connections, &graceful, &Router::new()).await);
        }
        assert_eq!(connections.open.len(), 5);
        while !connections.open.values().all(|connection| connection.task.is_finished()) {
            tokio::task::yield_now().await;
        }
        connections.room().await;
        assert!(connections.open.is_empty());
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
        let server = tokio::spawn(serve(listener, app(Router::new().route("/", hangs)), shutdown));
        client.write_all(REQUEST).await.unwrap();
        entries.recv().await.unwrap();
        stop.send(()).unwrap();
        // The server sees it, and its clock for the rest starts.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        tokio::time::pause();
        tokio::time::advance(Duration::from_millis(9_900)).await;
        assert!(!server.is_finished());
        tokio::time::advance(Duration::from_millis(200)).await;
        tokio::time::resume();
        tokio::time::timeout(Duration::from_secs(1), server).await.unwrap().unwrap().unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap_or_default(), 0);
    }
}
