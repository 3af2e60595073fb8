//! AWS: a role that the function assumes with its token.

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::{credential_fn::provide_credentials_fn, provider::error::CredentialsError};
use aws_sdk_sts::config::{Credentials, SharedCredentialsProvider};
use vercel_oidc_client::Tokens;

/// The configuration for the clients of all AWS services. Make it once, because it caches the role's credentials.
pub async fn config(tokens: Tokens, role: &'static str, region: Region) -> SdkConfig {
    let config = aws_config::defaults(BehaviorVersion::latest()).region(region).no_credentials().load().await;
    let sts = aws_sdk_sts::Client::new(&config);
    let assume = move || {
        let (tokens, request) = (tokens.clone(), sts.assume_role_with_web_identity().role_arn(role));
        async move {
            let token = tokens.current().await.map_err(CredentialsError::provider_error)?;
            let request = request.role_session_name("storefront").web_identity_token(token.expose());
            let answer = request.send().await.map_err(CredentialsError::provider_error)?;
            let new = answer.credentials.ok_or_else(|| CredentialsError::unhandled("STS gave no credentials"))?;
            let expiry = new.expiration.try_into().map_err(CredentialsError::unhandled)?;
            Ok(Credentials::new(new.access_key_id, new.secret_access_key, Some(new.session_token), Some(expiry), "STS"))
        }
    };
    config.to_builder().credentials_provider(SharedCredentialsProvider::new(provide_credentials_fn(assume))).build()
}
