//! What an expression may look at: named facts, handed to CEL without a copy. Decides how JSON, texts and times look in
//! CEL; which names there are is decided where they are put in.

use super::ENV;
use crate::domain::units::WallMicros;
use cel::ExecutionError;
use cel::common::traits::{Container, Indexer, Sizer};
use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelNull, CelString, CelUInt, MAP_TYPE, Type};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use serde_json::Value;
use std::sync::Arc;

/// Items of a list that an expression may look at, and that it may give back. What loops over a list that a caller
/// filled costs at most this many steps.
pub const MAX_ITEMS: usize = 512;

/// Something that is known. JSON objects and [`Fact::Members`] are maps with text keys; there is no way to loop over
/// the keys.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Fact {
    /// `null`
    #[default]
    Null,
    /// A boolean.
    Truth(bool),
    /// A whole number.
    Number(i64),
    /// A text.
    Text(Arc<str>),
    /// A list of texts, at most [`MAX_ITEMS`].
    Texts(Vec<Arc<str>>),
    /// An object with members that are known when the program is written.
    Members(Vec<(&'static str, Fact)>),
    /// A document; numbers are int, uint or double as they are written.
    Json(Arc<Value>),
    /// A point in time; CEL sees whole seconds.
    Time(WallMicros),
}

impl From<&str> for Fact {
    fn from(text: &str) -> Self {
        Self::Text(Arc::from(text))
    }
}

impl From<String> for Fact {
    fn from(text: String) -> Self {
        Self::Text(Arc::from(text))
    }
}

impl From<Arc<str>> for Fact {
    fn from(text: Arc<str>) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Fact {
    fn from(truth: bool) -> Self {
        Self::Truth(truth)
    }
}

impl From<i64> for Fact {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<Arc<Value>> for Fact {
    fn from(document: Arc<Value>) -> Self {
        Self::Json(document)
    }
}

impl From<Value> for Fact {
    fn from(document: Value) -> Self {
        Self::Json(Arc::new(document))
    }
}

impl From<WallMicros> for Fact {
    fn from(time: WallMicros) -> Self {
        Self::Time(time)
    }
}

impl<T: Into<Fact>> From<Option<T>> for Fact {
    fn from(known: Option<T>) -> Self {
        known.map_or(Self::Null, Into::into)
    }
}

impl<T: Into<Fact>> FromIterator<(&'static str, T)> for Fact {
    fn from_iter<I: IntoIterator<Item = (&'static str, T)>>(members: I) -> Self {
        Self::Members(members.into_iter().map(|(name, fact)| (name, fact.into())).collect())
    }
}

/// The facts behind an expression's top-level names.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Variables(Vec<(&'static str, Fact)>);

impl Variables {
    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what is known under a name; of two facts of one name the first counts.
    #[must_use]
    pub fn with(mut self, name: &'static str, fact: impl Into<Fact>) -> Self {
        self.0.push((name, fact.into()));
        self
    }
}

impl VariableResolver for Variables {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let name = variable.strip_prefix('.').unwrap_or(variable);
        let (_, fact) = self.0.iter().find(|(one, _)| *one == name)?;
        fact.value().ok()
    }
}

type Found<'v> = Result<CowVal<'v, 'v>, ExecutionError>;

impl Fact {
    fn value(&self) -> Found<'_> {
        Ok(match self {
            Self::Null => CowVal::owned(CelNull),
            Self::Truth(truth) => CowVal::owned(CelBool::from(*truth)),
            Self::Number(number) => CowVal::owned(CelInt::from(*number)),
            Self::Text(text) => CowVal::owned(CelString::from(text.as_ref())),
            Self::Texts(texts) => {
                list(texts.len(), texts.iter().map(|text| Ok(boxed(CelString::from(text.as_ref())))))?
            }
            Self::Members(members) => CowVal::owned(Object::Members(members)),
            Self::Json(document) => json(document)?,
            Self::Time(time) => timestamp(*time)?,
        })
    }
}

fn json(document: &Value) -> Found<'_> {
    Ok(match document {
        Value::Null => CowVal::owned(CelNull),
        Value::Bool(truth) => CowVal::owned(CelBool::from(*truth)),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => CowVal::owned(CelInt::from(number)),
            (None, Some(number), _) => CowVal::owned(CelUInt::from(number)),
            (None, None, number) => CowVal::owned(CelDouble::from(number.unwrap_or(f64::NAN))),
        },
        Value::String(text) => CowVal::owned(CelString::from(text.as_str())),
        Value::Array(items) => list(items.len(), items.iter().map(|item| json(item).map(CowVal::into_owned)))?,
        Value::Object(members) => CowVal::owned(Object::Json(members)),
    })
}

fn list<'v>(
    length: usize,
    items: impl Iterator<Item = Result<Box<dyn Val + 'v>, ExecutionError>>,
) -> Result<CowVal<'v, 'v>, ExecutionError> {
    if length > MAX_ITEMS {
        return Err(ExecutionError::function_error("list", format!("more than {MAX_ITEMS} items")));
    }
    Ok(CowVal::owned(CelList::from(items.collect::<Result<Vec<_>, _>>()?)))
}

fn boxed<'v>(value: impl Val + 'v) -> Box<dyn Val + 'v> {
    Box::new(value)
}

/// CEL's own conversion makes the value, so that its calendar's types stay its own matter.
fn timestamp<'v>(time: WallMicros) -> Found<'v> {
    let seconds = CowVal::owned(CelInt::from(time.0.div_euclid(1_000_000)));
    let arguments = vec![seconds];
    let convert = ENV
        .find_overload("timestamp", &arguments)
        .ok_or_else(|| ExecutionError::function_error("timestamp", "the library has no such conversion"))?;
    convert(arguments)
}

/// A map that is read where it lies.
#[derive(Clone, Copy, Debug)]
enum Object<'v> {
    Json(&'v serde_json::Map<String, Value>),
    Members(&'v [(&'static str, Fact)]),
}

impl<'v> Object<'v> {
    fn member(self, name: &dyn Val) -> Result<Option<CowVal<'v, 'v>>, ExecutionError> {
        let Some(name) = name.downcast_ref::<CelString>() else {
            return Err(ExecutionError::no_such_overload("_[_]", vec![name.get_type().name().to_owned()]));
        };
        let name = name.inner();
        match self {
            Self::Json(members) => members.get(name).map(json).transpose(),
            Self::Members(members) => {
                members.iter().find(|(one, _)| *one == name).map(|(_, fact)| fact.value()).transpose()
            }
        }
    }
}

impl Val for Object<'_> {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'w>(&'b self) -> Option<&'b (dyn Indexer + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn into_indexer<'w>(self: Box<Self>) -> Option<Box<dyn Indexer + 'w>>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }

    fn clone_as_boxed<'w>(&self) -> Box<dyn Val + 'w>
    where
        Self: 'w,
    {
        Box::new(*self)
    }
}

impl Indexer for Object<'_> {
    fn get<'b, 'w>(&'b self, name: &dyn Val) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        match self.member(name)? {
            Some(CowVal::Owned(value)) => Ok(CowVal::Owned(value)),
            Some(CowVal::Borrowed(value)) => Ok(CowVal::Owned(value.clone_as_boxed())),
            None => Err(ExecutionError::no_such_key(name.downcast_ref::<CelString>().map_or("", |name| name.inner()))),
        }
    }

    fn steal<'w>(self: Box<Self>, name: &dyn Val) -> Result<Box<dyn Val + 'w>, ExecutionError>
    where
        Self: 'w,
    {
        self.get(name).map(CowVal::into_owned)
    }
}

impl Container for Object<'_> {
    fn contains(&self, name: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.member(name)?.is_some())
    }
}

impl Sizer for Object<'_> {
    fn size(&self) -> CelInt {
        let size = match self {
            Self::Json(members) => members.len(),
            Self::Members(members) => members.len(),
        };
        CelInt::from(i64::try_from(size).unwrap_or(i64::MAX))
    }
}
