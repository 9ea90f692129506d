//! CEL expressions of the configuration: compiled where they stand, so that a fault is told there.

use crate::config::codes::Code;
use crate::config::field::Item;
use crate::logic::access::expression::{Expression, ExpressionError};

/// What a condition on a request may refer to.
pub const CONDITION: &[&str] = &["auth", "request", "now"];

/// Letters of an expression in a message.
const SHOWN: usize = 60;

/// An expression over some top-level variables.
#[must_use]
pub fn expression(item: &Item<'_>, names: &[&str]) -> Option<Expression> {
    let fault = match Expression::compile(item.text()?, names) {
        Ok(expression) => return Some(expression),
        Err(fault) => fault,
    };
    let hint = match &fault {
        ExpressionError::UnknownName { name, .. } => Some(format!("a text stands in quotes of its own: \"'{name}'\"")),
        _ => None,
    };
    item.error(Code::BadExpression, format!("`{}`: {fault}", beginning(item.shown())), hint);
    None
}

/// A long expression is in the file; a message is one line.
fn beginning(text: &str) -> String {
    let line = text.trim_start().lines().next().unwrap_or_default();
    let start: String = line.chars().take(SHOWN).collect();
    if start.len() < text.trim().len() { start + "…" } else { start }
}
