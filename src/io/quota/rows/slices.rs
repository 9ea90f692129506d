//! Asks a question that takes too long in slices, and those that still do in smaller ones. Decides where to cut; knows
//! nothing of what is asked.

use std::future::Future;

/// Slices that a question is cut into.
const CUTS: i64 = 16;
/// No smaller slices are asked for, microseconds.
const SMALLEST: i64 = 1_000_000;

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unanswered {
    /// There are too many rows for the time that one question may take.
    #[error("there are too many usage rows to count")]
    TooLong,
    /// Something else, in words.
    #[error("{0}")]
    Failed(String),
}

/// Rows from an instant on and before another, microseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slice {
    /// The first that is in it.
    pub from: i64,
    /// The first that is behind it.
    pub to: i64,
}

impl Slice {
    /// Its parts; `None`: it is too small to be cut.
    fn cut(self) -> Option<impl DoubleEndedIterator<Item = Self>> {
        let width = self.to.saturating_sub(self.from).checked_div(CUTS).filter(|width| *width >= SMALLEST)?;
        let part = move |n: i64| {
            let from = self.from + n * width;
            Self { from, to: if n + 1 == CUTS { self.to } else { from + width } }
        };
        Some((0..CUTS).map(part))
    }
}

/// Asks about everything; if that takes too long, about slices between the bounds, which are the first and the last row.
/// The lines of all slices together are the answer.
///
/// # Errors
/// [`Unanswered`]
pub async fn ask_in_slices<T, A, B>(
    ask: impl Fn(Option<Slice>) -> A,
    bounds: impl FnOnce() -> B,
) -> Result<Vec<T>, Unanswered>
where
    A: Future<Output = Result<Vec<T>, Unanswered>>,
    B: Future<Output = Result<Vec<(i64, i64)>, Unanswered>>,
{
    match ask(None).await {
        Err(Unanswered::TooLong) => {}
        answered => return answered,
    }
    let Some((first, last)) = bounds().await?.pop() else { return Ok(Vec::new()) };
    let whole = Slice { from: first, to: last.saturating_add(1) };
    let mut open: Vec<Slice> = whole.cut().ok_or(Unanswered::TooLong)?.rev().collect();
    let mut lines = Vec::new();
    while let Some(slice) = open.pop() {
        match ask(Some(slice)).await {
            Ok(more) => lines.extend(more),
            Err(Unanswered::TooLong) => open.extend(slice.cut().ok_or(Unanswered::TooLong)?.rev()),
            Err(failed) => return Err(failed),
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Answers with the rows of a slice, if they are not more than `most`.
    async fn asked(rows: &[i64], most: usize) -> (Result<Vec<i64>, Unanswered>, usize) {
        let questions = Cell::new(0);
        let ask = |slice: Option<Slice>| {
            questions.set(questions.get() + 1);
            let is_in = |row: &&i64| slice.is_none_or(|slice| (slice.from..slice.to).contains(row));
            let found: Vec<i64> = rows.iter().filter(is_in).copied().collect();
            std::future::ready(if found.len() > most { Err(Unanswered::TooLong) } else { Ok(found) })
        };
        let bounds = || {
            let ends = rows.iter().min().copied().zip(rows.iter().max().copied());
            std::future::ready(Ok(ends.into_iter().collect()))
        };
        (ask_in_slices(ask, bounds).await, questions.get())
    }

    #[tokio::test]
    async fn however_rows_lie_each_is_counted_once() {
        let rows: Vec<i64> = (0..500).map(|n: i64| n * n * 1_000_000).collect();
        for most in [500, 100, 40, 10] {
            let (answer, _) = asked(&rows, most).await;
            assert_eq!(answer.as_ref(), Ok(&rows), "{most} at once");
        }
        assert_eq!(asked(&rows, 500).await.1, 1, "one question where one is enough");
        assert_eq!(asked(&[], 0).await.0, Ok(vec![]), "no rows");
    }

    #[tokio::test]
    async fn what_is_too_much_for_the_smallest_slice_is_an_error() {
        let rows = vec![1; 10];
        assert_eq!(asked(&rows, 9).await.0, Err(Unanswered::TooLong), "ten in one microsecond");
        let failing = |_| std::future::ready(Err::<Vec<i64>, _>(Unanswered::Failed("no".to_owned())));
        let answer = ask_in_slices(failing, || std::future::ready(Ok(vec![(0, 1)]))).await;
        assert_eq!(answer, Err(Unanswered::Failed("no".to_owned())), "other faults are not asked again");
    }
}
