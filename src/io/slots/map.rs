//! The one place with `unsafe`: a mapped file seen as 64-bit atomics. Decides nothing about what the words mean.
#![allow(unsafe_code)]

use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU64;

/// A shared, writable mapping of a whole file, readable and writable as `&[AtomicU64]`.
#[derive(Debug)]
pub struct WordMap {
    map: MmapRaw,
}

impl WordMap {
    /// Maps the file. Its blocks must have been written before: a store into a hole of a full disk is SIGBUS.
    ///
    /// # Errors
    /// The file's length is no multiple of 8, or the kernel refuses.
    pub fn new(file: &File) -> io::Result<Self> {
        let map = MmapOptions::new().map_raw(file)?;
        if map.len() % size_of::<AtomicU64>() != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the slot file's length is no multiple of 8"));
        }
        Ok(Self { map })
    }

    /// The words of the file.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the pointer is page aligned (so aligned for u64) and valid for `len` bytes as long as `self.map`
        // lives, which the returned lifetime is tied to. Every bit pattern is a valid AtomicU64. Nobody makes a
        // `&mut [u8]` of this mapping, so shared atomic access is the only access within the process; other
        // processes only read the file once its owner is dead. Truncation from outside would be SIGBUS, an abort.
        unsafe {
            std::slice::from_raw_parts(
                self.map.as_mut_ptr().cast::<AtomicU64>().cast_const(),
                self.map.len() / size_of::<AtomicU64>(),
            )
        }
    }

    /// Writes dirty pages to disk and waits (`msync(MS_SYNC)`): milliseconds.
    ///
    /// # Errors
    /// The disk said no.
    pub fn flush(&self) -> io::Result<()> {
        self.map.flush()
    }
}
