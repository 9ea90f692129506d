//! CEL expressions over what is known of a caller and a request: compiled once when the configuration is read,
//! evaluated without I/O, in bounded time, memory and stack. Decides nothing itself.

mod check;
mod error;
mod variables;

pub use error::{EvalError, ExpressionError, Place};
pub use variables::{Fact, MAX_ITEMS, Variables};

use cel::common::types::{CelBool, CelList, CelNull, CelString};
use cel::common::value::{CowVal, Val};
use cel::{Context, Env, ExecutionError, IdedExpr, Value};
use std::fmt;
use std::sync::{Arc, LazyLock};

/// Letters of an expression at most.
pub const MAX_TEXT: usize = 4096;
/// Operations within each other at most. Without optimisation an evaluation takes about 40 KiB of stack for each.
pub const MAX_DEPTH: usize = 24;
/// Names, literals and operations at most; it bounds what a loop does in one step.
pub const MAX_NODES: usize = 256;
/// Loops (`exists`, `all`, `filter`, …) at most, none of them within another.
pub const MAX_LOOPS: usize = 8;
/// Calls of `matches` at most, none of them within a loop: each compiles its pattern anew, some 100 µs at worst.
pub const MAX_MATCHES: usize = 8;
/// Bytes of a text that an expression gives.
pub const MAX_RESULT: usize = 1024;

/// Brackets within each other at most, for the parser.
const MAX_BRACKETS: u16 = 32;
/// The parser is recursive and takes up to 340 KiB for a bracket and 4 KiB for an operator in a build without
/// optimisation. Only what is touched is ever memory.
const PARSER_STACK: usize = 64 << 20;

/// The standard library, without optional values: absent members have [`Expression::text_in`] and `has()`.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// A compiled expression. Cheap to clone; equal where the texts are.
#[derive(Clone)]
pub struct Expression {
    text: Arc<str>,
    parsed: Arc<IdedExpr>,
}

impl Expression {
    /// Compiles a text that may refer to the top-level variables `names`. Takes up to 100 ms; for load time only.
    ///
    /// # Errors
    /// [`ExpressionError`].
    pub fn compile(text: &str, names: &[&str]) -> Result<Self, ExpressionError> {
        if text.len() > MAX_TEXT {
            return Err(ExpressionError::TooLong);
        }
        let parsed = on_large_stack(|| parse(text, names))?;
        Ok(Self { text: Arc::from(text), parsed: Arc::new(parsed) })
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Evaluation. A member that is not there, or that is null, is `None` where a text or texts are asked for; anything
/// else that does not fit is an error, which the caller takes for a no.
impl Expression {
    /// Whether a condition holds.
    ///
    /// # Errors
    /// [`EvalError`]; then nobody knows, and what the condition guards is denied.
    pub fn truth(&self, variables: &Variables) -> Result<bool, EvalError> {
        self.evaluate(variables, |value| {
            let truth = value?;
            truth.downcast_ref::<CelBool>().map(|truth| *truth.inner()).ok_or_else(|| wrong("bool", &*truth))
        })
    }

    /// A text.
    ///
    /// # Errors
    /// [`EvalError`].
    pub fn text_in(&self, variables: &Variables) -> Result<Option<String>, EvalError> {
        self.evaluate(variables, |value| present(value)?.map(|value| text(&*value, "a string")).transpose())
    }

    /// A list of texts; one text counts as a list of it.
    ///
    /// # Errors
    /// [`EvalError`].
    pub fn texts_in(&self, variables: &Variables) -> Result<Option<Vec<String>>, EvalError> {
        const EXPECTED: &str = "a list of strings, or one string";
        self.evaluate(variables, |value| {
            let Some(value) = present(value)? else { return Ok(None) };
            let Some(list) = value.downcast_ref::<CelList>() else {
                return Ok(Some(vec![text(&*value, EXPECTED)?]));
            };
            if list.inner().len() > MAX_ITEMS {
                return Err(EvalError::TooLong);
            }
            list.inner().iter().map(|item| text(&**item, EXPECTED)).collect::<Result<_, _>>().map(Some)
        })
    }

    fn evaluate<T>(
        &self,
        variables: &Variables,
        read: impl FnOnce(Result<CowVal<'_, '_>, ExecutionError>) -> Result<T, EvalError>,
    ) -> Result<T, EvalError> {
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.set_variable_resolver(variables);
        read(Value::resolve_val(&self.parsed, &context))
    }
}

/// Null and a missing member are nothing.
fn present<'b, 'v>(value: Result<CowVal<'b, 'v>, ExecutionError>) -> Result<Option<CowVal<'b, 'v>>, EvalError> {
    match value {
        Err(ExecutionError::NoSuchKey(_)) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(value) if value.downcast_ref::<CelNull>().is_some() => Ok(None),
        Ok(value) => Ok(Some(value)),
    }
}

fn text(value: &dyn Val, expected: &'static str) -> Result<String, EvalError> {
    let text = value.downcast_ref::<CelString>().ok_or_else(|| wrong(expected, value))?.inner();
    if text.len() > MAX_RESULT { Err(EvalError::TooLong) } else { Ok(text.to_owned()) }
}

fn wrong(expected: &'static str, value: &dyn Val) -> EvalError {
    EvalError::Type { expected, found: value.get_type().name().to_owned() }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text())
    }
}

fn parse(text: &str, names: &[&str]) -> Result<IdedExpr, ExpressionError> {
    let parser = ENV.parser().max_recursion_depth(MAX_BRACKETS);
    let (parsed, source) = parser.parse_with_source_info(text).map_err(|errors| syntax(&errors))?;
    check::check(&parsed, &source, names)?;
    Ok(parsed)
}

fn syntax(errors: &cel::ParseErrors) -> ExpressionError {
    let place = |number: isize| usize::try_from(number).unwrap_or(1).max(1);
    let Some(error) = errors.errors.first() else {
        return ExpressionError::Syntax { at: Place::default(), what: "no reason given".to_owned() };
    };
    let at = Place { line: place(error.pos.0), column: place(error.pos.1) };
    if errors.errors.iter().any(|error| error.msg.contains("Recursion limit")) {
        return ExpressionError::TooDeep { at };
    }
    ExpressionError::Syntax { at, what: error.msg.lines().next().unwrap_or_default().chars().take(200).collect() }
}

/// A text of [`MAX_TEXT`] letters must not end the process, whatever its letters; so neither the parser nor the drop
/// of what it made runs on a stack that was laid out for something else.
fn on_large_stack<T: Send>(work: impl FnOnce() -> Result<T, ExpressionError> + Send) -> Result<T, ExpressionError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("expressions".to_owned())
            .stack_size(PARSER_STACK)
            .spawn_scoped(scope, work)
            .map_err(|error| ExpressionError::Parser(error.to_string()))?;
        thread.join().unwrap_or_else(|_| Err(ExpressionError::Parser("it panicked".to_owned())))
    })
}

#[cfg(test)]
mod tests;
