//! Faults with their places: what is wrong, where, and what to do. Collects; does not print (see `render`).

use super::codes::Code;
use std::cell::{Ref, RefCell};
use std::ops::Range;

/// Diagnostics kept per load. A file that is wrong in more places is not read by anyone to the end.
pub const MAX_DIAGNOSTICS: usize = 500;

/// A piece of a source file. Lines and columns count from 1, bytes from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Number of the source.
    pub file: usize,
    /// Line.
    pub line: usize,
    /// Column in characters.
    pub col: usize,
    /// First byte.
    pub start: usize,
    /// Behind the last byte.
    pub end: usize,
}

/// One source text.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file as it was named.
    pub name: String,
    /// Its text, with what looks like a secret replaced by `*` of the same length in bytes.
    pub shown: String,
}

/// One fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// Its kind.
    pub code: Code,
    /// File name.
    pub file: String,
    /// Where in the file.
    pub place: Place,
    /// Path of the key: `pools.vllm.policy`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// One line, for logs: `FILE:LINE:COL: [CODE] message`.
impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, file, place, message, .. } = self;
        write!(f, "{file}:{}:{}: [{}] {message}", place.line, place.col, code.id())
    }
}

/// Everything found while loading one configuration.
#[derive(Debug, Default)]
pub struct Findings {
    sources: RefCell<Vec<Source>>,
    errors: RefCell<Vec<Diagnostic>>,
    warnings: RefCell<Vec<Diagnostic>>,
}

/// The outcome of a load: what `weir check` prints.
#[derive(Clone, Debug)]
pub struct Report {
    /// The file that was loaded.
    pub file: String,
    /// Faults that refuse the configuration, in order of place.
    pub errors: Vec<Diagnostic>,
    /// Faults that do not.
    pub warnings: Vec<Diagnostic>,
    /// The texts, for snippets.
    pub sources: Vec<Source>,
}

impl Findings {
    /// Registers a source text and gives its number.
    pub fn add_source(&self, name: &str, text: &str) -> usize {
        let mut sources = self.sources.borrow_mut();
        sources.push(Source { name: name.to_owned(), shown: super::mask::mask_text(text) });
        sources.len() - 1
    }

    /// Hides a piece of a source from every snippet.
    pub fn mask(&self, place: Place) {
        if let Some(source) = self.sources.borrow_mut().get_mut(place.file) {
            super::mask::mask_range(&mut source.shown, place.start..place.end);
        }
    }

    /// The sources so far.
    pub fn sources(&self) -> Ref<'_, Vec<Source>> {
        self.sources.borrow()
    }

    /// `file:line` of a place.
    #[must_use]
    pub fn spot(&self, place: Place) -> String {
        format!("{}:{}", self.name_of(place.file), place.line)
    }

    /// Adds a fault at a place and path, as error or warning as its code says.
    pub fn add(&self, code: Code, at: (Place, &str), message: String, hint: Option<String>) {
        let (place, path) = at;
        let file = self.name_of(place.file);
        let found = Diagnostic { code, file, place, path: path.to_owned(), message, hint };
        let list = if code.id().starts_with('W') { &self.warnings } else { &self.errors };
        let mut list = list.borrow_mut();
        // What follows from a variable that is not set is no fault of its own.
        let follows = |known: &Diagnostic| known.code == Code::EnvMissing && known.place == place;
        if list.len() < MAX_DIAGNOSTICS && !list.iter().any(follows) && !list.contains(&found) {
            list.push(found);
        }
    }

    /// True if anything refuses the configuration.
    #[must_use]
    pub fn failed(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    /// Ends the collection.
    #[must_use]
    pub fn into_report(self, file: &str) -> Report {
        let in_order = |list: RefCell<Vec<Diagnostic>>| {
            let mut list = list.into_inner();
            list.sort_by_key(|found| (found.place.file, found.place.start));
            list
        };
        Report {
            file: file.to_owned(),
            errors: in_order(self.errors),
            warnings: in_order(self.warnings),
            sources: self.sources.into_inner(),
        }
    }

    fn name_of(&self, file: usize) -> String {
        self.sources.borrow().get(file).map_or_else(String::new, |source| source.name.clone())
    }
}

impl Place {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> Range<usize> {
        self.start..self.end
    }
}
