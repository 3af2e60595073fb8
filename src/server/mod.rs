//! Serves the application until it is told to stop, and limits the number of connections.
//!
//! `axum::serve` has no such limit. At the limit, the connection that has been idle longest is closed. [`connection`]
//! serves a single connection.

mod connection;
pub mod log;
pub(crate) mod requests;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use self::connection::Activity;
use crate::app::App;

/// Longer than a request that waits for a fetch of the keys (5 s).
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// An idle connection takes about 25 KiB, so 10,000 of them take a quarter of a gigabyte.
const MAX_CONNECTIONS: usize = 10_000;
/// The length of the accept queue. With the usual 128, a burst overflows it, and the clients try again after a second.
const BACKLOG: i32 = 4096;
/// Files for everything but clients' connections: the listener, the fetch of the keys, standard streams.
const OTHER_FILES: usize = 64;

/// Accepts connections until `shutdown` ends, then finishes the requests in flight for at most 10 s.
///
/// # Errors
///
/// The system refuses to raise the limit on open files, or to listen. An error of a single connection ends only that
/// connection.
pub async fn serve(listener: TcpListener, app: App, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    SockRef::from(&listener).listen(BACKLOG)?;
    let mut connections = Connections::new(max_connections()?);
    let graceful = GracefulShutdown::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = async {
                let accepted = listener.accept().await;
                connections.free_one().await;
                accepted
            } => accepted,
            () = &mut shutdown => break,
        };
        match accepted {
            Ok((stream, _)) => connections.add(stream, app.clone(), graceful.watcher()),
            // The client is already gone, or the system is out of files or memory: an immediate retry would not help.
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    drop(listener);
    connections.close_idle();
    if tokio::time::timeout(STOP_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("shutdown timed out with requests in flight");
    }
    Ok(())
}

/// [`MAX_CONNECTIONS`], or as many as the system has files for. Many systems start a process with a soft limit of 1024
/// files, for programs that use `select`.
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
    /// The connections' tasks. They end when this is dropped.
    tasks: JoinSet<()>,
    open: HashMap<Id, Connection>,
    became_idle: Arc<Notify>,
}

struct Connection {
    task: AbortHandle,
    activity: Arc<Activity>,
}

impl Connections {
    fn new(max: usize) -> Self {
        Self { max, tasks: JoinSet::new(), open: HashMap::new(), became_idle: Arc::default() }
    }

    /// Waits until there are fewer connections than allowed. At the limit, it closes the connection that has been idle
    /// longest. If all are busy, it waits until a connection is idle.
    async fn free_one(&mut self) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.forget(ended);
        }
        while self.open.len() >= self.max {
            if let Some(connection) = self.longest_idle().and_then(|id| self.open.remove(&id)) {
                connection.task.abort();
                continue;
            }
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => self.forget(ended),
                () = self.became_idle.notified() => {}
            }
        }
    }

    /// A connection with an incomplete head has no request in flight, so a stop does not wait for it.
    fn close_idle(&mut self) {
        for connection in self.open.values().filter(|connection| connection.activity.idle_since().is_some()) {
            connection.task.abort();
        }
    }

    fn longest_idle(&self) -> Option<Id> {
        let idle = self.open.iter().filter_map(|(id, connection)| Some((connection.activity.idle_since()?, *id)));
        idle.min_by_key(|(since, _)| *since).map(|(_, id)| id)
    }

    /// An abort handle keeps its task's memory, so the handle of an ended connection is dropped.
    fn forget(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
        self.open.remove(&id);
    }

    fn add(&mut self, stream: TcpStream, app: App, watcher: Watcher) {
        let activity = Arc::new(Activity::new(self.became_idle.clone()));
        let task = self.tasks.spawn(connection::serve(stream, app, activity.clone(), watcher));
        self.open.insert(task.id(), Connection { task, activity });
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

    fn unguarded(routes: Router) -> App {
        MapResponse::new(routes, std::convert::identity)
    }

    /// The client's end of a new connection.
    async fn connect(connections: &mut Connections, graceful: &GracefulShutdown, app: &App) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        connections.add(stream, app.clone(), graceful.watcher());
        client
    }

    async fn soon<T>(event: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(5), event).await.unwrap()
    }

    async fn is_closed(client: &mut TcpStream) -> bool {
        soon(client.read(&mut [0])).await.unwrap_or_default() == 0
    }

    #[tokio::test]
    async fn closes_idle_connections_but_no_busy_one() {
        let (entered, mut entries) = mpsc::unbounded_channel();
        let answers = Arc::new(Semaphore::new(0));
        let may_answer = answers.clone();
        let waits = get(async move || {
            entered.send(()).unwrap();
            may_answer.acquire().await.unwrap().forget();
        });
        let app = unguarded(Router::new().route("/", waits));
        let (mut connections, graceful) = (Connections::new(2), GracefulShutdown::new());
        let mut busy = Vec::new();
        for _ in 0..2 {
            let mut client = connect(&mut connections, &graceful, &app).await;
            client.write_all(REQUEST).await.unwrap();
            entries.recv().await.unwrap();
            busy.push(client);
            if connections.open.len() < connections.max {
                // The busy connection has been open for longer than this one has been idle.
                let mut idle = connect(&mut connections, &graceful, &app).await;
                connections.free_one().await;
                assert!(is_closed(&mut idle).await);
            }
        }
        // Both are busy. The wait ends when a connection becomes idle, although it stays open.
        let mut wait = Box::pin(connections.free_one());
        assert!((&mut wait).now_or_never().is_none());
        answers.add_permits(1);
        soon(wait).await;
        assert_eq!(connections.open.len(), 1);
    }

    /// An answer takes until all of it has been written, not until the handler returns.
    #[tokio::test]
    async fn an_answer_that_is_still_being_written_is_not_idle() {
        const BYTES: usize = 32 << 20;
        let app = unguarded(Router::new().route("/", get(|| async { vec![b'x'; BYTES] })));
        let (mut connections, graceful) = (Connections::new(2), GracefulShutdown::new());
        let mut reading = connect(&mut connections, &graceful, &app).await;
        reading.write_all(REQUEST).await.unwrap();
        // The first bytes have arrived, so the handler has returned.
        let mut bytes = soon(reading.read(&mut [0; 1024])).await.unwrap();
        let mut idle = connect(&mut connections, &graceful, &app).await;
        soon(connections.free_one()).await;
        assert!(is_closed(&mut idle).await);
        // The second connection was closed, although the first began its answer earlier.
        let mut buffer = vec![0; 1 << 20];
        while bytes < BYTES {
            match soon(reading.read(&mut buffer)).await.unwrap() {
                0 => panic!("closed after {bytes} bytes"),
                read => bytes += read,
            }
        }
        // The answer has been written, so the connection is idle.
        let _newer = connect(&mut connections, &graceful, &app).await;
        soon(connections.free_one()).await;
        assert!(is_closed(&mut reading).await);
    }

    #[tokio::test]
    async fn drops_the_handle_of_a_connection_that_has_ended() {
        let (mut connections, graceful) = (Connections::new(10), GracefulShutdown::new());
        for _ in 0..5 {
            drop(connect(&mut connections, &graceful, &unguarded(Router::new())).await);
        }
        assert_eq!(connections.open.len(), 5);
        while !connections.open.values().all(|connection| connection.task.is_finished()) {
            tokio::task::yield_now().await;
        }
        connections.free_one().await;
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
        let server = tokio::spawn(serve(listener, unguarded(Router::new().route("/", hangs)), shutdown));
        client.write_all(REQUEST).await.unwrap();
        entries.recv().await.unwrap();
        stop.send(()).unwrap();
        // The server begins to stop, and its limit of 10 s starts.
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

    #[tokio::test]
    async fn a_stop_does_not_wait_for_an_incomplete_head() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        let app = unguarded(Router::new().route("/", get(|| async {})));
        let server = tokio::spawn(serve(listener, app, shutdown));
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
