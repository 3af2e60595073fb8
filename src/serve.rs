//! Serves the application until told to stop, and stays up under pressure.
//!
//! What `axum::serve` leaves open is bounded here: the time for a request's head, the time that a client may refuse to
//! read, and the number of connections. Where that number is reached, whoever has been silent longest makes room.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use crate::app::App;

/// A head takes one round trip; ten seconds are a very slow line's.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that reads nothing for so long is gone, or holds on to the connection for its own sake.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Far more than 8 KiB of token and what proxies add. Times the connections, it bounds the memory that heads can take.
const MAX_HEAD_BYTES: usize = 64 * 1024;
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

/// As many as the contract allows, or as the system has files for. Many systems start a process with a soft limit of
/// 1024 files, for the sake of programs that use `select`.
fn max_connections() -> io::Result<usize> {
    let wanted = MAX_CONNECTIONS + OTHER_FILES;
    let files = usize::try_from(rlimit::increase_nofile_limit(wanted as u64)?).unwrap_or(usize::MAX);
    if files < wanted {
        tracing::warn!(files, "the system's limit on open files allows fewer than {MAX_CONNECTIONS} connections");
    }
    Ok(files.saturating_sub(OTHER_FILES).clamp(1, MAX_CONNECTIONS))
}

struct Connections {
    max: usize,
    began: Instant,
    /// Ends all with its own end.
    tasks: JoinSet<()>,
    open: Vec<Connection>,
}

struct Connection {
    task: AbortHandle,
    /// Milliseconds since the server began, or [`BUSY`].
    silent_since: Arc<AtomicU64>,
}

/// A request is being answered.
const BUSY: u64 = u64::MAX;

impl Connections {
    fn new(max: usize) -> Self {
        Self { max, began: Instant::now(), tasks: JoinSet::new(), open: Vec::new() }
    }

    /// Waits until there is room for one more. Only where each connection is being answered does this take time.
    async fn room(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        while self.open.len() >= self.max {
            let before = self.open.len();
            self.open.retain(|connection| !connection.task.is_finished());
            if self.open.len() < before {
                continue;
            }
            let since = |(_, connection): &(usize, &Connection)| connection.silent_since.load(Ordering::Relaxed);
            let silent = self.open.iter().enumerate().filter(|connection| since(connection) != BUSY).min_by_key(since);
            match silent.map(|(longest, _)| longest) {
                Some(longest) => self.open.remove(longest).task.abort(),
                None => drop(self.tasks.join_next().await),
            }
        }
    }

    fn add(&mut self, stream: TcpStream, app: App, watcher: Watcher) {
        let began = self.began;
        let now = move || began.elapsed().as_millis() as u64;
        let silent_since = Arc::new(AtomicU64::new(now()));
        let activity = silent_since.clone();
        let task = self.tasks.spawn(async move {
            let service = service_fn(move |request| {
                let (app, activity) = (app.clone(), activity.clone());
                async move {
                    activity.store(BUSY, Ordering::Relaxed);
                    let response = app.oneshot(request).await;
                    activity.store(now(), Ordering::Relaxed);
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
        self.open.push(Connection { task, silent_since });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::{mpsc, oneshot};
    use tower::util::MapResponse;

    use super::*;

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
        let app = MapResponse::new(Router::new().route("/", hangs), std::convert::identity as fn(_) -> _);
        let server = tokio::spawn(serve(listener, app, shutdown));
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
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
