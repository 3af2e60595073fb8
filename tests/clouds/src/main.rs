//! A function on Vercel's Rust runtime that follows the recipes of docs/clouds.md. Each path is one recipe.

mod aws;
mod azure;
mod events;
mod gateway;
mod google;
mod recent;
mod trace;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::Region;
use azure_storage_blob::BlobServiceClient;
use google_cloud_storage::client::Storage;
use opentelemetry_sdk::trace::SdkTracerProvider;
use vercel_oidc_client::{Api, Tokens};
use vercel_runtime::{AppState, Error, Request, Response, ResponseBody, run, service_fn};

use crate::recent::Recent;

const AWS_ROLE: &str = "arn:aws:iam::123456789012:role/storefront";
const AZURE_TENANT: &str = "8f9b2a4e-6c1d-4a3b-8e5f-7d6c5b4a3f2e";
const AZURE_CLIENT: &str = "2f1a0f9e-4d7e-4b5e-9a57-3d7f9f6d2c11";
const AZURE_BLOBS: &str = "https://acme.blob.core.windows.net/";
const GOOGLE_PROVIDER: &str =
    "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/vercel/providers/vercel";

/// What a function makes once, before its first request.
struct Clouds {
    tokens: Tokens,
    s3: aws_sdk_s3::Client,
    blobs: BlobServiceClient,
    storage: Recent<Storage>,
    gateway: Api,
    traces: SdkTracerProvider,
}

impl Clouds {
    async fn new() -> Result<Self, Error> {
        let tokens = Tokens::from_env(|name| std::env::var(name).ok())?;
        let aws = aws::config(tokens.clone(), AWS_ROLE, Region::new("eu-central-1")).await;
        let s3 = aws_sdk_s3::Client::new(&aws);
        let blobs = azure::blobs(tokens.clone(), AZURE_TENANT, AZURE_CLIENT, AZURE_BLOBS.parse()?)?;
        let gateway =
            Api::new("https://ai-gateway.vercel.sh/v1", tokens.clone())?.with_timeout(Duration::from_secs(300));
        Ok(Self { tokens, s3, blobs, storage: Recent::default(), gateway, traces: trace::provider()? })
    }

    async fn read_s3(&self, request: &Request) -> Result<Vec<u8>, Error> {
        let read = async {
            let object = self.s3.get_object().bucket("acme-orders").key("latest.json").send().await?;
            Ok(object.body.collect().await?.to_vec())
        };
        self.tokens.scope(request.headers(), read).await
    }

    async fn read_blob(&self, request: &Request) -> Result<Vec<u8>, Error> {
        let read = async {
            let name = request.uri().query().unwrap_or("latest.json");
            let blob = self.blobs.blob_client("orders", name).download(None).await?;
            Ok(blob.body.collect().await?.to_vec())
        };
        self.tokens.scope(request.headers(), read).await
    }

    async fn read_bucket(&self, request: &Request) -> Result<Vec<u8>, Error> {
        let token = self.tokens.get(request.headers()).await?;
        let storage = self.storage.get(SystemTime::now(), google::storage(token, GOOGLE_PROVIDER)).await?;
        let mut object = storage.read_object("projects/_/buckets/acme-orders", "latest.json").send().await?;
        let mut order = Vec::new();
        while let Some(piece) = object.next().await {
            order.extend(piece?);
        }
        Ok(order)
    }

    /// Saves the order after the answer, with the token of the request that is answered.
    fn save_later(&self, request: &Request, state: &AppState, order: &'static str) {
        let save = self.s3.put_object().bucket("acme-orders").key("latest.json").body(order.as_bytes().to_vec().into());
        let log = state.log_context.clone();
        state.wait_until(self.tokens.scope(request.headers(), async move {
            if let Err(error) = save.send().await {
                log.error(&format!("The order was not saved: {error}."));
            }
        }));
    }

    async fn answer(&self, request: &Request, state: &AppState) -> Result<Response<ResponseBody>, Error> {
        let order = match request.uri().path() {
            "/aws" => self.read_s3(request).await?,
            "/azure" => self.read_blob(request).await?,
            "/later" => {
                self.save_later(request, state, r#"{"item":"tea","quantity":3}"#);
                b"accepted".to_vec()
            }
            "/google" => self.read_bucket(request).await?,
            "/gateway" => return gateway::ask(&self.gateway, request, state).await,
            path => return Err(format!("no recipe has the path {path}").into()),
        };
        Ok(Response::new(order.into()))
    }
}

/// The error and its causes. The cloud's own error code is in one of the causes.
fn explain(error: Error) -> Response<ResponseBody> {
    let causes = std::iter::successors(Some(&*error as &dyn std::error::Error), |error| error.source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let mut response = Response::new(text.into());
    *response.status_mut() = http::StatusCode::BAD_GATEWAY;
    response
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let clouds = Arc::new(Clouds::new().await?);
    run(service_fn(move |request: Request, state: AppState| {
        let clouds = Arc::clone(&clouds);
        async move {
            let answer = async { clouds.answer(&request, &state).await.unwrap_or_else(explain) };
            Ok::<_, Error>(trace::answer(&clouds.traces, &request, &state, answer).await)
        }
    }))
    .await
}
