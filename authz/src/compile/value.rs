//! What conditions compute with. Constants are owned by the program; values borrow from it or
//! from the facts of a call, so that computing copies no strings.

use std::{cmp::Ordering, fmt, net::IpAddr};

use crate::snapshot::EntityRef;

/// A constant of the program, or a value of an entity's attribute. The order has no meaning
/// beyond making sets searchable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Const {
    Bool(bool),
    Long(i64),
    Text(Box<str>),
    Entity(EntityRef),
    /// Ten-thousandths.
    Decimal(i64),
    Ip(Net),
    /// Milliseconds since the epoch.
    Datetime(i64),
    /// Milliseconds.
    Duration(i64),
    /// Sorted, each member once.
    Set(Box<[Const]>),
    /// Sorted by name.
    Record(Box<[(Box<str>, Const)]>),
}

impl Const {
    pub(crate) fn set(mut members: Vec<Self>) -> Self {
        members.sort_unstable();
        members.dedup();
        Self::Set(members.into())
    }

    pub(crate) fn record(mut fields: Vec<(Box<str>, Self)>) -> Self {
        fields.sort_unstable();
        Self::Record(fields.into())
    }

    pub(crate) fn value(&self) -> Value<'_> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Long(value) => Value::Long(*value),
            Self::Text(value) => Value::Text(value),
            Self::Entity(value) => Value::Entity(*value),
            Self::Decimal(value) => Value::Decimal(*value),
            Self::Ip(value) => Value::Ip(*value),
            Self::Datetime(value) => Value::Datetime(*value),
            Self::Duration(value) => Value::Duration(*value),
            Self::Set(members) => Value::Set(members),
            Self::Record(fields) => Value::Record(fields),
        }
    }
}

/// A value at the time of a decision.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Bool(bool),
    Long(i64),
    Text(&'a str),
    Entity(EntityRef),
    Decimal(i64),
    Ip(Net),
    Datetime(i64),
    Duration(i64),
    Set(&'a [Const]),
    Record(&'a [(Box<str>, Const)]),
    /// The set of texts that a fact of the call holds; read through the call.
    FactSet(FactSet),
}

/// Facts that are sets of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FactSet {
    /// The values of the header with this number.
    Header(u16),
    /// The values of the claim with this number.
    Claim(u16),
}

impl Value<'_> {
    /// The order of [`Const`], which a value that is no set of facts shares.
    pub(crate) fn order(&self, other: &Const) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Const::Bool(b)) => a.cmp(b),
            (Self::Long(a), Const::Long(b)) => a.cmp(b),
            (Self::Text(a), Const::Text(b)) => (*a).cmp(b),
            (Self::Entity(a), Const::Entity(b)) => a.cmp(b),
            (Self::Decimal(a), Const::Decimal(b)) => a.cmp(b),
            (Self::Ip(a), Const::Ip(b)) => a.cmp(b),
            (Self::Datetime(a), Const::Datetime(b)) => a.cmp(b),
            (Self::Duration(a), Const::Duration(b)) => a.cmp(b),
            (Self::Set(a), Const::Set(b)) => (*a).cmp(b),
            (Self::Record(a), Const::Record(b)) => (*a).cmp(b),
            _ => self.rank().cmp(&other.value().rank()),
        }
    }

    /// The place of the variant in the order.
    fn rank(&self) -> u8 {
        match self {
            Self::Bool(_) => 0,
            Self::Long(_) => 1,
            Self::Text(_) => 2,
            Self::Entity(_) => 3,
            Self::Decimal(_) => 4,
            Self::Ip(_) => 5,
            Self::Datetime(_) => 6,
            Self::Duration(_) => 7,
            Self::Set(_) => 8,
            Self::Record(_) => 9,
            Self::FactSet(_) => 10,
        }
    }
}

/// Whether a set of constants has this member.
pub(crate) fn contains(members: &[Const], value: &Value<'_>) -> bool {
    members
        .binary_search_by(|member| value.order(member).reverse())
        .is_ok()
}

/// Cedar's `ipaddr`: an address with the length of its prefix. Two are equal if both parts
/// are, so `10.0.0.1/8` is not `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Net {
    address: IpAddr,
    prefix: u8,
}

impl Net {
    pub(crate) fn of(address: IpAddr) -> Self {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        Self { address, prefix }
    }

    /// Parses what Cedar has accepted as an `ip(…)`; none for what it would not.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let Some((address, prefix)) = text.split_once('/') else {
            return Some(Self::of(text.parse().ok()?));
        };
        let whole = Self::of(address.parse().ok()?);
        let prefix: u8 = prefix.parse().ok()?;
        (prefix <= whole.prefix).then_some(Self { prefix, ..whole })
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.address.is_ipv4()
    }

    pub(crate) fn is_loopback(&self) -> bool {
        self.address.is_loopback() && self.prefix >= if self.is_v4() { 8 } else { 128 }
    }

    pub(crate) fn is_multicast(&self) -> bool {
        self.address.is_multicast() && self.prefix >= if self.is_v4() { 4 } else { 8 }
    }

    pub(crate) fn is_in_range(&self, range: &Self) -> bool {
        match (self.address, range.address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let bits = |address| u128::from(u32::from(address)) << 96;
                within(bits(a), self.prefix, bits(b), range.prefix)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                within(u128::from(a), self.prefix, u128::from(b), range.prefix)
            }
            _ => false,
        }
    }
}

/// As Cedar reads it. Cedar refuses an IPv6 address with an IPv4 tail, as std writes mapped
/// ones, so all groups are written out.
impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}/{}", self.prefix),
            IpAddr::V6(address) => {
                let groups = address.segments().map(|group| format!("{group:x}"));
                write!(f, "{}/{}", groups.join(":"), self.prefix)
            }
        }
    }
}

/// Whether the first network lies in the second, both left-aligned: its prefix is not shorter
/// and begins with the other's.
fn within(a: u128, a_prefix: u8, b: u128, b_prefix: u8) -> bool {
    let differing = (a ^ b).leading_zeros();
    a_prefix >= b_prefix && differing >= u32::from(b_prefix)
}

/// Cedar's `decimal`, in ten-thousandths: what it has accepted, otherwise none.
pub(crate) fn parse_decimal(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = whole.strip_prefix('-').unwrap_or(whole);
    if !digits(unsigned) || !digits(fraction) || fraction.len() > 4 {
        return None;
    }
    let scaled = format!("{whole}{fraction:0<4}");
    scaled.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_ten_thousandths() {
        for (text, expected) in [
            ("1.0", Some(10_000)),
            ("-0.0001", Some(-1)),
            ("-1.5", Some(-15_000)),
            ("922337203685477.5807", Some(i64::MAX)),
            ("922337203685477.5808", None),
            ("1", None),
            (".5", None),
            ("1.", None),
            ("1.00000", None),
            ("+1.0", None),
        ] {
            assert_eq!(parse_decimal(text), expected, "{text}");
        }
    }

    #[test]
    fn ranges_as_cedar_has_them() {
        let net = |text| Net::parse(text).unwrap();
        for (inner, outer, expected) in [
            ("10.0.0.7", "10.0.0.0/8", true),
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.0/8", "10.0.0.0/16", false),
            ("10.0.0.0/16", "10.0.0.0/8", true),
            ("11.0.0.7", "10.0.0.0/8", false),
            ("1.2.3.4", "0.0.0.0/0", true),
            ("::1", "0.0.0.0/0", false),
            ("2001:db8::1", "2001:db8::/32", true),
            ("2001:db9::1", "2001:db8::/32", false),
            ("::1", "::/0", true),
        ] {
            let told = net(inner).is_in_range(&net(outer));
            assert_eq!(told, expected, "{inner} in {outer}");
        }
    }

    #[test]
    fn sets_find_their_members() {
        let Const::Set(set) = Const::set(vec![
            Const::Text("b".into()),
            Const::Long(3),
            Const::Text("a".into()),
            Const::Long(3),
        ]) else {
            panic!("not a set");
        };
        assert_eq!(set.len(), 3);
        assert!(contains(&set, &Value::Text("a")));
        assert!(contains(&set, &Value::Long(3)));
        assert!(!contains(&set, &Value::Long(4)));
        assert!(!contains(&set, &Value::Bool(true)));
    }
}
