//! The function that the load test compares the caller with. It passes on the token and the answer with reqwest, and
//! checks neither. Like the caller, it runs on one thread.

use std::env;

use reqwest::{Client, Url};
use vercel_runtime::{AppState, Error, Request, Response, ResponseBody, run, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let backend: Url = env::var("BACKEND_URL")?.parse()?;
    let client = Client::builder().no_proxy().tls_certs_only([]).build()?;
    run(service_fn(move |request: Request, _: AppState| {
        let (client, backend) = (client.clone(), backend.clone());
        async move {
            let token = request.headers().get("x-vercel-oidc-token").and_then(|token| token.to_str().ok());
            let answer = client.get(backend).bearer_auth(token.unwrap_or_default()).send().await?.text().await?;
            Ok::<_, Error>(
                Response::builder().header("content-type", "application/json").body(ResponseBody::from(answer))?,
            )
        }
    }))
    .await
}
