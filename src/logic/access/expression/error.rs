//! What is wrong with an expression, when it is read and when it is evaluated. Decides which words of the library may
//! be repeated.

use super::{MAX_DEPTH, MAX_ITEMS, MAX_LOOPS, MAX_MATCHES, MAX_NODES, MAX_RESULT, MAX_TEXT};
use cel::ExecutionError;
use std::fmt;

/// Where in a text, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The letter in its line.
    pub column: usize,
}

impl Default for Place {
    fn default() -> Self {
        Self { line: 1, column: 1 }
    }
}

impl Place {
    pub(super) fn of(text: &str, bytes: usize) -> Self {
        let before = text.char_indices().take_while(|(index, _)| *index < bytes);
        before.fold(Self::default(), |place, (_, letter)| match letter {
            '\n' => Self { line: place.line + 1, column: 1 },
            _ => Self { column: place.column + 1, ..place },
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 1 {
            write!(f, "line {}, letter {}", self.line, self.column)
        } else {
            write!(f, "letter {}", self.column)
        }
    }
}

/// Why a text is no expression.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExpressionError {
    /// It does not parse.
    #[error("not a CEL expression, {at}: {what}")]
    Syntax {
        /// Where.
        at: Place,
        /// The parser's words.
        what: String,
    },
    /// It is longer than [`MAX_TEXT`].
    #[error("an expression has at most {MAX_TEXT} letters")]
    TooLong,
    /// It is nested deeper than [`MAX_DEPTH`].
    #[error("nested more than {MAX_DEPTH} deep at {at}")]
    TooDeep {
        /// Where.
        at: Place,
    },
    /// It has more than [`MAX_NODES`] parts.
    #[error("more than {MAX_NODES} names, literals and operations at {at}")]
    TooLarge {
        /// Where.
        at: Place,
    },
    /// It refers to something that does not exist.
    #[error("unknown name `{name}` at {at}; known here: {known}")]
    UnknownName {
        /// The name.
        name: String,
        /// Where.
        at: Place,
        /// What exists, with commas.
        known: String,
    },
    /// It calls something that does not exist.
    #[error("unknown function `{name}` at {at}")]
    UnknownFunction {
        /// The name.
        name: String,
        /// Where.
        at: Place,
    },
    /// A loop within a loop, a second `map`, or more than [`MAX_LOOPS`].
    #[error("at {at}: a loop within a loop, a second `map`, or more than {MAX_LOOPS} loops")]
    Loops {
        /// Where.
        at: Place,
    },
    /// `matches` within a loop, or more than [`MAX_MATCHES`] of them.
    #[error(
        "at {at}: `matches` within a loop, or more than {MAX_MATCHES} of them; use `startsWith`, `endsWith`, `contains`"
    )]
    Matches {
        /// Where.
        at: Place,
    },
    /// A pattern of `matches` that is none, or too large.
    #[error("the pattern at {at}: {what}")]
    Pattern {
        /// Where.
        at: Place,
        /// Why not.
        what: String,
    },
    /// CEL has it and Weir does not.
    #[error("{what} cannot be used, at {at}")]
    Unsupported {
        /// What it is.
        what: &'static str,
        /// Where.
        at: Place,
    },
    /// The parser could not be run.
    #[error("the parser of expressions could not be started: {0}")]
    Parser(String),
}

/// Why an evaluation gave nothing. Names members and types, never their values.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EvalError {
    /// A member or item that is not there.
    #[error("there is no `{0}`")]
    Absent(String),
    /// The result is of another type.
    #[error("the result must be {expected}, and it is {found}")]
    Type {
        /// What it must be.
        expected: &'static str,
        /// The type that it has.
        found: String,
    },
    /// The result is longer than [`MAX_RESULT`] or [`MAX_ITEMS`].
    #[error("the result has more than {MAX_RESULT} bytes or {MAX_ITEMS} items")]
    TooLong,
    /// Operands that do not fit, a division by zero, a failed conversion.
    #[error("cannot be evaluated: {0}")]
    Failed(String),
}

impl From<ExecutionError> for EvalError {
    /// The library's own words hold the values, which belong to the caller; they stay out of the log.
    fn from(error: ExecutionError) -> Self {
        match error {
            ExecutionError::NoSuchKey(name) => Self::Absent(name.chars().take(64).collect()),
            ExecutionError::UndeclaredReference(name) => Self::Absent(name.to_string()),
            ExecutionError::NoSuchOverload(overload) => Self::Failed(overload.to_string()),
            ExecutionError::FunctionError { function, .. } => Self::Failed(format!("`{function}` failed")),
            ExecutionError::UnexpectedType { got, want } => Self::Failed(format!("{got} where {want} is needed")),
            ExecutionError::IndexOutOfBounds(_) => Self::Absent("item of that number".to_owned()),
            ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
                Self::Failed("division by zero".to_owned())
            }
            ExecutionError::Overflow(..) => Self::Failed("overflow".to_owned()),
            _ => Self::Failed("operands of types that do not fit".to_owned()),
        }
    }
}
