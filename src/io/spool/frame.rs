//! Frames: how a payload stands in a segment, and how damage is told from an end. Decides bytes, touches no file.
//!
//! `magic u32 | length u32 | CRC-32C u32 | sequence u64 | payload`, little endian. The CRC covers length, sequence and
//! payload. The magic has bytes that UTF-8 and JSON never hold, so a search for the next frame cannot stop in a text.

use memchr::memmem;

/// The first four bytes of every frame.
pub const MAGIC: [u8; 4] = [0xF7, b'W', 0xFE, b'R'];
/// Bytes before the payload.
pub const HEADER: usize = 20;
/// Longest payload in bytes: raw usage (4 KiB), tags and attempts fit many times over.
pub const MAX_PAYLOAD: usize = 64 << 10;

/// Appends a frame to `out`. The caller has bounded the payload by [`MAX_PAYLOAD`].
pub fn encode(seq: u64, payload: &[u8], out: &mut Vec<u8>) {
    let len = (payload.len() as u32).to_le_bytes();
    let seq = seq.to_le_bytes();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&len);
    out.extend_from_slice(&checksum(len, seq, payload).to_le_bytes());
    out.extend_from_slice(&seq);
    out.extend_from_slice(payload);
}

fn checksum(len: [u8; 4], seq: [u8; 8], payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&len);
    let crc = crc32c::crc32c_append(crc, &seq);
    crc32c::crc32c_append(crc, payload)
}

/// Whether more can still be written behind the bytes at hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// The owner may still write: an unfinished end is a frame to come.
    Open,
    /// Nobody writes any more: an unfinished end was torn by a crash.
    Closed,
}

/// What stands at a place of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next<'a> {
    /// A whole frame; `end` is where the next one starts.
    Frame {
        /// The record's number.
        seq: u64,
        /// What it carries.
        payload: &'a [u8],
        /// The offset behind it.
        end: usize,
    },
    /// Damaged bytes up to `end`, where a whole frame starts or the segment ends.
    Corrupt {
        /// The offset behind them.
        end: usize,
    },
    /// A frame that a crash cut short; nothing follows.
    Torn,
    /// Nothing more (yet).
    End,
}

/// Reads what stands at `at`.
#[must_use]
pub fn next(bytes: &[u8], at: usize, tail: Tail) -> Next<'_> {
    let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else { return Next::End };
    let cut = match whole(rest) {
        Whole::Frame { seq, payload } => return Next::Frame { seq, payload, end: at + HEADER + payload.len() },
        Whole::Cut => true,
        Whole::Bad => false,
    };
    match resync(rest) {
        Some(offset) => Next::Corrupt { end: at + offset },
        None if tail == Tail::Open => Next::End,
        None if cut => Next::Torn,
        None => Next::Corrupt { end: bytes.len() },
    }
}

enum Whole<'a> {
    Frame { seq: u64, payload: &'a [u8] },
    Cut,
    Bad,
}

fn whole(bytes: &[u8]) -> Whole<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        let known = bytes.len().min(MAGIC.len());
        return if bytes[..known] == MAGIC[..known] { Whole::Cut } else { Whole::Bad };
    };
    let [m0, m1, m2, m3, l0, l1, l2, l3, c0, c1, c2, c3, seq @ ..] = *header;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if [m0, m1, m2, m3] != MAGIC || len > MAX_PAYLOAD {
        return Whole::Bad;
    }
    let Some(payload) = rest.get(..len) else { return Whole::Cut };
    if checksum([l0, l1, l2, l3], seq, payload) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Whole::Bad;
    }
    Whole::Frame { seq: u64::from_le_bytes(seq), payload }
}

/// Offset of the first whole frame behind a damaged start.
fn resync(bytes: &[u8]) -> Option<usize> {
    memmem::find_iter(bytes.get(1..)?, &MAGIC)
        .map(|found| found + 1)
        .find(|offset| matches!(whole(&bytes[*offset..]), Whole::Frame { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (seq, payload) in (1..).zip(payloads) {
            encode(seq, payload, &mut bytes);
        }
        bytes
    }

    /// Every whole frame, the damaged bytes, and whether the end was torn.
    fn scan(bytes: &[u8], tail: Tail) -> (Vec<(u64, Vec<u8>)>, usize, bool) {
        let (mut frames, mut corrupt, mut at) = (Vec::new(), 0, 0);
        loop {
            match next(bytes, at, tail) {
                Next::Frame { seq, payload, end } => {
                    frames.push((seq, payload.to_vec()));
                    at = end;
                }
                Next::Corrupt { end } => {
                    assert!(end > at, "a scan must go forward");
                    corrupt += end - at;
                    at = end;
                }
                Next::Torn => return (frames, corrupt, true),
                Next::End => return (frames, corrupt, false),
            }
        }
    }

    fn numbered(payloads: &[Vec<u8>]) -> Vec<(u64, Vec<u8>)> {
        (1..).zip(payloads.iter().cloned()).collect()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..6)) {
            let bytes = segment(&payloads);
            prop_assert_eq!(scan(&bytes, Tail::Closed), (numbered(&payloads), 0, false));
        }

        #[test]
        fn a_torn_tail_costs_the_last_frame_alone(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..5),
            cut in 1usize..20,
        ) {
            let bytes = segment(&payloads);
            let (frames, corrupt, torn) = scan(&bytes[..bytes.len() - cut], Tail::Closed);
            prop_assert_eq!(frames, numbered(&payloads[..payloads.len() - 1]), "earlier frames survive");
            prop_assert_eq!((corrupt, torn), (0, true), "a cut is no damage");
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            scan(&bytes, Tail::Open);
            scan(&bytes, Tail::Closed);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_costs_its_frame_alone() {
        let payloads: Vec<Vec<u8>> = vec![b"first".to_vec(), b"{\"a\":1}".to_vec(), Vec::new(), b"last one".to_vec()];
        let good = segment(&payloads);
        let frame_of = |byte: usize| {
            let mut start = 0;
            payloads.iter().position(|payload| {
                start += HEADER + payload.len();
                byte < start
            })
        };
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let hit = frame_of(bit / 8).expect("within") as u64 + 1;
            let left: Vec<_> = numbered(&payloads).into_iter().filter(|(seq, _)| *seq != hit).collect();
            let (frames, corrupt, torn) = scan(&bytes, Tail::Closed);
            assert_eq!(frames, left, "bit {bit} must cost frame {hit} and no other");
            assert!(corrupt > 0 || torn, "bit {bit}: the damage must be told");
        }
    }

    #[test]
    fn an_unfinished_end_of_an_open_segment_is_a_frame_to_come() {
        let bytes = segment(&[b"one".to_vec()]);
        for len in 1..bytes.len() {
            assert_eq!(next(&bytes[..len], 0, Tail::Open), Next::End, "{len} bytes: wait for the rest");
            assert_eq!(next(&bytes[..len], 0, Tail::Closed), Next::Torn, "{len} bytes: there is no rest");
        }
    }
}
