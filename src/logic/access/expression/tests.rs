use super::*;
use serde_json::json;

const NAMES: [&str; 3] = ["claims", "auth", "now"];

fn compiled(text: &str) -> Expression {
    Expression::compile(text, &NAMES).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> ExpressionError {
    Expression::compile(text, &NAMES).err().unwrap_or_else(|| panic!("{text} must be refused"))
}

fn known() -> Variables {
    let claims = json!({
        "org": "acme", "team": null, "groups": ["dev", "ops"], "n": 7, "real": {"roles": ["a"]}, "one": "dev",
        "mixed": ["a", 1],
    });
    let auth = Fact::from_iter([("tenant", Fact::from("acme")), ("team", Fact::Null), ("plan", Fact::from("gold"))]);
    // 2026-11-21T21:30:00Z is 22:30 in Berlin.
    let now = WallMicros(1_795_296_600_000_000);
    Variables::new().with("claims", claims).with("auth", auth).with("now", now)
}

fn truth(text: &str) -> Result<bool, EvalError> {
    compiled(text).truth(&known())
}

use crate::domain::units::WallMicros;

#[test]
fn conditions_see_members_lists_and_the_hour_of_a_place() {
    for text in [
        "claims.org == 'acme' && auth.plan == 'gold'",
        "'ops' in claims.groups",
        "claims.groups.exists(group, group.startsWith('de'))",
        "has(claims.org) && !has(claims.nothing) && 'org' in claims",
        "auth.team == null && auth.team != 'x'",
        "now.getHours('Europe/Berlin') == 22 && now.getHours() == 21",
        "now < timestamp('2027-01-01T00:00:00Z')",
        "claims.n + 1 == 8 && claims.n < 7.5 && type(claims.org) == string",
        "claims.org.matches('^ac')",
        "claims.real.roles[0] == 'a'",
        "size(claims.groups) == 2",
    ] {
        assert_eq!(truth(text), Ok(true), "{text}");
    }
}

#[test]
fn what_is_not_there_is_no_text_and_no_truth() {
    let text = |text: &str| compiled(text).text_in(&known());
    assert_eq!(text("claims.org"), Ok(Some("acme".to_owned())), "a text");
    assert_eq!(text("claims.nothing"), Ok(None), "an absent member");
    assert_eq!(text("claims.team"), Ok(None), "null");
    assert!(matches!(text("claims.n"), Err(EvalError::Type { .. })), "a number is no text");
    assert_eq!(truth("claims.nothing == 'x'"), Err(EvalError::Absent("nothing".to_owned())), "nobody knows");
    assert!(matches!(truth("claims.org"), Err(EvalError::Type { .. })), "a text is no truth");
    let nothing = Variables::new();
    assert!(compiled("claims.org == 'x'").truth(&nothing).is_err(), "a variable that was not given");
}

#[test]
fn roles_are_a_list_of_texts_or_one() {
    let texts = |text: &str| compiled(text).texts_in(&known());
    let list = |items: &[&str]| Ok(Some(items.iter().map(ToString::to_string).collect::<Vec<_>>()));
    assert_eq!(texts("claims.groups"), list(&["dev", "ops"]), "a list");
    assert_eq!(texts("claims.one"), list(&["dev"]), "one");
    assert_eq!(texts("claims.nothing"), Ok(None), "none");
    assert_eq!(texts("claims.groups.filter(g, g != 'ops').map(g, 'x-' + g)"), list(&["x-dev"]), "worked on");
    assert_eq!(texts("claims.groups + ['z']"), list(&["dev", "ops", "z"]), "joined");
    assert!(matches!(texts("claims.mixed"), Err(EvalError::Type { .. })), "a number among them");
    assert!(matches!(texts("claims.real"), Err(EvalError::Type { .. })), "an object");
}

#[test]
fn unknown_names_and_functions_are_refused_where_they_stand() {
    let unknown = refused("claims.org == 'x' && request.path == ''");
    let at = Place { line: 1, column: 22 };
    assert_eq!(
        unknown,
        ExpressionError::UnknownName { name: "request".to_owned(), at, known: "claims, auth, now".to_owned() },
        "the name and its place"
    );
    let second = refused("claims.org == 'é' ||\n  nobody");
    assert!(second.to_string().contains("line 2, letter 3"), "letters and lines are counted: {second}");
    assert!(matches!(refused("claims.groups.exists(g, h == 'x')"), ExpressionError::UnknownName { .. }), "not bound");
    for text in ["fetch('http://x')", "claims.org.shout()", "optional.of(1)", "claims.org.format([])"] {
        let error = refused(text);
        let names = matches!(error, ExpressionError::UnknownFunction { .. } | ExpressionError::UnknownName { .. });
        assert!(names, "{text}: {error}");
    }
    assert!(matches!(refused("claims.?org"), ExpressionError::Syntax { .. }), "optional syntax is off");
    assert!(matches!(refused("Thing{a: 1}"), ExpressionError::Unsupported { .. }), "messages");
    assert!(matches!(refused("claims."), ExpressionError::Syntax { .. }), "no expression");
    assert!(matches!(refused(""), ExpressionError::Syntax { .. }), "nothing");
}

#[test]
fn no_text_overflows_the_stack_or_takes_long() {
    let repeat = |head: &str, part: &str, tail: &str, back: &str, count: usize| {
        format!("{head}{}{tail}{}", part.repeat(count), back.repeat(count))
    };
    let texts = [
        repeat("", "1+", "1", "", 2000),
        repeat("", "claims.", "a", "", 580),
        repeat("", "a.", "a", "", 2000),
        repeat("", "(", "1", ")", 2000),
        repeat("", "[", "", "]", 2000),
        repeat("", "a[", "0", "]", 1300),
        repeat("", "a?a:", "a", "", 1000),
        repeat("a", ".map(x,x)", "", "", 450),
        repeat("", "((a?[{", "", "", 680),
        repeat("", "{1:", "1", "}", 1000),
        repeat("a", "[0]", "", "", 1300),
        repeat("", "claims||", "claims", "", 500),
    ];
    for text in texts {
        refused(&text);
    }
    assert_eq!(refused(&"a".repeat(MAX_TEXT + 1)), ExpressionError::TooLong, "too long");
    let deep = format!("{}1 > 0", "1 + ".repeat(MAX_DEPTH + 1));
    assert!(matches!(refused(&deep), ExpressionError::TooDeep { .. }), "operations within each other");
    let wide = format!("1 in [{}1]", "1,".repeat(MAX_NODES));
    assert!(matches!(refused(&wide), ExpressionError::TooLarge { .. }), "many of them beside each other");
    assert_eq!(compiled(&format!("{}true", "!".repeat(4090))).truth(&known()), Ok(true), "pairs of ! are nothing");
}

#[test]
fn the_deepest_expression_that_is_accepted_runs_on_a_small_stack() {
    let deep = compiled(&format!("{}1{} > 0", "(1 + ".repeat(20), ")".repeat(20)));
    let wide = compiled(&format!("{}1 > 0", "1 + ".repeat(MAX_DEPTH - 2)));
    let run = move || (deep.truth(&known()), wide.truth(&known()));
    let thread = std::thread::Builder::new().stack_size(5 << 18).spawn(run).expect("a thread");
    assert_eq!(thread.join().expect("no overflow"), (Ok(true), Ok(true)), "a worker has 2 MiB; 1.25 is enough");
}

#[test]
fn loops_cannot_multiply() {
    for text in [
        "claims.groups.all(a, claims.groups.all(b, a == b))",
        "claims.groups.map(a, a + a).map(a, a + a)",
        "claims.groups.map(a, [a, a]).filter(a, true).map(a, [a, a])",
        "claims.groups.map(a, true, a + a).map(a, a + a)",
    ] {
        assert!(matches!(refused(text), ExpressionError::Loops { .. }), "{text}");
    }
    compiled("claims.groups.filter(a, a != 'x').filter(a, a != 'y').exists(a, a == 'z')");
    let many = Variables::new().with("claims", json!({"groups": vec!["a"; MAX_ITEMS + 1]}));
    assert!(compiled("claims.groups.all(a, a == 'a')").truth(&many).is_err(), "a list that is too long");
    assert!(compiled("claims.groups").texts_in(&many).is_err(), "the same as a result");
}

#[test]
fn patterns_are_written_out_and_bounded() {
    assert!(matches!(refused("'x'.matches(claims.org)"), ExpressionError::Unsupported { .. }), "from a claim");
    assert!(matches!(refused("claims.org.matches('(')"), ExpressionError::Pattern { .. }), "no pattern");
    assert!(
        matches!(refused("claims.org.matches('(\\\\w{1000}){100}')"), ExpressionError::Pattern { .. }),
        "too large"
    );
    assert!(matches!(refused("matches('x', claims.org)"), ExpressionError::Unsupported { .. }), "as a function");
}

#[test]
fn patterns_are_few_and_never_within_a_loop() {
    for text in ["claims.groups.exists(a, a.matches('^x'))", "claims.groups.filter(a, matches(a, '^x')).size() > 0"] {
        assert!(matches!(refused(text), ExpressionError::Matches { .. }), "{text}");
    }
    let joined = |count| vec!["claims.org.matches('^x')"; count].join(" || ");
    assert!(matches!(refused(&joined(MAX_MATCHES + 1)), ExpressionError::Matches { .. }), "one too many");
    assert_eq!(compiled(&joined(MAX_MATCHES)).truth(&known()), Ok(false), "as many as may be");
    compiled("claims.org.matches('^a') && claims.groups.exists(a, a.startsWith('x'))");
}

#[test]
fn errors_do_not_repeat_what_a_claim_says() {
    let secret = Variables::new().with("claims", json!({"s": "hush-hush", "n": 1}));
    for text in ["claims.s + claims.n == 'x'", "int(claims.s) == 1", "claims.s < claims.n", "claims.s.x == 1"] {
        let error = compiled(text).truth(&secret).expect_err("types do not fit");
        assert!(!format!("{error} {error:?}").contains("hush"), "{text}: {error}");
    }
}
