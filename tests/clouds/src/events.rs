//! An answer that is sent piece by piece, as server-sent events.

use http_body_util::StreamBody;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;
use vercel_runtime::{AppState, Error, Response, ResponseBody};

/// A piece of the body, or the error that breaks the answer off.
pub type Piece = Result<hyper::body::Frame<hyper::body::Bytes>, Error>;

/// Answers with what `write` sends. Vercel keeps the invocation open until `write` ends.
pub fn answer<W: Future<Output = ()> + Send + 'static>(
    state: &AppState,
    write: impl FnOnce(Sender<Piece>) -> W,
) -> Result<Response<ResponseBody>, Error> {
    let (events, body) = channel(8);
    state.wait_until(write(events));
    let response = Response::builder().header("content-type", "text/event-stream").header("cache-control", "no-store");
    Ok(response.body(StreamBody::new(ReceiverStream::new(body)).into())?)
}
