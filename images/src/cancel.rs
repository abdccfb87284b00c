//! Stopping a build from another thread, such as the one that handles Ctrl-C.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    cancelled: bool,
    next: u64,
    hooks: BTreeMap<u64, Hook>,
}

/// Stops a build: every program it runs is killed, every wait ends, and `ensure` returns [`Error::Cancelled`].
#[derive(Clone, Default)]
pub struct Cancel(Arc<Mutex<State>>);

impl Cancel {
    /// A build that nobody has stopped yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the build. Safe to call at any time and more than once.
    pub fn cancel(&self) {
        let hooks = {
            let mut state = self.lock();
            state.cancelled = true;
            std::mem::take(&mut state.hooks)
        };
        for hook in hooks.into_values() {
            hook();
        }
    }

    /// Whether the build was stopped.
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Runs `hook` when the build is stopped, at once if it already is; forgotten when the guard is dropped.
    pub(crate) fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) -> CancelGuard {
        let mut state = self.lock();
        if state.cancelled {
            drop(state);
            hook();
            return CancelGuard {
                cancel: self.clone(),
                id: u64::MAX,
            };
        }
        let id = state.next;
        state.next += 1;
        state.hooks.insert(id, Box::new(hook));
        CancelGuard {
            cancel: self.clone(),
            id,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct CancelGuard {
    cancel: Cancel,
    id: u64,
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        let hook = self.cancel.lock().hooks.remove(&self.id);
        drop(hook);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn hooks_run_once_and_late_ones_at_once() {
        let cancel = Cancel::new();
        let count = Arc::new(AtomicU32::new(0));
        let add = |n: u32| {
            let count = Arc::clone(&count);
            move || {
                count.fetch_add(n, Ordering::SeqCst);
            }
        };
        let _kept = cancel.on_cancel(add(1));
        drop(cancel.on_cancel(add(10)));
        assert!(cancel.check().is_ok());
        cancel.cancel();
        cancel.cancel();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        let _late = cancel.on_cancel(add(100));
        assert_eq!(count.load(Ordering::SeqCst), 101);
        assert!(cancel.check().is_err_and(|error| error.is_cancelled()));
    }
}
