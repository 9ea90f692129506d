//! What the writer has done, in figures.

/// What a pass did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Passed {
    /// Frames read.
    pub frames: u64,
    /// Rows really inserted.
    pub inserted: u64,
    /// Records that were there already.
    pub known: u64,
    /// Records that are no row: in `usage_dead_letter`.
    pub dead_letters: u64,
    /// Damaged places, set aside as `*.bad`.
    pub corrupt: u64,
    /// Closed segments with a torn tail.
    pub torn: u64,
    /// Segments deleted.
    pub deleted: u64,
}

impl Passed {
    /// Adds another pass's figures.
    pub fn add(&mut self, other: Self) {
        self.frames += other.frames;
        self.inserted += other.inserted;
        self.known += other.known;
        self.dead_letters += other.dead_letters;
        self.corrupt += other.corrupt;
        self.torn += other.torn;
        self.deleted += other.deleted;
    }
}
