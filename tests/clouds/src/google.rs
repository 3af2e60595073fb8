//! Google Cloud: a workload identity pool that accepts the function's token.

use std::sync::Arc;

use google_cloud_auth::credentials::{external_account::ProgrammaticBuilder, subject_token};
use google_cloud_auth::errors::CredentialsError;
use google_cloud_storage::client::Storage;
use vercel_oidc_client::Token;

#[derive(Debug)]
struct Subject(Token);

impl subject_token::SubjectTokenProvider for Subject {
    type Error = CredentialsError;
    async fn subject_token(&self) -> Result<subject_token::SubjectToken, CredentialsError> {
        Ok(subject_token::Builder::new(self.0.expose()).build())
    }
}

/// A client for buckets that is signed in with this token.
pub async fn storage(token: Token, provider: &str) -> Result<Storage, vercel_runtime::Error> {
    let subject = ProgrammaticBuilder::new(Arc::new(Subject(token))).with_audience(provider);
    let credentials = subject.with_subject_token_type("urn:ietf:params:oauth:token-type:jwt").build()?;
    credentials.headers(http::Extensions::new()).await?; // Signs in now, so that an error is not kept.
    Ok(Storage::builder().with_credentials(credentials).build().await?)
}
