//! Connections that the kernel redirected here: where they were going is asked of the kernel, and
//! what they speak is seen in their first bytes. HTTP is decided call by call on its `Host`, all
//! else as a connection to an address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use wayleave_certs::Alpn;

use super::Outbound;
use super::addresses::AddressTable;
use super::detect::{Looks, looks_like_http};
use super::guard::is_own;
use crate::connection;
use crate::drain::Drain;
use crate::forward::tunnel::Bytes;
use crate::stream::Stream;

/// How long a connection may take over its first bytes. In some protocols the server speaks
/// first; such a connection is taken for what is not HTTP.
const FIRST_BYTES: Duration = Duration::from_secs(2);

/// What is needed to place a redirected connection.
#[derive(Debug)]
pub(crate) struct Transparent {
    addresses: Arc<AddressTable>,
    /// Where this sidecar listens.
    own: Arc<[SocketAddr]>,
}

impl Transparent {
    /// Places connections by these addresses of destinations.
    pub(crate) fn new(addresses: Arc<AddressTable>, own: Arc<[SocketAddr]>) -> Self {
        Self { addresses, own }
    }

    /// Where a connection was going; the code of the refusal where it may not be served.
    fn destination(&self, socket: &TcpStream) -> Result<SocketAddr, &'static str> {
        let original = original_destination(socket).map_err(|error| {
            tracing::debug!(%error, "the kernel does not know where a connection was going");
            "not_redirected"
        })?;
        // SECURITY: what was meant for ourselves would come back to us, again and again.
        match is_own(original, &self.own) {
            true => Err("redirect_loop"),
            false => Ok(original),
        }
    }
}

impl Outbound {
    /// Serves one redirected connection.
    pub(super) async fn serve_redirected(
        &self,
        transparent: &Transparent,
        socket: TcpStream,
        source: SocketAddr,
        drain: Drain,
    ) {
        let original = match transparent.destination(&socket) {
            Ok(original) => original,
            Err(reason_code) => {
                let to = socket.local_addr().ok();
                tracing::warn!(listener = &*self.gate.name, %source, ?to, reason_code, "connection refused");
                let host = to.map(|to| host_of(to)).unwrap_or_default();
                return self.connection(source, drain).refuse(reason_code, &host);
            }
        };
        let mut stream = Stream::from(socket);
        let looks = tokio::select! {
            looks = first_bytes(&mut stream) => looks,
            // Nothing was decided yet, so nothing is lost.
            () = drain.begun() => return,
        };
        let connection = self.connection(source, drain);
        let version = match looks {
            Ok(Looks::Http1) => Alpn::Http1,
            Ok(Looks::Http2) => Alpn::Http2,
            Ok(_) => {
                let owner = transparent.addresses.find(original).await;
                let place = owner.as_ref().map(|owner| owner.place);
                let host = owner.map_or_else(|| host_of(original), |owner| owner.host.to_string());
                let found = self.gate.routes.at(place, &host, original.port());
                return connection::tcp::carry(stream, &connection, &host, found, Bytes::OfCaller)
                    .await;
            }
            // It ended before it said anything.
            Err(_) => return,
        };
        let connection = connection.redirected_from(original.port());
        connection::http::serve(stream, version, Arc::new(connection)).await;
    }
}

/// What a connection speaks, as far as its first bytes tell within [`FIRST_BYTES`].
async fn first_bytes(stream: &mut Stream) -> io::Result<Looks> {
    let mut seen = BytesMut::new();
    let looked = tokio::time::timeout(FIRST_BYTES, look(stream, &mut seen)).await;
    stream.unread(seen.freeze());
    looked.unwrap_or(Ok(Looks::Unsure))
}

async fn look(stream: &mut Stream, seen: &mut BytesMut) -> io::Result<Looks> {
    loop {
        seen.reserve(1024);
        if stream.read_buf(seen).await? == 0 {
            return match seen.is_empty() {
                true => Err(io::ErrorKind::UnexpectedEof.into()),
                false => Ok(Looks::Other),
            };
        }
        match looks_like_http(seen) {
            Looks::Unsure => {}
            looks => return Ok(looks),
        }
    }
}

/// An address as policies and records name a host.
fn host_of(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    }
}

/// Where a connection was going before iptables redirected it.
#[cfg(target_os = "linux")]
fn original_destination(socket: &TcpStream) -> io::Result<SocketAddr> {
    let raw = socket2::SockRef::from(socket);
    let original = match socket.local_addr()? {
        SocketAddr::V4(_) => raw.original_dst_v4(),
        SocketAddr::V6(_) => raw.original_dst_v6(),
    }?;
    let unknown = || io::Error::new(io::ErrorKind::InvalidData, "not an IP address");
    original.as_socket().ok_or_else(unknown)
}

#[cfg(not(target_os = "linux"))]
fn original_destination(_: &TcpStream) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}
