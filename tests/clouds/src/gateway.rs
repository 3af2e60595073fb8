//! Vercel AI Gateway: a model's answer, passed on to the client while the model writes it.

use hyper::body::Frame;
use vercel_oidc_client::Api;
use vercel_runtime::{AppState, Error, Request, Response, ResponseBody};

use crate::events;

/// `gateway` is `Api::new("https://ai-gateway.vercel.sh/v1", tokens)?.with_timeout(Duration::from_secs(300))`.
pub async fn ask(gateway: &Api, request: &Request, state: &AppState) -> Result<Response<ResponseBody>, Error> {
    let message = serde_json::json!({ "role": "user", "content": "Which tea goes with toast?" });
    let prompt = serde_json::json!({ "model": "openai/gpt-5-mini", "messages": [message], "stream": true });
    let answer = gateway.post(request.headers(), "/chat/completions").json(&prompt).send().await?;
    let mut answer = answer.error_for_status().await?;
    events::answer(state, |events| async move {
        while let Some(piece) = answer.chunk().await.transpose() {
            let piece = piece.map(|piece| Frame::data(piece.into())).map_err(Error::from);
            if events.send(piece).await.is_err() {
                return; // The client has gone.
            }
        }
    })
}
