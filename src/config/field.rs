//! Reads typed values out of the tree. A fault is told at its place and the reading goes on with the default,
//! so that one load finds all of them.

use super::codes::Code;
use super::diagnostic::{Findings, Place};
use super::suggest;
use super::tree::{ABSENT, Entry, Kind, Node};
use super::units::{Count, Share, Size, Span};
use std::str::FromStr;
use std::time::Duration;

/// A node on its way to a value: with its path, and where to tell faults.
#[derive(Clone, Debug)]
pub struct Item<'t> {
    /// Where faults go.
    pub findings: &'t Findings,
    /// The node.
    pub node: &'t Node,
    /// Its path: `pools.vllm.policy`.
    pub path: String,
}

/// An opened mapping whose keys have been checked.
#[derive(Clone, Debug)]
pub struct Fields<'t> {
    /// The mapping itself.
    pub item: Item<'t>,
}

impl<'t> Item<'t> {
    /// Tells a fault at this node.
    pub fn error(&self, code: Code, message: String, hint: Option<String>) {
        self.findings.add(code, (self.node.place, &self.path), message, hint);
    }

    fn wrong(&self, wanted: &str) {
        self.error(Code::WrongType, format!("{wanted} is needed here, not {}", self.node.kind_name()), None);
    }

    fn child(&self, node: &'t Node, path: String) -> Self {
        Self { findings: self.findings, node, path }
    }

    fn below(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Opens a mapping: every key must be known; keys of `later` get a fault of their own.
    #[must_use]
    pub fn fields(&self, known: &[&str], later: &[&str]) -> Fields<'t> {
        if !matches!(self.node.kind, Kind::Map(_) | Kind::Null) {
            self.wrong("a mapping");
        }
        for entry in self.node.entries() {
            if !known.contains(&entry.key.as_str()) {
                self.stray(entry, known, later);
            }
        }
        Fields { item: self.clone() }
    }

    fn stray(&self, entry: &Entry, known: &[&str], later: &[&str]) {
        let (key, path) = (entry.key.as_str(), self.below(&entry.key));
        if later.contains(&key) {
            let hint = Some("remove it".to_owned());
            let message = format!("`{key}` is not supported by this version");
            return self.findings.add(Code::Unsupported, (entry.place, &path), message, hint);
        }
        let hint = suggest::hint(key, known);
        self.findings.add(Code::UnknownKey, (entry.place, &path), format!("unknown key `{key}`"), hint);
    }

    /// Opens a mapping that its section has checked already.
    #[must_use]
    pub fn fields_unchecked(&self) -> Fields<'t> {
        Fields { item: self.clone() }
    }

    /// The entries of a mapping that its section has checked already.
    #[must_use]
    pub fn named_quietly(&self) -> Vec<(&'t Entry, Self)> {
        let entries = self.node.entries().iter();
        entries.map(|entry| (entry, self.child(&entry.value, self.below(&entry.key)))).collect()
    }

    /// The text of a single value that its section has checked already.
    #[must_use]
    pub fn quiet_text(&self) -> Option<&'t str> {
        match &self.node.kind {
            Kind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The named entries of a mapping, keys being names that the operator chose.
    #[must_use]
    pub fn named(&self) -> Vec<(&'t Entry, Self)> {
        if !matches!(self.node.kind, Kind::Map(_) | Kind::Null) {
            self.wrong("a mapping");
        }
        self.named_quietly()
    }

    /// The items of a list; a single value is a list of one.
    #[must_use]
    pub fn list(&self) -> Vec<Self> {
        match &self.node.kind {
            Kind::Null => Vec::new(),
            Kind::List(items) => {
                let numbered = items.iter().enumerate();
                numbered.map(|(index, node)| self.child(node, format!("{}[{index}]", self.path))).collect()
            }
            Kind::Scalar { .. } | Kind::Map(_) => vec![self.clone()],
        }
    }

    /// The text of a single value.
    #[must_use]
    pub fn text(&self) -> Option<&'t str> {
        match &self.node.kind {
            Kind::Scalar { text, .. } => Some(text),
            _ => {
                self.wrong("a single value");
                None
            }
        }
    }

    /// True for a single value: the short form of a mapping.
    #[must_use]
    pub fn text_only(&self) -> bool {
        matches!(self.node.kind, Kind::Scalar { .. })
    }

    /// What a message may show of a single value.
    #[must_use]
    pub fn shown(&self) -> &'t str {
        match &self.node.kind {
            Kind::Scalar { shown, .. } => shown,
            _ => "",
        }
    }

    /// A value that parses, else a fault that shows what was written.
    pub fn parse<T: FromStr<Err = String>>(&self) -> Option<T> {
        match self.text()?.parse() {
            Ok(value) => Some(value),
            Err(fault) => {
                self.error(Code::BadUnit, format!("`{}`: {fault}", self.shown()), None);
                None
            }
        }
    }

    /// A span of time, zero included.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        self.parse::<Span>().map(|span| span.0)
    }

    /// A span of time above zero.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        self.duration().filter(|span| self.nonzero(!span.is_zero()))
    }

    /// A size in bytes above zero.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.parse::<Size>().map(|size| size.0).filter(|size| self.nonzero(*size > 0))
    }

    /// A whole number, zero included.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        self.parse::<Count>().map(|count| count.0)
    }

    /// A whole number above zero.
    #[must_use]
    pub fn positive(&self) -> Option<u64> {
        self.count().filter(|count| self.nonzero(*count > 0))
    }

    /// A share of a whole.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        self.parse::<Share>().map(|share| share.0)
    }

    /// A number of at least zero, with a fraction or an exponent.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        let number = self.text()?.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
        if number.is_none() {
            self.error(Code::OutOfRange, format!("`{}` is not a number of at least 0", self.shown()), None);
        }
        number
    }

    /// `true` or `false`.
    #[must_use]
    pub fn flag(&self) -> Option<bool> {
        match self.text()? {
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            _ => {
                self.error(Code::WrongType, format!("`{}` is neither true nor false", self.shown()), None);
                None
            }
        }
    }

    fn nonzero(&self, fine: bool) -> bool {
        if !fine {
            let hint = Some("use at least 1, or leave the key out for its default".to_owned());
            self.error(Code::OutOfRange, "0 cannot work here".into(), hint);
        }
        fine
    }

    /// One of a closed set of words.
    #[must_use]
    pub fn choice<'w>(&self, known: &[&'w str], later: &[&str]) -> Option<&'w str> {
        let text = self.text()?;
        self.known_word(text, self.shown(), self.node.place, (known, later))
    }

    /// A variant: its bare name, or a mapping of one key that is its name.
    #[must_use]
    pub fn variant<'w>(&self, known: &[&'w str], later: &[&str]) -> Option<(&'w str, Option<Self>)> {
        match self.node.entries() {
            [] if matches!(self.node.kind, Kind::Scalar { .. }) => self.choice(known, later).map(|word| (word, None)),
            [entry] => {
                let word = self.known_word(&entry.key, &entry.key, entry.place, (known, later))?;
                Some((word, Some(self.child(&entry.value, self.below(&entry.key)))))
            }
            _ => {
                self.wrong(&format!("exactly one of {}", known.join(", ")));
                None
            }
        }
    }

    fn known_word<'w>(&self, word: &str, shown: &str, place: Place, sets: (&[&'w str], &[&str])) -> Option<&'w str> {
        let (known, later) = sets;
        if let Some(found) = known.iter().find(|candidate| **candidate == word) {
            return Some(found);
        }
        let (code, message, hint) = if later.contains(&word) {
            (Code::Unsupported, format!("`{shown}` is not supported by this version"), suggest::hint("", known))
        } else {
            (Code::UnknownChoice, format!("unknown value `{shown}`"), suggest::hint(word, known))
        };
        self.findings.add(code, (place, &self.path), message, hint);
        None
    }
}

impl<'t> Fields<'t> {
    /// The value of a key; `None` if it is absent or null.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Item<'t>> {
        let node = self.item.node.get(key).filter(|node| !node.is_null())?;
        Some(self.item.child(node, self.item.below(key)))
    }

    /// The value of a key, which may be nothing.
    #[must_use]
    pub fn item(&self, key: &str) -> Item<'t> {
        self.item.child(self.item.node.get(key).unwrap_or(&ABSENT), self.item.below(key))
    }

    /// A value, or its default.
    pub fn or<T>(&self, key: &str, read: impl FnOnce(&Item<'t>) -> Option<T>, default: T) -> T {
        self.get(key).and_then(|item| read(&item)).unwrap_or(default)
    }

    /// A value that must be there; its absence is told at the mapping.
    #[must_use]
    pub fn need(&self, key: &str, hint: &str) -> Option<Item<'t>> {
        let found = self.get(key);
        if found.is_none() {
            let hint = (!hint.is_empty()).then(|| hint.to_owned());
            self.item.error(Code::Missing, format!("`{key}` is required"), hint);
        }
        found
    }
}

/// A number in a smaller type, at its largest value if it does not fit.
#[must_use]
pub fn fit<T: TryFrom<u64>>(number: u64, largest: T) -> T {
    T::try_from(number).unwrap_or(largest)
}
