//! Refuses the keys that speak of what a listener's protocol does not have: they would do nothing.

use super::problem::Wrong;
use super::raw::{Field, RawInbound, RawLimits, RawOutbound, RawUpstream};
use super::validate::{Validator, content};
use super::{ListenerProtocol, OutboundKind};

impl Validator<'_> {
    pub(super) fn inbound_keys_fit(&mut self, raw: &RawInbound, protocol: ListenerProtocol) {
        let upstream = raw.upstream.as_ref().map(content);
        let limits = raw.limits.as_ref().map(content);
        let http = upstream.into_iter().flat_map(http_of_upstream);
        self.keys_fit(protocol, http.chain([raw.show_reason]), limits);
    }

    /// The upstream is not looked at here: a destination may have listeners of every protocol.
    pub(super) fn outbound_keys_fit(
        &mut self,
        raw: &RawOutbound,
        kind: &OutboundKind,
        protocol: ListenerProtocol,
    ) {
        let limits = raw.limits.as_ref().map(content);
        match kind {
            OutboundKind::Explicit(_) => self.keys_fit(protocol, [raw.show_reason], limits),
            // They carry HTTP and bytes.
            OutboundKind::ForwardProxy | OutboundKind::Transparent => {
                let field = limits.and_then(|limits| limits.detect_timeout);
                if field.is_some() {
                    let kind = kind.as_str();
                    let wrong = Wrong::new(format!("a `{kind}` listener has its own way to tell"));
                    self.note(field, wrong.help("remove it"));
                }
            }
        }
    }

    fn keys_fit(
        &mut self,
        protocol: ListenerProtocol,
        http: impl IntoIterator<Item = Option<Field>>,
        limits: Option<&RawLimits>,
    ) {
        if protocol == ListenerProtocol::Tcp {
            let limits = limits.into_iter().flat_map(http_of_limits);
            for field in http.into_iter().chain(limits).flatten() {
                let wrong = Wrong::new("this is about HTTP, which a `tcp` listener does not read");
                self.note(
                    Some(field),
                    wrong.help("remove it, or set `protocol: http` or `auto`"),
                );
            }
        }
        let Some(limits) = limits else { return };
        if protocol == ListenerProtocol::Http
            && let Some(field) = limits.tcp_idle_timeout
        {
            let wrong = Wrong::new("an `http` listener has no connections that are plain TCP");
            let help = "remove it, set `idle_timeout`, or set `protocol: tcp` or `auto`";
            self.note(Some(field), wrong.help(help));
        }
        if protocol != ListenerProtocol::Auto
            && let Some(field) = limits.detect_timeout
        {
            let wrong = Wrong::new("the protocol is declared, so nothing is detected");
            self.note(
                Some(field),
                wrong.help("remove it, or set `protocol: auto`"),
            );
        }
    }
}

/// The keys of an upstream that only HTTP has.
fn http_of_upstream(raw: &RawUpstream) -> [Option<Field>; 4] {
    [
        raw.protocol,
        raw.response_timeout,
        raw.pool_idle_timeout,
        raw.pool_max_idle,
    ]
}

/// The limits that only HTTP has.
fn http_of_limits(raw: &RawLimits) -> [Option<Field>; 4] {
    [
        raw.max_header_bytes,
        raw.header_timeout,
        raw.max_concurrent_streams,
        raw.idle_timeout,
    ]
}
