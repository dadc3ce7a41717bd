//! The numbered facts that conditions read: each an attribute of the principal, the resource
//! or the context, resolved to a slot when the policy is compiled.

use crate::{
    action::Family,
    facts::{Claim, Facts, Principal},
    signals::{Kind, Signal},
};

use super::value::{FactSet, Net, Value};

/// A slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    PrincipalTrustDomain,
    PrincipalPath,
    ResourceHost,
    ResourcePath,
    ResourceTemplate,
    ResourceDocumented,
    ResourcePort,
    Direction,
    Time,
    SourceIp,
    Tls,
    TlsVersion,
    TlsKeyExchange,
    TlsPostQuantum,
    Claims,
    Claim(u16, ClaimType),
    Method,
    Query,
    Headers,
    Header(u16),
    Rpc,
    RpcService,
    RpcMethod,
    Signals,
    EndpointSignals,
    Signal(Signal),
}

/// The declared type of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimType {
    Text,
    Long,
    Bool,
    Texts,
}

impl ClaimType {
    pub(crate) const NAMES: [&'static str; 4] = ["String", "Long", "Bool", "Set<String>"];

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "String" => Some(Self::Text),
            "Long" => Some(Self::Long),
            "Bool" => Some(Self::Bool),
            "Set<String>" => Some(Self::Texts),
            _ => None,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Text => "String",
            Self::Long => "Long",
            Self::Bool => "Bool",
            Self::Texts => "Set<String>",
        }
    }
}

/// The headers and claims that a slot's number stands for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Declared {
    pub(crate) headers: Vec<Box<str>>,
    pub(crate) claims: Vec<(Box<str>, ClaimType)>,
}

impl Declared {
    pub(crate) fn header(&self, number: u16) -> &str {
        self.headers
            .get(usize::from(number))
            .map_or("", |name| name)
    }

    pub(crate) fn claim(&self, number: u16) -> &str {
        self.claims
            .get(usize::from(number))
            .map_or("", |(name, _)| name)
    }
}

impl Fact {
    /// Reads the fact; none where the call has no such fact.
    ///
    /// INVARIANT: a fact is present here exactly when `reference` puts it into Cedar's request
    /// or entities.
    pub(crate) fn read<'a>(self, facts: &'a Facts<'a>, declared: &Declared) -> Option<Value<'a>> {
        if !self.belongs_to(facts.action.family()) {
            return None;
        }
        let resource = &facts.resource;
        let context = &facts.context;
        Some(match self {
            Self::PrincipalTrustDomain => match facts.principal {
                Principal::Workload(id) => Value::Text(id.trust_domain().as_str()),
                Principal::Anonymous => return None,
            },
            Self::PrincipalPath => match facts.principal {
                Principal::Workload(id) => Value::Text(id.path()),
                Principal::Anonymous => return None,
            },
            Self::ResourceHost => Value::Text(resource.host),
            Self::ResourcePath => Value::Text(resource.path),
            Self::ResourceTemplate => Value::Text(resource.template?),
            Self::ResourceDocumented => Value::Bool(resource.documented),
            Self::ResourcePort => Value::Long(resource.port.into()),
            Self::Direction => Value::Text(context.direction.as_str()),
            Self::Time => Value::Datetime(context.time_ms()?),
            Self::SourceIp => Value::Ip(Net::of(context.source_ip)),
            Self::Tls => return context.tls.map(|_| Value::Bool(true)),
            Self::TlsVersion => Value::Text(context.tls?.version),
            Self::TlsKeyExchange => Value::Text(context.tls?.key_exchange),
            Self::TlsPostQuantum => Value::Bool(context.tls?.post_quantum),
            Self::Claim(number, of_type) => {
                let claim = context.claims.claim(declared.claim(number))?;
                return claim_value(number, of_type, claim);
            }
            Self::Method => Value::Text(context.method?),
            Self::Query => Value::Text(context.query?),
            Self::Header(number) => Value::FactSet(FactSet::Header(number)),
            Self::RpcService => Value::Text(context.rpc?.service),
            Self::RpcMethod => Value::Text(context.rpc?.method),
            Self::Signal(signal) => match signal.kind() {
                Kind::Long => Value::Long(context.signals.value(signal)),
                Kind::Bool => Value::Bool(context.signals.value(signal) != 0),
                Kind::Level => Value::Text(context.signals.risk().as_str()),
            },
            Self::Claims | Self::Headers | Self::Rpc | Self::Signals | Self::EndpointSignals => {
                Value::Bool(true)
            }
        })
    }

    /// Whether calls of this family have the fact at all.
    fn belongs_to(self, family: Family) -> bool {
        match self {
            Self::Rpc | Self::RpcService | Self::RpcMethod => family == Family::Grpc,
            Self::ResourcePath
            | Self::ResourceTemplate
            | Self::ResourceDocumented
            | Self::Method
            | Self::Query
            | Self::Headers
            | Self::Header(_) => family != Family::Tcp,
            _ => true,
        }
    }
}

/// The claim, where it has the type that was declared.
fn claim_value<'a>(number: u16, of_type: ClaimType, claim: Claim<'a>) -> Option<Value<'a>> {
    match (of_type, claim) {
        (ClaimType::Text, Claim::Text(text)) => Some(Value::Text(text)),
        (ClaimType::Long, Claim::Long(long)) => Some(Value::Long(long)),
        (ClaimType::Bool, Claim::Bool(bool)) => Some(Value::Bool(bool)),
        (ClaimType::Texts, Claim::Texts(_)) => Some(Value::FactSet(FactSet::Claim(number))),
        _ => None,
    }
}
