//! What becomes of an account whose calendar is changed.

use super::*;

#[test]
fn a_calendar_that_is_changed_begins_with_what_the_rows_say_of_everybody() {
    let mut ledger = Ledger::default();
    say(&mut ledger, "live", Statement { outstanding: 9, ..day(30) }, NOON);
    let month = [-60 * DAY, -30 * DAY, 40 * DAY, 70 * DAY];
    let of_month = |replica, total| Correction { period: month[1], starts: Some(month), ..row(replica, total) };
    let late = Correction { starts: None, ..of_month("dead", 400) };
    assert_eq!(ledger.correct(&[late], NOON), [0], "a comparison changes no calendar");
    assert_eq!(ledger.correct(&[of_month("live", 200), of_month("dead", 400)], NOON), [200, 400], "a beginning does");
    let kind = Kind::Calendar { starts: month };
    let moved = Statement { kind, period: month[1], seed: Some(0), capacity: 1_000, ..day(5) };
    let reply = say(&mut ledger, "other", moved.clone(), NOON);
    assert_eq!((reply.committed, reply.others), (605, 9), "all of the month counts, and what is out");
    assert_eq!(ledger.correct(&[of_month("live", 1), of_month("dead", 410)], NOON), [0, 10], "who lives knows better");
    let reply = say(&mut ledger, "live", Statement { total: 230, ..moved }, NOON);
    assert_eq!(reply.committed, 645, "and takes its share over");
    let next = Correction { period: month[2], ..of_month("dead", 1) };
    assert_eq!(ledger.correct(&[next], NOON), [0], "another period of the same calendar is the clock's matter");
}
