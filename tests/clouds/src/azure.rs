//! Azure: a managed identity or an app registration that accepts the function's token as its client assertion.

use azure_core::http::{ClientMethodOptions, Url};
use azure_core::{Error, error::ErrorKind};
use azure_identity::{ClientAssertion, ClientAssertionCredential};
use azure_storage_blob::BlobServiceClient;
use vercel_oidc_client::Tokens;

#[derive(Debug)]
struct Assertion(Tokens);

#[async_trait::async_trait]
impl ClientAssertion for Assertion {
    async fn secret(&self, _: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        let token = self.0.current().await.map_err(|error| Error::new(ErrorKind::Credential, error))?;
        Ok(token.expose().to_owned())
    }
}

/// A client for blobs. Make it once, because it caches Azure's access token.
pub fn blobs(tokens: Tokens, tenant: &str, client: &str, account: Url) -> azure_core::Result<BlobServiceClient> {
    let credential = ClientAssertionCredential::new(tenant.into(), client.into(), Assertion(tokens), None)?;
    BlobServiceClient::new(account, Some(credential), None)
}
