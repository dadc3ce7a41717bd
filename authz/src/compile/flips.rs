//! When the clock alone can change a decision: the moments that conditions compare
//! `context.time` with. An allow that is still in use is decided again then.

use super::{
    fact::Fact,
    program::{Node, NodeId, Program},
    value::Const,
};

/// Where time is read otherwise than in a comparison with one moment, such as for the time of
/// day, an allow is decided again this often, in milliseconds.
const UNKNOWN: i64 = 1_000;

/// The moments at which decisions can change, in milliseconds since the epoch.
#[derive(Debug)]
pub(crate) struct Flips {
    /// Sorted, each once.
    at: Box<[i64]>,
    /// Whether time is read in other ways too.
    otherwise: bool,
}

impl Flips {
    /// The moments in a program; `otherwise` where conditions outside of it read the time.
    pub(crate) fn of(program: &Program, otherwise: bool) -> Self {
        let mut flips = Collected {
            program,
            at: Vec::new(),
            otherwise,
        };
        for node in &program.nodes {
            flips.visit(node);
        }
        for operand in &program.operands {
            flips.otherwise |= flips.is_time(*operand);
        }
        flips.at.sort_unstable();
        flips.at.dedup();
        Self {
            at: flips.at.into(),
            otherwise: flips.otherwise,
        }
    }

    /// The first moment after `now` at which a decision can change.
    pub(crate) fn next(&self, now: i64) -> Option<i64> {
        let behind = self.at.partition_point(|at| *at <= now);
        let known = self.at.get(behind).copied();
        let unknown = self.otherwise.then(|| now.saturating_add(UNKNOWN));
        match (known, unknown) {
            (Some(known), Some(unknown)) => Some(known.min(unknown)),
            (known, unknown) => known.or(unknown),
        }
    }
}

struct Collected<'a> {
    program: &'a Program,
    at: Vec<i64>,
    otherwise: bool,
}

impl Collected<'_> {
    fn visit(&mut self, node: &Node) {
        match *node {
            Node::Compare(_, left, right) | Node::Equal(left, right) => {
                self.compared(left, right);
                self.compared(right, left);
            }
            Node::Not(inner)
            | Node::Negate(inner)
            | Node::InAny(inner, _)
            | Node::Is(inner, _)
            | Node::Like(inner, _)
            | Node::Attribute(inner, _)
            | Node::HasAttribute(inner, _)
            | Node::IsEmpty(inner)
            | Node::OneOf(inner, _)
            | Node::Ip(_, inner)
            | Node::Time(_, inner) => self.read(&[inner]),
            Node::And(left, right)
            | Node::Or(left, right)
            | Node::Arithmetic(_, left, right)
            | Node::In(left, right)
            | Node::Contains(left, right)
            | Node::ContainsAll(left, right)
            | Node::ContainsAny(left, right)
            | Node::InRange(left, right)
            | Node::Offset(left, right)
            | Node::Since(left, right) => self.read(&[left, right]),
            Node::If(test, then, otherwise) => self.read(&[test, then, otherwise]),
            Node::Bool(_)
            | Node::Const(_)
            | Node::Fact(_)
            | Node::Has(_)
            | Node::Needs(..)
            | Node::Principal
            | Node::Action
            | Node::Resource => {}
        }
    }

    /// The time compared with one moment: the answer can change at the moment, and behind it.
    fn compared(&mut self, time: NodeId, with: NodeId) {
        if !self.is_time(time) {
            return;
        }
        match self.moment(with) {
            Some(moment) => self.at.extend([moment, moment.saturating_add(1)]),
            None => self.otherwise = true,
        }
    }

    fn read(&mut self, operands: &[NodeId]) {
        self.otherwise |= operands.iter().any(|operand| self.is_time(*operand));
    }

    fn is_time(&self, node: NodeId) -> bool {
        let node = self.program.nodes.get(node.0 as usize);
        matches!(node, Some(Node::Fact(Fact::Time)))
    }

    fn moment(&self, node: NodeId) -> Option<i64> {
        let Node::Const(number) = self.program.nodes.get(node.0 as usize)? else {
            return None;
        };
        match self.program.constants.get(*number as usize)? {
            Const::Datetime(moment) => Some(*moment),
            _ => None,
        }
    }
}
