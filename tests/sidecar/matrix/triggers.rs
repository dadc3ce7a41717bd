//! What can end an allow: how each is set up, how it is pulled, and what it should make of each
//! open call.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Fate;
use super::calls::{Kind, Whose};
use super::world::{ALL, Beginning, ENTITIES, NEXT, Papers, World, replace};
use crate::sidecar::ssf::{PUSH, REVOKED, push};
use crate::support::eventually;
use crate::support::pki::workload;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trigger {
    PolicyChange,
    /// Other policy files, in a configuration that changes every listener.
    ListenersChanged,
    /// The same, in one that also has no more of the listeners than it must.
    ListenersRemoved,
    EntityChange,
    SvidExpiry,
    RevocationList,
    TrustDomainRemoved,
    Revocation,
    SecurityEvent,
    Risk,
    Quarantine,
    Time,
    Reauthorize,
}

/// Somebody whose security events are believed.
const TRANSMITTER: &str = "signals:
  state_dir: state
  ssf:
    - name: idp
      issuer: https://idp.example
      audience: [urn:orders]
      jwks: jwks.json
      trust_domains: [test.example]
";

/// Nobody in it yet.
const NOBODY: &str = "groups: { suspended: [], closed: [] }\n";

/// Who is suspended may do nothing here, and what is closed is not called.
const BY_GROUP: &str = r#"
@id("suspended")
forbid (principal in Group::"suspended", action, resource);
@id("closed")
forbid (principal, action, resource in Group::"closed");
"#;

/// Who is risky may do nothing here; the workload itself may still call all but one.
const BY_RISK: &str = r#"
@id("risky")
forbid (principal, action, resource)
when {
  context.signals.risk == "HIGH" &&
  (context.direction == "inbound" || resource in Service::"db")
};
"#;

impl Trigger {
    pub(super) fn beginning(self) -> Beginning {
        Beginning {
            papers: match self {
                Self::SvidExpiry => Papers::Short,
                Self::TrustDomainRemoved => Papers::Partner,
                _ => Papers::Ordinary,
            },
            policy: format!("{ALL}{BY_GROUP}{BY_RISK}"),
            entities: NOBODY,
            keys: match self {
                Self::Reauthorize => "signals: { reauthorize_every: 1s }".to_owned(),
                Self::SecurityEvent => format!("{TRANSMITTER}      {PUSH}\n"),
                _ => String::new(),
            },
        }
    }

    /// What becomes of a call.
    pub(super) fn fate(self, kind: Kind, whose: Whose) -> Fate {
        let lease = match self {
            Self::PolicyChange
            | Self::ListenersChanged
            | Self::ListenersRemoved
            | Self::EntityChange => "policy_change",
            Self::Revocation | Self::SecurityEvent => "revocation",
            Self::Risk => "risk",
            Self::Quarantine => "quarantine",
            Self::Time => "time",
            Self::SvidExpiry => return trust("expired", kind, whose),
            Self::RevocationList => return trust("revoked", kind, whose),
            Self::TrustDomainRemoved => return trust("unknown_trust_domain", kind, whose),
            Self::Reauthorize => return Fate::GoesOn,
        };
        match whose {
            Whose::Hit => Fate::Lease(lease),
            // Who is revoked is revoked everywhere.
            Whose::Other if lease == "revocation" && kind.is_outbound() => Fate::Lease(lease),
            Whose::Other => Fate::GoesOn,
        }
    }

    pub(super) async fn pull(self, world: &World) {
        let setup = &world.sidecar.setup;
        match self {
            Self::PolicyChange => {
                setup.write_policy(&format!("{ALL}{BY_GROUP}{}", forbid(world, "true")))
            }
            Self::ListenersChanged => reload(world, World::changed),
            Self::ListenersRemoved => reload(world, World::removed),
            Self::EntityChange => change_entities(world),
            // It comes by itself.
            Self::SvidExpiry => {}
            Self::RevocationList => world.revoke_by_list(),
            Self::TrustDomainRemoved => world.forget_partner(),
            Self::Revocation => {
                for principal in [&world.hit, &workload("app")] {
                    world.operator(&["revoke", "principal", principal]).await;
                }
            }
            Self::SecurityEvent => {
                for about in ["hit", "app"] {
                    let reason = serde_json::json!({});
                    let token = world.signer.token(about, REVOKED, about, reason);
                    assert_eq!(push(&world.sidecar, &token).await.0, 202);
                }
            }
            Self::Risk => {
                for principal in [&world.hit, &workload("app")] {
                    world.operator(&["risk", "set", principal, "HIGH"]).await;
                }
            }
            Self::Quarantine => {
                let start = ["quarantine", "start", &world.hit, "--for", "10m"];
                world.operator(&start).await;
                let app = workload("app");
                let start = [
                    "quarantine",
                    "start",
                    &app,
                    "--for",
                    "10m",
                    "--service",
                    "db",
                ];
                world.operator(&start).await;
            }
            Self::Time => {
                let then = OffsetDateTime::from(SystemTime::now() + Duration::from_secs(3));
                let then = then
                    .replace_nanosecond(0)
                    .unwrap()
                    .format(&Rfc3339)
                    .unwrap();
                let past = format!("context.time >= datetime(\"{then}\")");
                setup.write_policy(&format!("{ALL}{BY_GROUP}{}", forbid(world, &past)));
            }
            Self::Reauthorize => decided_again(world).await,
        }
    }
}

/// Trust is a matter of who calls from elsewhere; the workload's own SVID is good all the while.
fn trust(reason: &'static str, kind: Kind, whose: Whose) -> Fate {
    match whose {
        Whose::Hit if !kind.is_outbound() => Fate::Trust(reason),
        _ => Fate::GoesOn,
    }
}

/// What is denied to who is hit, and to the workload, when this holds.
fn forbid(world: &World, when: &str) -> String {
    let hit = &world.hit;
    format!(
        "@id(\"hit\") forbid (principal == Workload::\"{hit}\", action, resource) when {{ {when} }};\n\
         @id(\"db\") forbid (principal, action, resource in Service::\"db\") when {{ {when} }};\n"
    )
}

/// Brings a configuration into force whose policies are elsewhere and deny who is hit.
fn reload(world: &World, config: fn(&World) -> String) {
    let setup = &world.sidecar.setup;
    std::fs::create_dir(setup.path(NEXT)).unwrap();
    let policy = format!("{ALL}{}", forbid(world, "true"));
    std::fs::write(setup.path(NEXT).join("main.cedar"), policy).unwrap();
    replace(setup, "wayleave.yaml", &config(world));
}

/// Puts who is hit into a group, and the destination into another.
fn change_entities(world: &World) {
    let groups = format!(
        "groups: {{ suspended: [\"{}\"], closed: ['Service::\"db\"'] }}\n",
        world.hit
    );
    replace(&world.sidecar.setup, ENTITIES, &groups);
}

/// Waits until everything was decided again some times.
async fn decided_again(world: &World) {
    let series = "wayleave_leases_reviewed_total";
    eventually("everything to be decided again", || async {
        (world.sidecar.metric(series).await >= 32.0).then_some(())
    })
    .await;
}
