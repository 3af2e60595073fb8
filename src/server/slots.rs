//! A limited number of slots. If all are taken, the newcomer takes the slot that its holder needs least.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::time::Instant;

/// What can hold a slot.
pub(super) trait Evictable {
    /// Since when another may take the slot. `None` while it may not.
    fn evictable_since(&self) -> Option<Instant>;

    /// Another has taken the slot.
    fn evict(&self);
}

/// Each holder keeps its slot until it is dropped or evicted.
pub(super) struct Slots<T> {
    max: usize,
    holders: Mutex<Vec<Weak<T>>>,
}

impl<T: Evictable> Slots<T> {
    pub(super) fn new(max: usize) -> Self {
        Self { max, holders: Mutex::default() }
    }

    /// Takes a slot for this holder. If all are taken, the holder that has been evictable longest loses its slot. If
    /// there is no such holder, this returns `false`.
    pub(super) fn take(&self, holder: &Arc<T>) -> bool {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        if holders.len() >= self.max {
            holders.retain(|other| other.strong_count() > 0);
        }
        if holders.len() >= self.max {
            let since = |other: &Weak<T>| other.upgrade()?.evictable_since();
            let evictable = holders.iter().enumerate().filter_map(|(index, other)| Some((since(other)?, index)));
            let Some((_, index)) = evictable.min() else {
                return false;
            };
            if let Some(other) = holders.swap_remove(index).upgrade() {
                other.evict();
            }
        }
        holders.push(Arc::downgrade(holder));
        true
    }

    /// The present holders.
    pub(super) fn holders(&self) -> Vec<Arc<T>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }
}
