//! What compiled conditions compare signals with: where a signal passes such a limit, a decision
//! can change.

use crate::signals::{Kind, RiskLevel, Signal, SignalLimits, SignalSet};

use super::{
    fact::Fact,
    lower::Mark,
    program::{Comparison, Node, NodeId, Program},
    value::Const,
};

/// The signals that a policy reads, each with a limit (a decision can change between it and the
/// next number), or without one where it is read otherwise.
pub(crate) type Compared = Vec<(Signal, Option<i64>)>;

/// What the conditions read that were lowered since `mark`.
pub(crate) fn compared(program: &Program, mark: Mark) -> Compared {
    let nodes = program.nodes.get(mark.node..).unwrap_or(&[]);
    let mut found = Collected {
        program,
        compared: Vec::new(),
        known: Vec::new(),
    };
    nodes.iter().for_each(|node| found.visit(node));
    for (number, node) in (mark.node..).zip(nodes) {
        if let Some(signal) = signal_of(node)
            && !found.known.contains(&number)
        {
            found.compared.push((signal, alone(signal)));
        }
    }
    found.compared.sort_unstable();
    found.compared.dedup();
    found.compared
}

/// What is told of signals of which nobody knows how they are read.
pub(crate) fn unknown(signals: SignalSet) -> Compared {
    signals
        .iter()
        .map(|signal| (signal, alone(signal)))
        .collect()
}

/// The limits of all policies.
pub(crate) fn limits(policies: &[Compared]) -> SignalLimits {
    let mut limits = SignalLimits::default();
    for (signal, limit) in policies.iter().flatten() {
        limits.add(*signal, *limit);
    }
    limits
}

/// What is yes or no passes one limit, however it is read.
fn alone(signal: Signal) -> Option<i64> {
    (signal.kind() == Kind::Bool).then_some(0)
}

fn signal_of(node: &Node) -> Option<Signal> {
    match node {
        Node::Fact(Fact::Signal(signal)) => Some(*signal),
        _ => None,
    }
}

struct Collected<'a> {
    program: &'a Program,
    compared: Compared,
    /// The nodes of signals whose limits are found.
    known: Vec<usize>,
}

impl<'a> Collected<'a> {
    fn visit(&mut self, node: &Node) {
        match *node {
            Node::Compare(comparison, left, right) => {
                self.ordered(comparison, left, right);
                self.ordered(contrary(comparison), right, left);
            }
            Node::Equal(left, right) => {
                self.equal(left, right);
                self.equal(right, left);
            }
            Node::Contains(set, member) => self.among(set, member),
            _ => {}
        }
    }

    /// A signal on the left of a comparison with a number.
    fn ordered(&mut self, comparison: Comparison, signal: NodeId, with: NodeId) {
        let (Some(signal), Some(Const::Long(number))) = (self.signal(signal), self.constant(with))
        else {
            return;
        };
        let limit = match comparison {
            Comparison::Greater | Comparison::LessOrEqual => *number,
            Comparison::GreaterOrEqual | Comparison::Less => number.saturating_sub(1),
        };
        self.known.push(signal.1);
        self.compared.push((signal.0, Some(limit)));
    }

    fn equal(&mut self, signal: NodeId, with: NodeId) {
        if let (Some(signal), Some(constant)) = (self.signal(signal), self.constant(with)) {
            self.one_of(signal, std::slice::from_ref(constant));
        }
    }

    fn among(&mut self, set: NodeId, signal: NodeId) {
        if let (Some(signal), Some(Const::Set(members))) = (self.signal(signal), self.constant(set))
        {
            self.one_of(signal, members);
        }
    }

    fn one_of(&mut self, (signal, node): (Signal, usize), constants: &[Const]) {
        self.known.push(node);
        let before = self.compared.len();
        for constant in constants {
            let number = match (signal.kind(), constant) {
                (Kind::Long, Const::Long(number)) => *number,
                (Kind::Bool, Const::Bool(_)) => 1,
                (Kind::Level, Const::Text(word)) => match RiskLevel::from_name(word) {
                    Some(level) => level as i64,
                    None => continue,
                },
                _ => continue,
            };
            let limits = match signal.kind() {
                Kind::Bool => [0, 0],
                _ => [number.saturating_sub(1), number],
            };
            let limits = limits.map(|limit| (signal, Some(limit)));
            self.compared.extend(limits);
        }
        if self.compared.len() == before {
            // It decides nothing, but it is read.
            self.compared.push((signal, Some(0)));
        }
    }

    fn signal(&self, node: NodeId) -> Option<(Signal, usize)> {
        let place = node.0 as usize;
        Some((signal_of(self.program.nodes.get(place)?)?, place))
    }

    fn constant(&self, node: NodeId) -> Option<&'a Const> {
        let Node::Const(number) = self.program.nodes.get(node.0 as usize)? else {
            return None;
        };
        self.program.constants.get(*number as usize)
    }
}

/// The comparison with its sides exchanged.
fn contrary(comparison: Comparison) -> Comparison {
    match comparison {
        Comparison::Less => Comparison::Greater,
        Comparison::LessOrEqual => Comparison::GreaterOrEqual,
        Comparison::Greater => Comparison::Less,
        Comparison::GreaterOrEqual => Comparison::LessOrEqual,
    }
}
