//! `weir keys create` and `import`: makes keys. Decides which tenant and authenticator a new key is for; what may be on
//! it is `written`'s.

use super::error::KeysError;
use super::view::Output;
use super::written::{Written, check_name, given};
use super::{Desk, key_id};
use crate::domain::ids::KeyId;
use crate::domain::units::WallMicros;
use crate::io::pepper;
use crate::io::store::Store;
use crate::io::store::rows::{NewKey, StoredKey};
use crate::logic::access::api_key::{self, FreshKey};
use crate::logic::access::digest::{DIGEST_LEN, Digest, SecretHash};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Bytes of an import file at most: a million lines of a hundred.
const MAX_FILE: u64 = 100 << 20;

/// `weir keys create`
#[derive(clap::Args, Debug)]
pub(super) struct CreateArgs {
    /// Who pays; a tenant of the configuration or the store [default: default]
    #[arg(long, value_name = "T")]
    tenant: Option<String>,
    #[command(flatten)]
    written: Written,
    /// The authenticator, where the configuration has several that take API keys
    #[arg(long, value_name = "NAME")]
    auth: Option<String>,
    #[command(flatten)]
    pub(super) output: Output,
}

/// `weir keys import`
#[derive(clap::Args, Debug)]
pub(super) struct ImportArgs {
    /// The SHA-256 of one whole key, as sha256:HEX
    #[arg(long, value_name = "SHA256", required_unless_present = "file")]
    hash: Option<String>,
    /// The id of a key in Weir's own form: the third of its parts [default: derived from the hash, for any other form]
    #[arg(long, value_name = "KEY_ID", requires = "hash")]
    key_id: Option<String>,
    /// A file with a key a line: NAME, sha256:HEX and perhaps KEY_ID, tabs between; all or none are imported
    #[arg(long, value_name = "FILE", conflicts_with_all = ["hash", "name"])]
    file: Option<PathBuf>,
    /// Who pays; a tenant of the configuration or the store [default: default]
    #[arg(long, value_name = "T")]
    tenant: Option<String>,
    #[command(flatten)]
    written: Written,
    #[command(flatten)]
    pub(super) output: Output,
}

/// A key that was made.
pub(super) struct Made {
    pub(super) stored: StoredKey,
    /// The plaintext.
    pub(super) text: Zeroizing<String>,
}

/// Makes a key. Nothing is stored unless everything that is asked for exists.
pub(super) fn create(desk: &Desk<'_>, args: &CreateArgs) -> Result<Made, KeysError> {
    let settings = desk.settings;
    let auth = settings.authenticator(args.auth.as_deref())?;
    let mut store = desk.store()?;
    let tenant = settings.tenant(args.tenant.as_deref(), &mut store)?;
    args.written.check(settings, &mut store, tenant.as_str())?;
    let fresh = fresh(|random| api_key::generate(&auth.tag, random))?;
    let hash = pepper::load(&auth.pepper)?.hash(fresh.text.as_bytes());
    let new = on_key(&args.written, NewKey::of(fresh.id, hash, tenant.as_str()), desk.now);
    // What is printed is what is in the store.
    let stored = store.change(&super::actor(), desk.now, |change| change.create_key(&new))?;
    Ok(Made { stored, text: fresh.text })
}

/// Makes a plaintext of the system's random bytes.
pub(super) fn fresh(
    make: impl FnOnce(&[u8]) -> Result<FreshKey, api_key::GenerateError>,
) -> Result<FreshKey, KeysError> {
    let mut random = Zeroizing::new([0; api_key::RANDOM_BYTES]);
    getrandom::fill(random.as_mut_slice()).map_err(KeysError::Random)?;
    Ok(make(random.as_slice())?)
}

fn on_key(written: &Written, plain: NewKey, now: WallMicros) -> NewKey {
    NewKey {
        team: written.team.clone(),
        user: written.user.clone(),
        name: written.name.clone(),
        models: written.models.as_ref().map(|models| models.0.clone()),
        endpoints: given(&written.endpoints),
        addresses: given(&written.addresses),
        plan: written.plan.clone(),
        roles: given(&written.roles),
        expires_at: written.expires_at(now),
        ..plain
    }
}

/// Takes over keys of which only the hash is known. All of them are stored or none.
pub(super) fn import(desk: &Desk<'_>, args: &ImportArgs) -> Result<Vec<StoredKey>, KeysError> {
    let settings = desk.settings;
    let mut store: Store = desk.store()?;
    let tenant = settings.tenant(args.tenant.as_deref(), &mut store)?;
    args.written.check(settings, &mut store, tenant.as_str())?;
    let lines = match (&args.file, &args.hash) {
        (Some(file), _) => read_file(file)?,
        (None, Some(hash)) => {
            let digest = digest(hash).map_err(|why| KeysError::Refused(format!("--hash: {why}")))?;
            let id = args.key_id.as_deref().map(key_id).transpose()?;
            vec![Line { name: args.written.name.clone(), digest, id }]
        }
        (None, None) => Vec::new(),
    };
    let news: Vec<NewKey> = lines
        .into_iter()
        .map(|line| {
            let id = line.id.unwrap_or_else(|| api_key::key_id(&api_key::id_of_hash(&line.digest)));
            let written = Written { name: line.name, ..args.written.clone() };
            on_key(&written, NewKey::of(id, SecretHash::Plain(line.digest), tenant.as_str()), desk.now)
        })
        .collect();
    Ok(store.change(&super::actor(), desk.now, |change| {
        news.iter().map(|new| change.create_key(new)).collect::<Result<Vec<_>, _>>()
    })?)
}

/// A key of an import file.
struct Line {
    name: Option<String>,
    digest: Digest,
    id: Option<KeyId>,
}

fn read_file(path: &Path) -> Result<Vec<Line>, KeysError> {
    let wrong = |why: String| KeysError::Refused(format!("{}: {why}", path.display()));
    let mut text = String::new();
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    if read as u64 > MAX_FILE {
        return Err(wrong(format!("an import file has at most {MAX_FILE} bytes: split it")));
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(number, text)| line(text).map_err(|why| wrong(format!("line {}: {why}", number + 1)))).collect()
}

fn line(text: &str) -> Result<Line, String> {
    let mut columns = text.trim_end_matches('\r').split('\t');
    let (name, hash, id) = (columns.next().unwrap_or_default(), columns.next(), columns.next());
    let digest = digest(hash.ok_or("write NAME, a tab, and sha256:HEX")?)?;
    if columns.next().is_some() {
        return Err("more than NAME, sha256:HEX and KEY_ID".to_owned());
    }
    check_name("name", Some(name)).map_err(|_| "a name is 1 to 128 printable letters".to_owned())?;
    let id = id.filter(|id| !id.is_empty()).map(key_id).transpose().map_err(|error| error.to_string())?;
    Ok(Line { name: Some(name.to_owned()), digest, id })
}

/// The digest in `sha256:HEX`. What is none is not repeated: it may be a whole key.
fn digest(text: &str) -> Result<Digest, String> {
    let wrong = || "write sha256: and 64 hexadecimal digits, the SHA-256 of the whole key".to_owned();
    let hex = text.strip_prefix("sha256:").map(str::as_bytes).filter(|hex| hex.len() == 2 * DIGEST_LEN);
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut digest = [0; DIGEST_LEN];
    for (to, pair) in digest.iter_mut().zip(hex.ok_or_else(wrong)?.chunks_exact(2)) {
        let [high, low] = pair else { return Err(wrong()) };
        *to = digit(*high).ok_or_else(wrong)? * 16 + digit(*low).ok_or_else(wrong)?;
    }
    Ok(Digest(digest))
}
