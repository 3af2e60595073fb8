//! The issuer's keys: static, or fetched and refreshed.
//!
//! This file is the facade. `policy.rs` decides when keys are fetched and which keys serve, `fetches.rs` runs the fetches,
//! and `endpoint.rs` is one fetch over HTTPS.

#[cfg(feature = "reqwest")]
mod endpoint;
mod fetches;
mod policy;
#[cfg(all(test, feature = "reqwest"))]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use self::fetches::{Document, Fetches, log_skipped};
use self::policy::Moment;
pub(crate) use self::policy::NoKey;
use crate::error::KeySetError;
use crate::jwk::{Key, Keys};

/// The keys of one issuer. Clones share them.
#[derive(Clone, Debug)]
pub struct KeySet(Source);

#[derive(Clone, Debug)]
enum Source {
    Static(Arc<Keys>),
    Fetched(Arc<Fetches>),
}

impl KeySet {
    /// The keys that an issuer publishes at its URL plus `/.well-known/jwks`, as Vercel does.
    ///
    /// Nothing is fetched before [`prefetch`](Self::prefetch), [`ready`](Self::ready) or the first token.
    ///
    /// ```
    /// use vercel_oidc_verifier::KeySet;
    ///
    /// let keys = KeySet::of_issuer("https://oidc.vercel.com/acme")?;
    /// # Ok::<_, vercel_oidc_verifier::KeySetError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`KeySetError::Url`]: the URL is neither `https` nor `http` to a loopback host.
    #[cfg(feature = "reqwest")]
    pub fn of_issuer(issuer: &str) -> Result<Self, KeySetError> {
        Self::from_url(&format!("{}/.well-known/jwks", issuer.trim_end_matches('/')))
    }

    /// The keys at this URL: a JWK Set (RFC 7517, section 5).
    ///
    /// # Errors
    ///
    /// [`KeySetError::Url`]: the URL is neither `https` nor `http` to a loopback host.
    #[cfg(feature = "reqwest")]
    pub fn from_url(url: &str) -> Result<Self, KeySetError> {
        let endpoint = Arc::new(endpoint::Endpoint::new(url)?);
        let origin = endpoint.url_for_log();
        let fetch = move || Arc::clone(&endpoint).fetch();
        Ok(Self(Source::Fetched(Arc::new(Fetches::new(origin, Box::new(move || Box::pin(fetch())))))))
    }

    /// Keys from a source of your own, for example another HTTP client. `fetch` returns a JWK Set (RFC 7517, section 5).
    ///
    /// When it is called, what a failure means, and which keys are usable is as for [`from_url`](Self::from_url): it may
    /// take 5 seconds, and the document may have 256 KiB. Only the source decides whom the API trusts, so it must be
    /// authenticated: HTTPS, without redirects.
    ///
    /// ```
    /// use std::time::SystemTime;
    /// use vercel_oidc_verifier::KeySet;
    ///
    /// async fn document() -> std::io::Result<Vec<u8>> {
    ///     Err(std::io::Error::other("my client's error"))
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let keys = KeySet::fetched_by(document);
    /// assert!(!keys.ready(SystemTime::now()).await);
    /// # }
    /// ```
    pub fn fetched_by<F, D, E>(fetch: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<D, E>> + Send + 'static,
        D: Into<Vec<u8>>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let fetch = Box::new(move || -> Pin<Box<dyn Future<Output = Document> + Send>> {
            let document = fetch();
            Box::pin(async { document.await.map(Into::into).map_err(Into::into) })
        });
        Self(Source::Fetched(Arc::new(Fetches::new("a source of the program's own".to_owned(), fetch))))
    }

    /// The keys of this JWK Set, which never change. For tests, and for programs that ship keys.
    ///
    /// # Errors
    ///
    /// [`KeySetError::Document`]: the document has no usable key.
    pub fn from_jwks(document: &[u8]) -> Result<Self, KeySetError> {
        let (keys, skipped) = Keys::parse(document).map_err(|error| KeySetError::Document(error.into()))?;
        log_skipped(&skipped);
        Ok(Self(Source::Static(Arc::new(keys))))
    }

    /// Starts a fetch in the background, unless usable keys are held or the last fetch failed just now.
    ///
    /// Outside of a tokio runtime, the fetch fails, and the log says why.
    pub fn prefetch(&self, now: SystemTime) {
        if let Source::Fetched(fetches) = &self.0 {
            fetches.prefetch(Moment::at(now));
        }
    }

    /// Returns whether usable keys are held. If the keys are not fresh, this starts a fetch; it waits for the fetch
    /// only if no usable keys are held.
    ///
    /// Outside of a tokio runtime, a fetch fails, and the log says why.
    pub async fn ready(&self, now: SystemTime) -> bool {
        match &self.0 {
            Source::Static(_) => true,
            Source::Fetched(fetches) => fetches.ready(Moment::at(now)).await,
        }
    }

    /// The least time until [`ready`](Self::ready) can change from false to true.
    pub fn retry_after(&self, now: SystemTime) -> Duration {
        match &self.0 {
            Source::Static(_) => Duration::ZERO,
            Source::Fetched(fetches) => fetches.time_to_next_fetch(Moment::at(now)),
        }
    }

    pub(crate) async fn key(&self, kid: &str, now: SystemTime) -> Result<Arc<Key>, NoKey> {
        match &self.0 {
            Source::Static(keys) => keys.get(kid).cloned().ok_or(NoKey::Unknown),
            Source::Fetched(fetches) => fetches.key(kid, Moment::at(now)).await,
        }
    }
}
