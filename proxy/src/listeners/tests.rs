//! The order of a change.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::path::Path;

use tokio::runtime::Handle;
use wayleave_authz::load::PolicyFile;
use wayleave_authz::{Engine, Inputs};
use wayleave_certs::IdentityPublisher;

use super::*;
use crate::config::{self, MaxMemory};
use crate::drain::Shutdown;
use crate::memory::Memory;
use crate::policy_switch::PolicySwitch;
use crate::record::metrics::Metrics;
use crate::record::{Queue, Recorder};
use crate::standing::Standing;
use crate::worker::Workers;

const TOP: &str = "\
identity: { files: { svid: svid.pem, key: key.pem, bundle: bundle.pem } }
policies: { paths: [policies] }
inbound:
";

fn wanted(listeners: &[(&str, &str)]) -> Vec<ListenerConfig> {
    let listeners = listeners.iter().map(|(name, more)| {
        format!(
            "  - {{ name: {name}, listen: \"127.0.0.1:0\", service: app, \
             upstream: {{ address: \"127.0.0.1:9\" }}{more} }}\n"
        )
    });
    let text = TOP.to_owned() + &listeners.collect::<String>();
    ListenerConfig::all(&config::parse_file(Path::new("/w.yaml"), &text).unwrap())
}

fn engine(id: &str) -> Arc<Engine> {
    let text = format!("@id(\"{id}\") permit (principal, action, resource);");
    let name = "p.cedar".into();
    let policies = vec![PolicyFile { name, text }];
    Arc::new(Engine::load(&Inputs { policies }).unwrap())
}

fn fleet(switch: &PolicySwitch) -> Fleet {
    let metrics = Arc::new(Metrics::new());
    let changes = Arc::clone(switch.changes());
    let standing = Standing::new(10, Arc::clone(&changes), Arc::clone(&metrics), None);
    Fleet {
        identity: IdentityPublisher::new().1,
        policies: switch.store().clone(),
        workers: Workers::start(NonZeroUsize::MIN, &changes).unwrap(),
        changes,
        metrics,
        recorder: Recorder::new(Arc::new(Queue::default())),
        shutdown: Shutdown::default(),
        memory: Arc::new(Memory::with_limit(MaxMemory::Off)),
        control: Handle::current(),
        upstreams: Arc::default(),
        own: Own::default(),
        standing: Arc::new(standing),
    }
}

/// What a version of a listener was left with, once other policies are in force.
fn left_with(doors: &Doors) -> Option<String> {
    let deciding = doors.policies.deciding();
    deciding.last().map(|engine| engine.revision().to_string())
}

#[tokio::test]
async fn policies_change_after_what_goes_was_left_and_before_anything_new_is_served() {
    let switch = PolicySwitch::default();
    let source = switch.other_source();
    let (old, new) = (engine("old"), engine("new"));
    switch.adopt(source, Arc::clone(&old));
    let mut sockets = Sockets::new(false, Vec::new());
    let mut listeners = Listeners::new(fleet(&switch));
    let plan = listeners.plan(
        wanted(&[("stays", ""), ("changes", ""), ("goes", "")]),
        &mut sockets,
    );
    listeners.apply(plan.unwrap(), None::<fn()>, Duration::ZERO);
    let served: Vec<_> = listeners
        .open
        .iter()
        .map(|open| Arc::clone(&open.doors))
        .collect();
    let before: Vec<_> = served.iter().map(|doors| doors.load_full()).collect();

    let next = wanted(&[
        ("stays", ""),
        ("changes", ", show_reason: true"),
        ("new", ""),
    ]);
    let plan = listeners.plan(next, &mut sockets).unwrap();
    let asked = Cell::new(false);
    let policies = || {
        asked.set(true);
        for (doors, before) in served.iter().zip(&before) {
            assert!(Arc::ptr_eq(&doors.load_full(), before), "served by others");
        }
        switch.adopt(source, Arc::clone(&new));
        let left: Vec<_> = before.iter().map(|doors| left_with(doors)).collect();
        let old = Some(old.revision().to_string());
        assert_eq!(left, [None, old.clone(), old]);
    };
    let changes = listeners.apply(plan, Some(policies), Duration::ZERO);
    assert!(asked.get());
    let all = [
        changes.unchanged,
        changes.changed,
        changes.added,
        changes.removed,
    ];
    assert_eq!(all, [1, 1, 1, 1]);
    for open in &listeners.open {
        assert_eq!(left_with(&open.doors.load()), None);
    }
    let workers = listeners.let_go().workers;
    tokio::task::spawn_blocking(|| workers.stop())
        .await
        .unwrap();
}
