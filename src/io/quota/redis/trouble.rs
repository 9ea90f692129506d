//! What is wrong with Redis, in the few words that an operator needs. Decides how an error is named, whether a new
//! connection could help, and that nothing of a URL or of a login is repeated.

use redis::{ErrorKind, RedisError, ServerErrorKind};
use std::fmt;

/// Letters of a server's own words that are repeated.
const MAX_WORDS: usize = 160;

/// Why Redis did not do what it was asked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Trouble {
    /// No answer in time.
    Timeout,
    /// No connection, or one that broke.
    Connection(String),
    /// It does not accept our name and password, or asks for some.
    Login,
    /// It accepts us and does not let us do this.
    Forbidden,
    /// `maxmemory` is reached and nothing may be evicted.
    OutOfMemory,
    /// It is a replica.
    ReadOnly,
    /// It is loading its data.
    Loading,
    /// It cannot save to disk, and is configured not to write then.
    CannotSave,
    /// Slots of the cluster have no server.
    ClusterDown,
    /// The sentinels know no master, or none that agrees.
    NoMaster,
    /// Whatever else it says.
    Other(String),
}

impl Trouble {
    /// Names an error that came while commands were sent.
    #[must_use]
    pub fn of(error: &RedisError) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        match error.kind() {
            ErrorKind::Io => Self::Connection(cut(&error.to_string())),
            ErrorKind::AuthenticationFailed => Self::Login,
            ErrorKind::ClusterConnectionNotFound => Self::Connection("no node of the cluster is connected".to_owned()),
            ErrorKind::MasterNameNotFoundBySentinel => Self::NoMaster,
            ErrorKind::Server(kind) => Self::of_server(kind, error),
            _ => Self::of_words(error),
        }
    }

    /// Names an error that came while a connection was made. What a server says then may repeat a login that it did not
    /// understand, so that its words are left out.
    #[must_use]
    pub fn of_connecting(error: &RedisError) -> Self {
        match Self::of(error) {
            // Without details they are the system's words, or fixed ones of the library.
            Self::Connection(_) if error.detail().is_some() => match Self::of_words(error) {
                Self::Other(_) => Self::Connection("no connection came about".to_owned()),
                named => named,
            },
            Self::Other(_) => Self::Other(format!("{:?}", error.kind())),
            named => named,
        }
    }

    fn of_server(kind: ServerErrorKind, error: &RedisError) -> Self {
        match kind {
            ServerErrorKind::ReadOnly => Self::ReadOnly,
            ServerErrorKind::BusyLoading => Self::Loading,
            ServerErrorKind::MasterDown | ServerErrorKind::ClusterDown => Self::ClusterDown,
            ServerErrorKind::NoPerm => Self::Forbidden,
            _ => Self::of_words(error),
        }
    }

    /// By the code that begins the server's words: inside of a script's error it stands somewhere in them.
    fn of_words(error: &RedisError) -> Self {
        let words = error.to_string();
        let said = |code: &str| error.code() == Some(code) || words.contains(code);
        let known = [
            ("OOM", Self::OutOfMemory),
            ("READONLY", Self::ReadOnly),
            ("MISCONF", Self::CannotSave),
            ("NOAUTH", Self::Login),
            ("WRONGPASS", Self::Login),
            ("AuthenticationFailed", Self::Login),
            ("CLUSTERDOWN", Self::ClusterDown),
            ("LOADING", Self::Loading),
        ];
        let named = known.into_iter().find(|(code, _)| said(code));
        named.map_or_else(|| Self::Other(cut(&words)), |(_, trouble)| trouble)
    }

    /// True where another connection may do better than this one.
    #[must_use]
    pub fn wants_new_connection(&self) -> bool {
        match self {
            Self::Timeout | Self::Connection(_) | Self::Login | Self::ReadOnly | Self::NoMaster => true,
            // A cluster's client would try for ever, and as fast as it can.
            Self::ClusterDown => true,
            Self::OutOfMemory | Self::Loading | Self::CannotSave | Self::Forbidden | Self::Other(_) => false,
        }
    }

    /// One word for a metric's label.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connection(_) => "connection",
            Self::Login => "login",
            Self::Forbidden => "forbidden",
            Self::OutOfMemory => "out_of_memory",
            Self::ReadOnly => "read_only",
            Self::Loading => "loading",
            Self::CannotSave => "cannot_save",
            Self::ClusterDown => "cluster_down",
            Self::NoMaster => "no_master",
            Self::Other(_) => "other",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "it does not answer in time",
            Self::Connection(words) | Self::Other(words) => words,
            Self::Login => "it does not accept this user and password, or needs some",
            Self::Forbidden => "this user may not run the commands that limits need (NOPERM)",
            Self::OutOfMemory => "it is out of memory (maxmemory)",
            Self::ReadOnly => "it is a replica and takes no writes (READONLY)",
            Self::Loading => "it is still loading its data (LOADING)",
            Self::CannotSave => "it cannot save to disk and takes no writes (MISCONF)",
            Self::ClusterDown => "part of the cluster has no server (CLUSTERDOWN)",
            Self::NoMaster => "the sentinels name no master of this name",
        })
    }
}

/// The beginning, in one line.
fn cut(words: &str) -> String {
    words.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(MAX_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::make_extension_error;
    use std::io;

    fn said(code: &str, words: &str) -> RedisError {
        make_extension_error(code.to_owned(), Some(words.to_owned()))
    }

    #[test]
    fn each_trouble_of_a_server_is_named() {
        let script = "Error running script (call to f_1): @user_script:3: OOM command not allowed";
        let cases = [
            ("OOM", "command not allowed when used memory > 'maxmemory'.", Trouble::OutOfMemory),
            ("ERR", script, Trouble::OutOfMemory),
            ("READONLY", "You can't write against a read only replica.", Trouble::ReadOnly),
            ("MISCONF", "Redis is configured to save RDB snapshots", Trouble::CannotSave),
            ("NOAUTH", "Authentication required.", Trouble::Login),
            ("WRONGPASS", "invalid username-password pair", Trouble::Login),
            ("LOADING", "Redis is loading the dataset in memory", Trouble::Loading),
            ("CLUSTERDOWN", "Hash slot not served", Trouble::ClusterDown),
        ];
        for (code, words, trouble) in cases {
            assert_eq!(Trouble::of(&said(code, words)), trouble, "{code} {words}");
        }
    }

    #[test]
    fn what_a_server_says_to_a_login_is_not_repeated() {
        let echo = said("ERR", "unknown command 'AUTH', with args beginning with: 'hush'");
        assert!(!Trouble::of_connecting(&echo).to_string().contains("hush"), "it may echo the password");
        let wrapped =
            RedisError::from((redis::ErrorKind::Io, "Failed to create initial connections", echo.to_string()));
        assert!(!Trouble::of_connecting(&wrapped).to_string().contains("hush"), "nor as part of another error");
        let refused = RedisError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert!(Trouble::of_connecting(&refused).to_string().contains("refused"), "what the system says is told");
    }

    #[test]
    fn words_of_others_are_one_short_line() {
        let Trouble::Other(words) = Trouble::of(&said("ERR", &"long\n".repeat(100))) else {
            panic!("not a known code")
        };
        assert!(words.chars().count() <= MAX_WORDS && !words.contains('\n'), "{words}");
    }
}
