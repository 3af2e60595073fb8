//! One connection, from its first byte to its last.
//!
//! Decides when a connection is idle, closes it when it has been idle too long, and says `Connection: close` when an
//! answer leaves a request's body unread. The connection then ends in a way that lets the client read the answer.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CONNECTION, HeaderValue};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::Watcher;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

use crate::app::App;

/// Limits the idle time and the time for a head together. Load balancers and clients keep idle connections for 60 s by
/// default. They must close first, or their next request meets a closed connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// A client that reads nothing for 10 s is gone or hostile.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Well above a token of 8 KiB and the headers of proxies. The memory for all heads is at most this limit times the
/// number of connections.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How much of an unread body is read after the answer. If a connection is closed with unread bytes, the system resets
/// the connection, and the client loses the answer (RFC 9112, section 9.6).
const MAX_DRAIN_BYTES: usize = 256 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What a connection is doing.
pub(crate) struct Activity {
    phase: Mutex<Phase>,
    /// An answer was given to a request whose body was not read to its end.
    left_body_unread: AtomicBool,
    /// Notified each time the connection becomes idle.
    became_idle: Arc<Notify>,
}

#[derive(Clone, Copy)]
enum Phase {
    /// No request, or an incomplete head.
    Idle { since: Instant },
    /// A request is in flight.
    Busy,
    /// The answer is complete, but perhaps not yet handed over to the system.
    Answered,
}

impl Activity {
    pub(crate) fn new(became_idle: Arc<Notify>) -> Self {
        let phase = Mutex::new(Phase::Idle { since: Instant::now() });
        Self { phase, left_body_unread: AtomicBool::new(false), became_idle }
    }

    /// When the connection became idle. `None` while a request is in flight or an answer is being written.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        match self.phase() {
            Phase::Idle { since } => Some(since),
            Phase::Busy | Phase::Answered => None,
        }
    }

    fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// All that was written so far has been handed over to the system.
    fn flushed(&self) {
        if let Phase::Answered = self.phase() {
            self.set(Phase::Idle { since: Instant::now() });
            self.became_idle.notify_one();
        }
    }

    /// Ends when the connection has been idle for [`IDLE_TIMEOUT`]. A request does not reset the timer. When the timer
    /// fires, it is set to the time that is left.
    async fn idle_too_long(&self) {
        loop {
            let end = self.idle_since().unwrap_or_else(Instant::now) + IDLE_TIMEOUT;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

/// Serves this connection until it ends or has been idle too long.
pub(crate) async fn serve(stream: TcpStream, app: App, activity: Arc<Activity>, watcher: Watcher) {
    let of_requests = activity.clone();
    let service = service_fn(move |request| answer(app.clone(), request, of_requests.clone()));
    let connection = http1::Builder::new()
        // `Activity` times idle connections and heads together.
        .header_read_timeout(None)
        // A client may close its sending side after its request (`nc -N`), and still wait for the answer.
        .half_close(true)
        // Answers are small: copying one behind its head costs less than a write from two places.
        .writev(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Socket::new(stream, activity.clone())), service);
    tokio::select! {
        // The client caused the error: it disconnected, or sent something other than HTTP.
        ended = watcher.watch(connection) => if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        },
        () = activity.idle_too_long() => tracing::debug!("closed an idle connection"),
    }
}

async fn answer(
    app: App,
    request: Request<Incoming>,
    activity: Arc<Activity>,
) -> Result<Response<AnswerBody>, Infallible> {
    activity.set(Phase::Busy);
    let request = request.map(|body| Body::new(RequestBody { body, ended: false, activity: activity.clone() }));
    let mut response = app.oneshot(request).await?;
    if activity.left_body_unread.load(Ordering::Relaxed) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| AnswerBody { body, activity }))
}

/// A request's body that notices if it is dropped before its end.
struct RequestBody {
    body: Incoming,
    ended: bool,
    activity: Arc<Activity>,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.ended |= frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.activity.left_body_unread.store(true, Ordering::Relaxed);
        }
    }
}

/// An answer's body. It is dropped once all of it has been written to hyper's buffer, just before that is flushed.
struct AnswerBody {
    body: Body,
    activity: Arc<Activity>,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.activity.set(Phase::Answered);
    }
}

/// The client's socket. It notices when an answer is handed over, and reads the rest of an unread body at the end.
struct Socket {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    activity: Arc<Activity>,
    drain: Option<Drain>,
}

struct Drain {
    timeout: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl Socket {
    fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        Self { stream: Box::pin(stream), activity, drain: None }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream.as_mut().poll_flush(cx))?;
        self.activity.flushed();
        Poll::Ready(Ok(()))
    }

    /// Tells the client that no more will come, then reads what it is still sending.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, activity, drain } = &mut *self;
        if drain.is_none() {
            ready!(stream.as_mut().poll_shutdown(cx))?;
        }
        if !activity.left_body_unread.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let drain =
            drain.get_or_insert_with(|| Drain { timeout: Box::pin(sleep(DRAIN_TIMEOUT)), bytes_left: MAX_DRAIN_BYTES });
        let mut buffer = [0; 8192];
        while drain.bytes_left > 0 && drain.timeout.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut buffer);
            ready!(stream.as_mut().poll_read(cx, &mut buffer))?;
            match buffer.filled().len() {
                0 => break,
                bytes => drain.bytes_left = drain.bytes_left.saturating_sub(bytes),
            }
        }
        Poll::Ready(Ok(()))
    }
}
