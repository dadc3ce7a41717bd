//! The policies in force: one store for the process, whoever decides, while the sources that
//! fill it take each other's place.
//!
//! What one version of a listener decides with is this store, and nothing of its own, until
//! another version takes its place: from then on a call that begins there is also asked for by
//! the policies that were in force at that moment ([`ListenerPolicies`]).

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::Guard;
use wayleave_authz::signals::SignalSet;
use wayleave_authz::{Decision, Engine, PolicyStore};

use crate::review::{Changes, Trigger};

/// Where policies come from; a later one takes the place of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SourceId(u64);

/// Brings policies into force, for everybody who decides. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct PolicySwitch {
    store: PolicyStore,
    changes: Arc<Changes>,
    /// The source whose policies are taken; locked while they are brought into force.
    source: Arc<Mutex<u64>>,
}

impl PolicySwitch {
    /// What is decided with.
    pub(crate) fn store(&self) -> &PolicyStore {
        &self.store
    }

    /// What is counted when other policies are in force.
    pub(crate) fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }

    /// Begins another source; what an earlier one still brings is not taken.
    pub(crate) fn other_source(&self) -> SourceId {
        let mut source = self.lock();
        *source += 1;
        SourceId(*source)
    }

    /// Whether policies come from this source.
    pub(crate) fn is_fed_by(&self, source: SourceId) -> bool {
        *self.lock() == source.0
    }

    /// Puts policies in force, for every call that begins and every one that is open; false when
    /// they come from an earlier source.
    pub(crate) fn adopt(&self, source: SourceId, engine: Arc<Engine>) -> bool {
        let latest = self.lock();
        if *latest != source.0 {
            return false;
        }
        self.store.share(engine);
        drop(latest);
        self.changes.happened(Trigger::PolicyChange);
        true
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one version of a listener decides with.
#[derive(Debug)]
pub(crate) struct ListenerPolicies {
    in_force: PolicyStore,
    /// What was in force when another version took the place of this one.
    last: OnceLock<Option<Arc<Engine>>>,
}

/// What one call that begins is decided with.
pub(crate) struct Deciding<'a> {
    in_force: Guard<Option<Arc<Engine>>>,
    last: Option<&'a Option<Arc<Engine>>>,
}

impl ListenerPolicies {
    /// Those of a version that new connections reach.
    pub(crate) fn new(in_force: &PolicyStore) -> Self {
        Self {
            in_force: in_force.clone(),
            last: OnceLock::new(),
        }
    }

    /// Those in force, for what is open already.
    pub(crate) fn current(&self) -> Guard<Option<Arc<Engine>>> {
        self.in_force.current()
    }

    /// For a call that begins.
    pub(crate) fn deciding(&self) -> Deciding<'_> {
        // SECURITY: in this order. Who sees policies that came after `leave` sees that as well.
        let in_force = self.in_force.current();
        let last = self.last.get();
        Deciding { in_force, last }
    }

    /// Another version takes the place of this one, before any other policies come into force.
    pub(crate) fn leave(&self) {
        self.last
            .get_or_init(|| Guard::into_inner(self.in_force.current()));
    }
}

impl Deciding<'_> {
    /// The policies in force.
    pub(crate) fn engine(&self) -> Option<&Engine> {
        // SECURITY: a version that was left without policies never had a call to allow.
        if matches!(self.last, Some(None)) {
            return None;
        }
        self.in_force.as_deref()
    }

    /// What they decide, and which of them: all have to allow.
    ///
    /// SECURITY: later policies may trust in a listener being gone. What was denied a caller there
    /// stays denied while its connection lasts.
    pub(crate) fn decide(
        &self,
        by: impl Fn(&Engine) -> Option<Decision>,
    ) -> Option<(&Engine, Decision)> {
        let engine = self.engine()?;
        let decision = by(engine)?;
        match self.last().filter(|_| decision.is_allow()) {
            None => Some((engine, decision)),
            Some(last) => match by(last)? {
                denied if !denied.is_allow() => Some((last, denied)),
                _ => Some((engine, decision)),
            },
        }
    }

    /// Other policies that have to allow the call too.
    pub(crate) fn last(&self) -> Option<&Engine> {
        let last = self.last?.as_ref()?;
        let in_force = self.in_force.as_ref();
        let same = in_force.is_some_and(|in_force| Arc::ptr_eq(in_force, last));
        (!same).then_some(&**last)
    }

    /// The signals that any of them reads.
    pub(crate) fn signals_read(&self) -> SignalSet {
        let engines = self.engine().into_iter().chain(self.last());
        let sets = engines.map(Engine::signals_read);
        sets.fold(SignalSet::EMPTY, SignalSet::union)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wayleave_authz::Inputs;
    use wayleave_authz::load::PolicyFile;

    fn engine(id: &str) -> Arc<Engine> {
        loaded(format!(
            "@id(\"{id}\") permit (principal, action, resource);"
        ))
    }

    fn loaded(text: String) -> Arc<Engine> {
        let policies = vec![PolicyFile {
            name: "p.cedar".into(),
            text,
        }];
        Arc::new(Engine::load(&Inputs { policies }).unwrap())
    }

    /// What is in force, and what else has to allow.
    fn asked(policies: &ListenerPolicies) -> (Option<String>, Option<String>) {
        let deciding = policies.deciding();
        let name = |engine: Option<&Engine>| engine.map(|engine| engine.revision().to_string());
        (name(deciding.engine()), name(deciding.last()))
    }

    fn revision(engine: &Engine) -> Option<String> {
        Some(engine.revision().to_string())
    }

    #[test]
    fn policies_come_into_force_for_all_and_are_counted() {
        let switch = PolicySwitch::default();
        let source = switch.other_source();
        let (stays, left) = (
            ListenerPolicies::new(switch.store()),
            ListenerPolicies::new(switch.store()),
        );
        let (a, b) = (engine("a"), engine("b"));
        assert!(switch.adopt(source, Arc::clone(&a)));
        left.leave();
        let before = switch.changes().count();
        assert!(switch.adopt(source, Arc::clone(&b)));
        assert_eq!(switch.changes().count(), before + 1);
        for policies in [&stays, &left] {
            let current = policies.current();
            assert!(Arc::ptr_eq(current.as_ref().unwrap(), &b));
        }
        assert_eq!(asked(&stays), (revision(&b), None));
    }

    #[test]
    fn a_version_that_was_left_asks_the_policies_of_that_moment_too() {
        let switch = PolicySwitch::default();
        let source = switch.other_source();
        let left = ListenerPolicies::new(switch.store());
        let [a, b, c] = ["a", "b", "c"].map(engine);
        switch.adopt(source, Arc::clone(&a));
        left.leave();
        assert_eq!(asked(&left), (revision(&a), None));
        switch.adopt(source, Arc::clone(&b));
        assert_eq!(asked(&left), (revision(&b), revision(&a)));
        // It is left once.
        left.leave();
        switch.adopt(source, Arc::clone(&c));
        assert_eq!(asked(&left), (revision(&c), revision(&a)));
    }

    #[test]
    fn a_version_that_was_left_without_policies_decides_nothing() {
        let switch = PolicySwitch::default();
        let left = ListenerPolicies::new(switch.store());
        left.leave();
        switch.adopt(switch.other_source(), engine("a"));
        assert_eq!(asked(&left), (None, None));
    }

    #[test]
    fn signals_that_either_reads_are_counted_where_both_are_asked() {
        let switch = PolicySwitch::default();
        let source = switch.other_source();
        let left = ListenerPolicies::new(switch.store());
        let slow = "@id(\"slow\") forbid (principal, action, resource) \
                    when { context.signals.calls_per_minute > 20 };";
        let slow = loaded(slow.to_owned());
        let reads = slow.signals_read();
        assert!(!reads.is_empty());
        switch.adopt(source, slow);
        left.leave();
        switch.adopt(source, engine("all"));
        assert_eq!(left.deciding().signals_read(), reads);
        let stays = ListenerPolicies::new(switch.store());
        assert!(stays.deciding().signals_read().is_empty());
    }

    #[test]
    fn policies_of_an_earlier_source_are_not_taken() {
        let switch = PolicySwitch::default();
        let earlier = switch.other_source();
        let later = switch.other_source();
        let b = engine("b");
        assert!(switch.adopt(later, Arc::clone(&b)));
        assert!(!switch.adopt(earlier, engine("a")));
        assert!(!switch.is_fed_by(earlier) && switch.is_fed_by(later));
        let current = switch.store().current();
        assert!(Arc::ptr_eq(current.as_ref().unwrap(), &b));
    }
}
