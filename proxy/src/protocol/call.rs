//! A call: what is asked for, read once and cheap to keep.

use http::header::{CONNECTION, HeaderName, SEC_WEBSOCKET_KEY, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Version};
use hyper::ext::Protocol;

use wayleave_authz::Rpc;

use super::canonical::{self, Ambiguity};
use super::grpc;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What kind of exchange a call opens, as far as its head tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A request and its response.
    Http,
    /// A gRPC call, as far as its content type tells: denials are told in trailers.
    Grpc,
    /// A WebSocket handshake: an HTTP/1.1 upgrade (RFC 6455 section 4.1) or an extended CONNECT
    /// of HTTP/2 (RFC 8441 section 5).
    WebSocket,
    /// A connection whose bytes are not looked into.
    Tcp,
}

/// One call. It outlives its request by way of its record, so it keeps nothing of the request's
/// own memory: a slice of a connection's read buffer would hold all of that buffer.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    shape: Shape,
    /// Host, path, query and trace id, one behind the other.
    text: Box<str>,
    host_end: usize,
    /// What only a request has.
    request: Option<RequestHead>,
}

#[derive(Debug, Clone)]
struct RequestHead {
    method: Method,
    version: Version,
    path_end: usize,
    /// Where the query ends, which begins behind the path without its `?`.
    query_end: Option<usize>,
}

impl Call {
    /// Reads a request's head.
    ///
    /// # Errors
    /// When the head has more than one reading: see [`Ambiguity`].
    pub(crate) fn read(shape: Shape, head: &Parts) -> Result<Self, Ambiguity> {
        if head.method == Method::CONNECT && shape != Shape::WebSocket {
            return Err(match head.extensions.get::<Protocol>() {
                Some(_) => Ambiguity::ConnectProtocol,
                None => Ambiguity::ConnectRefused,
            });
        }
        check_transfer_coding(&head.headers)?;
        // SECURITY: an HTTP/2 upstream would take for gRPC what policy has seen as plain HTTP.
        if head.version != Version::HTTP_2 && posts_grpc(head) {
            return Err(Ambiguity::GrpcVersion);
        }
        let host = canonical::host(&head.headers, head.uri.authority())?;
        let target = head.uri.path_and_query().ok_or(Ambiguity::TargetForm)?;
        if !(target.path() == "*" && head.method == Method::OPTIONS) {
            canonical::check_path(target.path())?;
        }
        Ok(Self::of_request(shape, &host, target, head))
    }

    fn of_request(shape: Shape, host: &str, target: &PathAndQuery, head: &Parts) -> Self {
        let (path, query) = (target.path(), target.query());
        let trace = trace_id(&head.headers).unwrap_or_default();
        let room = host.len() + path.len() + query.map_or(0, str::len) + trace.len();
        let mut text = String::with_capacity(room);
        text.push_str(host);
        text.make_ascii_lowercase();
        text.push_str(path);
        let path_end = text.len();
        let query_end = query.map(|query| {
            text.push_str(query);
            text.len()
        });
        text.push_str(trace);
        Self {
            shape,
            text: text.into_boxed_str(),
            host_end: host.len(),
            request: Some(RequestHead {
                // One handshake, whichever version it came in: the method is that of HTTP/1.1.
                method: match shape {
                    Shape::WebSocket => Method::GET,
                    _ => head.method.clone(),
                },
                version: head.version,
                path_end,
                query_end,
            }),
        }
    }

    /// A connection to `host` whose bytes are not looked into; empty where nobody said to whom.
    pub(crate) fn tcp(host: &str) -> Self {
        let host = host.strip_suffix('.').unwrap_or(host);
        Self {
            shape: Shape::Tcp,
            text: host.to_ascii_lowercase().into(),
            host_end: host.len(),
            request: None,
        }
    }

    /// What kind of exchange this opens.
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// A request's method, as sent: methods are case-sensitive (RFC 9110 section 9.1).
    pub(crate) fn method(&self) -> Option<&Method> {
        self.request.as_ref().map(|request| &request.method)
    }

    /// The host asked for: lower case, without port and trailing dot.
    pub(crate) fn host(&self) -> &str {
        self.text.get(..self.host_end).unwrap_or_default()
    }

    /// The path, percent-encoded, as the upstream sees it; empty for what is no request.
    pub(crate) fn path(&self) -> &str {
        let end = self.request.as_ref().map(|request| request.path_end);
        let path = end.and_then(|end| self.text.get(self.host_end..end));
        path.unwrap_or_default()
    }

    /// The query without its `?`.
    pub(crate) fn query(&self) -> Option<&str> {
        let request = self.request.as_ref()?;
        self.text.get(request.path_end..request.query_end?)
    }

    /// What the caller speaks, as records name it: `1.0`, `1.1` or `2` for HTTP, or `tcp`.
    pub(crate) fn protocol(&self) -> &'static str {
        match self.request.as_ref().map(|request| request.version) {
            Some(Version::HTTP_2) => "2",
            Some(Version::HTTP_10) => "1.0",
            Some(_) => "1.1",
            None => "tcp",
        }
    }

    /// The gRPC method that is called: `/package.Service/Method`. Nothing where the path has
    /// more segments: servers do not agree on which of them are the service.
    pub(crate) fn rpc(&self) -> Option<Rpc<'_>> {
        if self.shape != Shape::Grpc {
            return None;
        }
        let (service, method) = self.path().strip_prefix('/')?.split_once('/')?;
        (!method.contains('/')).then_some(Rpc { service, method })
    }

    /// The trace id that the caller sent, where it is well-formed.
    pub(crate) fn trace_id(&self) -> Option<&str> {
        let request = self.request.as_ref()?;
        let start = request.query_end.unwrap_or(request.path_end);
        self.text.get(start..).filter(|trace| !trace.is_empty())
    }
}

/// The trace id of a well-formed `traceparent` (W3C Trace Context section 3.2).
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    if !has(headers, &TRACEPARENT) {
        return None;
    }
    let value = headers.get(&TRACEPARENT)?.to_str().ok()?;
    let mut fields = value.split('-');
    let (_version, trace_id) = (fields.next()?, fields.next()?);
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let valid = trace_id.len() == 32 && trace_id.bytes().all(digit);
    (valid && trace_id.bytes().any(|b| b != b'0')).then_some(trace_id)
}

impl Shape {
    /// The shape of the exchange that a request opens.
    pub(crate) fn of(head: &Parts) -> Self {
        match head.version {
            Version::HTTP_2 if connects_to_websocket(head) => Self::WebSocket,
            Version::HTTP_2 if head.method == Method::CONNECT => Self::Http,
            Version::HTTP_11 if upgrades_to_websocket(head) => Self::WebSocket,
            // SECURITY: no other method, or a content type would make a call of whatever a policy
            // says of DELETE.
            Version::HTTP_2 if posts_grpc(head) => Self::Grpc,
            _ => Self::Http,
        }
    }
}

fn posts_grpc(head: &Parts) -> bool {
    head.method == Method::POST && grpc::is_grpc(&head.headers)
}

fn connects_to_websocket(head: &Parts) -> bool {
    head.method == Method::CONNECT
        && head
            .extensions
            .get::<Protocol>()
            .is_some_and(|protocol| protocol.as_str() == "websocket")
}

fn upgrades_to_websocket(head: &Parts) -> bool {
    let headers = &head.headers;
    head.method == Method::GET
        && has(headers, &UPGRADE)
        && lists(headers, &CONNECTION, "upgrade")
        && single(headers, &UPGRADE, "websocket")
        && one_value(headers, &SEC_WEBSOCKET_KEY).is_some()
}

fn single(headers: &HeaderMap, name: &HeaderName, expected: &str) -> bool {
    let value = one_value(headers, name).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.trim().eq_ignore_ascii_case(expected))
}

/// Whether there is such a field. Comparing the names of the few that most requests have is cheaper
/// than looking one up by its hash.
pub(crate) fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|known| known == name)
}

/// The value of a header that is there once.
fn one_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

/// Whether a comma-separated header lists a token, in any of its values.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// Whether the caller said that it reads trailers (RFC 9110 section 10.1.4).
pub(crate) fn accepts_trailers(headers: &HeaderMap) -> bool {
    lists(headers, &TE, "trailers")
}

/// SECURITY: hyper decodes `gzip, chunked` as chunked; a server behind us may not.
fn check_transfer_coding(headers: &HeaderMap) -> Result<(), Ambiguity> {
    if !has(headers, &TRANSFER_ENCODING) {
        return Ok(());
    }
    if single(headers, &TRANSFER_ENCODING, "chunked") {
        Ok(())
    } else {
        Err(Ambiguity::TransferCoding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn read(builder: http::request::Builder) -> Result<Call, Ambiguity> {
        let head = builder.body(()).unwrap().into_parts().0;
        Call::read(Shape::of(&head), &head)
    }

    #[test]
    fn reads_what_the_upstream_will_see() {
        let call = read(Request::get("/orders/7?full=1").header("host", "Orders:8443")).unwrap();
        assert_eq!(call.path(), "/orders/7");
        assert_eq!(call.query(), Some("full=1"));
        assert_eq!(call.host(), "orders");
        assert_eq!(call.shape(), Shape::Http);
    }

    #[test]
    fn rejects_connect_and_other_transfer_codings() {
        let connect = Request::builder()
            .method("CONNECT")
            .uri("a:1")
            .header("host", "a:1");
        assert_eq!(read(connect).unwrap_err(), Ambiguity::ConnectRefused);
        for coding in ["gzip, chunked", "chunked, chunked", "identity"] {
            let request = Request::post("/")
                .header("host", "a")
                .header("transfer-encoding", coding);
            assert_eq!(
                read(request).unwrap_err(),
                Ambiguity::TransferCoding,
                "{coding}"
            );
        }
    }

    #[test]
    fn accepts_the_asterisk_form_with_options_only() {
        let request = |method| {
            Request::builder()
                .method(method)
                .uri("*")
                .header("host", "a")
        };
        assert!(read(request("OPTIONS")).is_ok());
        assert_eq!(read(request("GET")).unwrap_err(), Ambiguity::TargetForm);
    }

    #[test]
    fn a_grpc_call_is_a_post_by_its_content_type_over_http_2() {
        let request = |method, version| {
            Request::builder()
                .method(method)
                .uri("/pkg.Service/Method")
                .version(version)
                .header("host", "a")
                .header("content-type", "application/grpc+proto")
        };
        let over_2 = |method| read(request(method, Version::HTTP_2)).unwrap().shape();
        assert_eq!(over_2("POST"), Shape::Grpc);
        for method in ["GET", "DELETE", "PUT", "post"] {
            assert_eq!(over_2(method), Shape::Http, "{method}");
        }
        assert_eq!(
            read(request("POST", Version::HTTP_11)).unwrap_err(),
            Ambiguity::GrpcVersion
        );
    }

    #[test]
    fn names_the_rpc_of_a_path_that_can_be_read_in_one_way() {
        for (path, expected) in [
            ("/pkg.Service/Method", Some(("pkg.Service", "Method"))),
            ("/pkg.Service", None),
            ("/prefix/pkg.Service/Method", None),
            ("/pkg.Service/Method/", None),
        ] {
            let request = Request::post(path)
                .version(Version::HTTP_2)
                .header("host", "a")
                .header("content-type", "application/grpc");
            let call = read(request).unwrap();
            let rpc = call.rpc().map(|rpc| (rpc.service, rpc.method));
            assert_eq!(rpc, expected, "{path}");
        }
    }

    #[test]
    fn knows_a_websocket_upgrade_and_no_other() {
        let request = |upgrade| {
            Request::get("/ws")
                .header("host", "a")
                .header("connection", "keep-alive, Upgrade")
                .header("upgrade", upgrade)
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        };
        assert_eq!(
            read(request("WebSocket")).unwrap().shape(),
            Shape::WebSocket
        );
        assert_eq!(read(request("h2c")).unwrap().shape(), Shape::Http);
        let post = request("websocket").method("POST");
        assert_eq!(read(post).unwrap().shape(), Shape::Http);
        let twice = request("websocket").header("sec-websocket-key", "x");
        assert_eq!(read(twice).unwrap().shape(), Shape::Http);
    }

    #[test]
    fn an_extended_connect_is_a_websocket_or_refused() {
        let connect = |protocol: Option<&'static str>| {
            let request = Request::builder()
                .method("CONNECT")
                .version(Version::HTTP_2)
                .header("content-type", "application/grpc")
                .uri("https://a/ws");
            match protocol {
                Some(protocol) => request.extension(Protocol::from_static(protocol)),
                None => request,
            }
        };
        let call = read(connect(Some("websocket"))).unwrap();
        assert_eq!(call.shape(), Shape::WebSocket);
        assert_eq!(call.method(), Some(&Method::GET));
        assert_eq!((call.path(), call.protocol()), ("/ws", "2"));
        for other in ["connect-udp", "WebSocket", "webtransport"] {
            let refused = read(connect(Some(other))).unwrap_err();
            assert_eq!(refused, Ambiguity::ConnectProtocol, "{other}");
        }
        assert_eq!(read(connect(None)).unwrap_err(), Ambiguity::ConnectRefused);
    }

    #[test]
    fn takes_the_trace_id_of_a_well_formed_traceparent_only() {
        let call = |value| {
            read(
                Request::get("/")
                    .header("host", "a")
                    .header("traceparent", value),
            )
        };
        let good = call("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        assert_eq!(good.trace_id(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for bad in [
            "",
            "00-xyz-1-1",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            assert_eq!(call(bad).unwrap().trace_id(), None, "{bad}");
        }
    }
}
