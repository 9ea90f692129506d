//! Table: every code of a configuration error or warning, one line each. A code never changes its meaning.

macro_rules! codes {
    ($($name:ident = $id:literal, $about:literal;)*) => {
        /// What kind of fault a diagnostic tells of.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Code {
            $(#[doc = $about] $name,)*
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// `E012`, `W001`.
            #[must_use]
            pub fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// What it stands for, in one line.
            #[must_use]
            pub fn about(self) -> &'static str {
                match self { $(Self::$name => $about,)* }
            }
        }
    };
}

codes! {
    Syntax = "E001", "the text is not YAML that can be loaded";
    DuplicateKey = "E002", "a key stands twice in one mapping, or in two files";
    Unreadable = "E003", "the file cannot be read";
    UnknownKey = "E004", "no such key here";
    WrongType = "E005", "a mapping, list or scalar where another is needed";
    Missing = "E006", "a required key is not there";
    BadUnit = "E007", "a number without or with a wrong unit";
    OutOfRange = "E008", "a number that cannot work";
    EnvMissing = "E009", "an environment variable is not set";
    BadSecret = "E010", "a secret is written out, empty or unreadable";
    Unsupported = "E011", "a key or value of the schema that this version does not have yet";
    UnknownChoice = "E012", "not one of the possible words";
    UnknownPool = "E013", "a pool that is not defined";
    UnknownPlan = "E014", "a plan that is not defined";
    UnknownAuth = "E015", "an authenticator that is not defined";
    UnknownListener = "E016", "a listener that is not defined";
    DuplicateName = "E017", "a name that must be unique is taken";
    BindConflict = "E018", "two sockets at one address";
    BadAddress = "E019", "not an address or network";
    BadUrl = "E020", "not a URL that can be connected to";
    Unresolvable = "E021", "a host name without an address";
    BadPattern = "E022", "a glob or regular expression that does not compile";
    EmptyPool = "E023", "a pool or list that must not be empty";
    NoWeight = "E024", "weights that add up to nothing";
    BadInclude = "E025", "an include that cannot be followed";
    NoAction = "E026", "a route that does nothing, or two things";
    Contradiction = "E027", "two settings that exclude each other";
    BadWord = "E028", "a name, header, method or path of a wrong form";
    BadExpression = "E029", "a CEL expression that does not compile";
    BadCertificate = "E030", "a certificate or private key that cannot be used";
    Unreachable = "W001", "an earlier route takes everything that this one matches";
    OpenToNetwork = "W002", "no authentication on a listener that others can reach";
    NoEffect = "W003", "accepted, and without effect in this version";
    Unused = "W004", "defined, and nothing refers to it";
    ReplacesBuiltIn = "W005", "a role that replaces a built-in one";
    ExposedFile = "W006", "a file with a secret that others may read";
    Idle = "W007", "a setting that nothing brings into play";
    Untied = "W008", "any of several authorities may vouch for any identity";
    CountedApart = "W009", "limits that each replica counts for itself";
    Crowded = "W010", "more limits on one request than it can be held against";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_codes_share_an_id() {
        let ids: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.id()).collect();
        assert_eq!(ids.len(), Code::ALL.len(), "an id must name one fault");
    }
}
