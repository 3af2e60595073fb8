//! A token cache with single flight.
//!
//! Guarantees: one `obtain` at a time for a key, whose result or failure all waiting requests share. At most `capacity`
//! entries are held, those in flight included; no token is returned after its time in the cache. After a failure, the
//! next `obtain` for that key waits: a second, doubling up to `max_wait`; until then, the failure is the answer. The work
//! runs in its own task, so an abandoned request does not stop it. Expiry goes by the wall clock, as a token's `exp`
//! does, because a monotonic clock may stop while a function is frozen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::error::TokenError;
use crate::token::Token;

/// A pair of texts: a token and an audience, or a project and a team.
pub(crate) type Key = (Arc<str>, Arc<str>);

/// A token, and until when it is cached, if at all.
pub(crate) type Obtained = (Token, Option<SystemTime>);

/// A failure has the time at which it occurred.
type Outcome = Result<Obtained, (TokenError, SystemTime)>;

const FIRST_WAIT: Duration = Duration::from_secs(1);

struct Entry {
    /// `None` while the work is in flight.
    outcome: watch::Receiver<Option<Outcome>>,
    /// How many attempts in a row had failed before this one.
    failures: u32,
}

enum State {
    InFlight,
    /// The outcome is the answer until then.
    Usable(SystemTime),
    /// The failure is over, but the next wait depends on it.
    Remembered(SystemTime),
    Over,
}

pub(crate) struct Cache {
    // A std mutex: never held across an await.
    entries: Mutex<HashMap<Key, Entry>>,
    capacity: usize,
    max_wait: Duration,
}

impl Cache {
    /// If `max_wait` is zero, failures are not cached.
    pub(crate) fn new(capacity: usize, max_wait: Duration) -> Self {
        Self { entries: Mutex::default(), capacity, max_wait }
    }

    /// What is cached under `key`, else the result of the `obtain` in flight for `key`. If there is neither, this runs
    /// `obtain`.
    pub(crate) async fn get<F>(
        &self,
        key: Key,
        now: impl Fn() -> SystemTime + Send + 'static,
        obtain: impl FnOnce() -> F,
    ) -> Result<Token, TokenError>
    where
        F: Future<Output = Result<Obtained, TokenError>> + Send + 'static,
    {
        let mut outcome = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            let time = now();
            let (usable, failures) = match entries.get(&key).map(|entry| (entry, self.state(entry, time))) {
                Some((entry, State::InFlight | State::Usable(_))) => (Some(entry.outcome.clone()), 0),
                Some((entry, State::Remembered(_))) => (None, entry.failures.saturating_add(1)),
                Some((_, State::Over)) | None => (None, 0),
            };
            usable.unwrap_or_else(|| {
                entries.remove(&key);
                self.make_room(&mut entries, time);
                let (sender, outcome) = watch::channel(None);
                let work = obtain();
                tokio::spawn(async move {
                    let outcome = work.await.map_err(|error| (error, now()));
                    sender.send_replace(Some(outcome));
                });
                // If everything in the cache is in flight, this request's result is for this request alone.
                if entries.len() < self.capacity {
                    entries.insert(key, Entry { outcome: outcome.clone(), failures });
                }
                outcome
            })
        };
        match outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Ok((token, _)))) => Ok(token.clone()),
            Ok(Some(Err((error, _)))) => Err(error.clone()),
            // The task has panicked.
            Ok(None) | Err(_) => Err(TokenError::Interrupted),
        }
    }

    /// Drops what is over, and if the cache is still full, the entry that would end first.
    fn make_room(&self, entries: &mut HashMap<Key, Entry>, now: SystemTime) {
        entries.retain(|_, entry| !matches!(self.state(entry, now), State::Over));
        if entries.len() >= self.capacity {
            let ends = entries.iter().filter_map(|(key, entry)| match self.state(entry, now) {
                State::Usable(end) | State::Remembered(end) => Some((end, key)),
                State::InFlight | State::Over => None,
            });
            if let Some(key) = ends.min().map(|(_, key)| key.clone()) {
                entries.remove(&key);
            }
        }
    }

    /// Drops this token from the cache.
    pub(crate) fn remove(&self, token: &Token) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(
            |_, entry| !matches!(&*entry.outcome.borrow(), Some(Ok((cached, _))) if cached.expose() == token.expose()),
        );
    }

    fn state(&self, entry: &Entry, now: SystemTime) -> State {
        match &*entry.outcome.borrow() {
            // The sender of work that has panicked is gone.
            None if entry.outcome.has_changed().is_err() => State::Over,
            None => State::InFlight,
            Some(Ok((_, until))) => until.filter(|until| *until > now).map_or(State::Over, State::Usable),
            Some(Err((_, failed_at))) => {
                let wait = FIRST_WAIT.saturating_mul(1 << entry.failures.min(31)).min(self.max_wait);
                // A clock that was set back must not prolong the wait.
                match now.duration_since(*failed_at) {
                    Ok(passed) if passed < wait => State::Usable(*failed_at + wait),
                    Ok(passed) if passed < wait + self.max_wait => State::Remembered(*failed_at + wait),
                    Ok(_) | Err(_) => State::Over,
                }
            }
        }
    }
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

    /// A time that stands still.
    fn at(seconds: u64) -> impl Fn() -> SystemTime + Copy + Send + 'static {
        move || UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn cache(capacity: usize) -> Cache {
        Cache::new(capacity, Duration::ZERO)
    }

    fn token(name: &str) -> Token {
        Token::parse(&format!("e30.e30.{}", URL_SAFE_NO_PAD.encode(name)), Source::Header).unwrap()
    }

    fn key(first: &str, second: &str) -> Key {
        (first.into(), second.into())
    }

    fn obtained(name: &str, until: Option<u64>) -> impl FnOnce() -> std::future::Ready<Result<Obtained, TokenError>> {
        let obtained = (token(name), until.map(|until| at(until)()));
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
        let (cache, key) = (cache(2), key("a", ""));
        assert_eq!(shown(cache.get(key.clone(), at(10), obtained("first", Some(100))).await), "first");
        assert_eq!(shown(cache.get(key.clone(), at(99), never).await), "first");
        assert_eq!(shown(cache.get(key.clone(), at(100), obtained("second", None)).await), "second");
        assert_eq!(shown(cache.get(key, at(100), obtained("third", None)).await), "third");
    }

    #[tokio::test]
    async fn a_full_cache_drops_expired_tokens_and_then_the_one_that_expires_first() {
        let cache = cache(1000);
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
        let cache = cache(2);
        cache.get(key("a", ""), at(0), obtained("a", Some(100))).await.unwrap();
        cache.get(key("b", ""), at(0), obtained("b", Some(100))).await.unwrap();
        cache.remove(&token("a"));
        assert_eq!(shown(cache.get(key("a", ""), at(0), obtained("again", None)).await), "again");
        assert_eq!(shown(cache.get(key("b", ""), at(0), never).await), "b");
    }

    #[tokio::test]
    async fn all_who_wait_share_a_result_or_a_failure_which_is_not_cached() {
        for result in [Ok((token("shared"), None)), Err(TokenError::Missing)] {
            let (cache, gate) = (Arc::new(cache(2)), Arc::new(Semaphore::new(0)));
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
        let (cache, gate, begun) = (Arc::new(cache(2)), Arc::new(Notify::new()), Arc::new(Notify::new()));
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
        let (cache, key) = (cache(2), key("a", ""));
        let panics = || async { panic!("on purpose") };
        assert!(matches!(cache.get(key.clone(), at(0), panics).await, Err(TokenError::Interrupted)));
        assert_eq!(shown(cache.get(key, at(0), obtained("later", None)).await), "later");
    }

    #[tokio::test]
    async fn one_key_does_not_wait_for_another() {
        let cache = Arc::new(cache(2));
        let stuck = Arc::clone(&cache);
        let stuck = tokio::spawn(async move { stuck.get(key("a", "b"), at(0), pending).await });
        while cache.entries.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(shown(cache.get(key("ab", ""), at(0), obtained("other", None)).await), "other");
        stuck.abort();
    }

    #[tokio::test]
    async fn a_full_cache_holds_no_more_than_its_capacity_also_with_all_in_flight() {
        let (cache, gate) = (Arc::new(cache(1000)), Arc::new(Semaphore::new(0)));
        let runs = Arc::new(AtomicUsize::new(0));
        let mut waiting = tokio::task::JoinSet::new();
        for number in 0..1500_u64 {
            let (cache, gate, runs) = (Arc::clone(&cache), Arc::clone(&gate), Arc::clone(&runs));
            waiting.spawn(async move {
                let name = number.to_string();
                let obtained = (token(&name), Some(at(100 + number)()));
                let obtain = || async move {
                    runs.fetch_add(1, Ordering::SeqCst);
                    let _open = gate.acquire().await;
                    Ok(obtained)
                };
                assert_eq!(shown(cache.get(key(&name, ""), at(0), obtain).await), name);
            });
        }
        while runs.load(Ordering::SeqCst) < 1500 {
            tokio::task::yield_now().await;
        }
        assert_eq!(cache.entries.lock().unwrap().len(), 1000);
        gate.add_permits(1500);
        waiting.join_all().await;
        assert_eq!(cache.entries.lock().unwrap().len(), 1000);
        // The next one takes the place of the one that expires first.
        cache.get(key("new", ""), at(0), obtained("new", Some(9000))).await.unwrap();
        assert_eq!(cache.entries.lock().unwrap().len(), 1000);
        assert_eq!(shown(cache.get(key("1", ""), at(0), never).await), "1");
    }

    #[tokio::test]
    async fn a_failure_is_the_answer_for_a_second_doubling_to_thirty() {
        let cache = Cache::new(2, Duration::from_secs(30));
        let runs = AtomicUsize::new(0);
        let call = async |seconds| {
            let obtain = || {
                runs.fetch_add(1, Ordering::SeqCst);
                ready(Err(TokenError::Missing))
            };
            cache.get(key("a", ""), at(seconds), obtain).await.unwrap_err();
            runs.load(Ordering::SeqCst)
        };
        let mut failed_at = 1000;
        assert_eq!(call(failed_at).await, 1);
        for (attempt, wait) in [1, 2, 4, 8, 16, 30, 30].into_iter().enumerate() {
            assert_eq!(call(failed_at + wait - 1).await, attempt + 1, "{wait} s");
            failed_at += wait;
            assert_eq!(call(failed_at).await, attempt + 2, "{wait} s");
        }
        // Another key does not wait, and a success ends the waiting.
        assert_eq!(shown(cache.get(key("b", ""), at(failed_at), obtained("b", Some(9000))).await), "b");
        failed_at += 30;
        assert_eq!(shown(cache.get(key("a", ""), at(failed_at), obtained("a", None)).await), "a");
        assert_eq!(call(failed_at).await, 9);
        assert_eq!(call(failed_at + 1).await, 10);
        // A failure that is long over is forgotten, and a clock that was set back prolongs nothing.
        assert_eq!(call(failed_at + 500).await, 11);
        assert_eq!(call(failed_at + 501).await, 12);
        assert_eq!(call(failed_at + 400).await, 13);
    }

    #[tokio::test]
    async fn failures_take_no_more_than_the_capacity() {
        let cache = Cache::new(10, Duration::from_secs(30));
        for number in 0..100 {
            let fails = || ready(Err(TokenError::Missing));
            cache.get(key(&number.to_string(), ""), at(0), fails).await.unwrap_err();
        }
        assert_eq!(cache.entries.lock().unwrap().len(), 10);
    }
}
