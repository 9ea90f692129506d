//! Text to tree. A fault of syntax in one top-level section does not hide what is wrong in the others.
//! The events come from serde-saphyr's own parser, so that there is one reading of YAML in the program.

use super::codes::Code;
use super::diagnostic::{Findings, Place};
use super::tree::{Entry, Kind, Node};
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};
use std::collections::HashMap;

/// Nodes of one file, aliases written out: the bound on what anchors can multiply.
pub const MAX_NODES: usize = 200_000;
/// Levels of nesting.
pub const MAX_DEPTH: usize = 32;

/// A parsed file.
#[derive(Debug)]
pub struct Parsed {
    /// Its top-level mapping, as far as it could be read.
    pub root: Node,
    /// True if some section is missing because of its syntax: references to it prove nothing then.
    pub broken: bool,
}

/// Parses one file.
#[must_use]
pub fn parse(file: usize, text: &str, findings: &Findings) -> Parsed {
    match Builder::new(file, 0, 0, findings).build(text) {
        Ok(root) => Parsed { root, broken: false },
        Err(whole) => by_section(file, text, whole, findings),
    }
}

/// A fault of syntax at its place.
struct Fault(Place, String);

impl Fault {
    fn tell(self, findings: &Findings) {
        findings.add(Code::Syntax, (self.0, ""), self.1, None);
    }
}

/// Parses each top-level section alone, so that every broken one is told of.
fn by_section(file: usize, text: &str, whole: Fault, findings: &Findings) -> Parsed {
    let mut starts = Vec::new();
    let mut offset = 0;
    for (line, piece) in text.split_inclusive('\n').enumerate() {
        if piece.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '"') {
            starts.push((line, offset));
        }
        offset += piece.len();
    }
    let mut entries: Vec<Entry> = Vec::new();
    let mut told = false;
    for (index, (line, start)) in starts.iter().enumerate() {
        let end = starts.get(index + 1).map_or(text.len(), |(_, next)| *next);
        match Builder::new(file, *line, *start, findings).build(&text[*start..end]) {
            Ok(Node { kind: Kind::Map(section), .. }) => entries.extend(section),
            Ok(_) => {}
            Err(fault) if fault.1.contains("anchor") => {} // defined in another section
            Err(fault) => {
                told = true;
                fault.tell(findings);
            }
        }
    }
    let place = whole.0;
    if !told {
        whole.tell(findings);
    }
    let root = Node { place: Place { line: 1, col: 1, start: 0, end: 0, ..place }, kind: Kind::Map(entries) };
    Parsed { root, broken: true }
}

enum Frame {
    List { place: Place, anchor: usize, items: Vec<Node> },
    Map { place: Place, anchor: usize, entries: Vec<Entry>, key: Option<(String, Place)> },
}

struct Builder<'f> {
    file: usize,
    line: usize,
    offset: usize,
    findings: &'f Findings,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

impl<'f> Builder<'f> {
    fn new(file: usize, line: usize, offset: usize, findings: &'f Findings) -> Self {
        let (stack, anchors) = (Vec::new(), HashMap::new());
        Self { file, line, offset, findings, stack, anchors, nodes: 0, root: None }
    }

    fn build(mut self, text: &str) -> Result<Node, Fault> {
        let mut documents = 0;
        for next in Parser::new_from_str(text) {
            let (event, span) = next.map_err(|error| {
                let at = *error.marker();
                Fault(self.place(&Span::new(at, at)), error.info())
            })?;
            let place = self.place(&span);
            match event {
                Event::DocumentStart(..) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(Fault(place, "a second document; one file holds one configuration".into()));
                    }
                }
                Event::Scalar(text, style, anchor, _) => {
                    let node = Node { place, kind: scalar(&text, style) };
                    self.put(node, anchor)?;
                }
                Event::SequenceStart(_, anchor, _) => self.open(Frame::List { place, anchor, items: Vec::new() })?,
                Event::MappingStart(_, anchor, _) => {
                    self.open(Frame::Map { place, anchor, entries: Vec::new(), key: None })?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.close()?,
                Event::Alias(id) => {
                    let known = self.anchors.get(&id).cloned();
                    let node =
                        known.ok_or_else(|| Fault(place, "an alias to an anchor that is not complete".into()))?;
                    self.nodes += node.size();
                    self.put(node, 0)?;
                }
                _ => {}
            }
        }
        let empty = Node { place: Place { file: self.file, line: 1, col: 1, start: 0, end: 0 }, kind: Kind::Null };
        Ok(self.root.unwrap_or(empty))
    }

    fn place(&self, span: &Span) -> Place {
        let byte = |at: Option<usize>| at.unwrap_or(0) + self.offset;
        let start = byte(span.start.byte_offset());
        Place {
            file: self.file,
            line: span.start.line() + self.line,
            col: span.start.col() + 1,
            start,
            end: byte(span.end.byte_offset()).max(start),
        }
    }

    fn open(&mut self, frame: Frame) -> Result<(), Fault> {
        let (Frame::List { place, .. } | Frame::Map { place, .. }) = &frame;
        if self.stack.len() >= MAX_DEPTH {
            return Err(Fault(*place, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        if let Some(Frame::Map { key: None, .. }) = self.stack.last() {
            return Err(Fault(*place, "a key must be a single word, not a list or mapping".into()));
        }
        self.stack.push(frame);
        Ok(())
    }

    fn close(&mut self) -> Result<(), Fault> {
        let Some(frame) = self.stack.pop() else { return Ok(()) };
        let (node, anchor) = match frame {
            Frame::List { place, anchor, items } => (Node { place, kind: Kind::List(items) }, anchor),
            Frame::Map { place, anchor, entries, .. } => (Node { place, kind: Kind::Map(merge_keys(entries)) }, anchor),
        };
        self.put(node, anchor)
    }

    fn put(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Fault(node.place, format!("more than {MAX_NODES} values")));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { key: key @ None, .. }) => {
                let Kind::Scalar { text, .. } = node.kind else {
                    return Err(Fault(node.place, "a key must be a single word".into()));
                };
                *key = Some((text, node.place));
            }
            Some(Frame::Map { entries, key, .. }) => {
                let Some((key, place)) = key.take() else { return Ok(()) };
                if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                    let first = self.findings.spot(first.place);
                    let message = format!("`{key}` stands twice; the first one is at {first}");
                    self.findings.add(Code::DuplicateKey, (place, &key), message, Some("remove one of them".into()));
                } else {
                    entries.push(Entry { key, place, value: node });
                }
            }
        }
        Ok(())
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Kind {
    if style == ScalarStyle::Plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Kind::Null;
    }
    Kind::Scalar { text: text.to_owned(), shown: text.to_owned() }
}

/// `<<: *anchor`: what the mapping says itself goes before what it takes over.
fn merge_keys(entries: Vec<Entry>) -> Vec<Entry> {
    let (taken, mut own): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.key == "<<");
    for entry in taken {
        let maps = match entry.value.kind {
            Kind::Map(entries) => vec![entries],
            Kind::List(items) => items.iter().map(|item| item.entries().to_vec()).collect(),
            _ => Vec::new(),
        };
        for other in maps.into_iter().flatten() {
            if !own.iter().any(|entry| entry.key == other.key) {
                own.push(other);
            }
        }
    }
    own
}
