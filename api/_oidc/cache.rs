//! A token cache with single flight.
//!
//! Guarantees: one `obtain` at a time for a key, whose result or failure all waiting requests share. At most `capacity`
//! tokens are cached, no token is returned after its time in the cache, and a failure is not cached. The work runs in
//! its own task, so an abandoned request does not stop it. Expiry goes by the wall clock, as a token's `exp` does,
//! because a monotonic clock may stop while a function is frozen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::error::TokenError;
use crate::token::Token;

/// A pair of texts: a token and an audience, or a project and a team.
pub(crate) type Key = (Arc<str>, Arc<str>);

/// A token, and until when it is cached, if at all.
pub(crate) type Obtained = (Token, Option<SystemTime>);

/// `None` while the work is in flight.
type Entry = watch::Receiver<Option<Result<Obtained, TokenError>>>;

pub(crate) struct Cache {
    // A std mutex: never held across an await.
    entries: Mutex<HashMap<Key, Entry>>,
    capacity: usize,
}

impl Cache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: Mutex::default(), capacity }
    }

    /// The token cached under `key`, else the result of the `obtain` in flight for `key`. If there is neither, this
    /// runs `obtain`.
    pub(crate) async fn get<F>(
        &self,
        key: Key,
        now: SystemTime,
        obtain: impl FnOnce() -> F,
    ) -> Result<Token, TokenError>
    where
        F: Future<Output = Result<Obtained, TokenError>> + Send + 'static,
    {
        let mut entry = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            match entries.get(&key).filter(|entry| is_usable(entry, now)) {
                Some(entry) => entry.clone(),
                None => {
                    entries.retain(|_, entry| is_usable(entry, now));
                    if entries.len() >= self.capacity {
                        let expires_first = entries.iter().filter_map(|(key, entry)| Some((until(entry)?, key))).min();
                        if let Some(key) = expires_first.map(|(_, key)| key.clone()) {
                            entries.remove(&key);
                        }
                    }
                    let (sender, entry) = watch::channel(None);
                    let work = obtain();
                    tokio::spawn(async move { sender.send_replace(Some(work.await)) });
                    entries.insert(key, entry.clone());
                    entry
                }
            }
        };
        match entry.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Ok((token, _)))) => Ok(token.clone()),
            Ok(Some(Err(error))) => Err(error.clone()),
            // The task has panicked.
            Ok(None) | Err(_) => Err(TokenError::Interrupted),
        }
    }

    /// Drops this token from the cache.
    pub(crate) fn remove(&self, token: &Token) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .retain(|_, entry| !matches!(&*entry.borrow(), Some(Ok((cached, _))) if cached.expose() == token.expose()));
    }
}

/// Until when the entry's token is cached. `None` if the entry is in flight, has failed, or is not to be cached.
fn until(entry: &Entry) -> Option<SystemTime> {
    entry.borrow().as_ref()?.as_ref().ok()?.1
}

fn is_usable(entry: &Entry, now: SystemTime) -> bool {
    // The sender of work that has panicked is gone.
    let is_in_flight = |entry: &Entry| entry.borrow().is_none() && entry.has_changed().is_ok();
    until(entry).is_some_and(|until| until > now) || is_in_flight(entry)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::future::{pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, UNIX_EPOCH};

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use tokio::sync::{Notify, Semaphore};

    use super::*;
    use crate::token::Source;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn token(name: &str) -> Token {
        Token::parse(&format!("e30.e30.{}", URL_SAFE_NO_PAD.encode(name)), Source::Header).unwrap()
    }

    fn key(first: &str, second: &str) -> Key {
        (first.into(), second.into())
    }

    fn obtained(name: &str, until: Option<u64>) -> impl FnOnce() -> std::future::Ready<Result<Obtained, TokenError>> {
        let obtained = (token(name), until.map(at));
        move || ready(Ok(obtained))
    }

    fn never() -> std::future::Ready<Result<Obtained, TokenError>> {
        panic!("the token is cached, so this must not run")
    }

    fn shown(result: Result<Token, TokenError>) -> String {
        let text = |token: Token| String::from_utf8(URL_SAFE_NO_PAD.decode(&token.expose()[8..]).unwrap()).unwrap();
        result.map_or_else(|error| error.to_string(), text)
    }

    #[tokio::test]
    async fn a_token_is_cached_until_its_time_and_not_a_moment_longer() {
        let (cache, key) = (Cache::new(2), key("a", ""));
        assert_eq!(shown(cache.get(key.clone(), at(10), obtained("first", Some(100))).await), "first");
        assert_eq!(shown(cache.get(key.clone(), at(99), never).await), "first");
        assert_eq!(shown(cache.get(key.clone(), at(100), obtained("second", None)).await), "second");
        assert_eq!(shown(cache.get(key, at(100), obtained("third", None)).await), "third");
    }

    #[tokio::test]
    async fn a_full_cache_drops_expired_tokens_and_then_the_one_that_expires_first() {
        let cache = Cache::new(1000);
        for number in 0..3000_u64 {
            let name = number.to_string();
            cache.get(key(&name, ""), at(0), obtained(&name, Some(1000 + number))).await.unwrap();
        }
        assert_eq!(cache.entries.lock().unwrap().len(), 1000);
        assert_eq!(shown(cache.get(key("2000", ""), at(0), never).await), "2000");
        assert_eq!(shown(cache.get(key("1999", ""), at(0), obtained("again", None)).await), "again");
        cache.get(key("last", ""), at(3500), obtained("last", Some(9000))).await.unwrap();
        assert_eq!(cache.entries.lock().unwrap().len(), 500);
    }

    #[tokio::test]
    async fn a_removed_token_is_obtained_again_and_another_stays() {
        let cache = Cache::new(2);
        cache.get(key("a", ""), at(0), obtained("a", Some(100))).await.unwrap();
        cache.get(key("b", ""), at(0), obtained("b", Some(100))).await.unwrap();
        cache.remove(&token("a"));
        assert_eq!(shown(cache.get(key("a", ""), at(0), obtained("again", None)).await), "again");
        assert_eq!(shown(cache.get(key("b", ""), at(0), never).await), "b");
    }

    #[tokio::test]
    async fn all_who_wait_share_a_result_or_a_failure_which_is_not_cached() {
        for result in [Ok((token("shared"), None)), Err(TokenError::Missing)] {
            let (cache, gate) = (Arc::new(Cache::new(2)), Arc::new(Semaphore::new(0)));
            let (arrived, runs) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let expected = shown(result.clone().map(|(token, _)| token));
            let mut waiting = tokio::task::JoinSet::new();
            for _ in 0..200 {
                let (cache, gate, result) = (Arc::clone(&cache), Arc::clone(&gate), result.clone());
                let (arrived, runs) = (Arc::clone(&arrived), Arc::clone(&runs));
                waiting.spawn(async move {
                    let obtain = || async move {
                        runs.fetch_add(1, Ordering::SeqCst);
                        let _open = gate.acquire().await;
                        result
                    };
                    arrived.fetch_add(1, Ordering::SeqCst);
                    cache.get(key("a", ""), at(0), obtain).await
                });
            }
            // Nothing lies between the count and the wait, so on one thread all that are counted wait.
            while arrived.load(Ordering::SeqCst) < 200 || runs.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            gate.add_permits(200);
            assert!(waiting.join_all().await.into_iter().all(|result| shown(result) == expected));
            assert_eq!(runs.load(Ordering::SeqCst), 1);
            assert_eq!(shown(cache.get(key("a", ""), at(0), obtained("later", None)).await), "later");
        }
    }

    #[tokio::test]
    async fn the_work_goes_on_when_the_request_that_began_it_is_abandoned() {
        let (cache, gate, begun) = (Arc::new(Cache::new(2)), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (theirs, opened, began) = (Arc::clone(&cache), Arc::clone(&gate), Arc::clone(&begun));
        let first = tokio::spawn(async move {
            let obtain = || async move {
                began.notify_one();
                opened.notified().await;
                Ok((token("shared"), None))
            };
            theirs.get(key("a", ""), at(0), obtain).await
        });
        begun.notified().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        gate.notify_one();
        assert_eq!(shown(cache.get(key("a", ""), at(0), never).await), "shared");
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error_and_the_next_request_tries_again() {
        let (cache, key) = (Cache::new(2), key("a", ""));
        let panics = || async { panic!("on purpose") };
        assert!(matches!(cache.get(key.clone(), at(0), panics).await, Err(TokenError::Interrupted)));
        assert_eq!(shown(cache.get(key, at(0), obtained("later", None)).await), "later");
    }

    #[tokio::test]
    async fn one_key_does_not_wait_for_another() {
        let cache = Arc::new(Cache::new(2));
        let stuck = Arc::clone(&cache);
        let stuck = tokio::spawn(async move { stuck.get(key("a", "b"), at(0), pending).await });
        while cache.entries.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(shown(cache.get(key("ab", ""), at(0), obtained("other", None)).await), "other");
        stuck.abort();
    }
}
