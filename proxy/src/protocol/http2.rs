//! HTTP/2 sizes that both sides of the proxy use, in bytes. hyper's own are made for
//! few large transfers; a sidecar holds many small ones.

/// Receive window of one stream: what one stalled call may hold in memory.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;
/// Receive window of one connection.
pub(crate) const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What may wait to be written on one stream.
pub(crate) const SEND_BUFFER: usize = 128 * 1024;
