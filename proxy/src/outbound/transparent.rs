//! Connections that the kernel redirected here: where they were going is asked of the kernel, and
//! what they speak is seen in their first bytes. HTTP is decided call by call on its `Host`, all
//! else as a connection to the server that TLS names, or to an address.

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
use super::guard::Own;
use super::hello::{Hello, server_name};
use crate::connection;
use crate::drain::Drain;
use crate::forward::tunnel::Bytes;
use crate::route::Found;
use crate::stream::Stream;

/// How long a connection may take over its first bytes. In some protocols the server speaks
/// first; such a connection is taken for what is not HTTP.
const FIRST_BYTES: Duration = Duration::from_secs(2);

/// What is needed to place a redirected connection.
#[derive(Debug)]
pub(crate) struct Transparent {
    addresses: Arc<AddressTable>,
    own: Own,
}

impl Transparent {
    /// Places connections by these addresses of destinations.
    pub(crate) fn new(addresses: Arc<AddressTable>, own: Own) -> Self {
        Self { addresses, own }
    }

    /// Where a connection was going; the code of the refusal where it may not be served.
    fn destination(&self, socket: &TcpStream) -> Result<SocketAddr, &'static str> {
        let original = original_destination(socket).map_err(|error| {
            tracing::debug!(%error, "the kernel does not know where a connection was going");
            "not_redirected"
        })?;
        // SECURITY: what was meant for ourselves would come back to us, again and again.
        match self.own.has(original) {
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
                let host = to.map(host_of).unwrap_or_default();
                return self.connection(source, drain).refuse(reason_code, &host);
            }
        };
        let mut stream = Stream::from(socket);
        let speaks = tokio::select! {
            speaks = first_bytes(&mut stream) => speaks,
            () = connection::overdue(&drain) => return,
        };
        let connection = self.connection(source, drain);
        let version = match speaks {
            Ok(Speaks::Http(version)) => version,
            Ok(Speaks::Bytes(name)) => {
                let (host, found) = self.find(transparent, original, name).await;
                let bytes = Bytes::OfCaller;
                return connection::tcp::carry(stream, &connection, &host, found, bytes).await;
            }
            // It ended before it said anything.
            Err(_) => return,
        };
        let connection = connection.redirected_from(original.port());
        connection::http::serve(stream, version, Arc::new(connection)).await;
    }
}

impl Outbound {
    /// Where bytes go that are not looked into, and the host that policy sees.
    ///
    /// SECURITY: a server name is the caller's word, so it leads to where that name does, whatever
    /// the original address was.
    async fn find(
        &self,
        transparent: &Transparent,
        original: SocketAddr,
        name: Option<String>,
    ) -> (String, Option<Found<'_>>) {
        let (routes, port) = (&self.gate.routes, original.port());
        if let Some(name) = name
            && let Some(found) = routes.named(&name, port)
        {
            return (name, Some(found));
        }
        match transparent.addresses.find(original).await {
            Some(owner) => (owner.host.to_string(), routes.at(owner.place, port)),
            None => {
                let host = host_of(original);
                let found = routes.at_address(&host, port);
                (host, found)
            }
        }
    }
}

/// What a redirected connection speaks.
#[derive(Debug)]
enum Speaks {
    Http(Alpn),
    /// Something else; TLS may name the server that is meant.
    Bytes(Option<String>),
}

/// What a connection speaks, as far as its first bytes tell within [`FIRST_BYTES`].
async fn first_bytes(stream: &mut Stream) -> io::Result<Speaks> {
    let mut seen = BytesMut::new();
    let looked = tokio::time::timeout(FIRST_BYTES, look(stream, &mut seen)).await;
    stream.unread(seen.freeze());
    looked.unwrap_or(Ok(Speaks::Bytes(None)))
}

async fn look(stream: &mut Stream, seen: &mut BytesMut) -> io::Result<Speaks> {
    loop {
        seen.reserve(1024);
        if stream.read_buf(seen).await? == 0 {
            return match seen.is_empty() {
                true => Err(io::ErrorKind::UnexpectedEof.into()),
                false => Ok(Speaks::Bytes(None)),
            };
        }
        match looks_like_http(seen) {
            Looks::Http1 => return Ok(Speaks::Http(Alpn::Http1)),
            Looks::Http2 => return Ok(Speaks::Http(Alpn::Http2)),
            Looks::Unsure => {}
            Looks::Other => match server_name(seen) {
                Hello::Names(name) => return Ok(Speaks::Bytes(Some(name))),
                Hello::NamesNobody => return Ok(Speaks::Bytes(None)),
                Hello::Unsure => {}
            },
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
