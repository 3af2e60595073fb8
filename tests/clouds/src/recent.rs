//! A value that is kept for ten minutes.

use std::time::{Duration, SystemTime};

/// Shorter than the least time for which the token of a request is valid.
const AGE: Duration = Duration::from_secs(10 * 60);

pub struct Recent<T>(tokio::sync::Mutex<Option<(SystemTime, T)>>);

impl<T: Clone> Recent<T> {
    pub async fn get<E>(&self, now: SystemTime, make: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let mut held = self.0.lock().await;
        match &*held {
            Some((since, value)) if now.duration_since(*since).is_ok_and(|age| age < AGE) => Ok(value.clone()),
            _ => Ok(held.insert((now, make.await?)).1.clone()),
        }
    }
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(tokio::sync::Mutex::new(None))
    }
}
