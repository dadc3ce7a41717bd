//! HTTP/2 sizes that both sides of the proxy use, in bytes. hyper's own are made for
//! few large transfers; a sidecar holds many small ones.

/// Receive window of one stream: what one stalled call may hold in memory.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;
/// Receive window of one connection. The h2 crate takes half of it for what small frames that
/// wait to be read may cost, at up to 255 bytes each, and ends the connection beyond that: this
/// is room for some 8,000 gRPC messages of a few bytes that wait for slower receivers.
pub(crate) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What may wait to be written on one stream.
pub(crate) const SEND_BUFFER: usize = 128 * 1024;
/// The largest frame that is taken, the least that the protocol allows: a head is held together
/// from at most this much and its continuations.
pub(crate) const MAX_FRAME: u32 = 16 * 1024;
/// What one peer's header compression may hold, each way.
pub(crate) const HEADER_TABLE: u32 = 4 * 1024;
/// Streams that the peer may reset before they were looked at; more end the connection
/// (CVE-2023-44487).
pub(crate) const RESETS_BEFORE_ACCEPT: usize = 20;
/// Streams that may be reset because of what the peer sent on them; more end the connection.
pub(crate) const RESETS_OF_OURS: usize = 256;
