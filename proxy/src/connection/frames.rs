//! Follows the frames that an HTTP/2 peer sends, by their nine-byte heads alone, to see what
//! the HTTP/2 implementation does not tell: a head that does not end, and floods of frames that
//! cost us an answer or a stream and carry nothing.

use std::time::{Duration, Instant};

use crate::flow::{Flood, Flow};

/// The client's connection preface (RFC 9113 section 3.4).
const PREFACE: usize = 24;
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What is counted is counted for so long.
const WINDOW: Duration = Duration::from_secs(10);
/// Frames without content in one window, for a peer that is sent nothing.
const IDLE_FRAMES: u64 = 10_000;
/// Whoever is sent much has windows to update: one more such frame for so many bytes.
const BYTES_PER_FRAME: u64 = 512;
/// Streams reset in one window.
const RESETS: u32 = 2_000;

/// Where in the stream of frames we are, and what was counted.
#[derive(Debug)]
pub(super) struct FrameMeter {
    at: At,
    /// A header block goes on in the next frame.
    block: bool,
    /// Header blocks that have begun.
    heads: u32,
    counts: Counts,
}

#[derive(Debug)]
enum At {
    Preface { left: usize },
    Head { bytes: [u8; HEAD], have: usize },
    Payload { left: usize, of_head: bool },
}

#[derive(Debug)]
struct Counts {
    since: Instant,
    written: u64,
    idle: u64,
    streams: u32,
    resets: u32,
}

impl FrameMeter {
    /// For a connection on which nothing was read yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            at: At::Preface { left: PREFACE },
            block: false,
            heads: 0,
            counts: Counts {
                since: now,
                written: 0,
                idle: 0,
                streams: 0,
                resets: 0,
            },
        }
    }

    /// Follows what was read, and tells `flow` whether a head is under way.
    ///
    /// # Errors
    /// When the peer floods; nothing more is to be read from it.
    pub(super) fn read(&mut self, mut bytes: &[u8], flow: &Flow) -> Result<(), Flood> {
        while !bytes.is_empty() {
            bytes = self.step(bytes, flow)?;
        }
        flow.heads(self.heads, self.head_is_open());
        Ok(())
    }

    fn head_is_open(&self) -> bool {
        match self.at {
            At::Preface { .. } => true,
            At::Payload { of_head: true, .. } => true,
            At::Payload { .. } | At::Head { .. } => self.block,
        }
    }

    /// Takes one piece off the front.
    fn step<'a>(&mut self, bytes: &'a [u8], flow: &Flow) -> Result<&'a [u8], Flood> {
        match &mut self.at {
            At::Preface { left } | At::Payload { left, .. } => {
                let taken = bytes.len().min(*left);
                *left -= taken;
                if *left == 0 {
                    self.at = At::Head {
                        bytes: [0; HEAD],
                        have: 0,
                    };
                }
                Ok(bytes.get(taken..).unwrap_or_default())
            }
            At::Head { bytes: head, have } => {
                let (Some(room), Some((next, rest))) = (head.get_mut(*have), bytes.split_first())
                else {
                    return Ok(&[]);
                };
                *room = *next;
                *have += 1;
                if *have == HEAD {
                    let head = *head;
                    self.frame(head, flow)?;
                }
                Ok(rest)
            }
        }
    }

    fn frame(&mut self, head: [u8; HEAD], flow: &Flow) -> Result<(), Flood> {
        let [a, b, c, kind, flags, ..] = head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let ends_block = flags & END_HEADERS != 0;
        match kind {
            DATA if length > 0 || flags & END_STREAM != 0 => {}
            HEADERS => {
                self.heads = self.heads.wrapping_add(1);
                self.counts.streams += 1;
                self.block = !ends_block;
            }
            CONTINUATION if ends_block => self.block = false,
            RST_STREAM => self.counts.resets += 1,
            _ => self.counts.idle += 1,
        }
        self.at = match length {
            0 => At::Head {
                bytes: [0; HEAD],
                have: 0,
            },
            left => At::Payload {
                left,
                of_head: matches!(kind, HEADERS | CONTINUATION),
            },
        };
        self.counts.check(flow)
    }
}

impl Counts {
    /// The clock is read only where a count is high.
    fn check(&mut self, flow: &Flow) -> Result<(), Flood> {
        let written = flow.written().wrapping_sub(self.written);
        let flood = if self.idle > IDLE_FRAMES + written / BYTES_PER_FRAME {
            Flood::Frames
        } else if self.resets > RESETS && self.resets > self.streams / 2 {
            Flood::Resets
        } else {
            return Ok(());
        };
        let now = Instant::now();
        if now.duration_since(self.since) < WINDOW {
            return Err(flood);
        }
        *self = Self {
            since: now,
            written: flow.written(),
            idle: 0,
            streams: 0,
            resets: 0,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PRI: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    fn begun(now: Instant) -> (FrameMeter, Flow) {
        let (mut meter, flow) = (FrameMeter::new(now), Flow::default());
        meter.read(PRI, &flow).unwrap();
        (meter, flow)
    }

    #[test]
    fn a_head_is_open_from_its_first_byte_to_its_last_however_it_is_cut() {
        let bytes = [
            PRI.to_vec(),
            frame(HEADERS, 0, b"abc"),
            frame(CONTINUATION, 0, b"d"),
            frame(CONTINUATION, END_HEADERS, b"e"),
            frame(DATA, 0, b"body"),
        ]
        .concat();
        for size in [1, 2, 5, 100] {
            let (mut meter, flow) = (FrameMeter::new(Instant::now()), Flow::default());
            let mut open = Vec::new();
            for piece in bytes.chunks(size) {
                meter.read(piece, &flow).unwrap();
                open.push(flow.movement().head_open);
            }
            assert!(!open.last().unwrap(), "{size}");
            assert_eq!(open.contains(&true), size < 100, "{size}");
        }
        let (mut meter, flow) = begun(Instant::now());
        assert!(!flow.movement().head_open);
        meter.read(&frame(HEADERS, 0, b"abc"), &flow).unwrap();
        assert_eq!(
            (flow.movement().head_open, flow.movement().heads),
            (true, 1)
        );
        meter
            .read(&frame(CONTINUATION, END_HEADERS, b"d"), &flow)
            .unwrap();
        assert_eq!(
            (flow.movement().head_open, flow.movement().heads),
            (false, 1)
        );
    }

    proptest! {
        /// Whatever comes, and however it is cut into reads, it is followed in the same way.
        #[test]
        fn hostile_bytes_are_followed_however_they_are_cut(
            bytes in prop::collection::vec(prop_oneof![Just(0_u8), 0..10_u8, any::<u8>()], 0..300),
            size in 1..40_usize,
        ) {
            let now = Instant::now();
            let (mut whole, all) = begun(now);
            let (mut parts, pieces) = begun(now);
            whole.read(&bytes, &all).unwrap();
            for piece in bytes.chunks(size) {
                parts.read(piece, &pieces).unwrap();
            }
            prop_assert_eq!(all.movement(), pieces.movement());
            prop_assert_eq!(format!("{whole:?}"), format!("{parts:?}"));
        }
    }

    #[test]
    fn frames_without_content_are_a_flood_only_within_one_window() {
        let flooded = |since: Instant, rounds: u64| {
            let (mut meter, flow) = begun(since);
            (0..rounds).find_map(|_| meter.read(&frame(PING, 0, b"pingpong"), &flow).err())
        };
        let now = Instant::now();
        assert_eq!(flooded(now, IDLE_FRAMES), None);
        assert_eq!(flooded(now, IDLE_FRAMES + 1), Some(Flood::Frames));
        let long_ago = now - WINDOW;
        assert_eq!(flooded(long_ago, IDLE_FRAMES + 1), None);
        assert_eq!(flooded(long_ago, 2 * IDLE_FRAMES + 3), Some(Flood::Frames));
    }

    #[test]
    fn whoever_is_sent_much_may_update_its_windows() {
        let (mut meter, flow) = begun(Instant::now());
        for _ in 0..10 * IDLE_FRAMES {
            flow.has_written(1_400);
            let update = frame(WINDOW_UPDATE, 0, &1_400_u32.to_be_bytes());
            meter.read(&update, &flow).unwrap();
        }
    }

    #[test]
    fn resets_are_a_flood_where_most_streams_end_so() {
        let resets = |streams: usize| {
            let (mut meter, flow) = begun(Instant::now());
            let opened = frame(HEADERS, END_HEADERS | END_STREAM, b"head");
            let reset = frame(RST_STREAM, 0, &8_u32.to_be_bytes());
            (0..=RESETS).find_map(|_| {
                meter.read(&opened.repeat(streams), &flow).unwrap();
                meter.read(&reset, &flow).err()
            })
        };
        assert_eq!(resets(1), Some(Flood::Resets));
        assert_eq!(resets(3), None);
    }
}
