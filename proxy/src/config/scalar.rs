//! Single values: numbers, durations, sizes, addresses, names and paths.
//!
//! Each function reads one node and says in a sentence what is wrong with it and what is allowed.
//! They know nothing of the rest of the file.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use wayleave_certs::source::federation::EndpointUrl;
use wayleave_certs::workload_api::Endpoint;
use wayleave_identity::{SpiffeId, SpiffeIdPattern, TrustDomain};

use super::hosts::in_brackets;
pub(super) use super::hosts::server_name;
use super::problem::{Wrong, quoted};
use super::reader::closest;
use super::tree::{Node, Value};
use super::{Address, HostPort};

/// Longest DNS name, in bytes (RFC 1035, section 2.3.4).
const MAX_DNS_NAME: usize = 253;
/// Longest DNS label, in bytes (RFC 1035, section 2.3.4).
const MAX_DNS_LABEL: usize = 63;

const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const SIZE_UNITS: [(&str, u64); 4] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// Text, or a number as it was written.
pub(super) fn text<'a>(node: &'a Node, expected: &str) -> Result<&'a str, Wrong> {
    match &node.value {
        Value::Text(text) | Value::Number(text) if !text.is_empty() => Ok(text),
        Value::Text(_) | Value::Null | Value::Number(_) => {
            Err(Wrong::new("has no value").help(format!("expected {expected}")))
        }
        other => Err(Wrong::new(format!(
            "expected {expected}, found {}",
            other.kind()
        ))),
    }
}

/// `true` or `false`.
pub(super) fn boolean(node: &Node) -> Result<bool, Wrong> {
    match &node.value {
        Value::Bool(value) => Ok(*value),
        _ => Err(unexpected(node, "`true` or `false`")),
    }
}

/// A whole number in `range`.
pub(super) fn integer(node: &Node, range: &RangeInclusive<u64>) -> Result<u64, Wrong> {
    let expected = format!("a whole number from {} to {}", range.start(), range.end());
    let Value::Number(written) = &node.value else {
        return Err(unexpected(node, &expected));
    };
    written
        .parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| out_of_range(written, &expected))
}

/// A duration in `range`, such as `500ms`, `30s` or `1m30s`.
pub(super) fn duration(node: &Node, range: &RangeInclusive<Duration>) -> Result<Duration, Wrong> {
    let expected = format!(
        "a duration from {} to {}, such as `500ms`, `30s` or `5m`",
        show_duration(*range.start()),
        show_duration(*range.end())
    );
    if let Value::Number(number) = &node.value {
        return Err(Wrong::new(format!("`{}` has no unit", quoted(number)))
            .help(format!("expected {expected}")));
    }
    let written = text(node, &expected)?;
    let duration = duration_of(written).map_err(|_| not_a("duration", written, &expected))?;
    if range.contains(&duration) {
        Ok(duration)
    } else {
        Err(out_of_range(written, &expected))
    }
}

/// The duration written as `text`; the error says how durations are written.
pub(crate) fn duration_of(text: &str) -> Result<Duration, &'static str> {
    quantity(text, &DURATION_UNITS)
        .map(Duration::from_millis)
        .ok_or("expected a number with its unit, such as `500ms`, `30s` or `5m`")
}

/// Whether the value says `off`.
pub(super) fn is_off(node: &Node) -> bool {
    matches!(&node.value, Value::Text(text) if text == "off")
}

/// A number of bytes in `range`, such as `32KiB` or `65536`.
pub(super) fn size(node: &Node, range: &RangeInclusive<u64>) -> Result<u64, Wrong> {
    let expected = format!(
        "a size from {} to {}, such as `32KiB` or `65536`",
        show_size(*range.start()),
        show_size(*range.end())
    );
    let written = text(node, &expected)?;
    let bytes = written
        .parse()
        .ok()
        .or_else(|| quantity(written, &SIZE_UNITS))
        .ok_or_else(|| not_a("size", written, &expected))?;
    if range.contains(&bytes) {
        Ok(bytes)
    } else {
        Err(out_of_range(written, &expected))
    }
}

/// The sum of number-and-unit pairs, in the smallest unit; `None` if it is not that.
fn quantity(written: &str, units: &[(&str, u64)]) -> Option<u64> {
    let mut rest = written;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?;
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit = rest.get(..letters)?;
        let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.checked_mul(*factor)?)?;
        rest = rest.get(letters..)?;
    }
    (!written.is_empty()).then_some(total)
}

/// One of `choices`.
pub(super) fn choice<T: Copy>(node: &Node, choices: &[(&str, T)]) -> Result<T, Wrong> {
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let expected = format!("one of: {}", names.join(", "));
    let written = text(node, &expected)?;
    choices
        .iter()
        .find(|(name, _)| *name == written)
        .map(|(_, value)| *value)
        .ok_or_else(|| {
            let guess = closest(written, &names)
                .map(|guess| format!("did you mean `{guess}`? "))
                .unwrap_or_default();
            Wrong::new(format!("`{}` is not known here", quoted(written)))
                .help(format!("{guess}expected {expected}"))
        })
}

/// An IP address and a port to listen on.
pub(super) fn listen(node: &Node) -> Result<SocketAddr, Wrong> {
    let expected = "an IP address and a port, such as `127.0.0.1:8443` or `[::1]:8443`";
    let written = text(node, expected)?;
    written.parse().map_err(|_| {
        let wrong = not_an("address to listen on", written, expected);
        match written
            .strip_prefix(':')
            .or_else(|| written.strip_prefix("*:"))
        {
            Some(port) => wrong.help(format!(
                "write `0.0.0.0:{0}` for every interface, or `127.0.0.1:{0}` for this machine only",
                quoted(port)
            )),
            None => wrong,
        }
    })
}

/// A host name or IP address, and a port to connect to.
pub(super) fn host_port(node: &Node) -> Result<HostPort, Wrong> {
    let expected = "a host and a port, such as `127.0.0.1:8080` or `app.local:8080`";
    let written = text(node, expected)?;
    if written.contains("://") {
        return Err(not_an("address", written, expected)
            .help("leave the scheme and the path out; `protocol` says what the upstream speaks"));
    }
    host_port_of(written).map_err(|help| not_an("address", written, expected).help(help))
}

/// Where an upstream listens: a host and a port, or `unix:` and the path of a socket.
pub(super) fn address(node: &Node, base: &Path) -> Result<Address, Wrong> {
    let expected = "a host and a port, such as `127.0.0.1:8080`, or `unix:` and a path";
    match text(node, expected)?.strip_prefix("unix:") {
        Some(path) => file_path(path, base).map(Address::Unix),
        None => host_port(node).map(Address::Tcp),
    }
}

/// The host and port written as `text`; the error says how they are written.
pub(crate) fn host_port_of(text: &str) -> Result<HostPort, &'static str> {
    const FORM: &str = "write a host and a port, such as `127.0.0.1:8080` or `app.local:8080`";
    let (host, port) = text.rsplit_once(':').ok_or(FORM)?;
    let port = port.parse().ok().filter(|port| *port != 0);
    let port = port.ok_or("the port is a number from 1 to 65535")?;
    let host = canonical_host(host).ok_or(FORM)?;
    Ok(HostPort { host, port })
}

/// A host name served by a listener: in lower case, without port and trailing dot.
pub(super) fn served_host(node: &Node) -> Result<String, Wrong> {
    let expected = "a host name without a port, such as `orders.shop.example`";
    let written = text(node, expected)?;
    let wrong = || not_a("host name", written, expected);
    if written.contains('*') {
        return Err(
            wrong().help("wildcards are not supported; leave `hosts` out to serve every host")
        );
    }
    let host = canonical_host(written).ok_or_else(wrong)?;
    Ok(in_brackets(host))
}

/// A DNS name in lower case or an IP address in its canonical form.
pub(super) fn canonical_host(written: &str) -> Option<String> {
    let bracketed = written
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Some(inner) = bracketed {
        return match inner.parse().ok()? {
            IpAddr::V6(address) => Some(address.to_string()),
            IpAddr::V4(_) => None,
        };
    }
    if let Ok(IpAddr::V4(address)) = written.parse() {
        return Some(address.to_string());
    }
    let name = written.strip_suffix('.').unwrap_or(written);
    is_dns_name(name).then(|| name.to_ascii_lowercase())
}

/// Labels of letters, digits, `-` and `_`; the last one is not a number, which an IP address
/// with a slip of the pen would be.
fn is_dns_name(name: &str) -> bool {
    let label_is_valid = |label: &str| {
        (1..=MAX_DNS_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let last_is_number = name
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= MAX_DNS_NAME && !last_is_number && name.split('.').all(label_is_valid)
}

/// A listener's name.
pub(super) fn listener_name(node: &Node) -> Result<Arc<str>, Wrong> {
    let expected = "1 to 63 of `a-z`, `0-9`, `-` and `_`";
    let written = text(node, expected)?;
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
    };
    if written.len() <= 63 && written.bytes().all(allowed) {
        Ok(Arc::from(written))
    } else {
        Err(not_a("listener name", written, expected))
    }
}

/// The id of a Cedar `Service`.
pub(super) fn service_name(node: &Node) -> Result<Arc<str>, Wrong> {
    let expected = "the name that policies use, such as `orders`; at most 255 printable characters";
    let written = text(node, expected)?;
    let printable = written.trim() == written && !written.chars().any(char::is_control);
    if written.len() <= 255 && printable {
        Ok(Arc::from(written))
    } else {
        Err(not_a("service name", written, expected))
    }
}

/// A SPIFFE trust domain.
pub(super) fn trust_domain(node: &Node) -> Result<TrustDomain, Wrong> {
    parsed(
        node,
        "trust domain",
        "a trust domain, such as `partner.example`",
    )
}

/// The SPIFFE ID of a workload.
pub(super) fn spiffe_id(node: &Node) -> Result<SpiffeId, Wrong> {
    let expected = "the SPIFFE ID of a workload, such as `spiffe://shop.example/ns/web/sa/cart`";
    let id: SpiffeId = parsed(node, "SPIFFE ID", expected)?;
    if id.is_root() {
        return Err(not_a("workload", id.as_str(), expected));
    }
    Ok(id)
}

/// The SPIFFE IDs of workloads: one, all below a path, or all of a trust domain.
pub(super) fn spiffe_id_pattern(node: &Node) -> Result<SpiffeIdPattern, Wrong> {
    parsed(
        node,
        "SPIFFE ID or pattern",
        "a SPIFFE ID, such as `spiffe://shop.example/ns/web/sa/cart`, or a prefix of it and `/*`",
    )
}

/// A text of a form of its own.
fn parsed<T: FromStr<Err: Display>>(node: &Node, what: &str, expected: &str) -> Result<T, Wrong> {
    let written = text(node, expected)?;
    written
        .parse()
        .map_err(|error: T::Err| not_a(what, written, &format!("{expected}: {error}")))
}

/// The address of a Workload API.
pub(super) fn endpoint(node: &Node) -> Result<Endpoint, Wrong> {
    explained(node, "`unix:///absolute/path` or `tcp://IP:port`")
}

/// The URL of a bundle endpoint.
pub(super) fn bundle_url(node: &Node) -> Result<EndpointUrl, Wrong> {
    explained(
        node,
        "an https URL, such as `https://partner.example/bundle.json`",
    )
}

/// A text whose parser repeats it and says what to write instead.
fn explained<T: FromStr<Err: Display>>(node: &Node, expected: &str) -> Result<T, Wrong> {
    let written = text(node, expected)?;
    written.parse().map_err(|error: T::Err| {
        let told = error.to_string().replacen(written, &quoted(written), 1);
        Wrong::new(told).help(format!("expected {expected}"))
    })
}

/// A hint by which a Workload API tells SVIDs apart.
pub(super) fn hint(node: &Node) -> Result<String, Wrong> {
    let expected = "the hint of an SVID, at most 255 printable characters";
    let written = text(node, expected)?;
    if written.len() > 255 || written.chars().any(char::is_control) {
        return Err(not_a("hint", written, expected));
    }
    Ok(written.to_owned())
}

/// A path; a relative one is taken from `base`.
pub(super) fn path(node: &Node, base: &Path) -> Result<PathBuf, Wrong> {
    file_path(text(node, "a path")?, base)
}

/// A path as it was written; a relative one is taken from `base`.
pub(super) fn file_path(written: &str, base: &Path) -> Result<PathBuf, Wrong> {
    if written.is_empty() || written.contains('\0') {
        return Err(not_a("path", written, "a path without NUL characters"));
    }
    if written == "~" || written.starts_with("~/") {
        return Err(
            not_a("path", written, "a path").help("`~` is not expanded; write the folder out")
        );
    }
    Ok(base.join(written))
}

fn unexpected(node: &Node, expected: &str) -> Wrong {
    match &node.value {
        Value::Null => Wrong::new("has no value").help(format!("expected {expected}")),
        Value::Text(written) => Wrong::new(format!(
            "expected {expected}, found the text `{}`",
            quoted(written)
        )),
        Value::Number(written) => Wrong::new(format!(
            "expected {expected}, found the number `{}`",
            quoted(written)
        )),
        other => Wrong::new(format!("expected {expected}, found {}", other.kind())),
    }
}

fn not_a(what: &str, written: &str, expected: &str) -> Wrong {
    Wrong::new(format!("`{}` is not a {what}", quoted(written)))
        .help(format!("expected {expected}"))
}

fn not_an(what: &str, written: &str, expected: &str) -> Wrong {
    Wrong::new(format!("`{}` is not an {what}", quoted(written)))
        .help(format!("expected {expected}"))
}

fn out_of_range(written: &str, expected: &str) -> Wrong {
    Wrong::new(format!("`{}` is out of range", quoted(written)))
        .help(format!("expected {expected}"))
}

fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    show(millis, &DURATION_UNITS, "s")
}

fn show_size(bytes: u64) -> String {
    show(bytes, &SIZE_UNITS, "B")
}

/// The number in the largest unit that divides it.
fn show(number: u64, units: &[(&str, u64)], zero: &str) -> String {
    units
        .iter()
        .rev()
        .find(|(_, factor)| number != 0 && number.is_multiple_of(*factor))
        .map_or_else(
            || format!("{number}{zero}"),
            |(unit, factor)| format!("{}{unit}", number / factor),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(value: Value) -> Node {
        Node {
            value,
            place: 0..0,
            key_place: 0..0,
            path: String::new(),
        }
    }

    fn txt(text: &str) -> Node {
        node(Value::Text(text.to_owned()))
    }

    const ANY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(86_400);

    #[test]
    fn durations_have_units() {
        let millis = |text: &str| duration(&txt(text), &ANY).map(|d| d.as_millis());
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("30s"), Ok(30_000));
        assert_eq!(millis("1m30s"), Ok(90_000));
        assert_eq!(millis("2h"), Ok(7_200_000));
        for wrong in [
            "",
            "s",
            "30",
            "30 s",
            "-5s",
            "1.5s",
            "30sec",
            "5S",
            "99999999999999999999s",
            "18446744073709551615h",
            "25h",
        ] {
            assert!(millis(wrong).is_err(), "{wrong}");
        }
        assert!(duration(&node(Value::Number("30".into())), &ANY).is_err());
    }

    #[test]
    fn sizes_are_bytes_or_have_binary_units() {
        let bytes = |text: &str| size(&txt(text), &(0..=1 << 40)).ok();
        assert_eq!(bytes("32KiB"), Some(32_768));
        assert_eq!(bytes("65536"), Some(65_536));
        assert_eq!(bytes("1GiB"), Some(1 << 30));
        assert_eq!(bytes("32KB"), None);
        assert_eq!(bytes("-1"), None);
    }

    #[test]
    fn hosts_become_canonical() {
        let canonical = |text: &str| served_host(&txt(text)).ok();
        assert_eq!(
            canonical("Orders.Shop.Example."),
            Some("orders.shop.example".into())
        );
        assert_eq!(canonical("[::0001]"), Some("[::1]".into()));
        assert_eq!(canonical("127.0.0.1"), Some("127.0.0.1".into()));
        for wrong in [
            "orders:80",
            "*.shop",
            "a..b",
            "-a",
            "a/b",
            "user@a",
            "::1",
            "1.2.3",
            "é.example",
            ".",
        ] {
            assert_eq!(canonical(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn upstream_addresses_have_a_host_and_a_port() {
        let shown = |text: &str| host_port(&txt(text)).map(|a| a.to_string()).ok();
        assert_eq!(shown("App.Local:8080"), Some("app.local:8080".into()));
        assert_eq!(shown("[::1]:80"), Some("[::1]:80".into()));
        for wrong in [
            "app.local",
            "app:0",
            "app:65536",
            ":80",
            "http://app:80",
            "::1:80",
            "a b:1",
        ] {
            assert_eq!(shown(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ranges_are_shown_in_their_largest_unit() {
        assert_eq!(show_duration(Duration::from_secs(300)), "5m");
        assert_eq!(show_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(show_duration(Duration::ZERO), "0s");
        assert_eq!(show_size(1 << 20), "1MiB");
    }
}
