//! The form of a slot file: which word holds what. Decides how bytes become a [`SlotView`]; touches no file.
//!
//! A file is one header slot and N request slots of 256 bytes, each 32 words of 64 bits in the machine's byte order
//! (the file never leaves the machine). A name is a number into the names file; 0 is "none".

use crate::domain::units::WallMicros;
use crate::ports::Progress;
use uuid::Uuid;

/// Words per slot: 32 × 8 bytes = 256 bytes, four cache lines.
pub const SLOT_WORDS: usize = 32;
/// Bytes per slot.
pub const SLOT_BYTES: usize = SLOT_WORDS * 8;
/// First word of the file: `WEIRSLT` and the version of this layout.
pub const MAGIC: u64 = u64::from_be_bytes(*b"WEIRSLT\x01");

// Header slot.
/// Header: number of request slots.
pub const H_SLOTS: usize = 1;
/// Header: the owner's proxy id, two words.
pub const H_OWNER: usize = 2;

// Request slot, in the order in which `admit` writes it.
/// Sequence lock: odd while a writer is inside.
pub const LOCK: usize = 0;
/// 0 free, 1 live. The only word that recovery needs to be right about; written last.
pub const STATE: usize = 1;
/// Sequence number of the record.
pub const SEQ: usize = 2;
/// Request id, two words.
pub const REQUEST: usize = 3;
/// When the head was read.
pub const RECEIVED: usize = 5;
/// When the request was admitted.
pub const ADMITTED: usize = 6;
/// Names of tenant and team.
pub const TENANT_TEAM: usize = 7;
/// Names of user and model.
pub const USER_MODEL: usize = 8;
/// Key id, 16 bytes; see [`KeyWords`].
pub const KEY: usize = 9;
/// Names of route and configuration version.
pub const ROUTE_CONFIG: usize = 11;
/// Names of surface and authentication method.
pub const SURFACE_AUTH: usize = 12;
/// Secret generation and flags (bit 0: stream, bit 1: key known).
pub const SECRET_FLAGS: usize = 13;
/// Request body bytes.
pub const BYTES_IN: usize = 14;
/// Names of pool and backend: one word, so that a crash never sees half of it.
pub const POOL_BACKEND: usize = 15;
/// Attempts so far.
pub const ATTEMPTS: usize = 16;
/// When the last attempt was dispatched.
pub const DISPATCHED: usize = 17;
/// Input tokens + 1.
pub const INPUT: usize = 18;
/// Output tokens + 1.
pub const OUTPUT: usize = 19;
/// Output handed to the client.
pub const DELIVERED: usize = 20;
/// Bytes handed to the client.
pub const BYTES_OUT: usize = 21;
/// Events handed to the client.
pub const EVENTS: usize = 22;
/// When the first output was seen.
pub const FIRST_TOKEN: usize = 23;
/// When this slot was last written to.
pub const LAST: usize = 24;

/// Flag: the client asked for a stream.
pub const FLAG_STREAM: u32 = 1;
/// Flag: the key is known.
pub const FLAG_KEY: u32 = 2;

/// A key id in two words: its bytes where they fit, else `0xFF` (no byte of UTF-8) and a name number.
///
/// Keys are inline because there are more of them than of all other names together: the names file stays bounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyWords(pub [u64; 2]);

impl KeyWords {
    /// Words for a key id, if it is short enough to stand inline.
    #[must_use]
    pub fn inline(key: &str) -> Option<Self> {
        let mut bytes = [0u8; 16];
        bytes.get_mut(..key.len())?.copy_from_slice(key.as_bytes());
        Some(Self::of(bytes))
    }

    /// Words for a key id that stands in the names file.
    #[must_use]
    pub fn named(number: u32) -> Self {
        let mut bytes = [0u8; 16];
        bytes[0] = 0xFF;
        bytes[4..8].copy_from_slice(&number.to_be_bytes());
        Self::of(bytes)
    }

    fn of(bytes: [u8; 16]) -> Self {
        let whole = u128::from_be_bytes(bytes);
        Self([(whole >> 64) as u64, whole as u64])
    }

    /// The key id, asking `name` for numbers.
    #[must_use]
    pub fn resolve(self, name: impl Fn(u32) -> Option<String>) -> Option<String> {
        let bytes = ((u128::from(self.0[0]) << 64) | u128::from(self.0[1])).to_be_bytes();
        if bytes[0] == 0xFF {
            return name(u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]));
        }
        let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8(bytes[..len].to_vec()).ok()
    }
}

/// Two names in one word.
#[must_use]
pub fn pair(high: u32, low: u32) -> u64 {
    (u64::from(high) << 32) | u64::from(low)
}

/// What a slot says of its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // as the word numbers above
pub struct SlotView {
    pub seq: u64,
    pub request_id: Uuid,
    pub received: WallMicros,
    pub admitted: WallMicros,
    pub tenant: u32,
    pub team: u32,
    pub user: u32,
    pub model: u32,
    pub key: Option<KeyWords>,
    pub route: u32,
    pub config: u32,
    pub surface: u32,
    pub auth: u32,
    pub secret_gen: u32,
    pub stream: bool,
    pub bytes_in: u64,
    pub pool: u32,
    pub backend: u32,
    pub attempts: u64,
    pub dispatched: WallMicros,
    pub progress: Progress,
    pub last: WallMicros,
}

impl SlotView {
    /// Reads the words of one slot; `None` if the slot is free.
    #[must_use]
    pub fn of(words: &[u64; SLOT_WORDS]) -> Option<Self> {
        if words[STATE] != 1 {
            return None;
        }
        let high = |word: usize| (words[word] >> 32) as u32;
        let low = |word: usize| words[word] as u32;
        let time = |word: usize| WallMicros(words[word].cast_signed());
        let flags = low(SECRET_FLAGS);
        Some(Self {
            seq: words[SEQ],
            request_id: Uuid::from_u64_pair(words[REQUEST], words[REQUEST + 1]),
            received: time(RECEIVED),
            admitted: time(ADMITTED),
            tenant: high(TENANT_TEAM),
            team: low(TENANT_TEAM),
            user: high(USER_MODEL),
            model: low(USER_MODEL),
            key: (flags & FLAG_KEY != 0).then(|| KeyWords([words[KEY], words[KEY + 1]])),
            route: high(ROUTE_CONFIG),
            config: low(ROUTE_CONFIG),
            surface: high(SURFACE_AUTH),
            auth: low(SURFACE_AUTH),
            secret_gen: high(SECRET_FLAGS),
            stream: flags & FLAG_STREAM != 0,
            bytes_in: words[BYTES_IN],
            pool: high(POOL_BACKEND),
            backend: low(POOL_BACKEND),
            attempts: words[ATTEMPTS],
            dispatched: time(DISPATCHED),
            progress: Progress {
                input_plus_one: words[INPUT],
                output_plus_one: words[OUTPUT],
                delivered: words[DELIVERED],
                bytes_out: words[BYTES_OUT],
                sse_events: words[EVENTS],
                first_token: words[FIRST_TOKEN].cast_signed(),
            },
            last: time(LAST),
        })
    }
}

/// Why the bytes are no slot file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LayoutError {
    /// Not our magic, or another version of the layout.
    #[error("not a slot file of this version")]
    Magic,
    /// Shorter than its header says.
    #[error("the slot file is shorter than its header says")]
    Short,
}

/// A dead process's slot file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadTable {
    /// The process's proxy id.
    pub owner: Uuid,
    /// Every live slot.
    pub live: Vec<SlotView>,
}

/// Reads a whole slot file. An odd lock does not matter: every word is whole, counters only grow, and `STATE` is
/// written last, so a slot that is live has its identity in full.
///
/// # Errors
/// [`LayoutError`]
pub fn read_table(bytes: &[u8]) -> Result<DeadTable, LayoutError> {
    let words: Vec<[u64; SLOT_WORDS]> = bytes
        .chunks_exact(SLOT_BYTES)
        .map(|slot| {
            let mut words = [0; SLOT_WORDS];
            for (word, bytes) in words.iter_mut().zip(slot.as_chunks::<8>().0) {
                *word = u64::from_ne_bytes(*bytes);
            }
            words
        })
        .collect();
    let (header, slots) = words.split_first().ok_or(LayoutError::Short)?;
    if header[0] != MAGIC {
        return Err(LayoutError::Magic);
    }
    if header[H_SLOTS] != slots.len() as u64 {
        return Err(LayoutError::Short);
    }
    Ok(DeadTable {
        owner: Uuid::from_u64_pair(header[H_OWNER], header[H_OWNER + 1]),
        live: slots.iter().filter_map(SlotView::of).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_up_to_sixteen_bytes_stands_inline_and_a_longer_one_by_number() {
        for key in ["", "a1B2c3D4e5F6", "0123456789abcdef"] {
            let words = KeyWords::inline(key).expect("fits");
            assert_eq!(words.resolve(|_| None).as_deref(), Some(key), "an inline key needs no names");
        }
        assert_eq!(KeyWords::inline("0123456789abcdefg"), None, "17 bytes do not fit");
        let named = KeyWords::named(7).resolve(|number| Some(format!("key-{number}")));
        assert_eq!(named.as_deref(), Some("key-7"), "a named key is looked up");
    }

    #[test]
    fn foreign_or_short_files_are_refused() {
        assert_eq!(read_table(&[]), Err(LayoutError::Short), "an empty file has no header");
        assert_eq!(read_table(&[0; SLOT_BYTES]), Err(LayoutError::Magic), "zeros are no header");
        let mut header = vec![0; SLOT_BYTES];
        header[..8].copy_from_slice(&MAGIC.to_ne_bytes());
        header[8..16].copy_from_slice(&3u64.to_ne_bytes());
        assert_eq!(read_table(&header), Err(LayoutError::Short), "three slots promised, none there");
    }
}
