//! Names of the keys in Redis: which hash slot a group lives in, and that no id can leave its place in a name.

use crate::io::quota::ledgers::Group;
use crate::logic::quota::ledger::Kind;
use std::fmt::Write as _;

/// The keys of one group, all in one hash slot: `PREFIX:{t:TENANT}:…` or `PREFIX:{shared}:…`.
#[derive(Clone, Debug)]
pub struct Names {
    home: String,
}

impl Names {
    /// Names of a group's keys.
    #[must_use]
    pub fn new(prefix: &str, group: &Group) -> Self {
        let prefix = encoded(prefix);
        let home = match group {
            Group::Tenant(tenant) => format!("{prefix}:{{t:{}}}", encoded(tenant.as_str())),
            Group::Shared => format!("{prefix}:{{shared}}"),
        };
        Self { home }
    }

    /// Says since when the group is known.
    #[must_use]
    pub fn epoch(&self) -> String {
        format!("{}:epoch", self.home)
    }

    /// An account: what is committed, and what each replica has out. Another kind of the same name is another account.
    #[must_use]
    pub fn account(&self, kind: &Kind, account: &str) -> String {
        format!("{}:{}:{account}", self.home, letter(kind))
    }

    /// A calendar account.
    #[must_use]
    pub fn calendar(&self, account: &str) -> String {
        format!("{}:c:{account}", self.home)
    }

    /// What replicas that are gone have committed to a calendar account.
    #[must_use]
    pub fn past(&self, account: &str) -> String {
        format!("{}:p:{account}", self.home)
    }

    /// A name that only one may hold at a time.
    #[must_use]
    pub fn claim(&self, name: &str) -> String {
        format!("{}:claim:{name}", self.home)
    }

    /// What a probe writes.
    #[must_use]
    pub fn probe(&self) -> String {
        format!("{}:probe", self.home)
    }

    /// The replicas that live; of the group `Shared`.
    #[must_use]
    pub fn replicas(&self) -> String {
        format!("{}:replicas", self.home)
    }
}

/// How a kind is written: in keys, and for the scripts.
#[must_use]
pub fn letter(kind: &Kind) -> &'static str {
    match kind {
        Kind::Bucket { .. } => "b",
        Kind::Calendar { .. } => "c",
        Kind::Slots => "s",
    }
}

/// Everything but letters, digits and `._:@-` as `%XX`. A cluster takes what stands in the first pair of braces, so
/// only what comes before or within it must have none of its own.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"._:@-".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // A String takes all that is written.
            let _ok = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::TenantId;

    #[test]
    fn a_tenants_name_cannot_leave_its_hash_tag() {
        let names = |tenant: &str| Names::new("we{i}r", &Group::Tenant(TenantId::new(tenant)));
        assert_eq!(names("a}b{c d/é").epoch(), "we%7Bi%7Dr:{t:a%7Db%7Bc%20d%2F%C3%A9}:epoch", "one pair of braces");
        assert_ne!(names("a%7Db").epoch(), names("a}b").epoch(), "no two tenants share a name");
    }

    #[test]
    fn the_keys_of_an_account_are_no_other_accounts() {
        let names = Names::new("weir", &Group::Shared);
        assert_eq!(names.calendar("global|a"), "weir:{shared}:c:global|a", "by kind");
        let starts = [0; 4];
        let calendar = Kind::Calendar { starts };
        assert_eq!(names.account(&calendar, "global|a"), names.calendar("global|a"), "one name per account");
        let mut keys = vec![names.epoch(), names.replicas(), names.past("a"), names.claim("a"), names.probe()];
        for kind in [calendar, Kind::Slots, Kind::Bucket { limit: 1, window_ms: 1000 }] {
            keys.push(names.account(&kind, "a"));
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 8, "each key is a different one: {keys:?}");
    }
}
