//! Which parsed expressions are accepted: known names and functions, bounded depth and size, loops that cannot multiply.
//! Decides before anything is evaluated, so that no caller's claims can make an evaluation long or deep.

use super::{ExpressionError, MAX_DEPTH, MAX_LOOPS, MAX_MATCHES, MAX_NODES, Place};
use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SourceInfo, operators};
use regex::RegexBuilder;

/// Memory that a pattern of `matches` may compile to: it is compiled at each evaluation.
const MAX_PATTERN: usize = 64 << 10;

/// Names of types, for `type(x) == string`.
const TYPES: [&str; 10] = ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

const FUNCTIONS: [&str; 12] =
    ["bool", "bytes", "double", "duration", "dyn", "int", "matches", "size", "string", "timestamp", "type", "uint"];

const METHODS: [&str; 15] = [
    "contains",
    "endsWith",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "matches",
    "size",
    "startsWith",
];

const OPERATORS: [&str; 18] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
    operators::IN,
];

type Checked = Result<(), ExpressionError>;

/// Checks an expression that may refer to the variables `names`.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub(super) fn check(expression: &IdedExpr, source: &SourceInfo, names: &[&str]) -> Checked {
    let mut walk =
        Walk { names, source, nodes: 0, loops: 0, maps: 0, matches: 0, bound: Vec::new(), place: Place::default() };
    walk.expression(expression, 0)
}

struct Walk<'e> {
    names: &'e [&'e str],
    source: &'e SourceInfo,
    nodes: usize,
    loops: usize,
    maps: usize,
    matches: usize,
    /// Variables of the loops around the current node.
    bound: Vec<&'e str>,
    /// Of the nearest node that the text itself contains; macros add nodes that have none.
    place: Place,
}

impl<'e> Walk<'e> {
    fn expression(&mut self, node: &'e IdedExpr, depth: usize) -> Checked {
        if let Some((start, _)) = self.source.offset_for(node.id) {
            self.place = Place::of(&self.source.source, start as usize);
        }
        self.nodes += 1;
        if depth > MAX_DEPTH {
            return Err(ExpressionError::TooDeep { at: self.place });
        }
        if self.nodes > MAX_NODES {
            return Err(ExpressionError::TooLarge { at: self.place });
        }
        let depth = depth + 1;
        match &node.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => self.expression(&select.operand, depth),
            Expr::Call(call) => self.call(call, depth),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.expression(element, depth)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.expression(&entry.key, depth)?;
                    self.expression(&entry.value, depth)
                }
                EntryExpr::StructField(_) => self.unsupported("a message"),
            }),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, depth),
            Expr::Struct(_) => self.unsupported("a message"),
            Expr::Unspecified => self.unsupported("an empty expression"),
        }
    }

    fn unsupported(&self, what: &'static str) -> Checked {
        Err(ExpressionError::Unsupported { what, at: self.place })
    }

    fn name(&self, name: &str) -> Checked {
        let bare = name.strip_prefix('.').unwrap_or(name);
        // `@` begins what macros make; the grammar has no such names.
        let known =
            bare.starts_with('@') || self.names.contains(&bare) || TYPES.contains(&bare) || self.bound.contains(&name);
        if known {
            return Ok(());
        }
        Err(ExpressionError::UnknownName { name: name.to_owned(), at: self.place, known: self.names.join(", ") })
    }

    fn call(&mut self, call: &'e CallExpr, depth: usize) -> Checked {
        let name = call.func_name.as_str();
        let known = match &call.target {
            Some(_) => METHODS.contains(&name),
            None => FUNCTIONS.contains(&name) || OPERATORS.contains(&name) || name == operators::NOT_STRICTLY_FALSE,
        };
        if !known {
            return Err(ExpressionError::UnknownFunction { name: name.to_owned(), at: self.place });
        }
        if name == "matches" {
            self.matches += 1;
            // Compiling a pattern costs more than all else that an evaluation does.
            if !self.bound.is_empty() || self.matches > MAX_MATCHES {
                return Err(ExpressionError::Matches { at: self.place });
            }
            self.pattern(call.args.last())?;
        }
        if let Some(target) = &call.target {
            self.expression(target, depth)?;
        }
        call.args.iter().try_for_each(|argument| self.expression(argument, depth))
    }

    /// A pattern out of a claim could be as costly as its sender likes.
    fn pattern(&self, pattern: Option<&IdedExpr>) -> Checked {
        let Some(Expr::Literal(LiteralValue::String(pattern))) = pattern.map(|pattern| &pattern.expr) else {
            return self.unsupported("`matches` with a pattern that is not written out");
        };
        let compiled = RegexBuilder::new(pattern.inner()).size_limit(MAX_PATTERN).build();
        compiled.map(drop).map_err(|error| ExpressionError::Pattern {
            // The last line of the library's message is the reason; those above draw the pattern.
            what: error.to_string().lines().last().unwrap_or_default().to_owned(),
            at: self.place,
        })
    }

    /// A loop within a loop multiplies, and so does a `map` over the result of a `map`.
    fn comprehension(&mut self, comprehension: &'e ComprehensionExpr, depth: usize) -> Checked {
        self.expression(&comprehension.iter_range, depth)?;
        self.loops += 1;
        self.maps += usize::from(makes_items(comprehension));
        if !self.bound.is_empty() || self.loops > MAX_LOOPS || self.maps > 1 {
            return Err(ExpressionError::Loops { at: self.place });
        }
        self.bound.push(&comprehension.iter_var);
        self.bound.extend(comprehension.iter_var2.as_deref());
        let parts =
            [&comprehension.accu_init, &comprehension.loop_cond, &comprehension.loop_step, &comprehension.result];
        let checked = parts.into_iter().try_for_each(|part| self.expression(part, depth));
        self.bound.clear();
        checked
    }
}

/// True for `map`, which makes new items; `filter` only keeps some, and the others give a truth.
fn makes_items(comprehension: &ComprehensionExpr) -> bool {
    fn appends_other(node: &IdedExpr, variable: &str) -> bool {
        match &node.expr {
            Expr::List(list) => {
                list.elements.iter().any(|element| !matches!(&element.expr, Expr::Ident(name) if name == variable))
            }
            Expr::Call(call) => call.args.iter().any(|argument| appends_other(argument, variable)),
            _ => false,
        }
    }
    matches!(comprehension.accu_init.expr, Expr::List(_))
        && appends_other(&comprehension.loop_step, &comprehension.iter_var)
}
