//! From Cedar's syntax tree to nodes. What has no node is left to Cedar itself: never
//! approximated.

use std::{collections::BTreeMap, str::FromStr as _};

use cedar_policy::{
    Context, Entities, EvalResult, Expression, Request, eval_expression,
    pst::{BinaryOp, Clause, EntityType, EntityUID, Expr, Literal, PatternElem, UnaryOp, Var},
};

use crate::{
    signals::Signal,
    snapshot::{EntityRef, Snapshot, TypeId},
};

use super::{
    fact::{Declared, Fact},
    like::Pattern,
    program::{Arithmetic, Comparison, IpTest, Node, NodeId, Operands, Program, TimePart},
    value::{Const, Net, parse_decimal},
};

/// Why an expression has no compiled form, in words for `check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsupported {
    #[error("it uses a record of the context as a value")]
    ContextRecord,
    #[error("it builds a record")]
    Record,
    #[error("it builds a set from what is not constant")]
    DynamicSet,
    #[error("it reads entity tags")]
    Tags,
    #[error("it nests deeper than {} levels", Lowering::DEEPEST)]
    Depth,
    #[error("it uses an operation that has no compiled form")]
    Operation,
}

type Lowered<T = NodeId> = Result<T, Unsupported>;

/// A place in a program that grows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) node: usize,
}

/// Builds one program from many conditions, each constant stored once.
pub(crate) struct Lowering<'a> {
    snapshot: &'a Snapshot,
    declared: &'a Declared,
    program: Program,
    constants: BTreeMap<Const, u32>,
    patterns: BTreeMap<String, u32>,
    names: BTreeMap<Box<str>, u32>,
}

impl<'a> Lowering<'a> {
    const DEEPEST: u32 = 100;

    pub(crate) fn new(snapshot: &'a Snapshot, declared: &'a Declared) -> Self {
        Self {
            snapshot,
            declared,
            program: Program::default(),
            constants: BTreeMap::new(),
            patterns: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }

    /// Where the nodes of the next condition begin.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            node: self.program.nodes.len(),
        }
    }

    /// What was lowered so far.
    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    pub(crate) fn finish(self) -> Program {
        self.program
    }

    /// The conditions of a policy, split at every outermost `&&`: all of them must hold, and
    /// they are tried in order.
    pub(crate) fn clauses(&mut self, clauses: &[Clause]) -> Lowered<Vec<NodeId>> {
        let mark = (self.program.nodes.len(), self.program.operands.len());
        let lowered: Lowered<Vec<_>> = conjuncts(clauses)
            .map(|conjunct| {
                let node = self.expression(conjunct.expression, 0)?;
                match conjunct.negated {
                    true => self.node(Node::Not(node)),
                    false => Ok(node),
                }
            })
            .collect();
        if lowered.is_err() {
            self.program.nodes.truncate(mark.0);
            self.program.operands.truncate(mark.1);
        }
        lowered
    }

    fn node(&mut self, node: Node) -> Lowered {
        let number = u32::try_from(self.program.nodes.len()).map_err(|_| Unsupported::Operation)?;
        self.program.nodes.push(node);
        Ok(NodeId(number))
    }

    fn expression(&mut self, expression: &Expr, depth: u32) -> Lowered {
        let depth = depth + 1;
        if depth > Self::DEEPEST {
            return Err(Unsupported::Depth);
        }
        if let Some(constant) = self.constant(expression) {
            return self.constant_node(constant);
        }
        match expression {
            Expr::Var(var) => self.var(var),
            Expr::UnaryOp { op, expr } => self.unary(*op, expr, depth),
            Expr::BinaryOp {
                op: op @ (BinaryOp::And | BinaryOp::Or),
                ..
            } => self.chain(*op, expression, depth),
            Expr::BinaryOp { op, left, right } => self.binary(*op, left, right, depth),
            Expr::GetAttr { expr, attr } => self.attribute(expression, expr, attr, depth),
            Expr::HasAttr { expr, attrs } => {
                let path: Vec<&str> = attrs.iter().map(|attr| attr.as_str()).collect();
                self.has(expr, &path, depth)
            }
            Expr::Like { expr, pattern } => {
                let inner = self.expression(expr, depth)?;
                let pattern = self.pattern(pattern)?;
                self.node(Node::Like(inner, pattern))
            }
            Expr::Is {
                expr,
                entity_type,
                in_expr,
            } => self.is(expr, entity_type, in_expr.as_deref(), depth),
            Expr::IfThenElse {
                cond,
                then_expr,
                else_expr,
            } => {
                let test = self.expression(cond, depth)?;
                let then = self.expression(then_expr, depth)?;
                let otherwise = self.expression(else_expr, depth)?;
                self.node(Node::If(test, then, otherwise))
            }
            Expr::Set(_) => Err(Unsupported::DynamicSet),
            Expr::Record(_) => Err(Unsupported::Record),
            _ => Err(Unsupported::Operation),
        }
    }

    /// The constant that the expression is, if it is one.
    fn constant(&self, expression: &Expr) -> Option<Const> {
        match expression {
            Expr::Literal(Literal::Bool(value)) => Some(Const::Bool(*value)),
            Expr::Literal(Literal::Long(value)) => Some(Const::Long(*value)),
            Expr::Literal(Literal::String(value)) => Some(Const::Text(value.as_str().into())),
            Expr::Literal(Literal::EntityUID(uid)) => {
                Some(Const::Entity(EntityRef::Known(self.entity(uid)?)))
            }
            Expr::Set(members) => {
                let members = members.iter().map(|member| self.constant(member));
                Some(Const::set(members.collect::<Option<_>>()?))
            }
            Expr::UnaryOp { op, expr } => match &**expr {
                Expr::Literal(Literal::String(text)) => extension(*op, text),
                _ => None,
            },
            _ => None,
        }
    }

    fn constant_node(&mut self, constant: Const) -> Lowered {
        if let Const::Bool(value) = constant {
            return self.node(Node::Bool(value));
        }
        let number = match self.constants.get(&constant) {
            Some(number) => *number,
            None => {
                let number = self.program.constants.len() as u32;
                self.program.constants.push(constant.clone());
                self.constants.insert(constant, number);
                number
            }
        };
        self.node(Node::Const(number))
    }

    fn entity(&self, uid: &EntityUID) -> Option<u32> {
        let type_id = self.type_id(&uid.ty)?;
        self.snapshot.number(&(type_id, uid.eid.as_str().into()))
    }

    fn type_id(&self, entity_type: &EntityType) -> Option<TypeId> {
        self.snapshot.type_id(&entity_type.to_string())
    }

    fn pattern(&mut self, elements: &[PatternElem]) -> Lowered<u32> {
        let key: String = elements
            .iter()
            .map(|element| match element {
                // A wildcard stands for itself; a star is told apart by a mark before it.
                PatternElem::Wildcard => "*".to_owned(),
                PatternElem::Char(character @ ('*' | '\\')) => format!("\\{character}"),
                PatternElem::Char(character) => character.to_string(),
            })
            .collect();
        if let Some(number) = self.patterns.get(&key) {
            return Ok(*number);
        }
        let number = self.program.patterns.len() as u32;
        self.program.patterns.push(Pattern::new(elements));
        self.patterns.insert(key, number);
        Ok(number)
    }

    fn name(&mut self, name: &str) -> u32 {
        if let Some(number) = self.names.get(name) {
            return *number;
        }
        let number = self.program.names.len() as u32;
        self.program.names.push(name.into());
        self.names.insert(name.into(), number);
        number
    }

    fn var(&mut self, var: &Var) -> Lowered {
        self.node(match var {
            Var::Principal => Node::Principal,
            Var::Action => Node::Action,
            Var::Resource => Node::Resource,
            Var::Context => return Err(Unsupported::ContextRecord),
        })
    }

    fn unary(&mut self, op: UnaryOp, expr: &Expr, depth: u32) -> Lowered {
        if let (UnaryOp::Not, Some((op, left, right))) = (op, contrary(expr)) {
            return self.binary(op, left, right, depth);
        }
        let inner = self.expression(expr, depth)?;
        self.node(match op {
            UnaryOp::Not => Node::Not(inner),
            UnaryOp::Neg => Node::Negate(inner),
            UnaryOp::IsEmpty => Node::IsEmpty(inner),
            UnaryOp::IsIPv4 => Node::Ip(IpTest::V4, inner),
            UnaryOp::IsIPV6 => Node::Ip(IpTest::V6, inner),
            UnaryOp::IsLoopback => Node::Ip(IpTest::Loopback, inner),
            UnaryOp::IsMulticast => Node::Ip(IpTest::Multicast, inner),
            UnaryOp::ToDate => Node::Time(TimePart::Date, inner),
            UnaryOp::ToTime => Node::Time(TimePart::TimeOfDay, inner),
            UnaryOp::ToMilliseconds => Node::Time(TimePart::Milliseconds, inner),
            UnaryOp::ToSeconds => Node::Time(TimePart::Seconds, inner),
            UnaryOp::ToMinutes => Node::Time(TimePart::Minutes, inner),
            UnaryOp::ToHours => Node::Time(TimePart::Hours, inner),
            UnaryOp::ToDays => Node::Time(TimePart::Days, inner),
            _ => return Err(Unsupported::Operation),
        })
    }

    fn binary(&mut self, op: BinaryOp, left: &Expr, right: &Expr, depth: u32) -> Lowered {
        match (op, left, right) {
            (BinaryOp::GetTag | BinaryOp::HasTag, _, _) => return Err(Unsupported::Tags),
            (BinaryOp::Contains, Expr::Set(members), _) if self.constant(left).is_none() => {
                let member = self.expression(right, depth)?;
                let operands = self.operands(members, depth)?;
                return self.node(Node::OneOf(member, operands));
            }
            (BinaryOp::In, _, Expr::Set(members)) if self.constant(right).is_none() => {
                let entity = self.expression(left, depth)?;
                let operands = self.operands(members, depth)?;
                return self.node(Node::InAny(entity, operands));
            }
            _ => {}
        }
        let left = self.expression(left, depth)?;
        let right = self.expression(right, depth)?;
        let node = match op {
            BinaryOp::NotEq => {
                let equal = self.node(Node::Equal(left, right))?;
                Node::Not(equal)
            }
            _ => binary_node(op, left, right)?,
        };
        self.node(node)
    }

    /// `a || b || c …` as a balanced tree, which tries them in the same order.
    fn chain(&mut self, op: BinaryOp, expression: &Expr, depth: u32) -> Lowered {
        let mut links = Vec::new();
        let mut open = vec![expression];
        while let Some(expression) = open.pop() {
            match expression {
                Expr::BinaryOp {
                    op: inner,
                    left,
                    right,
                } if *inner == op => open.extend([&**right, &**left]),
                other => links.push(self.expression(other, depth)?),
            }
        }
        while links.len() > 1 {
            let mut joined = Vec::with_capacity(links.len().div_ceil(2));
            for pair in links.chunks(2) {
                joined.push(match *pair {
                    [left, right] => self.node(match op {
                        BinaryOp::And => Node::And(left, right),
                        _ => Node::Or(left, right),
                    })?,
                    [last] => last,
                    _ => return Err(Unsupported::Operation),
                });
            }
            links = joined;
        }
        links.pop().ok_or(Unsupported::Operation)
    }

    fn operands(&mut self, members: &[std::sync::Arc<Expr>], depth: u32) -> Lowered<Operands> {
        let nodes: Vec<_> = members
            .iter()
            .map(|member| self.expression(member, depth))
            .collect::<Lowered<_>>()?;
        let start = self.program.operands.len() as u32;
        self.program.operands.extend(nodes);
        let end = self.program.operands.len() as u32;
        Ok(Operands { start, end })
    }

    fn is(&mut self, expr: &Expr, ty: &EntityType, within: Option<&Expr>, depth: u32) -> Lowered {
        let type_id = self.type_id(ty).ok_or(Unsupported::Operation)?;
        let inner = self.expression(expr, depth)?;
        let is = self.node(Node::Is(inner, type_id))?;
        let Some(within) = within else {
            return Ok(is);
        };
        let ancestor = self.expression(within, depth)?;
        let is_in = self.node(Node::In(inner, ancestor))?;
        self.node(Node::And(is, is_in))
    }

    fn attribute(&mut self, whole: &Expr, of: &Expr, name: &str, depth: u32) -> Lowered {
        match path(whole) {
            Some((Var::Context, path)) => {
                let fact = self.context_fact(&path).ok_or(Unsupported::Operation)?;
                if is_record(fact) {
                    return Err(Unsupported::ContextRecord);
                }
                return self.node(Node::Fact(fact));
            }
            Some((var, path)) => {
                if let Some(fact) = entity_fact(&var, &path) {
                    return self.node(Node::Fact(fact));
                }
            }
            None => {}
        }
        let inner = self.expression(of, depth)?;
        let name = self.name(name);
        self.node(Node::Attribute(inner, name))
    }

    /// `of has a.b`
    fn has(&mut self, of: &Expr, names: &[&str], depth: u32) -> Lowered {
        let Some((first, rest)) = names.split_first() else {
            return Err(Unsupported::Operation);
        };
        match path(of) {
            Some((Var::Context, base)) => return self.context_has(&base, names),
            Some((var, base)) if base.is_empty() && rest.is_empty() => {
                if let Some(fact) = entity_fact(&var, &[first]) {
                    return self.node(Node::Has(fact));
                }
            }
            _ => {}
        }
        let inner = self.expression(of, depth)?;
        let name = self.name(first);
        let mut has = self.node(Node::HasAttribute(inner, name))?;
        let mut reached = inner;
        let mut last = name;
        for next in rest {
            reached = self.node(Node::Attribute(reached, last))?;
            last = self.name(next);
            let deeper = self.node(Node::HasAttribute(reached, last))?;
            has = self.node(Node::And(has, deeper))?;
        }
        Ok(has)
    }

    /// `context.base has names`: the base must be there for the question to have an answer.
    fn context_has(&mut self, base: &[&str], names: &[&str]) -> Lowered {
        let whole: Vec<&str> = [base, names].concat();
        let fact = self.context_fact(&whole);
        match (base, names.len()) {
            // Every call has every signal.
            ([] | ["signals"] | ["signals", "endpoint"], _)
                if whole.first() == Some(&"signals") =>
            {
                self.node(Node::Bool(fact.is_some()))
            }
            ([], 1 | 2) => self.node(fact.map_or(Node::Bool(false), Node::Has)),
            ([record], 1) => {
                let record = self.context_fact(&[record]).ok_or(Unsupported::Operation)?;
                self.node(match fact {
                    // Of the records only claims have fields that may be absent.
                    Some(fact @ Fact::Claim(..)) => Node::Has(fact),
                    fact => Node::Needs(record, fact.is_some()),
                })
            }
            _ => Err(Unsupported::ContextRecord),
        }
    }

    fn context_fact(&self, path: &[&str]) -> Option<Fact> {
        Some(match path {
            ["direction"] => Fact::Direction,
            ["time"] => Fact::Time,
            ["source_ip"] => Fact::SourceIp,
            ["tls"] => Fact::Tls,
            ["tls", "version"] => Fact::TlsVersion,
            ["tls", "key_exchange"] => Fact::TlsKeyExchange,
            ["tls", "post_quantum"] => Fact::TlsPostQuantum,
            ["claims"] => Fact::Claims,
            ["claims", name] => self.claim(name)?,
            ["method"] => Fact::Method,
            ["query"] => Fact::Query,
            ["headers"] => Fact::Headers,
            ["headers", name] => self.header(name)?,
            ["rpc"] => Fact::Rpc,
            ["rpc", "service"] => Fact::RpcService,
            ["rpc", "method"] => Fact::RpcMethod,
            ["signals"] => Fact::Signals,
            ["signals", "endpoint"] => Fact::EndpointSignals,
            ["signals", ..] => Fact::Signal(signal_at(path)?),
            _ => return None,
        })
    }

    fn header(&self, name: &str) -> Option<Fact> {
        let mut headers = self.declared.headers.iter();
        let place = headers.position(|header| &**header == name)?;
        u16::try_from(place).ok().map(Fact::Header)
    }

    fn claim(&self, name: &str) -> Option<Fact> {
        let mut claims = self.declared.claims.iter().zip(0..);
        let ((_, of_type), place) = claims.find(|((claim, _), _)| &**claim == name)?;
        Some(Fact::Claim(place, *of_type))
    }
}

fn binary_node(op: BinaryOp, left: NodeId, right: NodeId) -> Lowered<Node> {
    Ok(match op {
        BinaryOp::Eq => Node::Equal(left, right),
        BinaryOp::Less | BinaryOp::DecimalLessThan => Node::Compare(Comparison::Less, left, right),
        BinaryOp::LessEq | BinaryOp::DecimalLessEq => {
            Node::Compare(Comparison::LessOrEqual, left, right)
        }
        BinaryOp::Greater | BinaryOp::DecimalGreater => {
            Node::Compare(Comparison::Greater, left, right)
        }
        BinaryOp::GreaterEq | BinaryOp::DecimalGreaterEq => {
            Node::Compare(Comparison::GreaterOrEqual, left, right)
        }
        BinaryOp::Add => Node::Arithmetic(Arithmetic::Add, left, right),
        BinaryOp::Sub => Node::Arithmetic(Arithmetic::Subtract, left, right),
        BinaryOp::Mul => Node::Arithmetic(Arithmetic::Multiply, left, right),
        BinaryOp::In => Node::In(left, right),
        BinaryOp::Contains => Node::Contains(left, right),
        BinaryOp::ContainsAll => Node::ContainsAll(left, right),
        BinaryOp::ContainsAny => Node::ContainsAny(left, right),
        BinaryOp::IsInRange => Node::InRange(left, right),
        BinaryOp::Offset => Node::Offset(left, right),
        BinaryOp::DurationSince => Node::Since(left, right),
        _ => return Err(Unsupported::Operation),
    })
}

/// The comparison that holds where this one does not: Cedar has `a > b` as `!(a <= b)`.
fn contrary(expression: &Expr) -> Option<(BinaryOp, &Expr, &Expr)> {
    let Expr::BinaryOp { op, left, right } = expression else {
        return None;
    };
    let contrary = match op {
        BinaryOp::Eq => BinaryOp::NotEq,
        BinaryOp::Less => BinaryOp::GreaterEq,
        BinaryOp::LessEq => BinaryOp::Greater,
        _ => return None,
    };
    Some((contrary, left, right))
}

/// One of the conditions that must all hold.
pub(crate) struct Conjunct<'a> {
    pub(crate) expression: &'a Expr,
    /// From an `unless`.
    pub(crate) negated: bool,
}

/// The conditions of a policy, split at every outermost `&&`.
pub(crate) fn conjuncts(clauses: &[Clause]) -> impl Iterator<Item = Conjunct<'_>> {
    let mut all = Vec::new();
    for clause in clauses {
        match clause {
            Clause::When(expression) => split(expression, &mut all),
            Clause::Unless(expression) => all.push(Conjunct {
                expression,
                negated: true,
            }),
        }
    }
    all.into_iter()
}

fn split<'a>(expression: &'a Expr, into: &mut Vec<Conjunct<'a>>) {
    let mut open = vec![expression];
    while let Some(expression) = open.pop() {
        match expression {
            Expr::BinaryOp {
                op: BinaryOp::And,
                left,
                right,
            } => open.extend([&**right, &**left]),
            _ => into.push(Conjunct {
                expression,
                negated: false,
            }),
        }
    }
}

/// `principal.a.b` as the variable and the names.
pub(crate) fn path(expression: &Expr) -> Option<(Var, Vec<&str>)> {
    let mut names = Vec::new();
    let mut inner = expression;
    loop {
        match inner {
            Expr::GetAttr { expr, attr } => {
                names.push(attr.as_str());
                inner = expr;
            }
            Expr::Var(var) => {
                names.reverse();
                return Some((var.clone(), names));
            }
            _ => return None,
        }
    }
}

fn entity_fact(var: &Var, path: &[&str]) -> Option<Fact> {
    Some(match (var, path) {
        (Var::Principal, ["trust_domain"]) => Fact::PrincipalTrustDomain,
        (Var::Principal, ["path"]) => Fact::PrincipalPath,
        (Var::Resource, ["host"]) => Fact::ResourceHost,
        (Var::Resource, ["path"]) => Fact::ResourcePath,
        (Var::Resource, ["template"]) => Fact::ResourceTemplate,
        (Var::Resource, ["documented"]) => Fact::ResourceDocumented,
        (Var::Resource, ["port"]) => Fact::ResourcePort,
        _ => return None,
    })
}

/// The signal that `context.signals.…` is.
pub(crate) fn signal_at(path: &[&str]) -> Option<Signal> {
    Signal::from_name(&path.strip_prefix(&["signals"])?.join("."))
}

fn is_record(fact: Fact) -> bool {
    matches!(
        fact,
        Fact::Tls
            | Fact::Claims
            | Fact::Headers
            | Fact::Rpc
            | Fact::Signals
            | Fact::EndpointSignals
    )
}

/// `ip("…")` and its like. What times mean is asked of Cedar.
fn extension(op: UnaryOp, text: &str) -> Option<Const> {
    match op {
        UnaryOp::Ip => Net::parse(text).map(Const::Ip),
        UnaryOp::Decimal => parse_decimal(text).map(Const::Decimal),
        UnaryOp::Duration => {
            cedar_long(&format!("duration({text:?}).toMilliseconds()")).map(Const::Duration)
        }
        UnaryOp::Datetime => {
            let since = "durationSince(datetime(\"1970-01-01\")).toMilliseconds()";
            cedar_long(&format!("datetime({text:?}).{since}")).map(Const::Datetime)
        }
        _ => None,
    }
}

/// The number that Cedar takes a constant expression for.
pub(crate) fn cedar_long(expression: &str) -> Option<i64> {
    let nobody = || "Action::\"none\"".parse().ok();
    let request = Request::new(nobody()?, nobody()?, nobody()?, Context::empty(), None).ok()?;
    let expression = Expression::from_str(expression).ok()?;
    match eval_expression(&request, &Entities::empty(), &expression) {
        Ok(EvalResult::Long(number)) => Some(number),
        _ => None,
    }
}
