//! Calls to decide, with everything that a case does not speak of filled in.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod generate;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use wayleave_authz::{
    Action, ClaimValue, Context, Decision, Direction, Engine, Facts, Inputs, PolicyFile, Principal,
    Resource, Rpc, Tls, signals::SignalValues,
};
use wayleave_identity::SpiffeId;

pub(crate) fn inputs(text: &str) -> Inputs {
    Inputs {
        policies: vec![PolicyFile {
            name: "test.cedar".to_owned(),
            text: text.to_owned(),
        }],
    }
}

pub(crate) fn engine(text: &str) -> Engine {
    match Engine::load(&inputs(text)) {
        Ok(engine) => engine,
        Err(errors) => panic!("{errors}"),
    }
}

/// One call, owned.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) principal: Option<SpiffeId>,
    pub(crate) action: Action,
    pub(crate) service: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) template: Option<String>,
    pub(crate) port: u16,
    pub(crate) method: Option<String>,
    pub(crate) query: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) rpc: Option<(String, String)>,
    pub(crate) time: SystemTime,
    pub(crate) source_ip: IpAddr,
    pub(crate) tls: bool,
    pub(crate) claims: BTreeMap<String, ClaimValue>,
    pub(crate) signals: SignalValues,
}

impl Call {
    pub(crate) fn anonymous(method: &str, path: &str) -> Self {
        Self {
            principal: None,
            action: Action::from_http_method(method),
            service: "orders".to_owned(),
            host: "orders.shop.example".to_owned(),
            path: path.to_owned(),
            template: None,
            port: 443,
            method: Some(method.to_owned()),
            query: None,
            headers: Vec::new(),
            rpc: None,
            time: UNIX_EPOCH + Duration::from_secs(1_795_370_096),
            source_ip: IpAddr::from([10, 0, 0, 7]),
            tls: true,
            claims: BTreeMap::new(),
            signals: SignalValues::NONE,
        }
    }

    pub(crate) fn http(principal: &str, method: &str, path: &str) -> Self {
        Self {
            principal: Some(principal.parse().unwrap()),
            ..Self::anonymous(method, path)
        }
    }

    pub(crate) fn grpc(principal: &str, service: &str, method: &str) -> Self {
        Self {
            action: Action::GRPC_CALL,
            rpc: Some((service.to_owned(), method.to_owned())),
            ..Self::http(principal, "POST", &format!("/{service}/{method}"))
        }
    }

    pub(crate) fn tcp(principal: &str) -> Self {
        Self {
            action: Action::TCP_CONNECT,
            method: None,
            ..Self::http(principal, "", "")
        }
    }

    pub(crate) fn service(mut self, service: &str) -> Self {
        service.clone_into(&mut self.service);
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn with_facts<T>(&self, read: impl FnOnce(&Facts<'_>) -> T) -> T {
        let headers = self.headers.as_slice();
        read(&Facts {
            principal: match &self.principal {
                Some(id) => Principal::Workload(id),
                None => Principal::Anonymous,
            },
            action: self.action,
            resource: Resource {
                service: &self.service,
                host: &self.host,
                path: &self.path,
                template: self.template.as_deref(),
                port: self.port,
                documented: self.template.is_some(),
            },
            context: Context {
                direction: Direction::Inbound,
                time: self.time,
                source_ip: self.source_ip,
                tls: self.tls.then_some(Tls {
                    version: "1.3",
                    key_exchange: "X25519MLKEM768",
                    post_quantum: true,
                }),
                method: self.method.as_deref(),
                query: self.query.as_deref(),
                headers: &headers,
                claims: &self.claims,
                rpc: self
                    .rpc
                    .as_ref()
                    .map(|(service, method)| Rpc { service, method }),
                signals: &self.signals,
            },
        })
    }

    pub(crate) fn decide(&self, engine: &Engine) -> Decision {
        self.with_facts(|facts| engine.decide(facts))
    }
}
