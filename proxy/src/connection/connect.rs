//! `CONNECT` to a listener that is a proxy: decided as a connection to a host and a port, and
//! answered once the upstream is connected.

use std::sync::Arc;

use ::http::{HeaderMap, Request, Response};
use hyper::body::Incoming;

use super::half_closed::UntilAnswered;
use super::{Connection, excess_denial, kept};
use crate::denial::{Afterwards, Denial};
use crate::enforce::{Ask, Lease};
use crate::forward::ResponseBody;
use crate::forward::tunnel::{self, Downstream};
use crate::protocol::{Call, Shape, target};
use crate::route::Found;

impl Connection {
    /// Answers one `CONNECT`. What was refused closes the connection: the bytes that follow are
    /// not HTTP.
    pub(super) async fn connect(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        match self.tunnel(request).await {
            Ok(response) => response,
            Err(denial) => denial
                .into_response(Shape::Tcp, Afterwards::Closes)
                .map(ResponseBody::own),
        }
    }

    async fn tunnel(
        &self,
        mut request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Denial> {
        let (lease, found) = self.decide_connect(&request)?;
        let pool = found.pool(lease.call().map_or("", Call::host));
        let downstream = hyper::upgrade::on(&mut request);
        let idle = self.gate.limits.tcp_idle_timeout;
        let downstream = Downstream {
            upgrade: downstream,
            reset: UntilAnswered::reset,
        };
        tunnel::connect(lease, downstream, &pool, self.tenure(), idle).await
    }

    fn decide_connect(&self, request: &Request<Incoming>) -> Result<(Lease, Found<'_>), Denial> {
        let mut entry = self.gate.recorder.open(&self.origin);
        if let Some(excess) = self.origin.calls.excess() {
            return Err(excess_denial(entry, excess, request.uri()));
        }
        let (host, port) = match target::of_connect(request.uri()) {
            Ok(target) => target,
            Err(why) => {
                entry.refused(why.reason_code(), None, Some(kept(request.uri())));
                return Err(Denial::ambiguous(entry, why));
            }
        };
        let call = Call::tcp(&host);
        let Some(found) = self.gate.routes.find(&call, || port) else {
            return Err(self.not_found(entry, call));
        };
        let headers = HeaderMap::new();
        let ask = Ask {
            call,
            origin: &self.origin,
            service: found.service(),
            port: found.port(),
            headers: &headers,
        };
        Ok((self.gate.enforcer.enforce(entry, ask)?, found))
    }
}
