//! The one reading of a request target and its host.
//!
//! Two parsers that read the same bytes differently are how a path rule is bypassed, so
//! whatever has more than one reading is refused here with its own reason code; nothing
//! is repaired. What passes is forwarded byte for byte, and is what policy sees.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::{Ipv4Addr, Ipv6Addr};

use http::HeaderMap;
use http::header::HOST;
use http::uri::Authority;

/// Why a request was refused before any policy was asked. Told to the caller as 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ambiguity {
    /// A request without a host, in `Host` or `:authority`.
    #[error("the request names no host")]
    HostMissing,
    /// More than one `Host` header.
    #[error("the request has more than one Host header")]
    HostRepeated,
    /// `Host` and the target's or `:authority`'s host differ.
    #[error("the Host header and the request target name different hosts")]
    HostMismatch,
    /// A host that is not `name[:port]`, or that carries userinfo.
    #[error("the host is not of the form name or name:port")]
    HostInvalid,
    /// A target that is neither an absolute path nor `*` with OPTIONS.
    #[error("the request target is not an absolute path")]
    TargetForm,
    /// CONNECT, which only a forward proxy serves.
    #[error("CONNECT is not served here")]
    ConnectRefused,
    /// An extended CONNECT (RFC 8441) to anything but a WebSocket.
    #[error("of all protocols, CONNECT is served for websocket only")]
    ConnectProtocol,
    /// An absolute target of another scheme than `http`: nothing would protect the request.
    #[error("only http:// is served here; ask for https:// with CONNECT")]
    SchemeRefused,
    /// CONNECT without a port to connect to.
    #[error("CONNECT names no port")]
    ConnectPort,
    /// `.`, `..` or an empty segment in the path.
    #[error("the path has an empty or dot segment")]
    PathSegments,
    /// `;` in the path: some servers strip it and what follows.
    #[error("the path has a ';' parameter")]
    PathParameter,
    /// A raw byte that a path may not have: `\`, `#`, a control or a non-ASCII byte.
    #[error("the path has a character that must be percent-encoded")]
    PathCharacter,
    /// A `%` that is not followed by two upper-case hexadecimal digits, or that escapes a
    /// character which needs no escape.
    #[error("the path has a percent escape that is not in canonical form")]
    EscapeNotCanonical,
    /// An escaped `/`, `\`, NUL, other control, `#`, `;` or `?`, or a doubly escaped `%`.
    #[error("the path has an escaped separator, control or percent sign")]
    EscapeForbidden,
    /// Escapes that do not decode to UTF-8.
    #[error("the path is not UTF-8 once decoded")]
    PathNotUtf8,
    /// A transfer coding other than `chunked`.
    #[error("only the chunked transfer coding is accepted")]
    TransferCoding,
    /// gRPC over HTTP/1.x, which is none until a proxy carries it to an HTTP/2 upstream.
    #[error("gRPC is served over HTTP/2 only")]
    GrpcVersion,
}

impl Ambiguity {
    /// The stable code for records and problem documents.
    pub(crate) fn reason_code(self) -> &'static str {
        match self {
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::HostMismatch => "host_mismatch",
            Self::HostInvalid => "host_invalid",
            Self::TargetForm => "target_form",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectProtocol => "connect_protocol",
            Self::SchemeRefused => "scheme_refused",
            Self::ConnectPort => "connect_port",
            Self::PathSegments => "path_segments",
            Self::PathParameter => "path_parameter",
            Self::PathCharacter => "path_character",
            Self::EscapeNotCanonical => "path_escape_not_canonical",
            Self::EscapeForbidden => "path_escape_forbidden",
            Self::PathNotUtf8 => "path_not_utf8",
            Self::TransferCoding => "transfer_coding",
            Self::GrpcVersion => "grpc_version",
        }
    }
}

/// Checks that a path has one reading only (RFC 3986 sections 3.3 and 6.2.2).
///
/// # Errors
/// The first rule that the path breaks.
pub(crate) fn check_path(path: &str) -> Result<(), Ambiguity> {
    let bytes = path.as_bytes();
    if is_plain(bytes) {
        return Ok(());
    }
    if bytes.first() != Some(&b'/') {
        return Err(Ambiguity::TargetForm);
    }
    let all_ascii = check_bytes(bytes)?;
    check_segments(path)?;
    match all_ascii || decodes_to_utf8(bytes) {
        true => Ok(()),
        false => Err(Ambiguity::PathNotUtf8),
    }
}

/// Whether a path is UTF-8 once decoded; decodes a character at a time, so that it need not be held.
fn decodes_to_utf8(path: &[u8]) -> bool {
    let mut bytes = percent_encoding::percent_decode(path);
    while let Some(first) = bytes.next() {
        let width = match first {
            0..=0x7f => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return false,
        };
        let mut character = [first, 0, 0, 0];
        for place in character.iter_mut().take(width).skip(1) {
            // Where the path ends within a character, what is left there is no part of one.
            *place = bytes.next().unwrap_or_default();
        }
        let whole = character.get(..width).unwrap_or_default();
        if std::str::from_utf8(whole).is_err() {
            return false;
        }
    }
    true
}

/// Whether a path has nothing in it that any rule looks at, as most paths have not. What is not
/// plain may still be good. Every byte is looked at, whatever was found before: so many are looked
/// at together.
fn is_plain(path: &[u8]) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() | matches!(byte, b'-'..=b'/') | (byte == b'_');
    let begins_odd = |(before, byte): (&u8, &u8)| (*before == b'/') & matches!(byte, b'.' | b'/');
    let pairs = path.iter().zip(path.get(1..).unwrap_or_default());
    let odd = pairs.fold(false, |odd, pair| odd | begins_odd(pair));
    let plain = path.iter().fold(true, |all, byte| all & plain(*byte));
    plain & !odd & (path.first() == Some(&b'/'))
}

/// Checks every byte and escape; tells whether all of them, decoded, are ASCII.
fn check_bytes(bytes: &[u8]) -> Result<bool, Ambiguity> {
    let mut all_ascii = true;
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = match byte {
            b'%' => {
                let rest = check_escape(tail)?;
                // What is checked begins with a digit; from 8 on the byte is beyond ASCII.
                all_ascii &= tail.first().is_some_and(|digit| *digit < b'8');
                rest
            }
            b';' => return Err(Ambiguity::PathParameter),
            b'\\' | b'#' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                return Err(Ambiguity::PathCharacter);
            }
            0..=b' ' | 0x7f.. => return Err(Ambiguity::PathCharacter),
            _ => tail,
        };
    }
    Ok(all_ascii)
}

/// Checks the two digits behind a `%`; answers with what follows them.
fn check_escape(tail: &[u8]) -> Result<&[u8], Ambiguity> {
    let [high, low, rest @ ..] = tail else {
        return Err(Ambiguity::EscapeNotCanonical);
    };
    let (Some(high), Some(low)) = (upper_hex(*high), upper_hex(*low)) else {
        return Err(Ambiguity::EscapeNotCanonical);
    };
    match (high << 4) | low {
        b'/' | b'\\' | b'#' | b';' | b'?' | 0..=0x1f | 0x7f => Err(Ambiguity::EscapeForbidden),
        // SECURITY: `%252F` is `%2F` to a server that decodes twice.
        b'%' if rest
            .iter()
            .take(2)
            .filter(|b| b.is_ascii_hexdigit())
            .count()
            == 2 =>
        {
            Err(Ambiguity::EscapeForbidden)
        }
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            Err(Ambiguity::EscapeNotCanonical)
        }
        _ => Ok(rest),
    }
}

fn upper_hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn check_segments(path: &str) -> Result<(), Ambiguity> {
    let inner = path.strip_prefix('/').unwrap_or(path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() {
        return if path.len() > 1 {
            Err(Ambiguity::PathSegments)
        } else {
            Ok(())
        };
    }
    if inner
        .split('/')
        .any(|segment| matches!(segment, "" | "." | ".."))
    {
        return Err(Ambiguity::PathSegments);
    }
    Ok(())
}

/// The request's host as it was sent, without port and trailing dot. It is compared in lower case.
///
/// `target` is the authority of an absolute-form target or of `:authority`.
///
/// # Errors
/// When there is no host, more than one, two that differ, or one that is not a host.
pub(crate) fn host<'a>(
    headers: &'a HeaderMap,
    target: Option<&'a Authority>,
) -> Result<Cow<'a, str>, Ambiguity> {
    let mut values = headers.get_all(HOST).iter();
    let header = values.next();
    if values.next().is_some() {
        return Err(Ambiguity::HostRepeated);
    }
    let header = match header {
        Some(value) => Some(value.to_str().map_err(|_| Ambiguity::HostInvalid)?),
        None => None,
    };
    match (header, target) {
        (None, None) => Err(Ambiguity::HostMissing),
        (Some(host), None) => canonical_host(host),
        (None, Some(target)) => canonical_host(target.as_str()),
        (Some(host), Some(target)) if is_same(host, target.as_str()) => canonical_host(host),
        (Some(_), Some(_)) => Err(Ambiguity::HostMismatch),
    }
}

/// Whether two spellings of a host and port are the same, port 80 written out or not.
fn is_same(host: &str, target: &str) -> bool {
    let [host, target] = [host, target].map(|each| each.strip_suffix(":80").unwrap_or(each));
    host.eq_ignore_ascii_case(target)
}

/// The host of `host[:port]`; it is compared in lower case.
///
/// # Errors
/// When it is not a host.
pub(super) fn canonical_host(authority: &str) -> Result<Cow<'_, str>, Ambiguity> {
    if let Some(host) = LAST.with_borrow(|last| last.host_of(authority)) {
        return Ok(Cow::Borrowed(host));
    }
    let host = read_host(authority)?;
    if let Cow::Borrowed(host) = host {
        LAST.with_borrow_mut(|last| last.set(authority, host));
    }
    Ok(host)
}

thread_local! {
    /// What the calls of one worker ask for is mostly the same.
    static LAST: RefCell<LastHost> = const { RefCell::new(LastHost::new()) };
}

/// The last good authority, and how much of it is the host.
struct LastHost {
    authority: String,
    host: usize,
}

impl LastHost {
    const fn new() -> Self {
        Self {
            authority: String::new(),
            host: 0,
        }
    }

    /// The host of the very same authority; nothing where it is another.
    fn host_of<'a>(&self, authority: &'a str) -> Option<&'a str> {
        let same = self.host > 0 && self.authority == authority;
        authority.get(..self.host).filter(|_| same)
    }

    /// INVARIANT: `host` is how `authority` begins.
    fn set(&mut self, authority: &str, host: &str) {
        self.authority.clear();
        self.authority.push_str(authority);
        self.host = host.len();
    }
}

fn read_host(authority: &str) -> Result<Cow<'_, str>, Ambiguity> {
    let host = split_port(authority).ok_or(Ambiguity::HostInvalid)?;
    let host = host.strip_suffix('.').unwrap_or(host);
    let literal = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Some(literal) = literal {
        let address = literal.parse::<Ipv6Addr>();
        let address = address.map_err(|_| Ambiguity::HostInvalid)?;
        return Ok(Cow::Owned(format!("[{address}]")));
    }
    match is_name(host) || host.parse::<Ipv4Addr>().is_ok() {
        true => Ok(Cow::Borrowed(host)),
        false => Err(Ambiguity::HostInvalid),
    }
}

/// SECURITY: a resolver takes `127.1` and `0x7f000001` for addresses, and `a..` for `a.`; a policy
/// that names the host that is meant would not see it.
fn is_name(host: &str) -> bool {
    let byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| !label.is_empty() && label.bytes().all(byte);
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.starts_with("0x")
        || last.starts_with("0X");
    host.len() <= 253 && host.split('.').all(label) && !is_number
}

/// The host of `host[:port]`; nothing when the port is not a port.
fn split_port(authority: &str) -> Option<&str> {
    let bytes = authority.as_bytes();
    let end = match bytes.first() {
        Some(b'[') => bytes.iter().position(|byte| *byte == b']')? + 1,
        _ => bytes
            .iter()
            .position(|byte| *byte == b':')
            .unwrap_or(bytes.len()),
    };
    let (host, port) = authority.split_at_checked(end)?;
    match port.strip_prefix(':') {
        None if port.is_empty() => Some(host),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse::<u16>().is_ok().then_some(host)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    #[test]
    fn accepts_paths_with_one_reading() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/a/b.c",
            "/a/...",
            "/.well-known/x",
            "/caf%C3%A9",
            "/a%20b",
            "/users/a%40b.com",
            "/a:b@c!$&'()*+,=",
            "/100%25",
            "/~x/-_.",
        ] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn rejects_paths_with_two_readings() {
        use Ambiguity::*;
        for (path, expected) in [
            ("", TargetForm),
            ("a", TargetForm),
            ("//", PathSegments),
            ("//a", PathSegments),
            ("/a//b", PathSegments),
            ("/a//", PathSegments),
            ("/./a", PathSegments),
            ("/a/..", PathSegments),
            ("/a/../b", PathSegments),
            ("/a;b=c/d", PathParameter),
            ("/a\\b", PathCharacter),
            ("/a#b", PathCharacter),
            ("/caf\u{e9}", PathCharacter),
            ("/a%2Fb", EscapeForbidden),
            ("/a%5Cb", EscapeForbidden),
            ("/a%00", EscapeForbidden),
            ("/a%0A", EscapeForbidden),
            ("/a%3Bb", EscapeForbidden),
            ("/a%252Fb", EscapeForbidden),
            ("/a%2fb", EscapeNotCanonical),
            ("/%2E%2E/a", EscapeNotCanonical),
            ("/%61", EscapeNotCanonical),
            ("/caf%c3%a9", EscapeNotCanonical),
            ("/a%", EscapeNotCanonical),
            ("/a%4", EscapeNotCanonical),
            ("/a%ZZ", EscapeNotCanonical),
            ("/a%FF", PathNotUtf8),
            ("/a%80", PathNotUtf8),
            ("/a%C3", PathNotUtf8),
            ("/a%C3/%A9", PathNotUtf8),
            ("/a%C0%AF", PathNotUtf8),
            ("/a%ED%A0%80", PathNotUtf8),
        ] {
            assert_eq!(check_path(path), Err(expected), "{path}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_path_decodes_to_the_same_segments(path in "[/a.%2FEe5c;~C3A9]{0,12}") {
            if check_path(&path).is_ok() {
                let decoded = percent_encoding::percent_decode_str(&path).decode_utf8().unwrap();
                prop_assert_eq!(path.split('/').count(), decoded.split('/').count());
                prop_assert!(!decoded.split('/').any(|s| s == ".." || s == "."));
            }
        }

        #[test]
        fn a_plain_path_breaks_no_rule(path in "/?[/a.B0_-]{0,10}") {
            if is_plain(path.as_bytes()) {
                prop_assert!(check_bytes(path.as_bytes()).is_ok());
                prop_assert!(check_segments(&path).is_ok());
            }
        }

        #[test]
        fn a_path_is_utf_8_where_all_of_it_decoded_is(
            path in "(/|a|%C3%A9|%E6%97%A5|%F0%9F%98%80){0,6}\
                     (%C3|%E6%97|%F0%9F%98|%ED%A0%80|%C0%AF|%F4%90%80%80|%FF|%80)?(/|a|%A9){0,2}",
        ) {
            let decoded = percent_encoding::percent_decode_str(&path).decode_utf8();
            prop_assert_eq!(decodes_to_utf8(path.as_bytes()), decoded.is_ok());
        }

        #[test]
        fn a_path_that_is_ascii_once_decoded_is_known(path in "(/|a|%20|%28|%25|%80|%C3%A9|%E2%82%AC){0,12}") {
            if let Ok(all_ascii) = check_bytes(path.as_bytes()) {
                let mut decoded = percent_encoding::percent_decode_str(&path);
                prop_assert_eq!(all_ascii, decoded.all(|byte| byte.is_ascii()));
            }
        }

        #[test]
        fn any_path_is_answered(path in any::<String>()) {
            let _ = check_path(&path);
        }
    }

    fn host_of(values: &[&str], target: Option<&str>) -> Result<String, Ambiguity> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HOST, HeaderValue::from_str(value).unwrap());
        }
        let target = target.map(|t| t.parse::<Authority>().unwrap());
        host(&headers, target.as_ref()).map(Cow::into_owned)
    }

    #[test]
    fn host_is_without_port_and_trailing_dot() {
        assert_eq!(host_of(&["Orders.Shop:8443"], None).unwrap(), "Orders.Shop");
        assert_eq!(host_of(&["orders.shop."], None).unwrap(), "orders.shop");
        assert_eq!(host_of(&["[::1]:8443"], None).unwrap(), "[::1]");
        assert_eq!(host_of(&["[0:0:0::0:1]"], None).unwrap(), "[::1]");
        assert_eq!(host_of(&["127.0.0.1:80"], None).unwrap(), "127.0.0.1");
        assert_eq!(host_of(&[], Some("orders:1")).unwrap(), "orders");
        assert_eq!(host_of(&["Orders"], Some("orders")).unwrap(), "Orders");
    }

    #[test]
    fn a_host_that_was_good_does_not_make_a_longer_or_shorter_one_good() {
        for (authority, host) in [
            ("orders:8443", Some("orders")),
            ("orders:8443", Some("orders")),
            ("orders:84430", None),
            ("orders:844", Some("orders")),
            ("orders", Some("orders")),
            ("orders.", Some("orders")),
            ("orders..", None),
            ("orders.", Some("orders")),
            ("", None),
        ] {
            assert_eq!(host_of(&[authority], None).ok().as_deref(), host);
        }
    }

    proptest! {
        #[test]
        fn a_host_is_read_the_same_the_second_time(
            authorities in proptest::collection::vec("[a.:8-]{0,4}", 1..6),
        ) {
            for authority in authorities.iter().chain(&authorities) {
                let read = canonical_host(authority).map(Cow::into_owned);
                prop_assert_eq!(read, read_host(authority).map(Cow::into_owned));
            }
        }
    }

    #[test]
    fn rejects_what_a_resolver_would_take_for_another_host() {
        for host in [
            "a..",
            ".a",
            "a..b",
            "..",
            "127.1",
            "127.0.0.01",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "a.0x1",
            "1.2.3.4.5",
        ] {
            assert_eq!(
                host_of(&[host], None),
                Err(Ambiguity::HostInvalid),
                "{host}"
            );
        }
    }

    #[test]
    fn rejects_hosts_that_are_missing_repeated_or_disagree() {
        use Ambiguity::*;
        assert_eq!(host_of(&[], None), Err(HostMissing));
        assert_eq!(host_of(&["a", "a"], None), Err(HostRepeated));
        assert_eq!(host_of(&["a"], Some("b")), Err(HostMismatch));
        assert_eq!(host_of(&["a:81"], Some("a")), Err(HostMismatch));
        assert_eq!(host_of(&["a"], Some("a:80")).unwrap(), "a");
        for bad in [
            "", "a b", "user@a", "a:b", "a:99999", "a/b", "[::1", "[x]", "a,b", ":80", ".", "a..",
            "a..b", ".a",
        ] {
            assert_eq!(host_of(&[bad], None), Err(HostInvalid), "{bad}");
        }
        assert_eq!(host_of(&[], Some("user@a")), Err(HostInvalid));
    }
}
