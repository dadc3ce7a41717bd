//! Conditions as trees of small nodes in one arena, and their evaluation, which allocates
//! nothing.

use crate::snapshot::{EntityRef, Snapshot, TypeId};

use super::{
    call::Call,
    fact::Fact,
    like::Pattern,
    value::{Const, FactSet, Value, contains},
};

/// The place of a node in its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeId(pub(crate) u32);

/// Consecutive places in the program's list of operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

/// One operation. Operands are other nodes; texts, sets and patterns stand in tables.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Node {
    Bool(bool),
    Const(u32),
    Fact(Fact),
    /// Whether the call has the fact.
    Has(Fact),
    /// The answer, but only where the call has the fact.
    Needs(Fact, bool),
    Principal,
    Action,
    Resource,
    Not(NodeId),
    And(NodeId, NodeId),
    Or(NodeId, NodeId),
    If(NodeId, NodeId, NodeId),
    Equal(NodeId, NodeId),
    Compare(Comparison, NodeId, NodeId),
    Arithmetic(Arithmetic, NodeId, NodeId),
    Negate(NodeId),
    In(NodeId, NodeId),
    InAny(NodeId, Operands),
    Is(NodeId, TypeId),
    Like(NodeId, u32),
    Attribute(NodeId, u32),
    HasAttribute(NodeId, u32),
    IsEmpty(NodeId),
    Contains(NodeId, NodeId),
    ContainsAll(NodeId, NodeId),
    ContainsAny(NodeId, NodeId),
    /// Whether one of the operands equals the node.
    OneOf(NodeId, Operands),
    Ip(IpTest, NodeId),
    InRange(NodeId, NodeId),
    Offset(NodeId, NodeId),
    Since(NodeId, NodeId),
    Time(TimePart, NodeId),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum IpTest {
    V4,
    V6,
    Loopback,
    Multicast,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum TimePart {
    Date,
    TimeOfDay,
    Milliseconds,
    Seconds,
    Minutes,
    Hours,
    Days,
}

/// Why an evaluation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EvalError {
    /// A number left the range of 64 bits.
    Overflow,
    /// An attribute that is not there.
    Missing,
    /// An operand of a type that validation does not let through.
    Type,
}

type Result<T> = std::result::Result<T, EvalError>;

/// The conditions of all compiled policies.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) nodes: Vec<Node>,
    pub(crate) operands: Vec<NodeId>,
    pub(crate) constants: Vec<Const>,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) names: Vec<Box<str>>,
}

const DAY: i64 = 24 * 60 * 60 * 1000;

impl Program {
    /// The truth of a condition.
    pub(crate) fn holds(&self, node: NodeId, call: &Call<'_>) -> Result<bool> {
        match *self.node(node)? {
            Node::Bool(value) => Ok(value),
            Node::Has(fact) => Ok(call.read(fact).is_some()),
            Node::Needs(fact, answer) => match call.read(fact) {
                Some(_) => Ok(answer),
                None => Err(EvalError::Missing),
            },
            Node::Not(inner) => Ok(!self.holds(inner, call)?),
            Node::And(left, right) => Ok(self.holds(left, call)? && self.holds(right, call)?),
            Node::Or(left, right) => Ok(self.holds(left, call)? || self.holds(right, call)?),
            Node::If(test, then, otherwise) => {
                let branch = if self.holds(test, call)? {
                    then
                } else {
                    otherwise
                };
                self.holds(branch, call)
            }
            Node::Equal(left, right) => {
                equal(call, &self.value(left, call)?, &self.value(right, call)?)
            }
            Node::Compare(comparison, left, right) => compare(
                comparison,
                &self.value(left, call)?,
                &self.value(right, call)?,
            ),
            Node::In(left, right) => {
                let entity = self.entity(left, call)?;
                is_in(call, entity, &self.value(right, call)?)
            }
            Node::InAny(left, operands) => self.in_any(left, operands, call),
            Node::Is(inner, type_id) => Ok(call.type_of(self.entity(inner, call)?) == type_id),
            Node::Like(inner, pattern) => {
                let text = self.text(inner, call)?;
                let pattern = self.patterns.get(pattern as usize).ok_or(EvalError::Type)?;
                Ok(pattern.matches(text))
            }
            Node::HasAttribute(inner, name) => {
                let value = self.value(inner, call)?;
                Ok(attribute(call, &value, self.name(name)?)?.is_some())
            }
            Node::IsEmpty(inner) => is_empty(call, &self.value(inner, call)?),
            Node::Contains(set, member) => {
                set_contains(call, &self.value(set, call)?, &self.value(member, call)?)
            }
            Node::ContainsAll(set, subset) => {
                includes(call, &self.value(set, call)?, &self.value(subset, call)?)
            }
            Node::ContainsAny(left, right) => {
                intersects(call, &self.value(left, call)?, &self.value(right, call)?)
            }
            Node::OneOf(member, operands) => self.one_of(member, operands, call),
            Node::Ip(test, inner) => self.ip_test(test, inner, call),
            Node::InRange(left, right) => {
                match (self.value(left, call)?, self.value(right, call)?) {
                    (Value::Ip(address), Value::Ip(range)) => Ok(address.is_in_range(&range)),
                    _ => Err(EvalError::Type),
                }
            }
            _ => match self.value(node, call)? {
                Value::Bool(value) => Ok(value),
                _ => Err(EvalError::Type),
            },
        }
    }

    /// The value of any expression.
    fn value<'a>(&'a self, node: NodeId, call: &Call<'a>) -> Result<Value<'a>> {
        match *self.node(node)? {
            Node::Const(number) => {
                let constant = self.constants.get(number as usize);
                Ok(constant.ok_or(EvalError::Type)?.value())
            }
            Node::Fact(fact) => call.read(fact).ok_or(EvalError::Missing),
            Node::Principal => Ok(Value::Entity(call.principal)),
            Node::Resource => Ok(Value::Entity(call.resource)),
            Node::Action => {
                let number = Snapshot::action(call.facts.action);
                Ok(Value::Entity(EntityRef::Known(number)))
            }
            Node::If(test, then, otherwise) => {
                let branch = if self.holds(test, call)? {
                    then
                } else {
                    otherwise
                };
                self.value(branch, call)
            }
            Node::Attribute(inner, name) => {
                let value = self.value(inner, call)?;
                attribute(call, &value, self.name(name)?)?.ok_or(EvalError::Missing)
            }
            Node::Arithmetic(operation, left, right) => {
                let (left, right) = (self.long(left, call)?, self.long(right, call)?);
                let result = match operation {
                    Arithmetic::Add => left.checked_add(right),
                    Arithmetic::Subtract => left.checked_sub(right),
                    Arithmetic::Multiply => left.checked_mul(right),
                };
                result.map(Value::Long).ok_or(EvalError::Overflow)
            }
            Node::Negate(inner) => {
                let negated = self.long(inner, call)?.checked_neg();
                negated.map(Value::Long).ok_or(EvalError::Overflow)
            }
            Node::Offset(left, right) => {
                match (self.value(left, call)?, self.value(right, call)?) {
                    (Value::Datetime(time), Value::Duration(offset)) => time
                        .checked_add(offset)
                        .map(Value::Datetime)
                        .ok_or(EvalError::Overflow),
                    _ => Err(EvalError::Type),
                }
            }
            Node::Since(left, right) => match (self.value(left, call)?, self.value(right, call)?) {
                (Value::Datetime(later), Value::Datetime(earlier)) => later
                    .checked_sub(earlier)
                    .map(Value::Duration)
                    .ok_or(EvalError::Overflow),
                _ => Err(EvalError::Type),
            },
            Node::Time(part, inner) => time_part(part, &self.value(inner, call)?),
            _ => self.holds(node, call).map(Value::Bool),
        }
    }

    fn node(&self, node: NodeId) -> Result<&Node> {
        self.nodes.get(node.0 as usize).ok_or(EvalError::Type)
    }

    fn name(&self, number: u32) -> Result<&str> {
        let name = self.names.get(number as usize);
        name.map(|name| &**name).ok_or(EvalError::Type)
    }

    fn operands(&self, operands: Operands) -> &[NodeId] {
        let range = operands.start as usize..operands.end as usize;
        self.operands.get(range).unwrap_or(&[])
    }

    fn text<'a>(&'a self, node: NodeId, call: &Call<'a>) -> Result<&'a str> {
        match self.value(node, call)? {
            Value::Text(text) => Ok(text),
            _ => Err(EvalError::Type),
        }
    }

    fn long(&self, node: NodeId, call: &Call<'_>) -> Result<i64> {
        match self.value(node, call)? {
            Value::Long(long) => Ok(long),
            _ => Err(EvalError::Type),
        }
    }

    fn entity(&self, node: NodeId, call: &Call<'_>) -> Result<EntityRef> {
        match self.value(node, call)? {
            Value::Entity(entity) => Ok(entity),
            _ => Err(EvalError::Type),
        }
    }

    /// All operands are evaluated, as Cedar builds the set before it looks into it: an error
    /// in any of them is an error of the whole.
    fn in_any(&self, left: NodeId, operands: Operands, call: &Call<'_>) -> Result<bool> {
        let entity = self.entity(left, call)?;
        let mut found = false;
        for operand in self.operands(operands) {
            found |= call.is_in(entity, self.entity(*operand, call)?);
        }
        Ok(found)
    }

    fn one_of(&self, member: NodeId, operands: Operands, call: &Call<'_>) -> Result<bool> {
        let member = self.value(member, call)?;
        let mut found = false;
        for operand in self.operands(operands) {
            found |= equal(call, &self.value(*operand, call)?, &member)?;
        }
        Ok(found)
    }

    fn ip_test(&self, test: IpTest, inner: NodeId, call: &Call<'_>) -> Result<bool> {
        let Value::Ip(net) = self.value(inner, call)? else {
            return Err(EvalError::Type);
        };
        Ok(match test {
            IpTest::V4 => net.is_v4(),
            IpTest::V6 => !net.is_v4(),
            IpTest::Loopback => net.is_loopback(),
            IpTest::Multicast => net.is_multicast(),
        })
    }
}

/// Values of different types are unequal.
fn equal(call: &Call<'_>, left: &Value<'_>, right: &Value<'_>) -> Result<bool> {
    Ok(match (left, right) {
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Long(a), Value::Long(b)) => a == b,
        (Value::Text(a), Value::Text(b)) => a == b,
        (Value::Entity(a), Value::Entity(b)) => a == b,
        (Value::Decimal(a), Value::Decimal(b))
        | (Value::Datetime(a), Value::Datetime(b))
        | (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Ip(a), Value::Ip(b)) => a == b,
        (Value::Set(a), Value::Set(b)) => a == b,
        (Value::Record(a), Value::Record(b)) => a == b,
        (Value::FactSet(_), Value::Set(_) | Value::FactSet(_))
        | (Value::Set(_), Value::FactSet(_)) => {
            includes(call, left, right)? && includes(call, right, left)?
        }
        _ => false,
    })
}

fn compare(comparison: Comparison, left: &Value<'_>, right: &Value<'_>) -> Result<bool> {
    let (left, right) = match (left, right) {
        (Value::Long(a), Value::Long(b))
        | (Value::Decimal(a), Value::Decimal(b))
        | (Value::Datetime(a), Value::Datetime(b))
        | (Value::Duration(a), Value::Duration(b)) => (a, b),
        _ => return Err(EvalError::Type),
    };
    Ok(match comparison {
        Comparison::Less => left < right,
        Comparison::LessOrEqual => left <= right,
        Comparison::Greater => left > right,
        Comparison::GreaterOrEqual => left >= right,
    })
}

fn is_in(call: &Call<'_>, entity: EntityRef, ancestors: &Value<'_>) -> Result<bool> {
    match ancestors {
        Value::Entity(ancestor) => Ok(call.is_in(entity, *ancestor)),
        Value::Set(members) => {
            let mut found = false;
            for member in *members {
                let Const::Entity(ancestor) = member else {
                    return Err(EvalError::Type);
                };
                found |= call.is_in(entity, *ancestor);
            }
            Ok(found)
        }
        _ => Err(EvalError::Type),
    }
}

/// The attribute of an entity or a record; none where it does not have it.
fn attribute<'a>(call: &Call<'a>, of: &Value<'a>, name: &str) -> Result<Option<Value<'a>>> {
    match of {
        Value::Record(fields) => Ok(field(fields, name)),
        Value::Entity(entity) => Ok(entity_attribute(call, *entity, name)),
        _ => Err(EvalError::Type),
    }
}

fn entity_attribute<'a>(call: &Call<'a>, entity: EntityRef, name: &str) -> Option<Value<'a>> {
    let fact = match name {
        "trust_domain" if entity == call.principal => Some(Fact::PrincipalTrustDomain),
        "path" if entity == call.principal => Some(Fact::PrincipalPath),
        "host" if entity == call.resource => Some(Fact::ResourceHost),
        "path" if entity == call.resource => Some(Fact::ResourcePath),
        "template" if entity == call.resource => Some(Fact::ResourceTemplate),
        "documented" if entity == call.resource => Some(Fact::ResourceDocumented),
        "port" if entity == call.resource => Some(Fact::ResourcePort),
        _ => None,
    };
    if let Some(fact) = fact {
        return call.read(fact);
    }
    let EntityRef::Known(number) = entity else {
        return None;
    };
    let fields = call.snapshot.entity(number)?.attributes.as_ref()?;
    field(fields, name)
}

fn field<'a>(fields: &'a [(Box<str>, Const)], name: &str) -> Option<Value<'a>> {
    let place = fields
        .binary_search_by(|(each, _)| (**each).cmp(name))
        .ok()?;
    fields.get(place).map(|(_, value)| value.value())
}

fn is_empty(call: &Call<'_>, set: &Value<'_>) -> Result<bool> {
    match set {
        Value::Set(members) => Ok(members.is_empty()),
        Value::FactSet(set) => Ok(!call.any_text(*set, &mut |_| true)),
        _ => Err(EvalError::Type),
    }
}

fn set_contains(call: &Call<'_>, set: &Value<'_>, member: &Value<'_>) -> Result<bool> {
    match (set, member) {
        (Value::Set(members), Value::FactSet(_)) => {
            for each in *members {
                if equal(call, &each.value(), member)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        (Value::Set(members), _) => Ok(contains(members, member)),
        (Value::FactSet(set), Value::Text(text)) => Ok(fact_contains(call, *set, text)),
        (Value::FactSet(_), _) => Ok(false),
        _ => Err(EvalError::Type),
    }
}

fn fact_contains(call: &Call<'_>, set: FactSet, text: &str) -> bool {
    call.any_text(set, &mut |each| each == text)
}

/// Whether `set` contains all of `subset`.
fn includes(call: &Call<'_>, set: &Value<'_>, subset: &Value<'_>) -> Result<bool> {
    match (set, subset) {
        (Value::Set(members), Value::Set(subset)) => Ok(subset
            .iter()
            .all(|member| contains(members, &member.value()))),
        (Value::FactSet(set), Value::Set(subset)) => Ok(subset
            .iter()
            .all(|member| matches!(member, Const::Text(text) if fact_contains(call, *set, text)))),
        (Value::Set(members), Value::FactSet(subset)) => {
            let missing = |text: &str| !contains(members, &Value::Text(text));
            Ok(!call.any_text(*subset, &mut |text| missing(text)))
        }
        (Value::FactSet(set), Value::FactSet(subset)) => {
            Ok(!call.any_text(*subset, &mut |text| !fact_contains(call, *set, text)))
        }
        _ => Err(EvalError::Type),
    }
}

fn intersects(call: &Call<'_>, left: &Value<'_>, right: &Value<'_>) -> Result<bool> {
    match (left, right) {
        (Value::Set(a), Value::Set(b)) => {
            let (few, many) = if a.len() < b.len() { (a, b) } else { (b, a) };
            Ok(few.iter().any(|member| contains(many, &member.value())))
        }
        (Value::FactSet(set), Value::Set(members)) | (Value::Set(members), Value::FactSet(set)) => {
            Ok(call.any_text(*set, &mut |text| contains(members, &Value::Text(text))))
        }
        (Value::FactSet(a), Value::FactSet(b)) => {
            Ok(call.any_text(*a, &mut |text| fact_contains(call, *b, text)))
        }
        _ => Err(EvalError::Type),
    }
}

fn time_part<'a>(part: TimePart, value: &Value<'a>) -> Result<Value<'a>> {
    Ok(match (part, value) {
        (TimePart::Date, Value::Datetime(ms)) => {
            let date = ms.checked_sub(ms.rem_euclid(DAY));
            Value::Datetime(date.ok_or(EvalError::Overflow)?)
        }
        (TimePart::TimeOfDay, Value::Datetime(ms)) => Value::Duration(ms.rem_euclid(DAY)),
        (TimePart::Milliseconds, Value::Duration(ms)) => Value::Long(*ms),
        (TimePart::Seconds, Value::Duration(ms)) => Value::Long(ms / 1000),
        (TimePart::Minutes, Value::Duration(ms)) => Value::Long(ms / 60_000),
        (TimePart::Hours, Value::Duration(ms)) => Value::Long(ms / 3_600_000),
        (TimePart::Days, Value::Duration(ms)) => Value::Long(ms / DAY),
        _ => return Err(EvalError::Type),
    })
}
