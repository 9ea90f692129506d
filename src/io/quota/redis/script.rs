//! What is said to the scripts, and what they answer: ledger calls as keys and arguments, replies as values. Decides
//! nothing, and knows no connection.

use super::names::{Names, letter};
use crate::io::quota::ledgers::{Group, LedgerFault};
use crate::logic::quota::ledger::{Call, Correction, Kind, Reply, Statement};
use redis::Value;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

/// Integers per statement in the answer of the ledger's script.
const REPLY_WIDTH: usize = 7;

/// A script, and the name by which a server knows it once it has seen it.
#[derive(Debug)]
pub struct Script {
    /// The text, for `EVAL` and `SCRIPT LOAD`.
    pub text: &'static str,
    /// For `EVALSHA`: 40 hexadecimal digits.
    pub sha1: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self { text, sha1: redis::Script::new(text).get_hash().to_owned() }
    }
}

/// Applies statements: see [`state`].
pub static LEDGER: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("account.lua"), include_str!("ledger.lua"))));
/// Applies corrections: see [`correct`].
pub static CORRECT: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("account.lua"), include_str!("correct.lua"))));
/// Says that a replica lives: see [`beat`].
pub static BEAT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("beat.lua")));

/// Keeps a claimed name: see [`renew`].
pub static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("renew.lua")));

/// A script with all that it is called with. All keys are in one hash slot.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Which.
    pub script: &'static Script,
    /// `KEYS`.
    pub keys: Vec<String>,
    /// `ARGV`.
    pub args: Vec<String>,
}

/// States and asks: at most [`MAX_STATEMENTS`](crate::logic::quota::ledger::MAX_STATEMENTS) in one call, the caller
/// splits. The answer is for [`replies`].
#[must_use]
pub fn state(prefix: &str, group: &Group, call: &Call<'_>) -> Invocation {
    let names = Names::new(prefix, group);
    let mut keys = vec![names.epoch()];
    let mut args = vec![call.replica.to_owned(), call.ttl_ms.to_string(), call.replicas.to_string()];
    for statement in call.statements {
        keys.push(names.account(&statement.kind, &statement.account));
        if let Kind::Calendar { .. } = statement.kind {
            keys.push(names.past(&statement.account));
        }
        args.push(letter(&statement.kind).to_owned());
        args.extend(figures(statement).map(|figure| figure.to_string()));
        args.push(statement.seed.map_or_else(String::new, |seed| seed.to_string()));
    }
    Invocation { script: &LEDGER, keys, args }
}

/// A statement's numbers in the order of the script.
fn figures(statement: &Statement) -> [i128; 13] {
    let kind = match statement.kind {
        Kind::Bucket { limit, window_ms } => [i128::from(limit), i128::from(window_ms), 0, 0],
        Kind::Calendar { starts } => starts.map(i128::from),
        Kind::Slots => [0; 4],
    };
    let [first, second, third, fourth] = kind;
    [
        first,
        second,
        third,
        fourth,
        statement.capacity.into(),
        statement.total.into(),
        statement.acked.into(),
        statement.period.into(),
        statement.outstanding.into(),
        statement.least.into(),
        statement.want.into(),
        statement.spare.into(),
        statement.floor.into(),
    ]
}

/// Corrects accounts: at most [`MAX_CORRECTIONS`](crate::logic::quota::ledger::MAX_CORRECTIONS) in one call. The answer
/// is for [`deltas`].
#[must_use]
pub fn correct(prefix: &str, group: &Group, corrections: &[Correction]) -> Invocation {
    let names = Names::new(prefix, group);
    let mut keys = Vec::new();
    let mut args = Vec::new();
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    for correction in corrections {
        let place = *known.entry(&correction.account).or_insert_with(|| {
            keys.extend([names.calendar(&correction.account), names.past(&correction.account)]);
            keys.len()
        });
        args.extend([place.to_string(), correction.period.to_string()]);
        args.extend([correction.replica.to_string(), correction.total.to_string()]);
        let starts = correction.starts.map(|starts| starts.map(|start| start.to_string()));
        args.extend(starts.unwrap_or_default());
    }
    Invocation { script: &CORRECT, keys, args }
}

/// Says that a replica lives for as long as `ttl`. The answer is for [`count`].
#[must_use]
pub fn beat(prefix: &str, replica: &str, ttl: Duration) -> Invocation {
    let keys = vec![Names::new(prefix, &Group::Shared).replicas()];
    Invocation { script: &BEAT, keys, args: vec![replica.to_owned(), ttl.as_millis().to_string()] }
}

/// Keeps a name that `by` has claimed for as long as `ttl` from now on. The answer is for [`kept`].
#[must_use]
pub fn renew(prefix: &str, group: &Group, (name, by): (&str, &str), ttl: Duration) -> Invocation {
    let ttl = ttl.as_millis().max(1).to_string();
    Invocation { script: &RENEW, keys: vec![Names::new(prefix, group).claim(name)], args: vec![by.to_owned(), ttl] }
}

/// Reads the answer to [`state`] of so many statements.
///
/// # Errors
/// [`LedgerFault::Failed`] where it is not what the script answers.
pub fn replies(answer: &Value, statements: usize) -> Result<Vec<Reply>, LedgerFault> {
    let whole = integers(answer)?;
    let Some((now_ms, figures)) = whole.split_first().filter(|(_, rest)| rest.len() == statements * REPLY_WIDTH) else {
        return Err(unreadable(&format!("{} integers for {statements} statements", whole.len())));
    };
    figures.chunks_exact(REPLY_WIDTH).map(|figures| reply(figures, *now_ms)).collect()
}

fn reply(figures: &[i64], now_ms: i64) -> Result<Reply, LedgerFault> {
    let [granted, committed, drained, others, period, fresh, swept] = *figures else {
        return Err(unreadable("a reply of another width"));
    };
    let amount = |figure: i64| u64::try_from(figure).map_err(|_| unreadable("an amount below zero"));
    Ok(Reply {
        granted: amount(granted)?,
        committed: amount(committed)?,
        drained: amount(drained)?,
        others: amount(others)?,
        period,
        fresh: fresh != 0,
        swept: swept != 0,
        now_ms,
    })
}

/// Reads the answer to [`correct`] of so many corrections.
///
/// # Errors
/// [`LedgerFault::Failed`] where it is not what the script answers.
pub fn deltas(answer: &Value, corrections: usize) -> Result<Vec<i64>, LedgerFault> {
    let deltas = integers(answer)?;
    if deltas.len() != corrections {
        return Err(unreadable(&format!("{} integers for {corrections} corrections", deltas.len())));
    }
    Ok(deltas)
}

/// Reads the answer to [`beat`]: live replicas, at least 1.
///
/// # Errors
/// [`LedgerFault::Failed`] where it is not what the script answers.
pub fn count(answer: &Value) -> Result<u64, LedgerFault> {
    match answer {
        Value::Int(count) => Ok(u64::try_from(*count).unwrap_or_default().max(1)),
        _ => Err(unreadable("no integer")),
    }
}

/// Reads the answer to [`renew`].
///
/// # Errors
/// [`LedgerFault::Failed`]: it is none.
pub fn kept(answer: &Value) -> Result<bool, LedgerFault> {
    match answer {
        Value::Int(kept) => Ok(*kept == 1),
        _ => Err(unreadable("no integer")),
    }
}

fn integers(answer: &Value) -> Result<Vec<i64>, LedgerFault> {
    let Value::Array(values) = answer else { return Err(unreadable("no array")) };
    let integer = |value: &Value| match value {
        Value::Int(integer) => Ok(*integer),
        _ => Err(unreadable("something else than an integer")),
    };
    values.iter().map(integer).collect()
}

fn unreadable(what: &str) -> LedgerFault {
    LedgerFault::Failed(format!("a script answered {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn an_answer_that_is_none_is_a_fault_in_words() {
        let ints = |values: &[i64]| Value::Array(values.iter().copied().map(Value::Int).collect());
        let said = |fault: LedgerFault| fault.to_string();
        let text = Value::Array(vec![Value::SimpleString("7".to_owned())]);
        let faults = [
            (replies(&Value::Nil, 1).map(drop), "no array"),
            (replies(&ints(&[]), 0).map(drop), "0 integers for 0 statements"),
            (replies(&ints(&[1, 2, 3]), 1).map(drop), "3 integers for 1 statements"),
            (replies(&ints(&[9, -1, 0, 0, 0, 0, 0, 0]), 1).map(drop), "an amount below zero"),
            (deltas(&text, 1).map(drop), "something else than an integer"),
            (deltas(&ints(&[1, 2]), 1).map(drop), "2 integers for 1 corrections"),
            (count(&Value::Okay).map(drop), "no integer"),
        ];
        for (fault, words) in faults {
            assert_eq!(fault.map_err(said), Err(format!("the limit store failed: a script answered {words}")), "told");
        }
        assert_eq!(replies(&ints(&[9]), 0), Ok(vec![]), "no statements, no replies");
        assert_eq!(deltas(&ints(&[-3]), 1), Ok(vec![-3]), "a sum may fall");
        assert_eq!(count(&Value::Int(0)), Ok(1), "who asks lives");
    }

    #[test]
    fn corrections_of_an_account_share_its_keys() {
        let row = |account: &str, total| Correction {
            account: Arc::from(account),
            period: 5,
            starts: None,
            replica: Arc::from("gone"),
            total,
        };
        let seed = Correction { starts: Some([4, 5, 6, 7]), ..row("b", 2) };
        let invocation = correct("weir", &Group::Shared, &[row("a", 1), seed, row("a", 3)]);
        let keys = ["weir:{shared}:c:a", "weir:{shared}:p:a", "weir:{shared}:c:b", "weir:{shared}:p:b"];
        assert_eq!(invocation.keys, keys, "each account once");
        let (one, other) = (["2", "5", "gone", "1", "", "", "", ""], ["4", "5", "gone", "2", "4", "5", "6", "7"]);
        assert_eq!(
            invocation.args,
            [one, other, ["2", "5", "gone", "3", "", "", "", ""]].concat(),
            "each by the place of its past"
        );
    }

    #[test]
    fn a_server_knows_a_script_by_its_hash() {
        for script in [&*LEDGER, &*CORRECT, &*BEAT] {
            assert_eq!(script.sha1, redis::Script::new(script.text).get_hash(), "of the whole text");
        }
        assert_ne!(LEDGER.sha1, CORRECT.sha1, "two scripts");
    }
}
