//! One connection, from its first byte to its last.
//!
//! Decides when a connection is idle, closes it when it has been idle too long, and says `Connection: close` when an
//! answer leaves a request's body unread. The connection then ends in a way that lets the client read the answer. A
//! client that goes away cancels its handler.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CONNECTION, HeaderValue};
use axum::http::{Method, Request, Response, StatusCode};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tower_http::timeout::TimeoutBody;

use super::slots::{Evictable, Slots};
use crate::app::App;

/// Limits the idle time and the time for a head together. Load balancers and clients keep idle connections for 60 s by
/// default. They must close first, or their next request meets a closed connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// A client that reads nothing for 10 s is gone or hostile.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// After this time, a client that still has not taken over an answer no longer keeps others out.
const SLOW_READER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a request's body may pause.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a connection looks whether the client of a waiting handler is still there.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a stream may be quiet after its client has closed its sending side.
const QUIET_TIMEOUT: Duration = Duration::from_secs(75);
/// Well above a token of 8 KiB and the headers of proxies.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// A longer head needs a slot for large heads. A token of 2 KiB and Vercel's own headers are shorter.
pub(super) const SMALL_HEAD_BYTES: usize = 6 * 1024;
/// How much of an unread body is read after the answer. If a connection is closed with unread bytes, the system resets
/// the connection, and the client loses the answer (RFC 9112, section 9.6).
const MAX_DRAIN_BYTES: usize = 256 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What a connection is doing.
pub(super) struct Activity {
    state: Mutex<State>,
    /// Notified each time a connection becomes idle.
    became_idle: Arc<Notify>,
    evicted: Notify,
}

struct State {
    phase: Phase,
    /// When the client fell behind with reading. It catches up if the connection waits for its next request, unless it
    /// has pipelined, or if it has taken over all that a handler has written so far.
    behind_since: Option<Instant>,
    /// The client has sent a request while it was behind.
    pipelines_while_behind: bool,
    /// How much of an incomplete head has been read.
    head_bytes: usize,
    /// An answer was given to a request whose body was not read to its end.
    left_body_unread: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No request, or an incomplete head.
    Idle { since: Instant },
    /// A handler works on a request.
    Handling,
    /// The handler has returned, and its answer's body is not complete.
    Answering,
    /// The answer is complete, but perhaps not yet handed over to the system.
    Answered,
    /// The connection speaks another protocol, such as WebSocket.
    Upgraded,
}

impl Activity {
    pub(super) fn new(became_idle: Arc<Notify>) -> Self {
        let phase = Phase::Idle { since: Instant::now() };
        let state =
            State { phase, behind_since: None, pipelines_while_behind: false, head_bytes: 0, left_body_unread: false };
        Self { state: Mutex::new(state), became_idle, evicted: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self) -> Phase {
        self.state().phase
    }

    fn set(&self, phase: Phase) {
        self.state().phase = phase;
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase(), Phase::Idle { .. })
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.phase() == Phase::Upgraded
    }

    /// A handler begins. Its request's head had this many bytes, and what was read after it is the next head.
    fn handling(&self, head_bytes: usize) {
        let mut state = self.state();
        state.phase = Phase::Handling;
        state.pipelines_while_behind |= state.behind_since.is_some();
        state.head_bytes = state.head_bytes.saturating_sub(head_bytes);
    }

    /// The answer's body is complete.
    fn answered(&self) {
        let mut state = self.state();
        if state.phase != Phase::Upgraded {
            state.phase = Phase::Answered;
        }
    }

    /// All that was written so far has been handed over to the system. Returns the phase that follows.
    fn flushed(&self) -> Phase {
        let mut state = self.state();
        match state.phase {
            Phase::Answered => {
                state.phase = Phase::Idle { since: Instant::now() };
                self.became_idle.notify_one();
            }
            Phase::Answering => state.behind_since = None,
            Phase::Idle { .. } | Phase::Handling | Phase::Upgraded => {}
        }
        state.phase
    }

    /// The client sends nothing. If the connection is idle, it has therefore taken over every answer. A client that
    /// pipelines stays behind, because one moment without requests in each minute would keep others out forever.
    fn read_nothing(&self) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Idle { .. }) && !state.pipelines_while_behind {
            state.behind_since = None;
        }
    }

    /// Returns whether the head is a large one.
    fn read(&self, bytes: usize) -> bool {
        let mut state = self.state();
        if let Phase::Idle { .. } = state.phase {
            state.head_bytes += bytes;
        }
        state.head_bytes > SMALL_HEAD_BYTES
    }

    /// The client did not take over all that was written.
    fn write_blocked(&self) {
        self.state().behind_since.get_or_insert_with(Instant::now);
    }

    /// Ends when the connection has been idle for [`IDLE_TIMEOUT`]. A request does not reset the timer. When the timer
    /// fires, it is set to the time that is left.
    async fn idle_too_long(&self) {
        loop {
            let since = if let Phase::Idle { since } = self.phase() { since } else { Instant::now() };
            let end = since + IDLE_TIMEOUT;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

impl Evictable for Activity {
    /// Pipelined requests are no shelter: a connection is behind from the first answer that was not taken over at once,
    /// until it waits for a request.
    fn evictable_since(&self) -> Option<Instant> {
        let state = self.state();
        match state.phase {
            Phase::Idle { since } => Some(since),
            Phase::Upgraded => None,
            Phase::Handling | Phase::Answering | Phase::Answered => {
                state.behind_since.map(|since| since + SLOW_READER_TIMEOUT).filter(|since| *since <= Instant::now())
            }
        }
    }

    fn evict(&self) {
        self.evicted.notify_one();
    }
}

/// Serves this connection until it ends, has been idle too long or is evicted. An upgraded connection ends when its
/// handler drops it. `stop` changes if it shall end after the request in flight, and is dropped when it has. If this
/// future is dropped, the connection is closed, also if it is upgraded.
pub(super) async fn serve(
    stream: TcpStream,
    app: App,
    activity: Arc<Activity>,
    large_heads: Arc<Slots<Activity>>,
    mut stop: watch::Receiver<()>,
) {
    let (mut open, closed) = oneshot::channel();
    let of_requests = activity.clone();
    let service = service_fn(move |request| answer(app.clone(), request, of_requests.clone()));
    let socket = Socket {
        stream,
        activity: activity.clone(),
        closed,
        large_heads,
        has_large_head: false,
        write_timeout: None,
        presence_timer: None,
        has_sent_first_byte: false,
        drain: None,
    };
    let connection = http1::Builder::new()
        // `Activity` times idle connections and heads together.
        .header_read_timeout(None)
        // A client may close its sending side after its request (`nc -N`), and still wait for the answer.
        .half_close(true)
        // Answers are small: copying one behind its head costs less than a write from two places.
        .writev(false)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    // In a box, because this future would have room for it twice.
    let mut connection = Box::pin(connection);
    tokio::select! {
        // The client caused the error: it disconnected, or sent something other than HTTP.
        ended = async {
            tokio::select! {
                ended = connection.as_mut() => return ended,
                _ = stop.changed() => connection.as_mut().graceful_shutdown(),
            }
            connection.as_mut().await
        } => if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        },
        () = activity.idle_too_long() => tracing::debug!("closed an idle connection"),
        () = activity.evicted.notified() => tracing::debug!("evicted a connection"),
    }
    drop((connection, stop));
    open.closed().await;
}

async fn answer(
    app: App,
    request: Request<Incoming>,
    activity: Arc<Activity>,
) -> Result<Response<AnswerBody>, Infallible> {
    // A client whose request has a body has a token, or its connection ends.
    let has_body = !request.body().is_end_stream();
    activity.handling(if has_body { usize::MAX } else { head_bytes(&request) });
    let is_connect = request.method() == Method::CONNECT;
    let body = |body| TimeoutBody::new(BODY_TIMEOUT, RequestBody { body, ended: false, activity: activity.clone() });
    let request = request.map(|incoming| if has_body { Body::new(body(incoming)) } else { Body::empty() });
    let mut response = app.answer(request).await;
    if activity.state().left_body_unread {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let is_upgrade =
        response.status() == StatusCode::SWITCHING_PROTOCOLS || is_connect && response.status().is_success();
    activity.set(if is_upgrade { Phase::Upgraded } else { Phase::Answering });
    Ok(response.map(|body| AnswerBody { body, activity }))
}

/// How long a request's head was, if the client has written it as usual.
fn head_bytes(request: &Request<Incoming>) -> usize {
    let (uri, headers) = (request.uri(), request.headers());
    let origin =
        uri.authority().map_or(0, |host| host.as_str().len() + uri.scheme_str().map_or(0, |scheme| scheme.len() + 3));
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let line = request.method().as_str().len() + origin + path + "  HTTP/1.1\r\n\r\n".len();
    headers.iter().fold(line, |sum, (name, value)| sum + name.as_str().len() + value.len() + ": \r\n".len())
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
            self.activity.state().left_body_unread = true;
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
        self.activity.answered();
    }
}

/// The client's socket. It notices what the client takes over and whether it is still there, and reads the rest of an
/// unread body at the end.
struct Socket {
    stream: TcpStream,
    activity: Arc<Activity>,
    /// Ends when the connection's task does. Only an upgraded connection can see that.
    closed: oneshot::Receiver<Infallible>,
    large_heads: Arc<Slots<Activity>>,
    has_large_head: bool,
    /// Runs while the client reads nothing.
    write_timeout: Option<Pin<Box<Sleep>>>,
    /// Runs while a handler works, and while a stream is quiet.
    presence_timer: Option<Pin<Box<Sleep>>>,
    has_sent_first_byte: bool,
    drain: Option<Drain>,
}

struct Drain {
    timeout: Pin<Box<Sleep>>,
    bytes_left: usize,
}

/// The first byte of every answer: of `HTTP/1.1` and of `HTTP/1.0`.
const FIRST_BYTE: &[u8] = b"H";

impl Socket {
    fn is_closed(&mut self, cx: &mut Context<'_>) -> bool {
        self.activity.is_upgraded() && Pin::new(&mut self.closed).poll(cx).is_ready()
    }

    /// Fails if the client of a waiting handler or of a quiet stream has gone.
    ///
    /// A client that has gone and a client that has closed its sending side (`nc -N`) both sent the same `FIN`. So the
    /// first byte of the answer is sent early: the system of a client that has gone answers with a reset, and the other
    /// client gets the rest of the answer later. No byte of a stream can be sent early, so time decides there.
    fn look_for_client(&mut self, is_stream: bool, cx: &mut Context<'_>) -> io::Result<()> {
        let interval = if is_stream { QUIET_TIMEOUT } else { PRESENCE_INTERVAL };
        let timer = self.presence_timer.get_or_insert_with(|| Box::pin(sleep(interval)));
        while timer.as_mut().poll(cx).is_ready() {
            timer.as_mut().reset(Instant::now() + interval);
            let Poll::Ready(ready) = pin!(self.stream.ready(Interest::READABLE | Interest::WRITABLE)).poll(cx) else {
                continue;
            };
            let ready = ready?;
            if ready.is_write_closed() || is_stream && ready.is_read_closed() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if ready.is_read_closed() && !self.has_sent_first_byte {
                self.has_sent_first_byte = self.stream.try_write(FIRST_BYTE).is_ok_and(|bytes| bytes == 1);
            }
        }
        Ok(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_closed(cx) {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(cx, buffer) else {
            self.activity.read_nothing();
            return Poll::Pending;
        };
        // The memory of a large head is kept until the connection ends, so its slot is, too.
        if !self.has_large_head && self.activity.read(buffer.filled().len() - before) {
            if !self.large_heads.take(&self.activity) {
                return Poll::Ready(Err(io::Error::other("too many requests with large heads are in flight")));
            }
            self.has_large_head = true;
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_closed(cx) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let early = if self.has_sent_first_byte { FIRST_BYTE.len().min(bytes.len()) } else { 0 };
        let written = match &bytes[early..] {
            [] => Poll::Ready(Ok(0)),
            rest => Pin::new(&mut self.stream).poll_write(cx, rest),
        };
        if let Poll::Ready(written) = written {
            (self.write_timeout, self.presence_timer) = (None, None);
            self.has_sent_first_byte &= early == 0;
            return Poll::Ready(written.map(|written| early + written));
        }
        self.activity.write_blocked();
        if self.activity.is_upgraded() {
            return Poll::Pending;
        }
        let timeout = self.write_timeout.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        timeout.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        // hyper flushes each time that the connection is polled, also if there is nothing to write.
        match self.activity.flushed() {
            Phase::Handling => self.look_for_client(false, cx)?,
            Phase::Answering => self.look_for_client(true, cx)?,
            Phase::Idle { .. } | Phase::Answered | Phase::Upgraded => self.presence_timer = None,
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the client that no more will come, then reads what it is still sending.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, activity, drain, .. } = &mut *self;
        if drain.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        if !activity.state().left_body_unread {
            return Poll::Ready(Ok(()));
        }
        let drain =
            drain.get_or_insert_with(|| Drain { timeout: Box::pin(sleep(DRAIN_TIMEOUT)), bytes_left: MAX_DRAIN_BYTES });
        let mut buffer = [0; 8192];
        while drain.bytes_left > 0 && drain.timeout.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut buffer);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
            match buffer.filled().len() {
                0 => break,
                bytes => drain.bytes_left = drain.bytes_left.saturating_sub(bytes),
            }
        }
        Poll::Ready(Ok(()))
    }
}
