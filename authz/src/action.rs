//! What a caller asks to do, as Cedar actions. The list is closed: policies name these
//! actions and no others, so that a misspelt action is an error at load.

use std::fmt;

/// One action of the built-in schema.
///
/// ```
/// use wayleave_authz::Action;
///
/// assert_eq!(Action::from_http_method("GET").as_str(), "http:get");
/// // Methods are case-sensitive (RFC 9110 section 9.1): this one is not GET.
/// assert_eq!(Action::from_http_method("get").as_str(), "http:other");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Action(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
enum Kind {
    Get,
    Head,
    Options,
    Post,
    Put,
    Patch,
    Delete,
    Connect,
    Trace,
    Other,
    GrpcCall,
    TcpConnect,
}

/// How a call is spoken, which decides what its context holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Http,
    Grpc,
    Tcp,
}

impl Action {
    /// A gRPC call; `context.rpc` says which.
    pub const GRPC_CALL: Self = Self(Kind::GrpcCall);
    /// A TCP connection whose bytes are not looked into.
    pub const TCP_CONNECT: Self = Self(Kind::TcpConnect);

    /// All actions, in the order of [`Action::index`].
    pub(crate) const ALL: [Self; 12] = [
        Self(Kind::Get),
        Self(Kind::Head),
        Self(Kind::Options),
        Self(Kind::Post),
        Self(Kind::Put),
        Self(Kind::Patch),
        Self(Kind::Delete),
        Self(Kind::Connect),
        Self(Kind::Trace),
        Self(Kind::Other),
        Self(Kind::GrpcCall),
        Self(Kind::TcpConnect),
    ];

    /// The action of an HTTP request by its method, which is compared as it is written.
    ///
    /// A method outside RFC 9110 and RFC 5789 is `http:other`, which is in no group, so that
    /// only a policy that names `http:other` can allow it; `context.method` says which it is.
    #[must_use]
    pub fn from_http_method(method: &str) -> Self {
        Self(match method {
            "GET" => Kind::Get,
            "HEAD" => Kind::Head,
            "OPTIONS" => Kind::Options,
            "POST" => Kind::Post,
            "PUT" => Kind::Put,
            "PATCH" => Kind::Patch,
            "DELETE" => Kind::Delete,
            "CONNECT" => Kind::Connect,
            "TRACE" => Kind::Trace,
            _ => Kind::Other,
        })
    }

    /// The action with this name, as policies and records write it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == name)
    }

    /// The name of the action: the id of its Cedar entity.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self.0 {
            Kind::Get => "http:get",
            Kind::Head => "http:head",
            Kind::Options => "http:options",
            Kind::Post => "http:post",
            Kind::Put => "http:put",
            Kind::Patch => "http:patch",
            Kind::Delete => "http:delete",
            Kind::Connect => "http:connect",
            Kind::Trace => "http:trace",
            Kind::Other => "http:other",
            Kind::GrpcCall => "grpc:call",
            Kind::TcpConnect => "tcp:connect",
        }
    }

    /// The action or group of actions that the schema puts the action in, if any.
    #[must_use]
    pub fn group(self) -> Option<&'static str> {
        match self.0 {
            Kind::Get | Kind::Head | Kind::Options => Some("http:read"),
            Kind::Post | Kind::Put | Kind::Patch | Kind::Delete => Some("http:write"),
            // A caller chooses by its headers whether a POST is a gRPC call, so what is said of
            // POST must hold for both.
            Kind::GrpcCall => Some("http:post"),
            // TRACE reflects what it is sent and CONNECT opens a tunnel: neither is what
            // somebody means who lets a caller read or write, so each must be named.
            Kind::Connect | Kind::Trace | Kind::Other | Kind::TcpConnect => None,
        }
    }

    /// Everything that the action is in, nearest first.
    pub(crate) fn groups(self) -> impl Iterator<Item = &'static str> {
        let group_of = |name: &&str| Self::from_name(name).and_then(Self::group);
        std::iter::successors(self.group(), group_of)
    }

    pub(crate) fn family(self) -> Family {
        match self.0 {
            Kind::GrpcCall => Family::Grpc,
            Kind::TcpConnect => Family::Tcp,
            _ => Family::Http,
        }
    }

    /// The place of the action in [`Action::ALL`].
    pub(crate) fn index(self) -> u8 {
        self.0 as u8
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_is_found_by_its_name_and_stands_at_its_index() {
        for (index, action) in Action::ALL.into_iter().enumerate() {
            assert_eq!(Action::from_name(action.as_str()), Some(action));
            assert_eq!(usize::from(action.index()), index);
        }
        assert_eq!(Action::from_name("http:read"), None);
    }

    #[test]
    fn an_unknown_method_is_its_own_action_in_no_group() {
        for method in ["get", "BREW", "", "GET "] {
            let action = Action::from_http_method(method);
            assert_eq!(action.as_str(), "http:other");
            assert_eq!(action.group(), None);
        }
    }

    #[test]
    fn a_grpc_call_is_a_post_and_so_a_write() {
        let groups: Vec<_> = Action::GRPC_CALL.groups().collect();
        assert_eq!(groups, ["http:post", "http:write"]);
    }

    #[test]
    fn reading_and_writing_methods_are_grouped() {
        for (method, group) in [
            ("GET", Some("http:read")),
            ("HEAD", Some("http:read")),
            ("OPTIONS", Some("http:read")),
            ("POST", Some("http:write")),
            ("PUT", Some("http:write")),
            ("PATCH", Some("http:write")),
            ("DELETE", Some("http:write")),
            ("CONNECT", None),
            ("TRACE", None),
        ] {
            assert_eq!(Action::from_http_method(method).group(), group, "{method}");
        }
    }
}
