//! A value from files, kept equal to them as long as they are good.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;

use crate::file_watch::FileWatch;

type Load<T> = dyn Fn() -> Result<T, String> + Send + Sync;

/// The latest good value.
pub(super) struct Watched<T> {
    value: ArcSwap<T>,
    load: Box<Load<T>>,
}

impl<T: PartialEq + Send + Sync + 'static> Watched<T> {
    /// Reads the value, and again whenever its files may have changed, until dropped. To be
    /// called on a runtime.
    ///
    /// # Errors
    /// When the first value is not to be had.
    pub(super) fn open<E: Display>(
        paths: &[PathBuf],
        load: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, E> {
        let value = ArcSwap::from_pointee(load()?);
        let load = Box::new(move || load().map_err(|error| error.to_string()));
        let watched = Arc::new(Self { value, load });
        tokio::spawn(follow(Arc::downgrade(&watched), FileWatch::of(paths)));
        Ok(watched)
    }

    /// The value.
    pub(super) fn current(&self) -> Arc<T> {
        self.value.load_full()
    }

    /// Reads it now.
    pub(super) async fn reload(self: &Arc<Self>) -> Result<(), String> {
        let own = Arc::clone(self);
        let loaded = tokio::task::spawn_blocking(move || (own.load)()).await;
        let next = loaded.unwrap_or_else(|_| Err("reading it panicked".to_owned()))?;
        if *self.value.load_full() != next {
            self.value.store(Arc::new(next));
        }
        Ok(())
    }
}

async fn follow<T: PartialEq + Send + Sync + 'static>(whose: Weak<Watched<T>>, watch: FileWatch) {
    let mut told = None;
    loop {
        watch.perhaps_changed().await;
        let Some(watched) = whose.upgrade() else {
            return;
        };
        match watched.reload().await {
            Ok(()) => told = None,
            Err(error) if told.as_ref() != Some(&error) => {
                tracing::error!(
                    error,
                    "a file of `signals.ssf` cannot be used; what was read last stays"
                );
                told = Some(error);
            }
            Err(_) => {}
        }
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}
