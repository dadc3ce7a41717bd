//! Wayleave's policy engine without its proxy: load policies, decide a call, tell why.
//!
//! ```console
//! $ cargo run -p wayleave-authz --example embed_authz
//! ```

use std::{net::IpAddr, time::SystemTime};

use wayleave_authz::{
    Action, Context, Direction, Engine, Facts, Inputs, NoClaims, PolicyFile, Principal, Resource,
    signals::SignalValues,
};
use wayleave_identity::SpiffeId;

const POLICIES: &str = r#"
@id("agents-read-orders")
permit (
  principal in Group::"agents",
  action in Action::"http:read",
  resource in Service::"orders"
) when { resource.path like "/orders/*" };

@id("no-exports")
@reason("exports are made at night, by a person")
@status("429")
forbid (principal in Group::"agents", action, resource is Endpoint)
when { resource.path like "*/export" };
"#;

const ENTITIES: &str = "
groups:
  agents: [spiffe://shop.example/ns/agents]
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = |name: &str, text: &str| PolicyFile {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    // From disk it would be `wayleave_authz::load::read(&["policies".into()])?`.
    let engine = Engine::load(&Inputs {
        policies: vec![
            file("orders.cedar", POLICIES),
            file("entities.yaml", ENTITIES),
        ],
    })?;
    println!("policy revision {}\n", engine.revision());

    let scout: SpiffeId = "spiffe://shop.example/ns/agents/sa/scout".parse()?;
    for path in ["/orders/7", "/orders/export", "/invoices/7"] {
        // Facts borrow everything: deciding copies nothing and allocates nothing.
        let headers = [("user-agent", "scout/1.0")];
        let headers = headers.as_slice();
        let facts = Facts {
            principal: Principal::Workload(&scout),
            action: Action::from_http_method("GET"),
            resource: Resource {
                service: "orders",
                host: "orders.shop.example",
                path,
                template: None,
                port: 443,
                documented: false,
            },
            context: Context {
                direction: Direction::Inbound,
                time: SystemTime::now(),
                source_ip: IpAddr::from([10, 0, 0, 7]),
                tls: None,
                method: Some("GET"),
                query: None,
                headers: &headers,
                claims: &NoClaims,
                rpc: None,
                signals: &SignalValues::NONE,
            },
        };
        let decision = engine.decide(&facts);
        println!("GET {path}: {} ({})", decision.effect(), decision.reason());
        let obligations = decision.obligations();
        if let (Some(status), Some(reason)) = (obligations.status, obligations.reason) {
            println!("  to be answered with {status}: {reason}");
        }
        if !decision.is_allow() {
            println!("{}", engine.explain(&facts));
        }
    }
    Ok(())
}
