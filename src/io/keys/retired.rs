//! What was replaced and may still be in use. Decides when it is let go: once nobody else holds it, so that the thread
//! that replaced it frees it, and never a request's.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Replaced values that are kept waiting; then the oldest is left to whoever holds it. Nobody holds one for longer
/// than a request's few instructions, so there is never more than one in practice.
const MAX_HELD: usize = 4;
/// How often, and how many times, a value is asked for at once; else again after the next look.
const ASK_AGAIN: Duration = Duration::from_millis(1);
const ASKED_AT_MOST: u32 = 10;

/// Replaced values.
pub(super) struct Retired<T>(Vec<Arc<T>>);

impl<T> Default for Retired<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Retired<T> {
    /// Keeps a value that nobody can get hold of any more but those who have it.
    pub(super) fn keep(&mut self, value: Arc<T>) {
        if self.0.len() >= MAX_HELD {
            drop(self.0.remove(0));
        }
        self.0.push(value);
    }

    /// Hands what nobody holds any more to `free`.
    pub(super) fn sweep(&mut self, mut free: impl FnMut(T)) {
        for _ in 0..ASKED_AT_MOST {
            // Once the count is one it stays so: there is no other way to the value than ours.
            while let Some(at) = self.0.iter().position(|value| Arc::strong_count(value) == 1) {
                if let Some(value) = Arc::into_inner(self.0.swap_remove(at)) {
                    free(value);
                }
            }
            if self.0.is_empty() {
                return;
            }
            thread::sleep(ASK_AGAIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_still_held_is_not_freed_and_what_is_not_is() {
        let mut retired = Retired::default();
        let (held, free) = (Arc::new(1), Arc::new(2));
        retired.keep(Arc::clone(&held));
        retired.keep(free);
        let mut freed = Vec::new();
        retired.sweep(|value| freed.push(value));
        assert_eq!(freed, [2], "only what nobody else holds");
        drop(held);
        retired.sweep(|value| freed.push(value));
        assert_eq!(freed, [2, 1], "and the other when it is let go");
    }
}
