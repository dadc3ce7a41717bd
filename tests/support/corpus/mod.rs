//! Requests that two parsers could read differently, and what is to become of each.

mod fields;
mod framing;
mod http2;
mod targets;

use super::application::Saw;
use super::frames;

/// One request and its fate.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) request: Request,
    pub(crate) expect: Expect,
    /// Applications that refuse by themselves what the sidecar lets through.
    pub(crate) refused_by: &'static [&'static str],
}

#[derive(Debug)]
pub(crate) enum Request {
    /// Bytes, as they are sent.
    Http1(Vec<u8>),
    Http2(frames::Request),
}

#[derive(Debug)]
pub(crate) enum Expect {
    /// An answer of 4xx or the end of the connection, and nothing reaches the upstream.
    Refused,
    /// As its body turns out to be broken or incomplete, no whole request reaches the upstream.
    Cut,
    /// Exactly one request reaches the upstream.
    Forwarded(Arrives),
}

/// The request that reaches the upstream.
#[derive(Debug)]
pub(crate) struct Arrives {
    method: &'static str,
    target: String,
    body: &'static str,
    /// A header and all its values.
    header: Option<(&'static str, &'static [&'static str])>,
}

impl Arrives {
    /// Whether this is what an application saw.
    pub(crate) fn check(&self, saw: &Saw) -> Result<(), String> {
        let expected = (self.method, &*self.target, self.body);
        if (&*saw.method, &*saw.target, &*saw.body) != expected {
            return Err(format!("expected {expected:?}"));
        }
        match self.header {
            Some((name, values)) if saw.values(name) != values => {
                Err(format!("expected {name}: {values:?}"))
            }
            _ => Ok(()),
        }
    }
}

impl Case {
    /// Whether there will be an answer: nobody answers a request whose end has not come.
    pub(crate) fn answered(&self) -> bool {
        !matches!(self.expect, Expect::Cut)
    }

    fn with_header(mut self, name: &'static str, values: &'static [&'static str]) -> Self {
        if let Expect::Forwarded(arrives) = &mut self.expect {
            arrives.header = Some((name, values));
        }
        self
    }

    fn refused_by(mut self, applications: &'static [&'static str]) -> Self {
        self.refused_by = applications;
        self
    }
}

fn arrives(method: &'static str, target: &str, body: &'static str) -> Expect {
    Expect::Forwarded(Arrives {
        method,
        target: target.to_owned(),
        body,
        header: None,
    })
}

/// Every case.
pub(crate) fn all() -> Vec<Case> {
    [
        framing::framing(),
        framing::chunks(),
        fields::lines_and_fields(),
        fields::hop_by_hop(),
        targets::hosts(),
        targets::targets(),
        targets::methods(),
        http2::pseudo_headers(),
        http2::fields(),
        http2::bodies(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A request over HTTP/1.1, marked with the case's name after its first line.
fn raw(name: &str, request: impl AsRef<[u8]>, expect: Expect) -> Case {
    let request = request.as_ref();
    let end = request.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let (first, rest) = request.split_at(end);
    let name = format!("http/1.1: {name}");
    let bytes = [first, format!("x-case: {name}\r\n").as_bytes(), rest].concat();
    Case {
        name,
        request: Request::Http1(bytes),
        expect,
        refused_by: &[],
    }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
}

fn lines(method: &str, headers: &str, body: &str) -> String {
    format!("{method} /p HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n\r\n{body}")
}
