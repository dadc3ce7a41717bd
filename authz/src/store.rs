//! Where the current engine is found, and replaced while calls are decided.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

use crate::engine::Engine;

/// A handle on the current engine. Clones share it.
///
/// Reading takes no lock. Replacing does not wait for readers: a call that has taken the old
/// engine finishes with it.
#[derive(Clone, Debug, Default)]
pub struct PolicyStore(Arc<ArcSwapOption<Engine>>);

impl PolicyStore {
    /// A store without policies: nothing can be decided, so everything is to be refused.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// A store that holds this engine.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        let store = Self::default();
        store.replace(engine);
        store
    }

    /// The engine to decide this call with; none until the first policies are loaded.
    ///
    /// It is borrowed for the decision, so that threads which decide at once do not write to one
    /// counter of references; [`Guard::into_inner`] keeps it for longer.
    #[must_use]
    pub fn current(&self) -> Guard<Option<Arc<Engine>>> {
        self.0.load()
    }

    /// Makes `engine` the current one.
    pub fn replace(&self, engine: Engine) {
        self.share(Arc::new(engine));
    }

    /// Makes an engine the current one that others may hold as well.
    pub fn share(&self, engine: Arc<Engine>) {
        self.0.store(Some(engine));
    }
}
