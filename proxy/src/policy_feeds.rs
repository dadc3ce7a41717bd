//! The policies in force, as each version of each listener decides with them.
//!
//! Every listener has a store of its own, so that connections that finish under an earlier
//! configuration can be left with the policies that belong to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use wayleave_authz::{Engine, PolicyStore};

/// Where policies come from; a later one takes the place of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourceId(u64);

/// Everybody who decides with the policies in force. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct PolicyFeeds(Arc<Mutex<Feeds>>);

#[derive(Debug, Default)]
struct Feeds {
    source: u64,
    engine: Option<Arc<Engine>>,
    fed: Vec<(u64, PolicyStore)>,
    next: u64,
}

/// One store that is kept up to date, until it is frozen or this is dropped.
#[derive(Debug)]
pub(crate) struct Feed {
    store: PolicyStore,
    key: u64,
    feeds: Weak<Mutex<Feeds>>,
}

impl Feed {
    /// What is decided with.
    pub(crate) fn store(&self) -> &PolicyStore {
        &self.store
    }

    /// Leaves the store as it is from now on.
    pub(crate) fn freeze(&self) {
        if let Some(feeds) = self.feeds.upgrade() {
            lock(&feeds).fed.retain(|(key, _)| *key != self.key);
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.freeze();
    }
}

impl PolicyFeeds {
    /// A store with the policies in force, and with those to come.
    pub(crate) fn subscribe(&self) -> Feed {
        let mut feeds = lock(&self.0);
        let store = PolicyStore::empty();
        if let Some(engine) = &feeds.engine {
            store.share(Arc::clone(engine));
        }
        feeds.next += 1;
        let key = feeds.next;
        feeds.fed.push((key, store.clone()));
        Feed {
            store,
            key,
            feeds: Arc::downgrade(&self.0),
        }
    }

    /// Begins another source; what an earlier one still brings is not taken.
    pub(crate) fn other_source(&self) -> SourceId {
        let mut feeds = lock(&self.0);
        feeds.source += 1;
        SourceId(feeds.source)
    }

    /// Whether policies come from this source.
    pub(crate) fn is_fed_by(&self, source: SourceId) -> bool {
        lock(&self.0).source == source.0
    }

    /// Puts policies in force; false when they come from an earlier source.
    pub(crate) fn adopt(&self, source: SourceId, engine: Arc<Engine>) -> bool {
        let mut feeds = lock(&self.0);
        if feeds.source != source.0 {
            return false;
        }
        for (_, store) in &feeds.fed {
            store.share(Arc::clone(&engine));
        }
        feeds.engine = Some(engine);
        true
    }
}

fn lock(feeds: &Mutex<Feeds>) -> MutexGuard<'_, Feeds> {
    feeds.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wayleave_authz::Inputs;
    use wayleave_authz::load::PolicyFile;

    fn engine(id: &str) -> Arc<Engine> {
        let text = format!("@id(\"{id}\") permit (principal, action, resource);");
        let policies = vec![PolicyFile {
            name: "p.cedar".into(),
            text,
        }];
        Arc::new(Engine::load(&Inputs { policies }).unwrap())
    }

    fn revision(feed: &Feed) -> String {
        feed.store().current().unwrap().revision().to_string()
    }

    #[test]
    fn a_store_is_fed_until_it_is_frozen() {
        let feeds = PolicyFeeds::default();
        let source = feeds.other_source();
        assert!(feeds.adopt(source, engine("a")));
        let (kept, left) = (feeds.subscribe(), feeds.subscribe());
        let (before, frozen) = (revision(&kept), left.store().clone());
        left.freeze();
        assert!(feeds.adopt(source, engine("b")));
        assert_ne!(revision(&kept), before);
        assert_eq!(frozen.current().unwrap().revision().to_string(), before);
    }

    #[test]
    fn policies_of_an_earlier_source_are_not_taken() {
        let feeds = PolicyFeeds::default();
        let earlier = feeds.other_source();
        let feed = feeds.subscribe();
        let later = feeds.other_source();
        assert!(feeds.adopt(later, engine("b")));
        let in_force = revision(&feed);
        assert!(!feeds.adopt(earlier, engine("a")));
        assert!(!feeds.is_fed_by(earlier) && feeds.is_fed_by(later));
        assert_eq!(revision(&feed), in_force);
    }
}
